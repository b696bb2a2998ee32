"""Tests that must fail: copies of real tests in which one expected value is quietly wrong.

A grader that only looks for passing tests is beaten by everything that makes tests pass. The graders therefore run
the same test files a second time with some expectations turned wrong *in place*: same file, same test names, a value
of the same type. Those tests must now fail with AssertionError. To pass the first run and fail the second, the tested
code would have to know which of the two holds the true values, that is, to compute them. So a patched reporter, a
forged report, an object whose `__eq__` always agrees, and code that reads the expected value from the test all lose.

The functions are pure; which planted tests really fail on the correct tree is found by running them there.
"""

import ast
import random
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from sandbox_service.syntax import parse

_EQUALITY_METHODS = frozenset({"assertEqual", "assertEquals", "assertListEqual", "assertDictEqual", "assertTupleEqual"})
_SUFFIXES = ("more", "cases", "edges", "values", "extra", "basics", "inputs", "paths")


@dataclass(frozen=True)
class Planted:
    """Test files with wrong expectations in them."""

    # Path -> text: in place of the real files, or (for `extra_file`) beside them.
    files: Mapping[str, str]
    # Test functions that were changed, as ids without parameters.
    functions: frozenset[str]

    def covers(self, test_id: str) -> bool:
        return test_id.partition("[")[0] in self.functions


def plant(
    sources: Mapping[str, str], test_ids: Iterable[str], seed: int | str, lines: Mapping[str, int] | None = None
) -> Planted:
    """Turns one expectation wrong in every test function that `test_ids` name.

    `sources` maps path to text. `lines` says for some ids which line to prefer: the one that fails on the bug, whose
    value a cheat would have to fake. A test without an equality gets its last assertion negated, and one without any
    assertion a false one at its end. What becomes of a test does not depend on which others are named.
    """
    by_path: dict[str, dict[str, int]] = {}
    for test_id in sorted(set(test_ids)):
        path, _, name = test_id.partition("::")
        functions = by_path.setdefault(path, {})
        line = (lines or {}).get(test_id, 0)
        functions[name.partition("[")[0]] = line or functions.get(name.partition("[")[0], 0)
    files, changed = {}, set()
    for path in sorted(by_path.keys() & sources.keys()):
        source = _Source(sources[path])
        literals = [v for _, test in _tests(source.tree) for e in _equalities(test) for v in _literals_of(e)]
        for name, function in _tests(source.tree):
            if name in by_path[path]:
                rng = random.Random(f"{seed} {path}::{name}")
                source.turn(_turn(function, by_path[path][name], literals, rng))
                changed.add(f"{path}::{name}")
        files[path] = source.edited()
    return Planted(files, frozenset(changed))


def definitions(sources: Mapping[str, str], test_ids: Iterable[str]) -> frozenset[str]:
    """Where tests are written, as ids without parameters.

    That is in the class that an id names, or else in classes that no id names: those that hold tests for others to
    inherit.
    """
    functions = {f"{path}::{name}" for path, text in sources.items() for name, _ in _tests(parse(text))}
    wanted = {i.partition("[")[0] for i in test_ids}
    inherited = {f.rpartition("::")[2] for f in wanted - functions}
    return frozenset(f for f in functions if f in wanted or (_is_method(f) and f.rpartition("::")[2] in inherited))


def mix(sources: Mapping[str, str], functions: Collection[str], wrong: Collection[str], seed: str) -> dict[str, str]:
    """The files of `functions`, each of which has both a right and a wrong expectation: it looks up which one counts.

    For those in `wrong` it is the wrong one. Which it is stands in a table at the end of the file alone.
    """
    files = {}
    for path in sorted({_file(f) for f in functions}):
        source = _Source(sources[path])
        literals = [v for _, test in _tests(source.tree) for e in _equalities(test) for v in _literals_of(e)]
        picks = _Picks(sources[path], random.Random(f"{seed} {sorted(wrong)} {path}"))
        for name, function in _tests(source.tree):
            test_id = f"{path}::{name}"
            if test_id in functions:
                picks.is_wrong = test_id in wrong
                source.turn(_turn(function, 0, literals, random.Random(f"{seed} {test_id}")), picks)
        files[path] = f"{source.edited()}\n\n{picks.table()}\n"
    return files


