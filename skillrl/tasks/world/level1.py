"""Level 1: four modules of functions with loops and branches. The issue names a public function that calls two helpers
of other modules, one of which holds the bug."""

import functools
import random
from dataclasses import dataclass

from skillrl.tasks import mutate
from skillrl.tasks.derive import Texts
from skillrl.tasks.world import bodies, body_families, words
from skillrl.tasks.world.bodies import Body, BodyFamily
from skillrl.tasks.world.instance import Call, Draft, Unproven
from skillrl.tasks.world.level0 import literal

ISSUES = (
    "{wrong} gives {got}, but it should be {x}. {right} is {y}, as it should be.",
    "I expect {wrong} to be {x} and get {got}. With other values it works: {right} is {y}.",
    "{right} should be {y} and is. {wrong} should be {x} and is {got}.",
    "Wrong result: {wrong} is {got} where {x} is right.",
)
_MAX_SLOT_MUTANTS = 5
_MAX_OPERATOR_MUTANTS = 3


@dataclass(frozen=True)
class Helper:
    """A function made of a body."""

    name: str
    module: str
    family: BodyFamily
    body: Body
    choice: tuple[int, ...]

    def source(self, choice: tuple[int, ...] | None = None) -> str:
        head = f'def {self.name}({", ".join(self.family.parameters)}):\n    """Return {self.contract}."""\n'
        return head + self.body.source(self.choice if choice is None else choice)

    @property
    def contract(self) -> str:
        return self.body.contract(self.choice)

    def value(self, index: int, choice: tuple[int, ...] | None = None):
        """Result on the domain's argument `index`."""
        return bodies.outputs(self.family, self.body, self.choice if choice is None else choice)[index]

    def call(self, index: int) -> Call:
        return Call(f"{self.name}({arguments(self.family, index)})", literal(self.value(index)))


@dataclass(frozen=True)
class Facade:
    """A public function over two helpers."""

    name: str
    module: str
    first: Helper
    second: Helper
    words: str
    code: str

    def source(self) -> str:
        parameters = ", ".join(self.first.family.parameters)
        calls = {"first": f"{self.first.name}({parameters})", "second": f"{self.second.name}({parameters})"}
        return (
            f"def {self.name}({parameters}):\n"
            f'    """Return {self.words.format(**calls)}."""\n'
            f"    first = {calls['first']}\n"
            f"    second = {calls['second']}\n"
            f"    return {self.code.format(first='first', second='second')}\n"
        )

    def value(self, index: int, helper: Helper | None = None, choice: tuple[int, ...] | None = None):
        """Result on the domain's argument `index`; with another choice for one helper's slots if given."""
        inner = {
            name: h.value(index, choice if h is helper else None)
            for name, h in (("first", self.first), ("second", self.second))
        }
        return eval(_code(self.code), {}, inner)

    def call(self, index: int) -> Call:
        return Call(f"{self.name}({arguments(self.first.family, index)})", literal(self.value(index)))


@functools.cache
def _code(template: str):
    return compile(template.format(first="first", second="second"), "facade", "eval")


def arguments(family: BodyFamily, index: int) -> str:
    return ", ".join(map(literal, bodies.domain(family.name)[index]))


def draft(rng: random.Random, split: str) -> Draft:
    """Draws a repository, its bug, mutants, wrong fix and texts. Raises Unproven where the draw has no good bug."""
    families = body_families.HELDOUT_FAMILIES if split == "heldout_families" else body_families.TRAIN_FAMILIES
    family = rng.choice(families)
    package = rng.choice([p for p, modules in words.MODULES[split].items() if len(modules) >= 4])
    modules = rng.sample(words.MODULES[split][package], 4)
    paths = [f"{package}/{m}.py" for m in modules]
    names = rng.sample(words.FUNCTION_NAMES[split], 7)
    helpers = draw_helpers(rng, family, split, names[:5], [paths[i] for i in (0, 0, 1, 1, 2)])
    facades = draw_facades(rng, family, names[5:], paths[3], helpers)
    facade = rng.choice(facades)
    target = rng.choice([facade.first, facade.second])
    files = render(family, package, helpers, facades, rng)
    plan = draw_plan(rng, split, facade, target)
    got = literal(facade.value(plan.wrong, target, plan.bug))
    wrong, right = facade.call(plan.wrong), facade.call(plan.right)

    def change(choice: tuple[int, ...]) -> dict[str, str]:
        return {target.module: files[target.module].decode().replace(target.source(), target.source(choice))}

    texts = Texts(
        issue=rng.choice(ISSUES).format(wrong=wrong.source, x=wrong.value, got=got, right=right.source, y=right.value),
        instruction=f"In {target.module}, {target.name} must return {target.contract}.",
        contract=f"{target.name}({', '.join(family.parameters)}): Return {target.contract}.",
    )
    return Draft(
        repository=f"world/{package}." + ".".join(modules),
        family=family.name,
        files=files,
        bug=change(plan.bug),
        mutants=[change(c) for c in plan.mutants] + operator_mutants(rng, files, target.module, target.name),
        wrong_fix=change(plan.wrong_fix),
        target_path=target.module,
        target_symbol=target.name,
        texts=texts,
        issue_calls=(wrong, right),
        target_calls=tuple(map(target.call, plan.telling)),
        issue_import=f"from {package} import {facade.name}",
        target_import=f"from {_dotted(target.module)} import {target.name}",
    )


