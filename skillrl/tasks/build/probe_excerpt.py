"""A failing test -> what a user would write to see the same: a few lines and an expression. Pure.

Imported by `probe.py` in the sandbox too: standard library only.
"""

import ast
import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

MAX_LINES = 8
MAX_LINE_CHARACTERS = 120

# What stands where the failing test has a name.
KEEP, LOCAL = "keep", "local"


@dataclass(frozen=True)
class Known:
    """What a name, or a name with attributes, stands for."""

    # How many parts of the dotted name this replaces.
    parts: int
    # What to write: a literal, a name, or KEEP, or LOCAL for a value that only the test's own lines make.
    text: str
    # What to write before it: an import, a small function; empty where there is nothing to tell.
    line: str = ""
    # The module to get it from; empty for what is no import.
    module: str = ""
    # Whether it is the package's.
    own: bool = False


# None where a reader could not tell what it is.
Resolve = Callable[[Sequence[str]], Known | None]


@dataclass(frozen=True)
class Excerpt:
    """Lines and an expression that come to something else on the two trees."""

    lines: tuple[str, ...]
    expression: str
    # Must be true on the correct tree; empty where the test says nothing about the value.
    check: str = ""
    # (name, module) of all imports: a line tells of those that do not name a module which may be the place.
    origins: tuple[tuple[str, str], ...] = ()


class _UntoldError(Exception):
    """The lines mean nothing outside the test."""


def excerpts(source: str, function: str, line: int, resolve: Resolve) -> Iterator[Excerpt]:
    """What the function's statement at `line` looks at, after the lines that it needs, shortest first.

    Calls inside earlier assertions may change what is looked at: a second excerpt holds them as well.
    """
    found = _path(ast.parse(source).body, line)
    names = [getattr(node, "name", "") for node in found]
    if function not in names or not isinstance(found[names.index(function)], ast.FunctionDef):
        return
    *_, statement = path = found[names.index(function) + 1 :] or [None]
    looked_at = _looked_at(statement)
    if looked_at is None:
        return
    before = _before(found[names.index(function)], path)
    made = []
    for with_assertions in (False, True):
        try:
            one = _Writer(before, resolve, with_assertions).excerpt(*looked_at)
        except _UntoldError:
            continue
        if one not in made:
            made.append(one)
            yield one


def _path(body: Sequence[ast.stmt], line: int) -> list[ast.stmt]:
    """The statements around a line, from the outermost to the innermost."""
    for node in body:
        if min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) <= line <= node.end_lineno:
            return [node, *_path(_inside(node), line)]
    return []


def _inside(node: ast.stmt) -> list[ast.stmt]:
    inner = [n for name in ("body", "orelse", "finalbody") for n in getattr(node, name, [])]
    return inner + [n for handler in getattr(node, "handlers", []) for n in handler.body]


def _before(function: ast.FunctionDef, path: Sequence[ast.stmt]) -> list[ast.stmt]:
    """What is executed before the last statement of the path, without the blocks around it."""
    earlier, block = [], function
    for node in path:
        for name in ("body", "orelse", "finalbody"):
            siblings = getattr(block, name, [])
            if node in siblings:
                earlier += siblings[: siblings.index(node)]
        block = node
    return earlier


def _looked_at(statement: ast.stmt | None) -> tuple[ast.expr, ast.expr | None] | None:
    """The expression whose value the statement is about, and what the statement claims."""
    if isinstance(statement, ast.With):
        raising = [getattr(i.context_expr, "func", None) for i in statement.items]
        last = statement.body[-1]
        if any(_name(f) in ("raises", "assertRaises", "assertRaisesRegex") for f in raising):
            # A generator or a block before it would have raised too.
            return (last.value, None) if len(statement.body) == 1 and hasattr(last, "value") else None
        return None
    claim = _claim(statement)
    if claim is None:
        value = getattr(statement, "value", None)
        return (value, None) if isinstance(value, ast.expr) else None
    return (claim.operand if isinstance(claim, ast.UnaryOp) and isinstance(claim.op, ast.Not) else claim), claim


# Assertions of unittest as expressions.
_UNITTEST = {
    "assertEqual": "a == b", "assertEquals": "a == b", "assertListEqual": "a == b", "assertDictEqual": "a == b",
    "assertNotEqual": "a != b", "assertTrue": "a", "assertFalse": "not a", "assertIs": "a is b",
    "assertIsNot": "a is not b", "assertIsNone": "a is None", "assertIsNotNone": "a is not None",
    "assertIn": "a in b", "assertNotIn": "a not in b", "assertIsInstance": "isinstance(a, b)",
}  # fmt: skip


def _claim(statement: ast.stmt | None) -> ast.expr | None:
    """The condition that an assertion holds to be true."""
    if isinstance(statement, ast.Assert):
        return statement.test
    call = getattr(statement, "value", None)
    if not isinstance(statement, ast.Expr) or not isinstance(call, ast.Call) or _name(call.func) not in _UNITTEST:
        return None
    condition = ast.parse(_UNITTEST[_name(call.func)], mode="eval").body
    return _Put(dict(zip("ab", call.args, strict=False))).visit(condition)


def _name(node: ast.expr | None) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


class _Put(ast.NodeTransformer):
    """Expressions in the place of names."""

    def __init__(self, values: Mapping[str, ast.expr]):
        self._values = values

    def visit_Name(self, node):
        return self._values.get(node.id, node)


