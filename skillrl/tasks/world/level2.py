"""Level 2 and 3: applications with classes. The issue tells in words what a user did, got and expected.

Bugs come from the general mutation operators, some in two files at once. Level 3 joins two applications and modules of
functions with names that resemble theirs.
"""

import ast
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Template

from sandbox_service.syntax import parse
from sandbox_service.tasks import Overlay, apply_overlay
from skillrl.tasks import mutate
from skillrl.tasks.derive import Texts
from skillrl.tasks.world import apps, body_families, level1, words
from skillrl.tasks.world.apps import App, Scenario
from skillrl.tasks.world.instance import MAX_MUTANTS, Call, Draft, Unproven
from skillrl.tasks.world.level0 import literal
from skillrl.tasks.world.prove import Suite

ISSUES = (
    "{Words} should be {x}, but I get {got}.",
    "I get {got} for {words}. It should be {x}.",
    "Expected {x} for {words}; the result is {got}.",
)
RIGHT = " For {words} the answer {y} is right."
_TWO_FILES = 0.3
# Sites tried before the repository is given up.
_SITES = 30
_TEST_ROUNDS, _POOL_ROUNDS = 2, 4
_EXTRA_MODULES = 6


@dataclass(frozen=True)
class Repository:
    """An application (or two) under names of its own."""

    package: str
    modules: tuple[str, ...]
    # Sources and tests.
    files: Mapping[str, bytes]
    # Source paths of the applications -> where the text comes from, the same whatever the names.
    origin: Mapping[str, str]
    # Scenarios that no test uses, with their names filled in, and their calls.
    pool: tuple[tuple[Scenario, Call], ...]
    import_line: str


@dataclass(frozen=True)
class Planted:
    """A bug in one place."""

    path: str
    site: mutate.Site
    correct: str

    @property
    def text(self) -> str:
        return mutate.apply(self.correct, self.site)


def draft(rng: random.Random, split: str) -> Draft:
    return _draft(rng, split, applications=1)


def draft_large(rng: random.Random, split: str) -> Draft:
    return _draft(rng, split, applications=2)


def _draft(rng: random.Random, split: str, applications: int) -> Draft:
    chosen = rng.sample(apps.HELDOUT_APPS if split == "heldout_families" else apps.TRAIN_APPS, applications)
    repository = make_repository(rng, split, chosen)
    places = _places(rng, split, repository)
    tests = Suite(repository.files).results()
    for number, first in enumerate(places):
        planted = [first]
        if rng.random() < _TWO_FILES:
            planted += [p for p in places[number + 1 :] if p.path != first.path][:1]
        bug = {p.path: p.text for p in planted}
        failing = [t for t, ok in Suite(repository.files, bug).results().items() if not ok]
        if 0 < len(failing) <= len(tests) // 2:
            try:
                return _finish(rng, repository, [a.name for a in chosen], planted, bug)
            except Unproven:
                continue
    raise Unproven("no site of this repository gives a good bug")


def _finish(
    rng: random.Random, repository: Repository, names: list[str], planted: list[Planted], bug: Overlay
) -> Draft:
    target = planted[0]
    issue, calls = _issue(rng, repository, planted, bug)
    mutants = [
        {target.path: mutate.apply(target.correct, site)}
        for site in mutate.sites(target.correct)
        if site.symbol == target.site.symbol
    ]
    mutants = rng.sample(mutants, min(len(mutants), MAX_MUTANTS))
    signature, contract = _contract(target.correct, target.site.symbol)
    return Draft(
        repository=f"world/{repository.package}." + ".".join(repository.modules),
        family="+".join(names),
        files=repository.files,
        bug=bug,
        mutants=mutants,
        wrong_fix=_wrong_fix(rng, repository, planted, bug, calls[:-1]),
        target_path=target.path,
        target_symbol=target.site.symbol,
        texts=Texts(
            issue=issue,
            instruction=" ".join(
                f"In {p.path}, {p.site.symbol} must keep its promise: {_contract(p.correct, p.site.symbol)[1]} "
                f"Near line {mutate.changed_lines(p.site)[0]}: {p.site.intent}."
                for p in planted
            ),
            contract=f"{signature}: {contract}",
        ),
        issue_calls=calls,
        target_calls=_telling(repository, mutants),
        issue_import=_imports(repository, calls),
        target_import=repository.import_line,
    )