def draw_helpers(rng: random.Random, family: BodyFamily, split: str, names, paths) -> list[Helper]:
    """Distinct functions; no body with its choices occurs both in training and in a held-out repository."""
    variants = _variants(family, split)
    if len(variants) < len(names):
        raise Unproven(f"{family.name} has {len(variants)} functions for {split}")
    drawn = rng.sample(variants, len(names))
    return [Helper(name, path, family, *variant) for name, path, variant in zip(names, paths, drawn, strict=True)]


@functools.cache
def _variants(family: BodyFamily, split: str) -> tuple[tuple[Body, tuple[int, ...]], ...]:
    return tuple(
        (body, choice)
        for body in family.bodies
        for choice in body.choices()
        if split == "heldout_families" or (words.pool(f"{body.words} {choice}") == "train") == (split == "train")
    )


def draw_facades(rng: random.Random, family: BodyFamily, names, path: str, helpers: list[Helper]) -> list[Facade]:
    results = rng.sample(family.facades, len(names))
    return [Facade(name, path, *rng.sample(helpers, 2), *r) for name, r in zip(names, results, strict=True)]


@dataclass(frozen=True)
class Plan:
    bug: tuple[int, ...]
    wrong_fix: tuple[int, ...]
    mutants: list[tuple[int, ...]]
    # Indices into the domain: the issue's wrong and right call, calls that tell the target from its variants.
    wrong: int
    right: int
    telling: list[int]


def draw_plan(rng: random.Random, split: str, facade: Facade, target: Helper) -> Plan:
    correct = bodies.outputs(target.family, target.body, target.choice)
    variants = [
        c for c in _neighbours(target, target.choice) if bodies.outputs(target.family, target.body, c) != correct
    ]
    rng.shuffle(variants)
    size = len(correct)
    for bug in variants:
        if split != "heldout_families" and (words.pool(f"{target.body.words} {target.choice} {bug}") == "train") != (
            split == "train"
        ):
            continue
        differ = [i for i in range(size) if facade.value(i, target, bug) != facade.value(i)]
        right = [i for i in range(size) if i not in differ]
        # One slot away from the bug, like the right fix: the size of a diff says nothing about its label.
        fixes = [c for c in _neighbours(target, bug) if c != target.choice]
        rng.shuffle(fixes)
        for wrong_fix in fixes if right else []:
            both = [i for i in differ if facade.value(i, target, wrong_fix) != facade.value(i)]
            if both:
                telling = telling_inputs(rng, target, variants)
                return Plan(bug, wrong_fix, variants[:_MAX_SLOT_MUTANTS], rng.choice(both), rng.choice(right), telling)
    raise Unproven(f"no bug of {target.contract!r} shows in {facade.words!r}")


def _neighbours(helper: Helper, choice: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The choices that differ in one slot."""
    options = list(helper.body.slots.values())
    return [
        (*choice[:slot], other, *choice[slot + 1 :])
        for slot, picked in enumerate(choice)
        for other in range(len(options[slot]))
        if other != picked
    ]


def telling_inputs(rng: random.Random, helper: Helper, variants, most: int = 4) -> list[int]:
    """At most `most` inputs, chosen greedily to tell the helper from all of its variants."""
    alive, chosen = list(variants), []
    order = rng.sample(range(len(bodies.domain(helper.family.name))), 30)
    while len(chosen) < 2 or (alive and len(chosen) < most):
        best = max(
            (i for i in order if i not in chosen),
            key=lambda i: sum(helper.value(i, c) != helper.value(i) for c in alive),
        )
        chosen.append(best)
        alive = [c for c in alive if helper.value(best, c) == helper.value(best)]
    return chosen


def operator_mutants(rng: random.Random, files, path: str, symbol: str) -> list[dict[str, str]]:
    """A few mutants of a function by the general operators."""
    text = files[path].decode()
    found = [site for site in mutate.sites(text) if site.symbol == symbol]
    picked = rng.sample(found, min(_MAX_OPERATOR_MUTANTS, len(found)))
    return [{path: mutate.apply(text, site)} for site in picked]


def render(family: BodyFamily, package: str, helpers, facades, rng: random.Random) -> dict[str, bytes]:
    """The package's files and a test file a module."""
    files = {f"{package}/__init__.py": f'"""{family.topic}."""\n\n'}
    modules = list(dict.fromkeys(f.module for f in [*helpers, *facades]))
    for path in modules:
        mine = [f for f in helpers if f.module == path]
        public = [f for f in facades if f.module == path]
        used = {h.module: set() for f in public for h in (f.first, f.second)}
        for f in public:
            for h in (f.first, f.second):
                used[h.module].add(h.name)
        imports = [f"from {_dotted(m)} import {', '.join(sorted(used[m]))}\n" for m in sorted(used) if m != path]
        head = f'"""{family.topic}."""\n' + ("\n" + "".join(imports) if imports else "")
        files[path] = "\n\n".join([head, *(f.source() for f in [*mine, *public])])
        source = package if public else _dotted(path)
        names = ", ".join(f.name for f in [*mine, *public])
        if public:
            files[f"{package}/__init__.py"] += f"from {_dotted(path)} import {names}\n"
        checks = [_test(f, telling_inputs(rng, f, _neighbours(f, f.choice))) for f in mine]
        checks += [_test(f, rng.sample(range(len(bodies.domain(family.name))), 3)) for f in public]
        files[f"tests/test_{_dotted(path).rpartition('.')[2]}.py"] = "\n\n".join(
            [f"from {source} import {names}\n", *checks]
        )
    return {path: text.encode() for path, text in files.items()}


def _test(function: Helper | Facade, inputs: list[int]) -> str:
    return f"def test_{function.name}():\n" + "".join(f"    {function.call(i).check}\n" for i in inputs)


def _dotted(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")
