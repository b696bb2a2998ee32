"""Runs a generated repository's tests in this process, to prove its bug while it is being made.

Only for code made here: there is no isolation. Modules are executed in fresh namespaces and never enter sys.modules, so
instances cannot see each other. `skillrl.tasks.validate` repeats the proof with pytest in the sandbox.
"""

import builtins
import functools
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sandbox_service.tasks import Overlay

# Traced lines of one test; a changed loop that runs away ends here, on every machine alike.
MAX_LINES = 20_000


class _Runaway(BaseException):
    pass


@dataclass(frozen=True)
class Failure:
    """Why a test failed: the exception's type, and whether graders count it: an assertion, or raised by the source."""

    kind: str
    right: bool

    @property
    def runaway(self) -> bool:
        return self.kind == TimeoutError.__name__


@functools.lru_cache(maxsize=512)
def _compiled(text: str, path: str):
    return compile(text, path, "exec")


class Suite:
    """The modules of one tree, imported on demand."""

    def __init__(self, files: Mapping[str, bytes], *overlays: Overlay, limited: bool = True):
        self._sources = {p: d.decode() for p, d in files.items() if p.endswith(".py")}
        for overlay in overlays:
            for path, text in overlay.items():
                if text is None:
                    self._sources.pop(path, None)
                else:
                    self._sources[path] = text
        self._roots = {path.split("/")[0].removesuffix(".py") for path in self._sources}
        self._modules: dict[str, types.ModuleType] = {}
        self._builtins = {**vars(builtins), "__import__": self._import}
        self._limited = limited

    def results(self) -> dict[str, bool]:
        """Test id -> passed."""
        return {test: failure is None for test, failure in self.outcomes().items()}

    def outcomes(self) -> dict[str, Failure | None]:
        """Test id -> None, or why it failed. Raises what a test module raises when it is imported."""
        outcome = {}
        for path in sorted(self._sources):
            if path.rpartition("/")[2].startswith("test_"):
                module = self._load(path.removesuffix(".py").replace("/", "."))
                for name, value in list(vars(module).items()):
                    if name.startswith("test") and callable(value):
                        outcome[f"{path}::{name}"] = self._failure(value)
        return outcome

    def failure(self, lines: Sequence[str]) -> Failure | None:
        """Why these lines (imports, set-up, asserts) fail; None if they do not."""
        namespace = {"__builtins__": self._builtins, "__name__": "check"}
        return self._failure(lambda: exec(_compiled("\n".join(lines), "check"), namespace))

    def evaluate(self, lines: Sequence[str], expression: str):
        """Value of an expression after these lines."""
        source = "\n".join([*lines, f"result = {expression}"])
        namespace = {"__builtins__": self._builtins, "__name__": "evaluate"}
        self._bounded(lambda: exec(_compiled(source, "evaluate"), namespace))
        return namespace["result"]

    def _failure(self, function) -> Failure | None:
        try:
            self._bounded(function)
        except Exception as e:
            *_, last = traceback.walk_tb(e.__traceback__)
            path = last[0].f_code.co_filename
            in_source = path in self._sources and not path.startswith("tests/")
            return Failure(type(e).__name__, isinstance(e, AssertionError) or in_source)
        return None

    def _bounded(self, function):
        if not self._limited:
            return function()
        left = MAX_LINES

        def trace(frame, event, arg):
            nonlocal left
            # Only where a line begins: an exception out of the end of a discarded generator would be lost.
            if event == "line":
                left -= 1
                if left < 0:
                    raise _Runaway
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            return function()
        except _Runaway:
            raise TimeoutError(f"more than {MAX_LINES} lines executed") from None
        finally:
            sys.settrace(before)

    def _load(self, name: str) -> types.ModuleType:
        parent, _, child = name.rpartition(".")
        if parent:
            self._load(parent)
        if name in self._modules:
            return self._modules[name]
        stem = name.replace(".", "/")
        package = f"{stem}/__init__.py" in self._sources
        path = f"{stem}/__init__.py" if package else f"{stem}.py"
        if path not in self._sources and not any(p.startswith(f"{stem}/") for p in self._sources):
            raise ImportError(f"no module named {name!r}")
        module = types.ModuleType(name)
        vars(module).update(__builtins__=self._builtins, __file__=path, __package__=name if package else parent)
        self._modules[name] = module
        if path in self._sources:
            exec(_compiled(self._sources[path], path), vars(module))
        if parent:
            setattr(self._modules[parent], child, module)
        return module

    def _import(self, name, globals=None, locals=None, fromlist=(), level=0):
        if level or name.split(".")[0] not in self._roots:
            return builtins.__import__(name, globals, locals, fromlist, level)
        self._load(name.split(".")[0])
        module = self._load(name)
        for item in fromlist or ():
            if not hasattr(module, item):
                self._load(f"{name}.{item}")
        return module if fromlist else self._load(name.split(".")[0])