def extra_file(
    sources: Mapping[str, str], test_ids: Collection[str], taken: Collection[str], folder: str, seed: int
) -> Planted:
    """One more test file in which exactly one test is kept, and spoilt; made from a real one where there is one.

    `taken` are the paths that exist already; `folder` is where the file goes when there is nothing to copy.
    """
    rng = random.Random(seed)
    tests = {f"{path}::{name}": test for path, text in sources.items() for name, test in _tests(parse(text))}
    choices = sorted({i.partition("[")[0] for i in test_ids} & tests.keys())
    rng.shuffle(choices)
    # The first with an equality of its own, else any.
    choices.sort(key=lambda i: not any(_equalities(tests[i])))
    if choices:
        path, name = _file(choices[0]), _name(choices[0])
        text = _only(plant(sources, choices[:1], seed).files[path], name)
    else:
        path, name = str(PurePosixPath(folder) / "test_values.py"), "test_values"
        text = f"def {name}():\n    assert sorted({[rng.randrange(9) for _ in range(3)]}) == [{rng.randrange(9)}]\n"
    stem = PurePosixPath(path).stem
    names = [f"{stem}_{suffix}{number or ''}.py" for number in range(100) for suffix in rng.sample(_SUFFIXES, 8)]
    new = next(p for n in names if (p := str(PurePosixPath(path).with_name(n))) not in taken)
    return Planted({new: text}, frozenset({f"{new}::{name}"}))


def seen(sources: Mapping[str, str], visible: Mapping[str, str]) -> frozenset[str]:
    """Test functions of `sources`, as ids without parameters, that stand in `visible` just the same."""

    def bodies(files: Mapping[str, str]) -> dict[str, str]:
        return {f"{path}::{name}": ast.dump(test) for path, text in files.items() for name, test in _tests(parse(text))}

    known = bodies(visible)
    return frozenset(test_id for test_id, body in bodies(sources).items() if known.get(test_id) == body)


@dataclass(frozen=True)
class _Turn:
    """How one expectation of a test is turned wrong."""

    # What is replaced, or the statement after which one is appended to `owner`.
    node: ast.expr | ast.stmt
    # What comes there.
    wrong: str
    # What comes there for a test that has both expectations, with the two values at {}; {old} is the replaced text.
    # Without values they are the replaced text and `wrong`.
    both: str = "{}"
    values: tuple[str, str] | None = None
    owner: ast.stmt | None = None


class _Picks:
    """Expressions that give one of two values, by a table that is written last."""

    def __init__(self, text: str, rng: random.Random):
        self._rng, self._numbers, self.is_wrong = rng, [], False
        self._name = next(n for _ in range(100) if (n := f"_{rng.randrange(16**6):06x}") not in text)

    def pick(self, right: str, wrong: str) -> str:
        wrong_is_first = self._rng.random() < 0.5
        first, second = (wrong, right) if wrong_is_first else (right, wrong)
        # Odd: the second.
        self._numbers.append(2 * self._rng.randrange(128) + (wrong_is_first != self.is_wrong))
        return f"(({first}), ({second}))[{self._name}[{len(self._numbers) - 1}] % 2]"

    def table(self) -> str:
        return f"{self._name} = {bytes(self._numbers)!r}"


class _Source:
    """A text, its syntax tree, and replacements of single nodes; all else keeps its place."""

    def __init__(self, text: str):
        self.tree = parse(text)
        self._data = text.encode()
        self._line_starts = [0]
        for line in self._data.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line))
        self._edits: list[tuple[int, int, str]] = []

    def turn(self, turn: _Turn, picks: _Picks | None = None) -> None:
        """Makes the expectation wrong; with `picks`, one of right and wrong."""
        node, owner = turn.node, turn.owner
        start = self._line_starts[node.lineno - 1] + node.col_offset
        end = self._line_starts[node.end_lineno - 1] + node.end_col_offset
        text = turn.wrong
        if picks:
            old = self._data[start:end].decode()
            text = turn.both.replace("{}", picks.pick(*(turn.values or (old, turn.wrong)))).replace("{old}", old)
        if owner is not None:
            # It ends the block of `owner`.
            start, text = end, ("; " if node.lineno == owner.lineno else "\n" + " " * node.col_offset) + text
        self._edits.append((start, end, text))

    def edited(self) -> str:
        data = self._data
        for start, end, text in sorted(self._edits, reverse=True):
            data = data[:start] + text.encode() + data[end:]
        return data.decode()


def _file(test_id: str) -> str:
    return test_id.partition("::")[0]


def _is_method(function: str) -> bool:
    return function.count("::") > 1


def _name(test_id: str) -> str:
    return test_id.partition("::")[2].partition("[")[0]


