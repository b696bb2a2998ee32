"""Which tests a tree has, and how some of them are hidden. Pure functions of source text.

A test id of pytest names the class that runs a test; the function may stand in a class that this one inherits from, in
the same file or in another one.
"""

import ast
import functools
import io
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath

from sandbox_service.syntax import parse


def reaching_tests(files: Mapping[str, bytes], test_roots: Iterable[str], symbol: str) -> set[str]:
    """Ids of the tests whose code, or a helper of the same file that they use, mentions the symbol by name."""
    parts = symbol.split(".")
    # A dunder method is used through its class.
    name = parts[-2] if parts[-1].startswith("__") and len(parts) > 1 else parts[-1]
    roots = tuple(root.rstrip("/") for root in test_roots)
    found = set()
    for path, data in files.items():
        inside = any(path == r or path.startswith(r + "/") for r in roots)
        if inside and path.endswith(".py") and name.encode() in data:
            found |= {f"{path}::{test}" for test in _tests_reaching(parse(data), name)}
    return found


def _tests_reaching(tree: ast.Module, name: str) -> set[str]:
    uses, tests = {}, set()
    for owner, node in _functions(tree):
        names = {
            n.id if isinstance(n, ast.Name) else n.attr
            for n in ast.walk(node)
            if isinstance(n, ast.Name | ast.Attribute)
        }
        # A fixture is used by naming it as a parameter.
        uses[f"{owner}{node.name}"] = names | {a.arg for a in node.args.args}
        if _is_test(node):
            tests.add(f"{owner}{node.name}")
    reached, size = {name}, 0
    while len(reached) > size:
        size = len(reached)
        reached |= {q.rsplit("::", 1)[-1] for q, names in uses.items() if names & reached}
    return {q for q in tests if uses[q] & reached}


def names_of_tests(data: bytes | str) -> set[str]:
    """`test_x` and `TestY::test_x` of a test file."""
    return {f"{owner}{node.name}" for owner, node in _functions(parse(data)) if _is_test(node)}


def _is_test(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    # A fixture may be called test_something.
    return node.name.startswith("test") and not any("fixture" in ast.unparse(d) for d in node.decorator_list)


def _functions(tree: ast.Module):
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}::", item
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield "", node


def definitions(files: Mapping[str, bytes], test_ids: Iterable[str]) -> dict[str, set[str]]:
    """File -> the test functions (`test_x`, `TestY::test_x`) that these ids run, where they are defined."""
    found: dict[str, set[str]] = {}
    for test_id in test_ids:
        path, _, name = test_id.partition("::")
        name = name.partition("[")[0]
        if "::" in name and path in files:
            owner, _, function = name.rpartition("::")
            path, owner = _defining(files, path, owner, function, frozenset()) or (path, owner)
            name = f"{owner}::{function}"
        found.setdefault(path, set()).add(name)
    return found


def _defining(
    files: Mapping[str, bytes], path: str, owner: str, function: str, seen: frozenset[tuple[str, str]]
) -> tuple[str, str] | None:
    """(file, class) of the class in the hierarchy of `owner` that defines the method."""
    classes, imported = _classes(files[path])
    if (path, owner) in seen:
        return None
    if owner not in classes:
        return next(
            (
                found
                for source, name in imported.get(owner, ())
                for file in _modules(files, path, source)
                if (found := _defining(files, file, name, function, seen | {(path, owner)}))
            ),
            None,
        )
    bases, methods = classes[owner]
    if function in methods:
        return path, owner
    above = (_defining(files, path, base, function, seen | {(path, owner)}) for base in bases)
    return next(filter(None, above), None)


