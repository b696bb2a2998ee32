"""Refactorings of names: renamed everywhere, moved to another module, a module split in two."""

import ast
import re

from sandbox_service.syntax import parse
from skillrl.tasks.suites.refactoring_work import (
    Draw,
    Texts,
    Undrawable,
    Work,
    changed,
    dotted,
    is_test,
    mentions,
    renamed,
    test_file,
    test_function,
)


def rename_symbol(drawn: Draw) -> Work:
    after = drawn.files
    names = [(path, name) for path in drawn.paths for name in _defined(after[path])]
    path, new = drawn.rng.choice(names)
    old = drawn.function()
    is_class = new[0].isupper()
    old = old.title().replace("_", "") if is_class else old
    before = {p: renamed(text, new, old) for p, text in after.items()}
    source, tests = (
        {p: before[p] for p in after if before[p] != after[p] and is_test(p) is wanted} for wanted in (False, True)
    )
    return Work(
        family="rename_symbol",
        level=drawn.level,
        files=after,
        undo=source,
        hide=tests,
        instruction=(
            f"Rename the {'class' if is_class else 'function'} {old} of {path} to {new} everywhere in the package "
            f"{drawn.package}: where it is defined, imported, used and mentioned. Change nothing else of it; the old "
            "name must be gone. Hidden tests use the new name in place of the old one."
        ),
        rules={"renamed": {"old": old, "new": new, "path": path}},
        wrong=half_renamed({p: after[p] for p in source}, source, path, old, new),
    )


def half_renamed(finished: Texts, before: Texts, path: str, old: str, new: str) -> dict[str, Texts]:
    """What must not pass for a renaming, in which all but the first and the last do what they did.

    `finished` and `before` are the sources that it changes; `path` is the one that defines the symbol.
    """
    is_class, others = new[0].isupper(), sorted(p for p in finished if p != path)
    around = f"class {new}({old}):\n    pass\n" if is_class else f"def {new}(*a, **k):\n    return {old}(*a, **k)\n"
    lazy = f"def __getattr__(name):\n    return {{{new!r}: {old}}}[name]\n"
    almost = {
        "definition alone": {path: finished[path]},
        "new name as an alias": {**finished, path: f"{before[path]}\n\n{new} = {old}\n"},
        "old name kept as an alias": {**finished, path: f"{finished[path]}\n\n{old} = {new}\n"},
        "new name around the old one": {**finished, path: f"{before[path]}\n\n{around}"},
        "new name on demand": {**finished, path: f"{before[path]}\n\n{lazy}"},
    }
    if others:
        almost["one file left"] = {**finished, others[-1]: before[others[-1]]}
    return almost


def move_symbol(drawn: Draw) -> Work:
    """One function or class into a new module."""
    before = drawn.files
    choices = [
        (path, name)
        for path in drawn.paths
        for name in _independent(before[path])
        if len(_defined(before[path])) > 1 and drawn.calls(name) and _users(before, path, name)
    ]
    if not choices:
        raise Undrawable("nothing can be moved")
    old, name = drawn.rng.choice(choices)
    return _move(drawn, "move_symbol", old, {name: drawn.module()}, gone=False)


def split_module(drawn: Draw) -> Work:
    """All of a module into two new ones."""
    choices = []
    for path in drawn.paths:
        names = _defined(drawn.files[path])
        if len(names) > 1 and set(_independent(drawn.files[path])) == set(names) and any(map(drawn.calls, names)):
            choices.append((path, names))
    if not choices:
        raise Undrawable("no module can be split")
    old, names = drawn.rng.choice(choices)
    first, second = drawn.module(), drawn.module()
    cut = drawn.rng.randint(1, len(names) - 1)
    homes = {name: first if number < cut else second for number, name in enumerate(names)}
    return _move(drawn, "split_module", old, homes, gone=True)


