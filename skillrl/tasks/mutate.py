"""Mutation operators on source text: small, single-span changes inside function bodies.

Only the span of the changed node is replaced, so that nothing else tells where a bug was planted (`ast.unparse` would
reformat the file). The operators are those of mutation testing (mutmut, cosmic-ray; SWE-smith's procedural set),
chosen by measured kill rate. A site is kept if the function still parses and its tree is another.
"""

import ast
import bisect
import functools
import random
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox_service.syntax import parse

OPERATORS = (
    "return_none",
    "cmp_flip",
    "swap_args",
    "and_or",
    "off_by_one",
    "drop_if",
    "arith_flip",
    "negate_condition",
    "break_continue",
    "string_tweak",
    "slice_tweak",
    "remove_statement",
    "flip_bool",
)


@dataclass(frozen=True)
class Site:
    """One possible mutation."""

    operator: str
    # Qualified name of the outermost function or method that holds it.
    symbol: str
    # Bytes [start, end) of the source in UTF-8, and what takes their place.
    start: int
    end: int
    replacement: str
    # First and last changed line of the original, counted from 1.
    first_line: int
    last_line: int
    # What the correct code does there, in words that hold none of it.
    intent: str


_COMPARE = {
    ast.Lt: ("<", "<=", "strictly smaller"),
    ast.LtE: ("<=", "<", "smaller or equal"),
    ast.Gt: (">", ">=", "strictly greater"),
    ast.GtE: (">=", ">", "greater or equal"),
    ast.Eq: ("==", "!=", "equal"),
    ast.NotEq: ("!=", "==", "not equal"),
    ast.In: ("in", "not in", "contained"),
    ast.NotIn: ("not in", "in", "not contained"),
    ast.Is: ("is", "is not", "identical"),
    ast.IsNot: ("is not", "is", "not identical"),
}
_ARITHMETIC = {
    ast.Add: ("+", "-", "an addition"),
    ast.Sub: ("-", "+", "a subtraction"),
    ast.Mult: ("*", "+", "a multiplication"),
    ast.Div: ("/", "*", "a division"),
    ast.FloorDiv: ("//", "%", "a division that rounds down"),
    ast.Mod: ("%", "//", "a remainder"),
    ast.Pow: ("**", "*", "a power"),
}
_METHODS = {
    "lower": ("upper", "lower case"),
    "upper": ("lower", "upper case"),
    "lstrip": ("rstrip", "the left end"),
    "rstrip": ("lstrip", "the right end"),
    "startswith": ("endswith", "the beginning of the text"),
    "endswith": ("startswith", "the end of the text"),
    "find": ("rfind", "the first occurrence"),
    "rfind": ("find", "the last occurrence"),
    "split": ("rsplit", "splitting from the left"),
    "rsplit": ("split", "splitting from the right"),
    "partition": ("rpartition", "the first separator"),
    "rpartition": ("partition", "the last separator"),
    "capitalize": ("lower", "a capital first letter"),
    "append": ("extend", "adding one item"),
}


@functools.lru_cache(maxsize=64)
def sites(source: str) -> tuple[Site, ...]:
    """All mutation sites of a module, in source order. Raises SyntaxError when it does not parse."""
    finder = _Finder(source)
    finder.visit(parse(source))
    kept = {}
    for site in finder.found:
        kept.setdefault((site.start, site.end, site.replacement), site)
    return tuple(sorted(kept.values(), key=lambda s: (s.start, s.end, s.replacement)))


def apply(source: str, site: Site) -> str:
    """The source with the site's span replaced and every other byte as it was."""
    data = source.encode()
    return (data[: site.start] + site.replacement.encode() + data[site.end :]).decode()


def changed_lines(site: Site) -> tuple[int, int]:
    """First and last line of the mutated file that the change touches (for a removal, the line now in its place)."""
    return site.first_line, site.first_line + site.replacement.rstrip("\r\n").count("\n")


