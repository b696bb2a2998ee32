"""Several test files in one. Pure functions of source text."""

import ast
import io
import keyword
import tokenize
from collections.abc import Iterable, Mapping

from sandbox_service.syntax import parse


def joined(texts: Iterable[str]) -> str:
    """One test file with every test of `texts`.

    A module-level name that means something else in an earlier text gets a number, in all of its text.
    """
    known: dict[str, str] = {}
    parts, futures = [], []
    for number, text in enumerate(texts):
        tree = parse(text)
        bound = _bound(tree)
        clashing = {name for name, meaning in bound.items() if known.get(name, meaning) != meaning}
        text = _renamed(text, tree, {name: f"{name}_{number}" for name in clashing})
        known = bound | known
        futures += [line for line in text.splitlines(keepends=True) if line.startswith("from __future__ ")]
        parts.append(
            "".join(line for line in text.splitlines(keepends=True) if not line.startswith("from __future__ "))
        )
    return "".join(dict.fromkeys(futures)) + "\n\n".join(parts)


def _bound(tree: ast.Module) -> dict[str, str]:
    """Module-level names, and the statements that bind them."""
    found: dict[str, list[str]] = {}
    for node in tree.body:
        for name in _names(node):
            found.setdefault(name, []).append(ast.dump(node))
    return {name: "\n".join(meanings) for name, meanings in found.items()}


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names if alias.name != "*"}
    stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    inner = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
    return stored.union(*map(_names, inner))


def _renamed(text: str, tree: ast.Module, names: Mapping[str, str]) -> str:
    """The text with these names changed wherever they stand for the module's own."""
    if not names:
        return text
    lines = text.splitlines(keepends=True)
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    fixed = {line for n in imports for line in range(n.lineno, n.end_lineno + 1)}
    members = _members(tree)
    for token in reversed(list(_own_names(text))):
        (row, start), (_, end) = token.start, token.end
        if token.string in names and row not in fixed and (row, token.string) not in members:
            line = lines[row - 1]
            lines[row - 1] = line[:start] + names[token.string] + line[end:]
    for node in sorted(imports, key=lambda n: -n.lineno):
        if _names(node) & names.keys():
            indent = " " * node.col_offset
            lines[node.lineno - 1 : node.end_lineno] = [f"{indent}{ast.unparse(_rebound(node, names))}\n"]
    return "".join(lines)


def _members(tree: ast.Module) -> set[tuple[int, str]]:
    """(line, name) where classes define methods and attributes of their own."""
    classes = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    return {(node.lineno, name) for c in classes for node in c.body for name in _names(node)}


def _rebound(node: ast.Import | ast.ImportFrom, names: Mapping[str, str]) -> ast.stmt:
    """The import, binding the new names. `import a.b` can only bind `a`, and stays."""
    for alias in node.names:
        name = alias.asname or alias.name
        alias.asname = names.get(name, alias.asname)
    return node


def _own_names(text: str) -> Iterable[tokenize.TokenInfo]:
    """Names that are neither attributes nor keywords of a call."""
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type != tokenize.NL]
    depth = 0
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        depth += (token.string in tuple("([{")) - (token.string in tuple(")]}")) if token.type == tokenize.OP else 0
        if token.type != tokenize.NAME or keyword.iskeyword(token.string):
            continue
        is_attribute = before is not None and before.string == "."
        is_keyword = depth and before.string in ("(", ",") and after is not None and after.string == "="
        if not is_attribute and not is_keyword:
            yield token
