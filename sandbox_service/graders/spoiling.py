"""Wrong expectations in test files of any language, for records that bring their own test command.

The functions are pure. What really fails is found by running the files on the correct tree.
"""

import ast
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping

from sandbox_service.graders.bench import Files
from sandbox_service.graders.mixed import lots
from sandbox_service.sentinel import mix, plant, seen
from sandbox_service.syntax import parse

_LITERAL = re.compile(r"""\d+|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'""")
_ASSERTION = re.compile(r"assert|expect|should|require|equal|assert_eq|\bEQ\b|CHECK|\bwant", re.IGNORECASE)


def spoil(
    tests: Files, test_ids: Iterable[str], seed: int, attempt: int = 0, visible: Mapping[str, bytes] | None = None
) -> Files:
    """The test files that could be given wrong expectations, with them.

    Python files get one in every test function that an id names (from the third attempt on: in every one, for ids may
    be docstrings), others a wrong literal in all lines that look like assertions (then in half of them, and so on: one
    of them may keep the file from compiling). What stands in `visible` just the same stays as it is.
    """
    spoilt: Files = {}
    for path, text in _texts(tests).items():
        before = _text((visible or {}).get(path)) or ""
        if path.endswith(".py"):
            functions = _functions(path, text, test_ids if attempt < 2 else None)
            hidden = set(functions) - _seen(path, text, before)
            new = plant({path: text}, hidden, seed).files.get(path, text)
        else:
            known = set(before.split("\n"))
            places = [n for n, line in _assertions(text) if line not in known]
            chosen = random.Random(seed).sample(places, math.ceil(0.5**attempt * len(places)))
            new = _with_wrong_lines(text, chosen)
        if new != text:
            spoilt[path] = new.encode()
    return spoilt


def mixtures(tests: Files, test_ids: Iterable[str], seed: str, attempt: int, runs: int) -> list[Files]:
    """For each of some runs the test files in which, by lot, half of what `spoil` would change is wrong.

    With each attempt, fewer lines of files other than Python's are wrong.
    """
    texts = _texts(tests)
    python = {path: text for path, text in texts.items() if path.endswith(".py")}
    functions = [f for path, text in python.items() for f in _functions(path, text, test_ids)]
    functions = functions or [f for path, text in python.items() for f in _functions(path, text, None)]
    files: list[Files] = []
    for wrong in lots(functions, seed, runs):
        files.append({**tests, **{path: text.encode() for path, text in mix(python, functions, wrong, seed).items()}})
    for path, text in texts.items():
        if path in python:
            continue
        places = {str(n): n for n, _ in _assertions(text)}
        chosen = random.Random(f"{seed} {path}").sample(sorted(places), math.ceil(0.5**attempt * len(places)))
        for each, wrong in zip(files, lots(chosen, f"{seed} {path}", runs), strict=True):
            each[path] = _with_wrong_lines(text, [places[n] for n in wrong]).encode()
    return files


def _texts(tests: Files) -> dict[str, str]:
    return {path: text for path, data in sorted(tests.items()) if (text := _text(data)) is not None}


def _text(data: bytes | None) -> str | None:
    try:
        return data.decode() if data is not None else None
    except UnicodeDecodeError:
        return None


def _functions(path: str, text: str, test_ids: Iterable[str] | None) -> list[str]:
    """The test functions that an id names, or all, as `path::name`; nothing where the file cannot be parsed."""
    try:
        tree = parse(text)
    except (SyntaxError, ValueError):
        return []
    named = _naming(test_ids)
    ids = []
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        functions = [m.name for m in members if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
        ids += [f"{path}::{prefix}{f}" for f in functions if f.startswith("test") and named(f)]
    return ids


def _naming(test_ids: Iterable[str] | None) -> Callable[[str], bool]:
    if test_ids is None:
        return lambda function: True
    words = set(re.findall(r"\w+", "\n".join(test_ids)))
    return words.__contains__


def _seen(path: str, text: str, before: str) -> frozenset[str]:
    try:
        return seen({path: text}, {path: before})
    except (SyntaxError, ValueError):
        return frozenset()


def _assertions(text: str) -> list[tuple[int, str]]:
    """Lines that look like assertions and hold a literal, with their indices."""
    lines = enumerate(text.split("\n"))
    return [(n, line) for n, line in lines if _ASSERTION.search(line) and _LITERAL.search(line)]


def _with_wrong_lines(text: str, places: Iterable[int]) -> str:
    """The last literal of each of these lines turned wrong."""
    lines = text.split("\n")
    for i in places:
        match = list(_LITERAL.finditer(lines[i]))[-1]
        literal = match[0]
        wrong = str(int(literal) + 1) if literal.isdigit() else literal[:-1] + "x" + literal[-1]
        lines[i] = lines[i][: match.start()] + wrong + lines[i][match.end() :]
    return "\n".join(lines)
