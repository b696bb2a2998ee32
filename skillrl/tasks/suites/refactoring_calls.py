"""Refactorings of signatures: a parameter for keywords alone, under another name, or in another place."""

import ast

from sandbox_service.syntax import parse
from skillrl.tasks.suites.refactoring_work import (
    Draw,
    Undrawable,
    Work,
    changed,
    is_test,
    mentions,
    renamed,
    test_file,
    test_function,
)
from skillrl.tasks.world.level0 import literal
from skillrl.tasks.world.prove import Suite

_WORDS = ("amount", "base", "bound", "choice", "extent", "given", "marker", "measure", "subject", "target")


def change_signature(drawn: Draw) -> Work:
    choices = []
    for path in drawn.paths:
        for node in parse(drawn.files[path]).body:
            if isinstance(node, ast.FunctionDef) and len(node.args.args) > 1 and _outside_calls(drawn, node.name):
                choices.append((path, node))
    if not choices:
        raise Undrawable("no function with two parameters is called by others")
    path, node = drawn.rng.choice(choices)
    name, old = node.name, [a.arg for a in node.args.args]
    defaults = [ast.unparse(d) for d in node.args.defaults]
    form = drawn.rng.choice(("keyword", "renamed", "reordered"))
    last, new_name = old[-1], old[-1]
    if form == "renamed":
        body = ast.unparse(node)
        new_name = drawn.rng.choice([w for w in _WORDS if not mentions(body, w)])
    if form == "reordered":
        if defaults:
            raise Undrawable("a parameter with a default cannot come first")
        positional, keyword_only = [old[1], old[0], *old[2:]], []
        signature = ", ".join(positional)
    else:
        positional, keyword_only = old[:-1], [new_name]
        given = old[: len(old) - len(defaults)] + [
            f"{p}={d}" for p, d in zip(old[len(old) - len(defaults) :], defaults, strict=True)
        ]
        signature = ", ".join([*given[:-1], "*", renamed(given[-1], last, new_name)])
    before = drawn.files
    after = {p: _with_calls(text, name, old, positional, keyword_only) for p, text in before.items()}
    after[path] = _with_definition(after[path], name, signature, last, new_name)
    undo = {p: before[p] for p in changed(after, before) if not is_test(p)}
    hide = {p: before[p] for p in changed(after, before) if is_test(p)}
    after["tests/test_signature.py"] = _tests(drawn, after, name, old, positional, keyword_only)
    hide["tests/test_signature.py"] = None
    finished = {p: after[p] for p in undo}
    told = {
        "keyword": f"`{last}` can be given by keyword alone",
        "renamed": f"`{last}` is called `{new_name}` and can be given by keyword alone",
        "reordered": f"`{old[1]}` comes before `{old[0]}`",
    }[form]
    return Work(
        family="change_signature",
        level=drawn.level,
        files=after,
        undo=undo,
        hide=hide,
        instruction=(
            f"Change the signature of {name} in {path} from `{name}({_shown(node)})` to `{name}({signature})`: {told}. "
            "Change the definition and every call in the package; the old form must not be accepted any more, and "
            "defaults stay. Hidden tests call it in the new form."
        ),
        rules={
            "signature": {"name": name, "path": path, "positional": positional, "keyword_only": keyword_only},
        },
        wrong={
            "both forms by **values": _accepting_both(after, finished, path, name, old, keyword_only, form),
            "definition alone": {path: _with_definition(before[path], name, signature, last, new_name)}
            if path in undo and len(undo) > 1
            else {},
            "old form by an optional parameter": {
                **finished,
                path: after[path].replace(f"def {name}({signature})", f"def {name}({_optional(signature)})"),
            },
            "calls alone": {p: text for p, text in finished.items() if p != path},
        },
    )


def _outside_calls(drawn: Draw, name: str) -> bool:
    sources = [text for p, text in drawn.files.items() if not is_test(p)]
    tests = [text for p, text in drawn.files.items() if is_test(p)]
    return any(_calls(text, name) for text in sources) and any(_calls(text, name) for text in tests)


def _calls(text: str, name: str) -> list[ast.Call]:
    if not mentions(text, name):
        return []
    return [n for n in ast.walk(parse(text)) if isinstance(n, ast.Call) and getattr(n.func, "id", None) == name]


