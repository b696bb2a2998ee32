"""Runs inside the sandbox: records the calls that tests make, and makes such calls again.

    python probe.py SPEC.json OUT.json

`record`: runs the tests and notes every call from a test file to a public module-level function of the package whose
arguments are plain literals. `evaluate`: makes the given calls and notes what each returned or raised. Standard library
and pytest only; this file is copied into the sandbox.
"""

import ast
import importlib
import json
import os
import signal
import sys

MAX_REPR = 200
MAX_CALLS_OF_A_TEST = 20
CALL_TIMEOUT_S = 2.0


class Recorder:
    """pytest plugin; `calls`: (module, function, positional, keyword) as text -> ids of the tests that make it."""

    def __init__(self, root: str, tests: list[str]):
        self._root, self._tests = root, tuple(os.path.join(root, t) for t in tests)
        self._test_id, self._count = "", 0
        self.calls: dict[str, list[str]] = {}

    def pytest_runtest_call(self, item):
        self._test_id, self._count = item.nodeid, 0
        sys.setprofile(self._on_event)

    def pytest_runtest_teardown(self, item):
        sys.setprofile(None)

    def _on_event(self, frame, event, arg):
        if event != "call" or self._count >= MAX_CALLS_OF_A_TEST or frame.f_back is None:
            return
        code, module = frame.f_code, frame.f_globals.get("__name__", "")
        inside = code.co_filename.startswith(self._root + os.sep) and not code.co_filename.startswith(self._tests)
        is_public = code.co_qualname == code.co_name and not code.co_name.startswith(("_", "<"))
        if not (inside and is_public and frame.f_back.f_code.co_filename.startswith(self._tests)):
            return
        if getattr(sys.modules.get(module), code.co_name, None) is None:
            return
        arguments = _arguments(frame)
        if arguments is not None:
            self._count += 1
            key = json.dumps([module, code.co_name, *arguments])
            if self._test_id not in self.calls.setdefault(key, []):
                self.calls[key].append(self._test_id)


def _arguments(frame):
    """(positional, keyword) as literals, as they stand when the function is entered; None where one is no literal."""
    code, values = frame.f_code, frame.f_locals
    names = code.co_varnames[: code.co_argcount]
    positional = [values[n] for n in names]
    rest = code.co_argcount + code.co_kwonlyargcount
    keyword = {n: values[n] for n in code.co_varnames[code.co_argcount : rest]}
    if code.co_flags & 4:
        positional += values[code.co_varnames[rest]]
        rest += 1
    if code.co_flags & 8:
        keyword |= values[code.co_varnames[rest]]
    texts = [_literal(v) for v in positional], {n: _literal(v) for n, v in keyword.items()}
    return None if None in texts[0] or None in texts[1].values() else texts


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


def _evaluate(module, function, positional, keyword):
    """[kind, text, exported]: what came back, and whether the top package exports the function by the same name."""
    exported = False
    signal.setitimer(signal.ITIMER_REAL, CALL_TIMEOUT_S)
    try:
        called = getattr(importlib.import_module(module), function)
        exported = getattr(importlib.import_module(module.split(".")[0]), function, None) is called
        value = called(*map(ast.literal_eval, positional), **{n: ast.literal_eval(v) for n, v in keyword.items()})
        return ["returned", repr(value)[: MAX_REPR + 1], exported]
    except _Timeout:
        return ["raised", "no result after 2 seconds", exported]
    except BaseException as e:
        return ["raised", f"{type(e).__name__}: {e}"[: MAX_REPR + 1], exported]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


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