def make_repository(rng: random.Random, split: str, chosen: list[App]) -> Repository:
    extra = _EXTRA_MODULES if len(chosen) > 1 else 0
    need = extra + sum(len(app.modules) for app in chosen)
    package = rng.choice([p for p, modules in words.MODULES[split].items() if len(modules) >= need])
    modules = rng.sample(words.MODULES[split][package], need)
    free = iter(modules)
    files, origin, tests, pool, public = {}, {}, {}, [], []
    names = _names(rng, split, sum(len(a.classes) + len(a.functions) for a in chosen))
    for app in chosen:
        mine = {key: next(free) for key in app.modules}
        given = {"package": package, **mine, **{k: _camel(next(names)) for k in app.classes}}
        given |= {k: next(names) for k in app.functions}
        public += [given[k] for k in app.classes + app.functions]
        constants = app.constants(rng)
        for key, template in app.modules.items():
            path = f"{package}/{mine[key]}.py"
            files[path] = Template(template).substitute(given, **constants)
            origin[path] = f"{app.name}/{key}"
        rounds = [app.scenarios(rng, constants) for _ in range(_TEST_ROUNDS + _POOL_ROUNDS)]
        filled = [[_fill(s, given) for s in scenarios] for scenarios in rounds]
        tests[app.name] = (list(mine.values()), filled[:_TEST_ROUNDS])
        pool += [s for scenarios in filled[_TEST_ROUNDS:] for s in scenarios]
    files[f"{package}/__init__.py"] = _init(package, files, public)
    if extra:
        _add_similar(rng, split, package, list(free), public, files)
    import_line = f"from {package} import {', '.join(sorted(public))}"
    correct = Suite({path: text.encode() for path, text in files.items()})
    for test_modules, rounds in tests.values():
        files |= _tests(package, correct, import_line, test_modules, rounds)
    return Repository(
        package=package,
        modules=tuple(modules),
        files={path: text.encode() for path, text in files.items()},
        origin=origin,
        pool=tuple((s, _call(correct, import_line, s)) for s in pool),
        import_line=import_line,
    )


def _names(rng: random.Random, split: str, count: int):
    return iter(rng.sample(words.FUNCTION_NAMES[split], count))


def _camel(name: str) -> str:
    return name.title().replace("_", "")


def _fill(scenario: Scenario, given: Mapping[str, str]) -> Scenario:
    setup = tuple(Template(line).substitute(given) for line in scenario.setup)
    return Scenario(scenario.kind, setup, Template(scenario.expression).substitute(given), scenario.words)


def _init(package: str, files: Mapping[str, str], public: list[str]) -> str:
    lines = ['"""What other code may use."""', ""]
    for path, text in files.items():
        defined = [n for n in public if re.search(rf"^(?:class|def) {n}\b", text, re.MULTILINE)]
        lines.append(f"from {path[:-3].replace('/', '.')} import {', '.join(defined)}")
    return "\n".join(lines) + "\n"


def _add_similar(rng: random.Random, split: str, package: str, modules: list[str], public: list[str], files) -> None:
    """Modules of functions whose names share a word with the application's, and their tests."""
    family = rng.choice(body_families.HELDOUT_FAMILIES if split == "heldout_families" else body_families.TRAIN_FAMILIES)
    taken = {name for name in public if "_" in name}
    parts = {part for name in taken for part in name.split("_")}
    similar = [n for n in words.FUNCTION_NAMES[split] if n not in taken and parts & set(n.split("_"))]
    paths = [f"{package}/{module}.py" for module in modules for _ in range(2)]
    helpers = level1.draw_helpers(rng, family, split, rng.sample(similar, len(paths)), paths)
    made = level1.render(family, package, helpers, [], rng)
    files |= {path: data.decode() for path, data in made.items() if path != f"{package}/__init__.py"}


def _call(correct: Suite, import_line: str, scenario: Scenario) -> Call:
    value = correct.evaluate([import_line, *scenario.setup], scenario.expression)
    return Call(scenario.expression, literal(value), scenario.setup)


def _imports(repository: Repository, calls: tuple[Call, ...]) -> str:
    """An import of the names that the calls use."""
    source = "\n".join(line for call in calls for line in call.lines)
    return _used(repository.import_line, source)


def _used(import_line: str, source: str) -> str:
    head, names = import_line.split(" import ")
    return f"{head} import {', '.join(n for n in names.split(', ') if re.search(rf'{chr(92)}b{n}{chr(92)}b', source))}"