def _with_calls(text: str, name: str, old: list[str], positional: list[str], keyword_only: list[str]) -> str:
    """The text with every call in the new form. Calls inside calls are changed from the inside."""
    count = len(_calls(text, name))
    done: set[str] = set()
    for _ in range(count):
        # The innermost that is still as it was: none of its arguments holds another such call.
        for node in sorted(
            _calls(text, name), key=lambda n: (n.end_lineno - n.lineno, n.end_col_offset - n.col_offset)
        ):
            segment = ast.get_source_segment(text, node)
            if segment in done:
                continue
            given = dict(zip(old, (ast.get_source_segment(text, a) for a in node.args), strict=False))
            given |= {k.arg: ast.get_source_segment(text, k.value) for k in node.keywords}
            new = f"{name}({', '.join(_arguments(given, old, positional, keyword_only))})"
            done.add(new)
            text = text.replace(segment, new)
            break
    return text


def _arguments(given: dict[str, str], old: list[str], positional: list[str], keyword_only: list[str]) -> list[str]:
    shown = [given[p] for p in positional if p in given]
    if keyword_only and old[-1] in given:
        shown.append(f"{keyword_only[0]}={given[old[-1]]}")
    return shown


def _with_definition(text: str, name: str, signature: str, last: str, new_name: str) -> str:
    node = next(n for n in parse(text).body if getattr(n, "name", None) == name)
    whole = ast.get_source_segment(text, node)
    head, colon, body = whole.partition("):\n")
    return text.replace(whole, f"def {name}({signature}{colon}{renamed(body, last, new_name)}")


def _shown(node: ast.FunctionDef) -> str:
    return ast.unparse(node.args).replace(" = ", "=")


def _tests(drawn: Draw, after: dict[str, str], name: str, old, positional, keyword_only) -> str:
    """The parameters, and what becomes of a call in the old form."""
    example = next(
        (lines for lines in drawn.calls(name).values() for line in lines if _calls(line, name)),
        None,
    )
    if example is None:
        raise Undrawable("no scenario calls the function")
    index = next(i for i, line in enumerate(example) if _calls(line, name))
    call = _calls(example[index], name)[0]
    if len(call.args) < len(old) - (1 if call.keywords else 0) or call.keywords:
        raise Undrawable("no scenario gives all parameters by place")
    setup = [line for line in example[:index] if not line.startswith("assert")]
    written = ast.get_source_segment(example[index], call)
    imports = [drawn.imports([*setup, written], [])]
    suite = Suite({p: t.encode() for p, t in after.items() if not is_test(p)}, limited=False)
    outcome = ["try:", f"    got = {written}", "except TypeError:", '    got = "refused"']
    try:
        value = suite.evaluate([*map(str.rstrip, imports), *setup, *outcome], "got")
    except Exception as e:
        raise Undrawable(f"the old form ends in {type(e).__name__}") from None
    names = [*positional, *keyword_only]
    old_form = test_function("old_form", [*setup, *outcome, f"assert got == {literal(value)}"])
    parameters = test_function("parameters", [f"assert list(inspect.signature({name}).parameters) == {names!r}"])
    kinds = test_function(
        "kinds",
        [
            f"kinds = [p.kind.name for p in inspect.signature({name}).parameters.values()]",
            f"assert kinds == {['POSITIONAL_OR_KEYWORD'] * len(positional) + ['KEYWORD_ONLY'] * len(keyword_only)!r}",
        ],
    )
    if drawn.imports([name]) not in imports:
        imports = [drawn.imports([*setup, written, name])]
    return test_file(["import inspect\n\n", *imports], [old_form, parameters, kinds])


def _accepting_both(after, finished, path: str, name: str, old: list[str], keyword_only: list[str], form: str) -> dict:
    """The new function under another name, behind one that takes what comes."""
    hidden = f"plain_{name}"
    text = after[path].replace(f"def {name}(", f"def {hidden}(")
    if form == "reordered":
        shim = f"def {name}(*values, **named):\n    return {hidden}(*values, **named)\n"
    else:
        shim = (
            f"def {name}(*values, **named):\n    if len(values) == {len(old)}:\n"
            f"        *values, named[{keyword_only[0]!r}] = values\n    return {hidden}(*values, **named)\n"
        )
    return {**finished, path: f"{text}\n\n{shim}"}


def _optional(signature: str) -> str:
    """With one more parameter by place."""
    head, star, tail = signature.partition("*, ")
    return f"{head}more=None, {star}{tail}" if star else f"{signature}, more=None"
