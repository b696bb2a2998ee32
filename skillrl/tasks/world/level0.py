"""Level 0: three modules of two one-line functions; the smallest repository in which each skill means something."""

import functools
import random
from dataclasses import dataclass

from skillrl.tasks.derive import Texts
from skillrl.tasks.world import expressions, words
from skillrl.tasks.world.expressions import Expression, Family
from skillrl.tasks.world.instance import Call, Draft, Unproven

PARAMETERS = ("ab", "cd", "gh", "jk", "mn", "pq", "st", "uv", "xy")
ISSUES = (
    "{first} should be {x} and {second} should be {y}, but one of them is wrong.",
    "One of these is wrong: {first} should be {x} and {second} should be {y}.",
    "We get a wrong answer: {first} must be {x} and {second} must be {y}.",
    "{first} must give {x} and {second} must give {y}, one of them does not.",
)
# Share of instances that keep a mutant which the probes (distinct, larger values) do not kill.
_SUBTLE = 0.1


@dataclass(frozen=True)
class _Function:
    name: str
    parameters: str
    module: str
    expression: Expression
    # What it calls, for callers.
    callee: "_Function | None" = None

    def fill(self, template: str) -> str:
        a, b = self.parameters
        call = ""
        if self.callee:
            call = f"{self.callee.name}({', '.join(self.parameters[: self.arity])})"
        return template.format(a=a, b=b, call=call)

    @property
    def arity(self) -> int:
        return 1 if "{b}" not in (self.callee or self).expression.code else 2

    @property
    def line(self) -> str:
        return f"    return {self.fill(self.expression.code)}"

    def source(self) -> str:
        head = f"def {self.name}({', '.join(self.parameters[: self.arity])}):"
        return f'{head}\n    """Return {self.fill(self.expression.words)}."""\n{self.line}\n'

    def value(self, arguments: tuple):
        if self.callee is None:
            return expressions.function(self.expression.code)(*arguments)
        return eval(self.expression.code.format(call="inner"), {"inner": self.callee.value(arguments)})

    def call(self, arguments: tuple) -> Call:
        return Call(f"{self.name}({', '.join(map(literal, arguments))})", literal(self.value(arguments)))


def literal(value) -> str:
    """Python source of a value, text in double quotes."""
    return repr(value).replace("'", '"')


def draft(rng: random.Random, split: str) -> Draft:
    """Draws a repository, its bug, mutants, wrong fix and texts. Raises Unproven where the draw has no good bug."""
    families = expressions.HELDOUT_FAMILIES if split == "heldout_families" else expressions.TRAIN_FAMILIES
    family = rng.choice(families)
    package = rng.choice([p for p, modules in words.MODULES[split].items() if len(modules) >= 3])
    modules = rng.sample(words.MODULES[split][package], 3)
    functions = _functions(rng, family, split, [f"{package}/{m}.py" for m in modules])
    target = rng.choice([f for f in functions if f.callee is None])
    tests = {f.name: _test_arguments(rng, family, f) for f in functions}
    plan = _plan(rng, family, split, target, tests[target.name])

    files = _files(family, package, modules, functions, tests)
    text = files[target.module].decode()

    def change(code: str) -> dict[str, str]:
        return {target.module: text.replace(target.line, f"    return {target.fill(code)}")}

    order = [target.call(plan.wrong_input), target.call(plan.right_input)]
    first, second = order if rng.random() < 0.5 else order[::-1]
    words_ = target.fill(target.expression.words)
    return Draft(
        repository=f"world/{package}." + ".".join(modules),
        family=family.name,
        files=files,
        bug=change(plan.bug),
        mutants=tuple(change(code) for code in plan.mutants),
        wrong_fix=change(plan.wrong_fix),
        target_path=target.module,
        target_symbol=target.name,
        texts=Texts(
            issue=rng.choice(ISSUES).format(first=first.source, x=first.value, second=second.source, y=second.value),
            instruction=f"In {target.module}, {target.name} must return {words_}.",
            contract=f"{target.name}({', '.join(target.parameters[: target.arity])}): Return {words_}.",
        ),
        issue_calls=tuple(order),
        target_calls=tuple(map(target.call, plan.target_inputs)),
        issue_import=f"from {package} import {target.name}",
        target_import=f"from {package} import {target.name}",
    )


def _functions(rng: random.Random, family: Family, split: str, paths: list[str]) -> list[_Function]:
    """Two functions a module; the last one calls a function of an earlier module."""
    names = rng.sample(words.FUNCTION_NAMES[split], 6)
    letters = rng.sample(PARAMETERS, 6)
    chosen = rng.sample(family.expressions, 5)
    # No combination of functions occurs both in training and in a held-out repository.
    if split != "heldout_families" and (split == "train") != (
        words.pool(",".join(sorted(e.code for e in chosen))) == "train"
    ):
        raise Unproven("this combination of functions belongs to another split")
    places = [path for path in paths for _ in range(2)]
    leaves = [_Function(*row) for row in zip(names, letters, places, chosen, strict=False)]
    callee = rng.choice(leaves[:4])
    caller = _Function(names[5], letters[5], places[5], rng.choice(family.callers), callee)
    tail = [leaves[4], caller]
    rng.shuffle(tail)
    return leaves[:4] + tail


