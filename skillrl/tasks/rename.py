"""Renames a function or class everywhere in a repository. Pure functions of source text; nothing is imported or run.

Names are spliced in at their exact places, and only where every use can be told from the text: the definition, imports
of it, attributes of modules, plain names that nothing else binds, `__all__`, and documentation. Anything else that has
the name makes the renaming `Unresolved`.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from sandbox_service.syntax import parse

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# They may name it too, in ways that are not looked into.
_SETTINGS = (".pyi", ".toml", ".cfg", ".ini")
_KEYWORDS = re.compile(r"(?:async\s+)?(?:def|class)\s+")
_OTHER_WORDS = {
    "bad": "invalid",
    "cache": "store",
    "check": "verify",
    "create": "build",
    "find": "locate",
    "format": "render",
    "get": "fetch",
    "make": "build",
    "merge": "combine",
    "parse": "read",
    "remove": "discard",
    "split": "divide",
}


class Unresolved(Exception):
    """The name cannot be changed for sure; the text says why, the same for all names alike."""


@dataclass(frozen=True)
class Symbol:
    """A function or class of a module's own level."""

    path: str
    name: str


def symbols(sources: Mapping[str, str]) -> list[Symbol]:
    """Public functions and classes of these modules that another one of them mentions."""
    found = []
    for path, text in sorted(sources.items()):
        for node in parse(text).body:
            others = (other for p, other in sources.items() if p != path)
            public = isinstance(node, _DEFINITIONS) and not node.name.startswith("_")
            if public and any(_mentions(other, node.name) for other in others):
                found.append(Symbol(path, node.name))
    return found


def new_name(symbol: Symbol, files: Mapping[str, str], source_roots: Sequence[str]) -> str:
    """A fitting name that no file has: another word, or the package or module before it. Raises Unresolved."""
    old, is_class = symbol.name, symbol.name[0].isupper()
    places = [p for p in PurePosixPath(symbol.path).with_suffix("").parts if p not in source_roots]
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z_]+", old) if is_class else old.split("_")
    choices = []
    for number, word in enumerate(words):
        if other := _OTHER_WORDS.get(word.lower()):
            changed = [*words[:number], other.title() if is_class else other, *words[number + 1 :]]
            choices.append(("" if is_class else "_").join(changed))
    # A class is known outside of its module.
    for place in places if is_class else reversed(places):
        if place.isidentifier() and place.strip("_") == place and place.lower() not in old.lower():
            choices.append(place.title().replace("_", "") + old if is_class else f"{place}_{old}")
    for name in choices:
        if not any(_mentions(text, name) for text in files.values()):
            return name
    raise Unresolved("no fitting name is free")


def renamed(files: Mapping[str, str], symbol: Symbol, new: str, source_roots: Sequence[str]) -> dict[str, str]:
    """The changed files alone. `files` are all text files of the repository. Raises Unresolved."""
    old = symbol.name
    if any(old in PurePosixPath(path).with_suffix("").parts for path in files):
        raise Unresolved("a module has the same name")
    mentioning = {path: text for path, text in files.items() if _mentions(text, old)}
    if any(path.endswith(_SETTINGS) for path in mentioning):
        raise Unresolved("a stub or settings file has the name")
    layout = _Layout(files, source_roots)
    parsed = {path: _File(path, text, layout) for path, text in mentioning.items() if path.endswith(".py")}
    homes = _homes(parsed, symbol)
    return {path: _spliced(file.text, file.spans(symbol, homes), new) for path, file in parsed.items()}


def _mentions(text: str, name: str) -> bool:
    return name in text and re.search(rf"\b{re.escape(name)}\b", text) is not None


def _spliced(text: str, spans: set[tuple[int, int]], new: str) -> str:
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + new + text[end:]
    return text


@dataclass(frozen=True)
class _Layout:
    """Which file an import means."""

    files: Mapping[str, str]
    source_roots: Sequence[str]

    def module(self, dotted: str) -> str | None:
        folders = [PurePosixPath(root) for root in (*self.source_roots, ".")]
        return next((path for f in folders if (path := self._file(f.joinpath(*dotted.split("."))))), None)

    def origin(self, path: str, node: ast.ImportFrom) -> str | None:
        if not node.level:
            return self.module(node.module)
        folder = PurePosixPath(path).parent
        for _ in range(node.level - 1):
            folder = folder.parent
        return self._file(folder.joinpath(*(node.module or "").split(".")))

    def below(self, package: str | None, name: str) -> str | None:
        """The module of that name in a package."""
        if package is None or not package.endswith("__init__.py"):
            return None
        return self._file(PurePosixPath(package).with_name(name))

    def _file(self, stem: PurePosixPath) -> str | None:
        return next((p for p in (f"{stem}.py", f"{stem}/__init__.py") if p in self.files), None)


def _homes(parsed: Mapping[str, "_File"], symbol: Symbol) -> set[str]:
    """The modules that have the symbol under its name: its own, and those that import it."""
    homes, size = {symbol.path}, 0
    while len(homes) > size:
        size = len(homes)
        homes |= {p for p, file in parsed.items() if any(o in homes for o, _ in file.imports(symbol.name))}
    return homes


