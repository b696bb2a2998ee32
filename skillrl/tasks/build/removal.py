"""Bugs of missing work: the whole body of a documented function is gone. Pure functions of source text."""

import ast
import bisect
import re

from sandbox_service.syntax import parse
from skillrl.tasks.mutate import Site

OPERATOR = "remove_body"
# Of the body without its docstring. Shorter ones are covered by other operators; longer ones are a project.
MIN_LINES, MAX_LINES = 2, 25


def removals(source: str) -> list[Site]:
    """One site for each function that its docstring describes, in source order. Raises SyntaxError."""
    data = source.encode()
    starts = [0] + [m.end() for m in re.finditer(rb"\r\n|\r|\n", data)]
    found = []
    for symbol, node in _functions(parse(source), ""):
        body = node.body[1:] if ast.get_docstring(node) else []
        if not body or not MIN_LINES <= node.end_lineno - body[0].lineno + 1 <= MAX_LINES:
            continue
        start, end = starts[body[0].lineno - 1] + body[0].col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        # A decorated inner function begins above its first line.
        if isinstance(body[0], ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or b";" in data[start:end]:
            continue
        first, last = (bisect.bisect_right(starts, offset) for offset in (start, end - 1))
        intent = "the body is missing; write what the documentation says"
        found.append(Site(OPERATOR, symbol, start, end, "raise NotImplementedError", first, last, intent))
    return found


def _functions(node: ast.AST, prefix: str):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