@dataclass(frozen=True)
class _Plan:
    bug: str
    mutants: tuple[str, ...]
    wrong_fix: str
    wrong_input: tuple
    right_input: tuple
    target_inputs: tuple[tuple, ...]


def _plan(rng: random.Random, family: Family, split: str, target: _Function, tests: list[tuple]) -> _Plan:
    """The bug, a wrong fix that leaves one of the issue's calls wrong, and mutants that the tests kill."""
    code, signature = target.expression.code, family.signature
    siblings = [e.code for e in family.expressions if e.code != code]
    killable = [s for s in siblings if _tells(code, s, tests)]
    bugs = [s for s in killable if split == "heldout_families" or _bug_split(code, s) == (split == "train")]
    rng.shuffle(bugs)
    for bug in bugs:
        differ = _differ(signature, code, bug)
        nice = _nice(signature, code)
        right, wrong = sorted(nice - differ), sorted(nice & differ)
        if not right or not wrong:
            continue
        right_input, wrong_input = (expressions.domain(signature)[rng.choice(side)] for side in (right, wrong))
        fixes = [s for s in killable if s != bug and _tells(code, s, [right_input, wrong_input])]
        if fixes:
            mutants = _mutants(rng, family, code, killable)
            probes = expressions.PROBES[signature][0]
            target_inputs = probes if all(_tells(code, m, probes) for m in mutants) else tests
            return _Plan(bug, mutants, rng.choice(fixes), wrong_input, right_input, tuple(target_inputs))
    raise Unproven(f"no bug of {code} shows in one call and not in another")


def _mutants(rng: random.Random, family: Family, code: str, killable: list[str]) -> tuple[str, ...]:
    """3 to 5 of the killable: one that a careless test misses where there is one, few that careful ones miss."""
    careful, careless = expressions.PROBES[family.signature]
    killable = rng.sample(killable, len(killable))
    subtle = rng.random() < _SUBTLE
    pool = [s for s in killable if subtle or _tells(code, s, careful)]
    pool.sort(key=lambda s: _tells(code, s, [careless]))
    count = rng.randint(3, 5)
    chosen = pool[:1] + rng.sample(pool[1:], min(count - 1, len(pool) - 1)) if pool else []
    if len(chosen) < count:
        chosen.append("None")
    return tuple(rng.sample(chosen, len(chosen)))


def _bug_split(code: str, bug: str) -> bool:
    return words.pool(f"{code} -> {bug}") == "train"


def _tells(code: str, other: str, inputs) -> bool:
    """Whether one of the inputs gives different results."""
    one, two = expressions.function(code), expressions.function(other)
    return any(one(*arguments) != two(*arguments) for arguments in inputs)


@functools.cache
def _differ(signature: str, code: str, other: str) -> frozenset[int]:
    pairs = zip(expressions.outputs(signature, code), expressions.outputs(signature, other), strict=True)
    return frozenset(i for i, (x, y) in enumerate(pairs) if x != y)


@functools.cache
def _nice(signature: str, code: str) -> frozenset[int]:
    """Inputs whose results are short to write: texts, and numbers from -20 to 99."""
    results = enumerate(expressions.outputs(signature, code))
    return frozenset(i for i, y in results if not isinstance(y, int) or -20 <= y <= 99)


def _test_arguments(rng: random.Random, family: Family, function: _Function) -> list[tuple]:
    """Inputs of 2 or 3 asserts, chosen to tell the function from as many siblings as they can."""
    code, signature = (function.callee or function).expression.code, family.signature
    alive = [e.code for e in family.expressions if e.code != code]
    nice = sorted(_nice(signature, code))
    chosen = []
    for _ in range(2 if function.callee else rng.randint(2, 3)):
        draws = [i for i in rng.sample(nice, min(8, len(nice))) if i not in chosen]
        best = max(draws, key=lambda i: sum(i in _differ(signature, code, s) for s in alive))
        chosen.append(best)
        alive = [s for s in alive if best not in _differ(signature, code, s)]
    return [expressions.domain(signature)[i] for i in chosen]


def _files(family: Family, package: str, modules: list[str], functions: list[_Function], tests) -> dict[str, bytes]:
    files = {f"{package}/__init__.py": f'"""{family.topic}."""\n'}
    for module in modules:
        path = f"{package}/{module}.py"
        mine = [f for f in functions if f.module == path]
        names = ", ".join(f.name for f in mine)
        files[f"{package}/__init__.py"] += f"from {package}.{module} import {names}\n"
        imports = [f"from {f.callee.module[:-3].replace('/', '.')} import {f.callee.name}\n" for f in mine if f.callee]
        files[path] = "\n\n".join([f'"""{family.topic}."""\n' + "".join(imports), *(f.source() for f in mine)])
        checks = "\n\n".join(
            f"def test_{f.name}():\n" + "".join(f"    {f.call(x).check}\n" for x in tests[f.name]) for f in mine
        )
        files[f"tests/test_{module}.py"] = f"from {package} import {names}\n\n\n{checks}"
    return {path: text.encode() for path, text in files.items()}
