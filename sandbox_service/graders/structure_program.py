"""The text of a program: parsed source files, what they define, bind and import. Nothing is imported or run."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from sandbox_service.syntax import parse

MAX_FILE_BYTES = 64 << 10
MAX_FILES = 200
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Broken(Exception):
    """A rule does not hold; the text says where."""


class Program:
    """The parsed source files of one tree. Raises Broken for a file that cannot be read."""

    def __init__(self, files: Mapping[str, bytes]):
        self.trees: dict[str, ast.Module] = {}
        sources = {path: data for path, data in files.items() if path.endswith(".py")}
        if len(sources) > MAX_FILES:
            raise Broken(f"there are more than {MAX_FILES} source files")
        for path, data in sources.items():
            if len(data) > MAX_FILE_BYTES:
                raise Broken(f"{path} is larger than {MAX_FILE_BYTES} bytes")
            try:
                self.trees[path] = parse(data)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
                raise Broken(f"{path} cannot be parsed: {type(e).__name__}") from None

    def definition(self, path: str, name: str) -> ast.stmt:
        """The only statement that binds a name in a file, which defines it; other files may import it from there."""
        found = [node for bound, node in _bindings(self._tree(path)) if bound == name]
        if len(found) != 1 or not isinstance(found[0], (*FUNCTIONS, ast.ClassDef, ast.Assign, ast.AnnAssign)):
            raise Broken(f"{path} does not define {name} just once")
        for other, tree in self.trees.items():
            for bound, node in _bindings(tree):
                if bound == "*":
                    raise Broken(f"{other} imports all names of a module")
                if bound == name and other != path and not isinstance(node, ast.ImportFrom):
                    raise Broken(f"{other} binds {name} too")
            _check_imports(other, tree, path, name)
        return found[0]

    def function(self, path: str, name: str) -> ast.FunctionDef:
        found = [n for n in self._tree(path).body if isinstance(n, FUNCTIONS) and n.name == name]
        if len(found) != 1:
            raise Broken(f"{path} does not define the function {name}")
        return found[0]

    def nodes(self) -> Iterator[tuple[str, ast.AST]]:
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                yield path, node

    def _tree(self, path: str) -> ast.Module:
        if path not in self.trees:
            raise Broken(f"there is no {path}")
        return self.trees[path]


def _bindings(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """(name, statement) for everything that gives a module's name a value; "*" for an import of all names."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node.name, node
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], node
            continue
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                waiting.append(child)
                continue
            for inner in ast.walk(child):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store | ast.Del):
                    yield inner.id, node
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield from ((name, node) for name in node.names)


def _check_imports(path: str, tree: ast.Module, home: str, name: str) -> None:
    """Every import of a name is from the file that defines it, or a package around it, under its own name."""
    places = _dotted(home).split(".")
    allowed = {".".join(places[: n + 1]) for n in range(len(places))}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if alias.name == "*":
                raise Broken(f"{path} imports all names of a module")
            if alias.name != name and alias.asname != name:
                continue
            if alias.name != name or alias.asname not in (None, name) or _origin(path, node) not in allowed:
                raise Broken(f"{path} imports {alias.name} in another way")


def _origin(path: str, node: ast.ImportFrom) -> str:
    """The module that is imported from, with its package."""
    if not node.level:
        return node.module or ""
    folder = PurePosixPath(path).parent.parts
    base = folder[: len(folder) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def called(node: ast.Call) -> str | None:
    return getattr(node.func, "id", None) or getattr(node.func, "attr", None)


def identifiers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        return
    for _, value in ast.iter_fields(node):
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                yield from text.split(".")


def words(node: ast.AST) -> set[str]:
    """Identifiers, and the words of a text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        cleaned = "".join(c if c.isidentifier() or c.isdecimal() else " " for c in node.value)
        return set(cleaned.split())
    return set(identifiers(node))