@functools.lru_cache(maxsize=512)
def _classes(data: bytes) -> tuple[dict[str, tuple[list[str], set[str]]], dict[str, list[tuple[str, str]]]]:
    """Class -> (bases, methods), and name -> (module, name) of what `from` imports bring."""
    classes, imported = {}, {}
    for node in parse(data).body:
        if isinstance(node, ast.ClassDef):
            bases = [b.id if isinstance(b, ast.Name) else getattr(b, "attr", "") for b in node.bases]
            methods = {n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
            classes[node.name] = bases, methods
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                imported.setdefault(alias.asname or alias.name, []).append((module, alias.name))
    return classes, imported


def _modules(files: Mapping[str, bytes], path: str, module: str) -> list[str]:
    """Files that an import of `module` in the file at `path` may mean."""
    level = len(module) - len(module.lstrip("."))
    folder = PurePosixPath(path).parent
    for _ in range(level - 1):
        folder = folder.parent
    stem = PurePosixPath(*filter(None, module.lstrip(".").split(".")))
    stems = [folder / stem] if level else [stem, folder / stem]
    return [p for s in stems for p in (f"{s}.py", f"{s}/__init__.py") if p in files]


def without_tests(files: Mapping[str, bytes], test_ids: Iterable[str]) -> dict[str, str | None]:
    """Overlay that removes the test functions with these ids (whole functions; parametrized ids remove all cases).

    A test file without any test left is deleted, unless another file imports it.
    """
    found = definitions(files, test_ids)
    return {path: _remove_functions(files, path, names) for path, names in sorted(found.items())}


def _remove_functions(files: Mapping[str, bytes], path: str, names: Collection[str]) -> str | None:
    text = files[path].decode()
    tree = parse(text)
    lines, kept, edits = split_lines(text), 0, []
    for node in tree.body:
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        members = [n for owner, n in _functions(ast.Module([node], [])) if owner == prefix]
        tests = [n for n in members if _is_test(n)]
        gone = [n for n in tests if prefix + n.name in names]
        kept += len(tests) - len(gone)
        # A class whose tests are all removed goes as a whole, unless others need it or it inherits tests.
        whole = prefix and tests and len(gone) == len(tests) and _may_go(tree, node)
        spans = [_span(n) for n in ([node] if whole else gone)]
        # An empty body would not parse.
        stays = "pass" if prefix and not whole and gone and len(gone) == len(node.body) else ""
        edits += [(*span, stays if span == _span(gone[-1]) else "") for span in spans]
    if not kept and _is_test_file(path) and not _is_imported(files, path):
        return None
    for start, end, stays in sorted(edits, reverse=True):
        indent = re.match(r"[ \t]*", lines[start])[0]
        lines[start:end] = [f"{indent}{stays}\n"] if stays else []
        start += bool(stays)
        while start < len(lines) and not lines[start].strip():
            del lines[start]
        if start == len(lines):
            while lines and not lines[-1].strip():
                del lines[-1]
    return "".join(lines)


def _may_go(tree: ast.Module, node: ast.ClassDef) -> bool:
    bases = {b.id if isinstance(b, ast.Name) else getattr(b, "attr", "") for b in node.bases}
    others = (n for other in tree.body if other is not node for n in ast.walk(other))
    return bases <= {"object", "TestCase"} and not any(isinstance(n, ast.Name) and n.id == node.name for n in others)


def _is_test_file(path: str) -> bool:
    return bool(re.search(r"(^|/)(test_[^/]*|[^/]*_test)\.py$", path))


def _is_imported(files: Mapping[str, bytes], path: str) -> bool:
    """Whether another Python file may import this one, by the name alone."""
    stem = PurePosixPath(path).stem.encode()
    pattern = re.compile(rb"^\s*(?:from|import)\b[^\n]*\b" + re.escape(stem) + rb"\b", re.M)
    return any(stem in data and pattern.search(data) for p, data in files.items() if p.endswith(".py") and p != path)


def _span(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> tuple[int, int]:
    return min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1, node.end_lineno


def split_lines(text: str) -> list[str]:
    """Lines with their ends, as Python and patch count them (str.splitlines also breaks at form feeds)."""
    return io.StringIO(text, newline="").readlines()