def sample(files: Mapping[str, str], seed: int, *, per_function: int = 3, per_file: int = 40) -> list[tuple[str, Site]]:
    """(path, site) pairs in a seeded order that takes turns over the operators, within quotas per function and file."""
    rng = random.Random(seed)
    queues: dict[str, list[tuple[str, Site]]] = {operator: [] for operator in OPERATORS}
    for path in sorted(files):
        for site in sites(files[path]):
            queues[site.operator].append((path, site))
    for queue in queues.values():
        rng.shuffle(queue)
    in_function: dict[tuple[str, str], int] = defaultdict(int)
    in_file: dict[str, int] = defaultdict(int)
    chosen = []
    while any(queues.values()):
        for queue in queues.values():
            while queue:
                path, site = queue.pop()
                if in_function[path, site.symbol] < per_function and in_file[path] < per_file:
                    in_function[path, site.symbol] += 1
                    in_file[path] += 1
                    chosen.append((path, site))
                    break
    return chosen


def _parse_function(lines: bytes) -> str | None:
    """The syntax tree of one function's whole lines, as text; None when they do not parse."""
    prefix = b"if 1:\n" if lines[:1] in (b" ", b"\t") else b""
    try:
        return ast.dump(parse(prefix + lines))
    except (SyntaxError, ValueError):
        return None