class _File:
    """One Python file that has the name somewhere."""

    def __init__(self, path: str, text: str, layout: _Layout):
        self.path, self.text, self._layout = path, text, layout
        try:
            self._tree = parse(text)
            self._tokens = list(tokenize.generate_tokens(io.StringIO(text, newline="").readline))
        except (SyntaxError, ValueError, tokenize.TokenError):
            raise Unresolved("a file that cannot be parsed has the name") from None
        # As tokenize and ast count lines; other line ends would shift them.
        self._lines = io.StringIO(text, newline="").readlines()
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._modules = self._imported_modules()

    def imports(self, name: str) -> Iterator[tuple[str | None, ast.alias]]:
        """(file that it is imported from, where it is imported) of a name that keeps it."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if alias.name == name and alias.asname in (None, name):
                        yield self._layout.origin(self.path, node), alias

    def spans(self, symbol: Symbol, homes: set[str]) -> set[tuple[int, int]]:
        """Where the name stands, as offsets into the text. Raises Unresolved when one may mean another thing."""
        name = symbol.name
        found = self._code(symbol, homes)
        exported = self._exported(name) if self.path in homes else set()
        texts, stems = self._documentation(), {_module_name(path) for path in homes}
        found |= exported | {span for start, end in texts for span in self._words(start, end, name, stems)}
        for token in self._tokens:
            start = self._offset(*token.start)
            if token.type == tokenize.NAME and token.string == name and (start, start + len(name)) not in found:
                raise Unresolved("a use of the name that the text alone does not explain")
            if token.type == tokenize.COMMENT:
                found |= set(self._words(start, start + len(token.string), name, stems))
        for node in ast.walk(self._tree):
            if isinstance(node, ast.JoinedStr) and _mentions(ast.unparse(node), name):
                raise Unresolved("a string has the name")
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _mentions(node.value, name):
                start, end = self._span(node)
                if (start, end) not in texts and (start + 1, end - 1) not in exported:
                    raise Unresolved("a string has the name")
        return found

    def _code(self, symbol: Symbol, homes: set[str]) -> set[tuple[int, int]]:
        name, found = symbol.name, set()
        for origin, alias in self.imports(name):
            if origin in homes:
                start, end = self._span(alias)
                found |= {(start, start + len(name)), (end - len(name), end)}
        if self.path == symbol.path:
            found |= self._definition(name)
        # Without one of these the name is not the symbol's; any other binding is found to be left over.
        is_bound = bool(found)
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load) and is_bound:
                found.add(self._span(node))
            if isinstance(node, ast.Attribute) and node.attr == name and self._module_of(node.value) in homes:
                end = self._span(node)[1]
                found.add((end - len(name), end))
        return found

    def _definition(self, name: str) -> set[tuple[int, int]]:
        nodes = (n for n in self._tree.body if isinstance(n, _DEFINITIONS) and n.name == name)
        keywords = (_KEYWORDS.match(self.text, self._span(node)[0]) for node in nodes)
        return {(k.end(), k.end() + len(name)) for k in keywords}

    def _documentation(self) -> set[tuple[int, int]]:
        """Texts that are statements of their own."""
        statements = (n.value for n in ast.walk(self._tree) if isinstance(n, ast.Expr))
        return {self._span(v) for v in statements if isinstance(v, ast.Constant) and isinstance(v.value, str)}

    def _exported(self, name: str) -> set[tuple[int, int]]:
        """The name in `__all__`, without its quotes."""
        found = set()
        for node in self._tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            values = getattr(getattr(node, "value", None), "elts", [])
            if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
                spans = (self._span(v) for v in values if isinstance(v, ast.Constant) and v.value == name)
                found |= {(a + 1, b - 1) for a, b in spans if self.text[a + 1 : b - 1] == name}
        return found

    def _words(self, start: int, end: int, name: str, stems: set[str]) -> Iterator[tuple[int, int]]:
        """The name in a text. A word of the language must look like code there to be the symbol's."""
        is_word = "_" not in name and (name.isupper() or not any(c.isupper() for c in name[1:]))
        for match in re.finditer(rf"\b{re.escape(name)}\b", self.text[start:end]):
            at = start + match.start(), start + match.end()
            before, after = self.text[: at[0]], self.text[at[1] :]
            owner = re.search(r"(\w+)\.$", before)
            if owner and owner[1] not in stems:
                raise Unresolved("a text has the name of something else")
            line = before[before.rfind("\n") + 1 :].lstrip()
            is_code = after.startswith(("(", "`")) or line.startswith((">>> ", "... ")) or owner
            if is_word and not is_code:
                raise Unresolved("a text has the name as a word")
            yield at

    def _imported_modules(self) -> dict[str, str]:
        """Name -> the file of the module that it stands for, where nothing else binds the name."""
        found: dict[str, str | None] = {}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    dotted = alias.name if alias.asname else alias.name.partition(".")[0]
                    found[alias.asname or dotted] = self._layout.module(dotted)
            elif isinstance(node, ast.ImportFrom):
                origin = self._layout.origin(self.path, node)
                for alias in node.names:
                    found[alias.asname or alias.name] = self._layout.below(origin, alias.name)
        bound = {n.arg for n in ast.walk(self._tree) if isinstance(n, ast.arg)}
        bound |= {n.name for n in ast.walk(self._tree) if isinstance(n, (*_DEFINITIONS, ast.ExceptHandler))}
        bound |= {n.id for n in ast.walk(self._tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
        return {name: path for name, path in found.items() if path and name not in bound}

    def _module_of(self, node: ast.expr) -> str | None:
        """The file of the module that an expression stands for."""
        if isinstance(node, ast.Name):
            return self._modules.get(node.id)
        if isinstance(node, ast.Attribute):
            return self._layout.below(self._module_of(node.value), node.attr)
        return None

    def _span(self, node: ast.AST) -> tuple[int, int]:
        first, last = self._lines[node.lineno - 1].encode(), self._lines[node.end_lineno - 1].encode()
        start = self._offset(node.lineno, len(first[: node.col_offset].decode()))
        return start, self._offset(node.end_lineno, len(last[: node.end_col_offset].decode()))

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column


def _module_name(path: str) -> str:
    pure = PurePosixPath(path)
    return pure.parent.name if pure.name == "__init__.py" else pure.stem