@dataclass
class _Notes:
    """What was seen in the lines written so far."""

    # Names whose value only earlier lines make.
    needed: set[str] = field(default_factory=set)
    # Names of parameters and loops inside the lines.
    bound: set[str] = field(default_factory=set)
    # Imports and functions to tell first, in order; and as in Excerpt.
    told: dict[str, None] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    # Whether the package, or a line of the test, gave a value.
    given: bool = False


class _Writer(ast.NodeTransformer):
    """Writes statements for a reader who has the package and not the test."""

    def __init__(self, before: Sequence[ast.stmt], resolve: Resolve, with_assertions: bool):
        self._before, self._resolve, self._with_assertions = before, resolve, with_assertions
        self._assigned = Counter(name for statement in before for name in _stored(statement))
        self._constants = dict(filter(None, map(_constant, before)))
        self._notes = _Notes()

    def excerpt(self, subject: ast.expr, claim: ast.expr | None) -> Excerpt:
        """Raises _UntoldError."""
        subject = self._telling(subject)
        if not self._is_given(subject):
            raise _UntoldError
        expression = self._written(subject)
        lines, made = [], set()
        for statement in reversed(self._before):
            kept = self._kept(statement)
            if kept is not None:
                made |= _stored(kept)
                lines[:0] = self._written(kept).splitlines()
        lines[:0] = [part for text in self._notes.told for part in text.splitlines()]
        long = max(map(len, (*lines, expression))) > MAX_LINE_CHARACTERS or len(lines) > MAX_LINES
        if long or not self._notes.needed <= made:
            raise _UntoldError
        check = self._written(claim) if claim is not None else ""
        return Excerpt(tuple(lines), expression, check, tuple(sorted(self._notes.origins.items())))

    def _telling(self, subject: ast.expr) -> ast.expr:
        """Of an equation the side whose value the package gives, where only one is such."""
        if isinstance(subject, ast.Compare) and len(subject.ops) == 1 and isinstance(subject.ops[0], ast.Eq | ast.Is):
            sides = [side for side in (subject.left, subject.comparators[0]) if self._is_given(side)]
            return sides[0] if len(sides) == 1 else subject
        return subject

    def _is_given(self, node: ast.expr) -> bool:
        """Whether the package has a part in the value."""
        notes, self._notes = self._notes, _Notes(bound=set(self._notes.bound))
        try:
            self._written(node)
            return self._notes.given
        finally:
            self._notes = notes

    def _kept(self, statement: ast.stmt) -> ast.stmt | None:
        """The statement, as far as it makes or changes a value that is needed."""
        named = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)} | _stored(statement)
        if not named & self._notes.needed:
            return None
        if isinstance(statement, ast.Assert) or _claim(statement) is not None:
            calls = any(isinstance(n, ast.Call) for n in ast.walk(statement))
            return ast.Expr(self._telling(_looked_at(statement)[0])) if self._with_assertions and calls else None
        unfit = (ast.Assert, ast.With, ast.Try, ast.Import, ast.ImportFrom)
        return None if any(isinstance(n, unfit) for n in ast.walk(statement)) else statement

    def _written(self, node: ast.AST) -> str:
        self._notes.bound |= _bound(node)
        return ast.unparse(self.visit(copy.deepcopy(node)))

    def visit_Name(self, node):
        return self._replaced(node, [node.id])

    def visit_Attribute(self, node):
        parts, base = [node.attr], node.value
        while isinstance(base, ast.Attribute):
            parts, base = [base.attr, *parts], base.value
        if any(part.startswith("_") for part in parts):
            raise _UntoldError
        return self._replaced(node, [base.id, *parts]) if isinstance(base, ast.Name) else self.generic_visit(node)

    def _replaced(self, node, parts):
        first = parts[0]
        if not isinstance(getattr(node, "ctx", None), ast.Load) and len(parts) == 1 or first in self._notes.bound:
            return node
        known = self._resolve(parts)
        # The test's own lines show how it came about, unless it still is the literal that it was.
        if known and self._assigned[first] and (self._assigned[first], known.text) != (1, self._constants.get(first)):
            known = Known(1, LOCAL)
        if known is None or known.text not in (KEEP, LOCAL) and known.text.startswith("_"):
            raise _UntoldError
        self._notes.given |= known.own or known.text == LOCAL
        if known.text == LOCAL:
            self._notes.needed.add(first)
        if known.text in (KEEP, LOCAL):
            return node
        if known.line:
            self._notes.told[known.line] = None
        if known.module:
            self._notes.origins[known.text] = known.module
        value = ast.parse(known.text, mode="eval").body
        for part in parts[known.parts :]:
            value = ast.Attribute(value, part, ast.Load())
        return value


def _stored(node: ast.AST) -> set[str]:
    """Names that a statement gives a value to."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names | ({node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set())


def _constant(node: ast.stmt) -> tuple[str, str] | None:
    """Name and value of an assignment of a literal."""
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return None
    try:
        return node.targets[0].id, repr(ast.literal_eval(node.value))
    except ValueError:
        return None


def _bound(node: ast.AST) -> set[str]:
    """Names of parameters, of comprehensions, and of what functions and loops inside it assign."""
    names = {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.comprehension):
            names |= _stored(inner.target)
        if isinstance(inner, ast.FunctionDef | ast.ClassDef | ast.For):
            names |= set().union(*map(_stored, ast.walk(inner)))
    return names