class _Finder(ast.NodeVisitor):
    """Walks function bodies and notes sites. `visit_*` methods add sites, then go on into the children."""

    def __init__(self, source: str):
        self.data = source.encode()
        self.starts = [0] + [m.end() for m in re.finditer(rb"\r\n|\r|\n", self.data)]
        self.found: list[Site] = []
        self.scope: list[str] = []
        self.symbol = ""
        # Bytes [start, end) of the outermost function's lines, and its syntax tree.
        self.function = (0, 0, "")
        self.loops: list[ast.AST] = []

    # Positions

    def span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.data[start:end].decode()

    def line_of(self, offset: int) -> int:
        return bisect.bisect_right(self.starts, offset)

    def add(self, operator: str, start: int, end: int, replacement: str, intent: str) -> None:
        """Notes a site if it is in a function, which still parses and is another one."""
        if not self.symbol:
            return
        top, bottom, before = self.function
        after = _parse_function(self.data[top:start] + replacement.encode() + self.data[end:bottom])
        if after is None or after == before:
            return
        first, last = self.line_of(start), self.line_of(max(start, end - 1))
        self.found.append(Site(operator, self.symbol, start, end, replacement, first, last, intent))

    def replace(self, operator: str, node: ast.AST, replacement: str, intent: str) -> None:
        self.add(operator, *self.span(node), replacement, intent)

    def replace_between(self, operator: str, left: ast.AST, right: ast.AST, old: str, new: str, intent: str) -> None:
        """Replaces the one operator token between two operands (brackets and blanks may stand there too)."""
        start, end = self.span(left)[1], self.span(right)[0]
        between = self.data[start:end]
        if b"\n" in between or b"\r" in between or b"#" in between:
            return
        matches = list(re.finditer(re.escape(old).replace(r"\ ", r"\s+").encode(), between))
        if len(matches) == 1:
            self.add(operator, start + matches[0].start(), start + matches[0].end(), new, intent)

    # Scopes

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scope.append(node.name)
        for child in node.body:
            self.visit(child)
        self.scope.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outer, loops = self.symbol, self.loops
        if not outer:
            top = self.starts[node.lineno - 1]
            bottom = self.starts[node.end_lineno] if node.end_lineno < len(self.starts) else len(self.data)
            self.function = top, bottom, _parse_function(self.data[top:bottom])
        self.symbol, self.loops = outer or ".".join([*self.scope, node.name]), []
        self.block(node.body)
        self.symbol, self.loops = outer, loops

    visit_AsyncFunctionDef = visit_FunctionDef

    def generic_visit(self, node: ast.AST) -> None:
        for name, value in ast.iter_fields(node):
            # Annotations are no behaviour.
            if name in ("annotation", "returns"):
                continue
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                self.block(value)
            else:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child)

    def block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if is_text or isinstance(statement, (ast.Import, ast.ImportFrom, ast.Assert)):
                continue
            if self.symbol and len(body) > 1:
                self.remove(statement)
            self.visit(statement)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Python 3.11 gives wrong positions inside f-strings."""

    visit_TemplateStr = visit_JoinedStr

    def visit_Raise(self, node: ast.Raise) -> None:
        """The text of an error message is rarely tested and never interesting."""

    # Statements

    def remove(self, node: ast.stmt) -> None:
        is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        is_store = isinstance(node, ast.Assign) and all(
            isinstance(t, (ast.Attribute, ast.Subscript)) for t in node.targets
        )
        if not (is_call or is_store or isinstance(node, ast.AugAssign)):
            return
        start, end = self.starts[node.lineno - 1], self.span(node)[1]
        after = self.starts[node.end_lineno] if node.end_lineno < len(self.starts) else len(self.data)
        if self.data[start : self.span(node)[0]].strip() or self.data[end:after].strip():
            return
        kind = "a call" if is_call else "an update of a value" if isinstance(node, ast.AugAssign) else "an assignment"
        self.add(
            "remove_statement", start, after, "", f"just before this line a step is needed that is missing: {kind}"
        )

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.replace("return_none", node.value, "None", "here the function gives back its result")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        if not isinstance(test, ast.Constant):
            self.replace("drop_if", test, "False", "this branch is taken under a condition; it is not always skipped")
            text = self.text(test)
            if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
                opposite = text.removeprefix("not").strip()
            elif isinstance(test, (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.Compare)):
                opposite = f"not {text}"
            else:
                opposite = f"not ({text})"
            self.replace("negate_condition", test, opposite, "the condition of this branch is the other way round")
        self.generic_visit(node)

    def visit_For(self, node: ast.For | ast.AsyncFor | ast.While) -> None:
        self.loops.append(node)
        self.generic_visit(node)
        self.loops.pop()

    visit_AsyncFor = visit_While = visit_For

    def visit_Continue(self, node: ast.Continue) -> None:
        self.replace("break_continue", node, "break", "here the loop goes on with its next item and does not end")

    def visit_Break(self, node: ast.Break) -> None:
        # In a while loop the opposite would often never end.
        if self.loops and not isinstance(self.loops[-1], ast.While):
            self.replace("break_continue", node, "continue", "here the loop ends and does not go on")

    # Expressions

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            old, new, word = _COMPARE[type(node.ops[0])]
            intent = f"the comparison asks whether the left side is {word}"
            self.replace_between("cmp_flip", node.left, node.comparators[0], old, new, intent)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        if len(node.values) == 2:
            is_and = isinstance(node.op, ast.And)
            old, new = ("and", "or") if is_and else ("or", "and")
            intent = "both conditions are needed" if is_and else "one of the two conditions is enough"
            self.replace_between("and_or", *node.values, old, new, intent)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        formats = isinstance(node.op, ast.Mod) and isinstance(node.left, (ast.Constant, ast.JoinedStr))
        if type(node.op) in _ARITHMETIC and not formats:
            old, new, word = _ARITHMETIC[type(node.op)]
            self.replace_between("arith_flip", node.left, node.right, old, new, f"the calculation here is {word}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if len(node.args) >= 2 and not any(isinstance(a, ast.Starred) for a in node.args[:2]):
            (start, mid), (other, end) = self.span(node.args[0]), self.span(node.args[1])
            first, second = self.text(node.args[0]), self.text(node.args[1])
            between = self.data[mid:other].decode()
            if first != second and node.args[0].lineno == node.args[1].end_lineno:
                intent = "the first two arguments of a call are the other way round"
                self.add("swap_args", start, end, second + between + first, intent)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            new, word = _METHODS[node.func.attr]
            end = self.span(node.func)[1]
            start = end - len(node.func.attr.encode())
            self.add("string_tweak", start, end, new, f"the method called here is for {word}")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.slice, ast.Slice):
            for bound, word in ((node.slice.lower, "begins"), (node.slice.upper, "ends")):
                if bound is not None:
                    intent = f"the slice {word} at a position of its own; a bound is missing"
                    self.replace("slice_tweak", bound, "", intent)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.replace("flip_bool", node, str(not value), "the truth value given here is the opposite one")
        elif isinstance(value, int) and abs(value) < 10**6:
            self.replace("off_by_one", node, str(value + 1), "the number used here is one smaller")
        elif isinstance(value, str) and 1 <= len(value) <= 8 and self.text(node)[1:-1] == value:
            quote = self.text(node)[0]
            intent = "the text constant used here is one character longer"
            self.replace("string_tweak", node, f"{quote}{value[:-1]}{quote}", intent)
