"""Runs inside the sandbox: records the calls that tests make, and makes such calls again.

    python probe.py SPEC.json OUT.json

`record`: runs the tests and notes every call from a test file, arguments plain literals, to a public module-level
function or class of the package, to a class method, and to a method or property of what such a call gave. `evaluate`:
makes the given calls and notes what each returned or raised. A call is [module, name, positional, keyword, receiver]:
arguments as text, positional null for a property, receiver null or the call whose result has the method. Standard
library and pytest only; this file is copied into the sandbox.
"""

import ast
import importlib
import inspect
import json
import operator
import os
import signal
import sys

MAX_REPR = 200
MAX_CALLS_OF_A_TEST = 20
CALL_TIMEOUT_S = 2.0


class Recorder:
    """pytest plugin; `calls`: a call as JSON -> ids of the tests that make it."""

    def __init__(self, root: str, tests: list[str]):
        self._root, self._tests = root, tuple(os.path.join(root, t) for t in tests)
        self._test_id, self._count = "", 0
        # By id, of the test that runs: objects (kept, so that no other gets the id) and the calls that gave them.
        self._given: dict[int, tuple[object, list]] = {}
        # Frames that have not returned yet, by id.
        self._open: dict[int, list] = {}
        self.calls: dict[str, list[str]] = {}

    def pytest_runtest_call(self, item):
        self._test_id, self._count = item.nodeid, 0
        self._given.clear()
        self._open.clear()
        sys.setprofile(self._on_event)

    def pytest_runtest_teardown(self, item):
        sys.setprofile(None)

    def _on_event(self, frame, event, arg):
        if event == "return" and id(frame) in self._open:
            self._given[id(arg)] = (arg, self._open.pop(id(frame)))
        if event != "call" or self._count >= MAX_CALLS_OF_A_TEST or frame.f_back is None:
            return
        filename = frame.f_code.co_filename
        inside = filename.startswith(self._root + os.sep) and not filename.startswith(self._tests)
        if not (inside and frame.f_back.f_code.co_filename.startswith(self._tests)):
            return
        call = self._described(frame)
        if call is not None:
            self._count += 1
            tests = self.calls.setdefault(json.dumps(call), [])
            if self._test_id not in tests:
                tests.append(self._test_id)

    def _described(self, frame):
        """The call whose frame begins, or None where it cannot be made again from text."""
        owner, _, name = frame.f_code.co_qualname.rpartition(".")
        first = next(iter(frame.f_locals.values()), None) if frame.f_code.co_argcount else None
        if name.startswith(("_", "<")) and name != "__init__":
            return None
        if not owner:
            return self._noted(frame, frame.f_globals.get("__name__", ""), name)
        if name == "__init__" and _is_public(type(first)):
            call = _call(frame, type(first).__module__, type(first).__name__, skipped=1)
            if call is not None:
                self._given[id(first)] = (first, call)
            return call
        if isinstance(first, type):
            is_class_method = inspect.ismethod(getattr(first, name, None)) and _is_public(first)
            return self._noted(frame, first.__module__, f"{first.__name__}.{name}", 1) if is_class_method else None
        if id(first) not in self._given:
            return None
        receiver = self._given[id(first)][1]
        if isinstance(inspect.getattr_static(type(first), name, None), property):
            return [receiver[0], name, None, {}, receiver]
        return _call(frame, receiver[0], name, skipped=1, receiver=receiver)

    def _noted(self, frame, module, name, skipped=0):
        """Such a call, whose result is kept as the receiver of others."""
        top = name.partition(".")[0]
        call = _call(frame, module, name, skipped) if getattr(sys.modules.get(module), top, None) else None
        if call is not None:
            self._open[id(frame)] = call
        return call


def _is_public(kind):
    return not kind.__name__.startswith("_") and getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind


def _call(frame, module, name, skipped=0, receiver=None):
    """None where the receiver is a method's result itself, or an argument is no literal."""
    arguments = _arguments(frame, skipped)
    if arguments is None or (receiver and receiver[4]):
        return None
    return [module, name, *arguments, receiver]


def _arguments(frame, skipped):
    """[positional, keyword] as literals, without the first `skipped`, as they stand when the function is entered.

    None where one is no literal.
    """
    code, values = frame.f_code, frame.f_locals
    names = code.co_varnames[skipped : code.co_argcount]
    positional = [values[n] for n in names]
    rest = code.co_argcount + code.co_kwonlyargcount
    keyword = {n: values[n] for n in code.co_varnames[code.co_argcount : rest]}
    if code.co_flags & 4:
        positional += values[code.co_varnames[rest]]
        rest += 1
    if code.co_flags & 8:
        keyword |= values[code.co_varnames[rest]]
    texts = [_literal(v) for v in positional], {n: _literal(v) for n, v in keyword.items()}
    return None if None in texts[0] or None in texts[1].values() else list(texts)


def _literal(value):
    try:
        text = repr(value)
        return text if len(text) <= MAX_REPR and ast.literal_eval(text) == value else None
    except Exception:
        return None


def record(spec):
    import pytest

    recorder = Recorder(spec["root"], spec["tests"])
    options = ["-c", os.devnull, f"--rootdir={spec['root']}", "-q", "-p", "no:cacheprovider", "--tb=no"]
    pytest.main([*options, *filter(os.path.exists, spec["tests"])], plugins=[recorder])
    return [[*json.loads(key), tests] for key, tests in recorder.calls.items()]


def evaluate(spec):
    return [_evaluate(*call) for call in spec["calls"]]


def _evaluate(*call):
    """[kind, text, exported]: what came back, and whether the top package exports what the call begins with."""
    exported = False
    signal.setitimer(signal.ITIMER_REAL, CALL_TIMEOUT_S)
    try:
        module, name, *_ = call[4] or call
        top = name.partition(".")[0]
        exported = getattr(importlib.import_module(module.split(".")[0]), top, None) is _attribute(module, top)
        return ["returned", repr(_result(*call))[: MAX_REPR + 1], exported]
    except _Timeout:
        return ["raised", "no result after 2 seconds", exported]
    except BaseException as e:
        return ["raised", f"{type(e).__name__}: {e}"[: MAX_REPR + 1], exported]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _result(module, name, positional, keyword, receiver):
    called = getattr(_result(*receiver), name) if receiver else _attribute(module, name)
    if positional is None:
        return called
    return called(*map(ast.literal_eval, positional), **{n: ast.literal_eval(v) for n, v in keyword.items()})


def _attribute(module, name):
    return operator.attrgetter(name)(importlib.import_module(module))


class _Timeout(BaseException):
    pass


def _on_alarm(number, frame):
    raise _Timeout


def main():
    with open(sys.argv[1]) as f:
        spec = json.load(f)
    spec["root"] = os.path.realpath(spec["root"])
    sys.path[:0] = [os.path.normpath(os.path.join(spec["root"], s)) for s in spec["source_roots"]]
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGALRM, _on_alarm)
    result = {"record": record, "evaluate": evaluate}[spec["mode"]](spec)
    with open(sys.argv[2], "w") as f:
        json.dump(result, f)


if __name__ == "__main__":
    main()