def _tests(package: str, correct: Suite, import_line: str, modules: list[str], rounds) -> dict[str, str]:
    """A test a kind of scenario, spread over one file a module."""
    bodies_of: dict[str, list[str]] = {module: [] for module in modules}
    for number, same_kind in enumerate(zip(*rounds, strict=True)):
        lines = []
        for scenario in same_kind:
            lines += [f"    {line}" for line in _call(correct, import_line, scenario).lines]
        text = f"def test_{same_kind[0].kind}():\n" + "\n".join(lines) + "\n"
        bodies_of[modules[number * len(modules) // len(rounds[0])]].append(text)
    return {
        f"tests/test_{module}.py": "\n\n".join([_used(import_line, "".join(texts)) + "\n", *texts])
        for module, texts in bodies_of.items()
        if texts
    }


def _places(rng: random.Random, split: str, repository: Repository) -> list[Planted]:
    """Sites in documented functions, in a seeded order. No place and operator serves training and held-out sets."""
    texts = {path: repository.files[path].decode() for path in repository.origin}
    places = []
    for path, site in mutate.sample(texts, rng.randrange(2**32), per_function=8):
        key = f"{repository.origin[path]}:{site.first_line} {site.operator}"
        foreign = split != "heldout_families" and (words.pool(key) == "train") != (split == "train")
        if not foreign and _contract(texts[path], site.symbol)[1]:
            places.append(Planted(path, site, texts[path]))
    return places[:_SITES]


def _contract(source: str, symbol: str) -> tuple[str, str]:
    """Signature and docstring of a function or method."""
    scope = parse(source).body
    for name in symbol.split("."):
        node = next(n for n in scope if getattr(n, "name", None) == name)
        scope = node.body
    arguments = [ast.unparse(a) for a in node.args.args if a.arg != "self"]
    return f"{symbol}({', '.join(arguments)})", " ".join((ast.get_docstring(node) or "").split())


def _issue(rng: random.Random, repository: Repository, planted: list[Planted], bug: Overlay):
    """The text, and the calls it is about: a wrong one for each place, then a right one."""
    pool = rng.sample(repository.pool, len(repository.pool))
    whole = Suite(repository.files, bug)
    failures = [whole.failure([repository.import_line, *call.lines]) for _, call in pool]
    wrong = []
    for place in planted:
        alone = Suite(repository.files, {place.path: place.text})
        for (scenario, call), failure in zip(pool, failures, strict=True):
            shows = failure and failure.right and call not in (c for _, c in wrong)
            if shows and alone.failure([repository.import_line, *call.lines]):
                wrong.append((scenario, call))
                break
        else:
            raise Unproven("no scenario shows the bug")
    right = [pair for pair, failure in zip(pool, failures, strict=True) if not failure]
    if not right:
        raise Unproven("no scenario is right")
    kind = wrong[0][0].kind
    shown, call = next((pair for pair in right if pair[0].kind == kind), right[0])
    sentences = []
    for scenario, failing in wrong:
        got = _result(whole, repository.import_line, scenario)
        told = {"words": scenario.words, "Words": scenario.words[0].upper() + scenario.words[1:]}
        sentences.append(rng.choice(ISSUES).format(x=failing.value, got=got, **told))
    text = " ".join(sentences) + RIGHT.format(words=shown.words, y=call.value)
    return text, (*(c for _, c in wrong), call)


def _result(suite: Suite, import_line: str, scenario: Scenario) -> str:
    try:
        return literal(suite.evaluate([import_line, *scenario.setup], scenario.expression))
    except Exception as e:
        return f"an error ({type(e).__name__})"


def _wrong_fix(
    rng: random.Random, repository: Repository, planted: list[Planted], bug: Overlay, wrong_calls
) -> Overlay:
    """As large as the right fix: the last place is changed otherwise, or its function changed in another place."""
    place = planted[-1]
    lines = range(place.site.first_line, place.site.last_line + 1)
    options = [
        mutate.apply(place.correct, s)
        for s in mutate.sites(place.correct)
        if s.symbol == place.site.symbol and s.first_line in lines
    ]
    options += [mutate.apply(place.text, s) for s in mutate.sites(place.text) if s.symbol == place.site.symbol]
    options = [text for text in options if text not in (place.correct, place.text)]
    rng.shuffle(options)
    others = {p.path: p.correct for p in planted[:-1]}
    for text in options:
        suite = Suite(apply_overlay(repository.files, bug), {**others, place.path: text})
        lines = [repository.import_line, *(line for call in wrong_calls for line in call.lines)]
        if suite.failure(lines) and not all(suite.results().values()):
            return {**others, place.path: text}
    raise Unproven("no wrong fix that the tests refuse")


def _telling(repository: Repository, mutants: list[Overlay]) -> tuple[Call, ...]:
    """Calls of the pool that together kill as many mutants as the whole pool does."""
    chosen: list[Call] = []
    for mutant in mutants:
        suite = Suite(repository.files, mutant)

        def tells(call: Call, suite: Suite = suite) -> bool:
            failure = suite.failure([repository.import_line, *call.lines])
            return failure is not None and failure.right

        if not any(map(tells, chosen)):
            chosen += [call for _, call in repository.pool if tells(call)][:1]
    if not chosen:
        raise Unproven("no scenario tells a mutant")
    return tuple(chosen)