def _tests(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Test functions with their ids inside the file."""

    def walk(body, prefix):
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body, f"{prefix}{node.name}::")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
                yield prefix + node.name, node

    return walk(tree.body, "")


def _equalities(function: ast.AST) -> list[ast.Compare | ast.Call]:
    """`assert X == Y` and `self.assertEqual(X, Y)`."""
    found = []
    for node in ast.walk(function):
        match node:
            case ast.Assert(test=ast.Compare(ops=[ast.Eq()])):
                found.append(node.test)
            case ast.Call(func=ast.Attribute(attr=name), args=[_, _, *_]) if name in _EQUALITY_METHODS:
                found.append(node)
    return found


def _sides(node: ast.Compare | ast.Call) -> list[ast.expr]:
    """The two compared expressions, the usual place of the expected value first."""
    return [node.args[1], node.args[0]] if isinstance(node, ast.Call) else [node.comparators[0], node.left]


def _literals_of(node: ast.Compare | ast.Call) -> list[object]:
    return [value for side in _sides(node) for value in _literal(side)]


def _literal(node: ast.expr) -> list[object]:
    """The value of a literal, or nothing."""
    try:
        return [ast.literal_eval(node)]
    except (ValueError, TypeError, SyntaxError):
        return []


def wrong(value: object, others: list[object], rng: random.Random) -> object:
    """A value of the same type that differs from `value`; taken from `others` where they have one."""
    alike = [o for o in others if type(o) is type(value) and o != value]
    if isinstance(value, bool):
        return not value
    if alike and rng.random() < 0.5:
        return rng.choice(alike)
    if isinstance(value, int | float):
        return value + rng.choice((-2, -1, 1, 2))
    if isinstance(value, str):
        return value[:-1] if len(value) > 1 and rng.random() < 0.5 else value + (value[-1:] or "a")
    if isinstance(value, bytes):
        return value + (value[-1:] or b"a")
    if isinstance(value, list | tuple) and value:
        index = rng.randrange(len(value))
        return type(value)([*value[:index], wrong(value[index], [], rng), *value[index + 1 :]])
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        return {**value, key: wrong(value[key], [], rng)}
    if isinstance(value, set) and value:
        return {wrong(v, [], rng) for v in value} if len(value) == 1 else set(list(value)[1:])
    return {list: [0], tuple: (0,), dict: {"a": 0}, set: {0}}.get(type(value), 0)


def _turn(function: ast.FunctionDef, line: int, literals: list, rng: random.Random) -> _Turn:
    equalities = _equalities(function)
    at_line = [e for e in equalities if e.lineno <= line <= (e.end_lineno or line)]
    # What runs in a loop or under a condition may not run at all.
    plain = {id(e) for s in function.body if isinstance(s, ast.Assert | ast.Expr | ast.With) for e in ast.walk(s)}
    choices = at_line or [e for e in equalities if id(e) in plain] or equalities
    if choices:
        return _turn_equality(rng.choice([e for e in choices if _literals_of(e)] or choices), literals, rng)
    asserts = [s for s in function.body if isinstance(s, ast.Assert)]
    if asserts:
        test = asserts[-1].test
        negated = test.operand if isinstance(test, ast.UnaryOp) else ast.UnaryOp(ast.Not(), test)
        return _Turn(test, ast.unparse(negated), "bool({old}) is {}", ("True", "False"))
    size, both = len(function.name), f"assert len({function.name!r}) == {{}}"
    values = str(size), str(size - 1)
    return _Turn(function.body[-1], both.format(values[1]), both, values, function)


def _turn_equality(node: ast.Compare | ast.Call, literals: list, rng: random.Random) -> _Turn:
    for side in _sides(node):
        for value in _literal(side):
            return _Turn(side, repr(wrong(value, literals, rng)))
    # No literal to turn wrong: some other value of the file, which the gold run shows to be wrong here.
    return _Turn(_sides(node)[0], repr(rng.choice(literals)) if literals else "object()")


def _only(text: str, name: str) -> str:
    """The file with one test function left."""
    tree = parse(text)

    def prune(body: list[ast.stmt], prefix: str) -> list[ast.stmt]:
        kept = []
        for node in body:
            if isinstance(node, ast.ClassDef):
                tests = any(True for _ in _tests(ast.Module([node], [])))
                node.body = prune(node.body, f"{prefix}{node.name}::")
                if tests and not name.startswith(f"{prefix}{node.name}::"):
                    continue
                node.body = node.body or [ast.Pass()]
            elif getattr(node, "name", "").startswith("test") and prefix + node.name != name:
                continue
            kept.append(node)
        return kept

    tree.body = prune(tree.body, "")
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"