def _move(drawn: Draw, family: str, old: str, homes: dict[str, str], gone: bool) -> Work:
    before, package = drawn.files, drawn.package
    after = {path: _redirected(text, dotted(old), homes) for path, text in before.items()}
    stay = [name for name in _defined(before[old]) if name not in homes]
    after[old] = _module(before[old], stay)
    for home in dict.fromkeys(homes.values()):
        mine = [name for name in homes if homes[name] == home]
        after[home] = _module(before[old], mine)
    if gone:
        del after[old]
    undo = changed(after, before)
    hidden = {f"tests/test_{dotted(home).rpartition('.')[2]}.py" for home in homes.values()}
    for home, path in zip(dict.fromkeys(homes.values()), sorted(hidden), strict=True):
        after[path] = _moved_tests(drawn, old, home, [n for n in homes if homes[n] == home], gone)
    hide = dict.fromkeys(sorted(hidden))
    finished = {path: after.get(path) for path in undo}
    name, home = next(iter(homes.items()))
    told = ", ".join(f"{n} to {h}" for n, h in homes.items())
    task = (
        f"Split the module {old} into new modules, {told}; {old} must be gone."
        if gone
        else f"Move {name} from {old} to the new module {home}. {old} keeps the rest and must not know {name} any more."
    )
    back = "".join(f"from {dotted(h)} import {n}\n" for n, h in homes.items())
    kept = after.get(old, '"""Moved."""\n')
    lazy = f"\n\ndef __getattr__(name):\n    import {dotted(home)}\n    return getattr({dotted(home)}, name)\n"
    borrowed = {h: "" for h in homes.values()}
    for n, h in homes.items():
        borrowed[h] += f"from {dotted(old)} import {n}\n"
    rules: dict[str, object] = {"moved": [{"name": n, "old": old, "new": h} for n, h in homes.items()]}
    return Work(
        family=family,
        level=drawn.level,
        files=after,
        undo=undo,
        hide=hide,
        instruction=(
            f"{task} What is moved stays as it is, without a copy or another name for it. All other modules of "
            f"{package} must import it from its new place, and `from {package} import ...` must go on to work. Hidden "
            "tests import from the new place."
        ),
        rules=rules | ({"gone": [old]} if gone else {}),
        wrong={
            "old place kept as an alias": {**finished, old: _with_import(kept, back)},
            "copied": {path: text for path, text in finished.items() if path != old},
            "new place as an alias": borrowed,
            "old place on demand": {**finished, old: kept + lazy},
            "users left behind": {old: _with_import(kept, back), **{h: after[h] for h in homes.values()}},
        },
    )


def _moved_tests(drawn: Draw, old: str, home: str, names: list[str], gone: bool) -> str:
    functions, lines = [], []
    for name in names:
        for kind, found in drawn.calls(name).items():
            functions.append(test_function(f"{name.lower()}_{kind}", found))
            lines += found
        functions.append(test_function(f"{name.lower()}_is_there", [f"assert {name}.__name__ == {name!r}"]))
        functions.append(
            test_function(f"{name.lower()}_lives_there", [f"assert {name}.__module__ == {dotted(home)!r}"])
        )
    imports = [f"from {dotted(home)} import {', '.join(names)}\n", drawn.imports(lines, names)]
    if not gone:
        parent, _, module = dotted(old).rpartition(".")
        imports.insert(0, f"from {parent} import {module}\n")
        functions += [
            test_function(f"{n.lower()}_left_its_old_place", [f"assert hasattr({module}, {n!r}) is False"])
            for n in names
        ]
    return test_file(imports, functions)


def _defined(text: str) -> list[str]:
    return [n.name for n in parse(text).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]


def _independent(text: str) -> list[str]:
    """Definitions that use no other of the module, and that no other uses."""
    bodies = {n.name: ast.unparse(n) for n in parse(text).body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    tied = {(a, b) for a in bodies for b in bodies if a != b and mentions(bodies[a], b)}
    return [name for name in bodies if not any(name in pair for pair in tied)]


def _users(files: dict[str, str], path: str, name: str) -> list[str]:
    skipped = (path, path.partition("/")[0] + "/__init__.py")
    return [p for p, text in files.items() if p not in skipped and not is_test(p) and mentions(text, name)]


def _module(text: str, names: list[str]) -> str:
    """The module with these definitions, and with the imports that they need."""
    tree = parse(text)
    doc, *rest = tree.body
    pieces = [ast.get_source_segment(text, n) for n in rest if getattr(n, "name", None) in names]
    body = "\n\n\n".join(pieces)
    imports = []
    for node in rest:
        if isinstance(node, ast.ImportFrom):
            used = [a.name for a in node.names if mentions(body, a.name)]
            imports += [f"from {node.module} import {', '.join(used)}"] if used else []
        elif isinstance(node, ast.Import):
            imports += [ast.unparse(node)] if any(mentions(body, a.name) for a in node.names) else []
        elif not isinstance(node, ast.FunctionDef | ast.ClassDef):
            raise Undrawable("the module holds more than definitions")
    head = ast.get_source_segment(text, doc) + "\n" + ("\n" + "\n".join(imports) + "\n" if imports else "")
    return f"{head}\n\n{body}\n"


def _redirected(text: str, old: str, homes: dict[str, str]) -> str:
    """The text with imports of moved names from where they are now."""

    def lines(match: re.Match) -> str:
        names = match.group(1).split(", ")
        groups = {old: [n for n in names if n not in homes]}
        for name in names:
            if name in homes:
                groups.setdefault(dotted(homes[name]), []).append(name)
        return "\n".join(f"from {module} import {', '.join(g)}" for module, g in groups.items() if g)

    return re.sub(rf"^from {re.escape(old)} import (.+)$", lines, text, flags=re.MULTILINE)


def _with_import(text: str, lines: str) -> str:
    """The text with more imports below its docstring."""
    head, quotes, rest = text.partition('"""\n')
    return f"{head}{quotes}\n{lines}{rest}"
