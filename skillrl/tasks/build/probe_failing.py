"""Failing tests -> excerpts that show the same, and what these come to. Runs inside the sandbox, beside `probe.py`."""

import ast
import builtins
import importlib
import os
import sys
import traceback
from dataclasses import asdict
from types import ModuleType

from probe_excerpt import KEEP, LOCAL, Known, excerpts
from probe_values import MAX_LITERAL, NAMES, answer, literal, steady

MAX_EXCERPTS_OF_A_TEST = 2
# Of a function of the test file that is told whole.
MAX_HELPER_LINES = 4
_MISSING = object()


def find(spec, run_pytest):
    """Runs the tests `spec["ids"]`: excerpts as JSON objects, each once, and [id, what it says] of each that failed."""
    finder = Finder(spec["root"], [os.path.join(spec["root"], t) for t in spec["tests"]])
    run_pytest(spec, spec["ids"], finder)
    return {"excerpts": [asdict(excerpt) for excerpt in dict.fromkeys(finder.found)], "said": finder.said}


def replay(spec):
    """For each excerpt [kind, text, whether its check is true]."""
    return [_replay(excerpt) for excerpt in spec["excerpts"]]


def _replay(excerpt):
    found = answer(lambda: _evaluated(excerpt, excerpt["expression"]))
    check = excerpt["check"]
    return [*found, not check or answer(lambda: bool(_evaluated(excerpt, check))) == ["returned", "True"]]


def _evaluated(excerpt, expression):
    names = dict(NAMES)
    for name, module in excerpt["origins"]:
        names[name] = getattr(importlib.import_module(module), name)
    exec("\n".join(excerpt["lines"]), names)
    return eval(expression, names)


class Finder:
    """pytest plugin; `found`: excerpts of the tests that failed, `said`: id and message of each."""

    def __init__(self, root, tests):
        self._root, self._tests = root + os.sep, tuple(tests)
        self.found, self.said = [], []

    def pytest_runtest_makereport(self, item, call):
        if call.when != "call" or call.excinfo is None:
            return
        self.said.append([item.nodeid, _message(call.excinfo.value)])
        name = item.name.partition("[")[0]
        frames = [
            (frame, line)
            for frame, line in traceback.walk_tb(call.excinfo.tb)
            if frame.f_code.co_name == name and frame.f_code.co_filename.startswith(self._tests)
        ]
        if not frames:
            return
        frame, line = frames[-1]
        with open(frame.f_code.co_filename, encoding="utf-8") as f:
            source = f.read()
        try:
            made = list(excerpts(source, name, line, self._resolver(frame, source)))
        except Exception as e:
            # A test's own objects may answer in any way; then there is no excerpt of it.
            print(f"{item.nodeid}: {type(e).__name__}: {e}", file=sys.stderr)
            return
        self.found += made[:MAX_EXCERPTS_OF_A_TEST]

    def _resolver(self, frame, source):
        def resolve(parts):
            first = parts[0]
            value = frame.f_locals.get(first, frame.f_globals.get(first, _MISSING))
            if value is _MISSING:
                return Known(1, KEEP) if hasattr(builtins, first) else None
            holder, used = None, 1
            while used < len(parts) and (isinstance(value, ModuleType) or first == "self" and not self._told(value)):
                holder, value = value, getattr(value, parts[used], _MISSING)
                used += 1
                if value is _MISSING:
                    return None
            text = literal(value)
            if text is not None:
                return Known(used, text)
            known = self._named(value, holder, parts[used - 1], used)
            if known is None and used == 1 and first not in frame.f_locals:
                return _helper(source, first)
            return known or (Known(1, LOCAL) if first in frame.f_locals else None)

        return resolve

    def _told(self, value):
        return literal(value) is not None or self._named(value, None, "", 1) is not None

    def _named(self, value, holder, alias, used):
        """A function, class or constant that its module gives by name."""
        if isinstance(value, ModuleType):
            return None
        name = getattr(value, "__name__", alias)
        home = holder if isinstance(holder, ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
        if not isinstance(name, str) or home is None or getattr(home, name, _MISSING) is not value:
            return None
        filename = getattr(home, "__file__", None) or ""
        top = home.__name__.partition(".")[0]
        if top.lstrip("_") in sys.stdlib_module_names:
            module = home.__name__.lstrip("_")
            return Known(used, name, f"from {module} import {name}" if module != "builtins" else "", module)
        if top == "pytest":
            return Known(used, name, module=top)
        if not filename.startswith(self._root) or filename.startswith(self._tests):
            return None
        if getattr(sys.modules.get(top), name, _MISSING) is value:
            return Known(used, name, f"from {top} import {name}", top, own=True)
        # Its module may be the place that is looked for.
        return Known(used, name, module=home.__name__, own=True)


def _message(error):
    """The first line of what a test fails with; empty where it differs from build to build."""
    line = "".join(f"{type(error).__name__}: {error}".removesuffix(": ").splitlines()[:1])
    if line.startswith("Failed: DID NOT RAISE"):
        return "nothing was raised"
    line = line.removeprefix("AssertionError: ").removeprefix("assert ")
    return line if steady(line) and len(line) <= MAX_LITERAL else ""


def _helper(source, name):
    """A small function of the test file that needs nothing but its arguments."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == name and not node.decorator_list:
            text = ast.unparse(node)
            own = {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
            free = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - own
            if len(text.splitlines()) <= MAX_HELPER_LINES and all(hasattr(builtins, n) for n in free):
                return Known(1, name, text)
    return None
