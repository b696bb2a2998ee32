"""Runs inside the sandbox: records the calls that tests make, and makes such calls again.

    python probe.py SPEC.json OUT.json

`record`: runs the tests and notes every call from a test file, arguments plain literals, to a public module-level
function or class of the package, to a class method, and to a method or property of what such a call gave. `evaluate`:
makes the given calls and notes what each came to. A call is [module, name, positional, keyword, receiver]: arguments as
text, without those that are the default; positional null for a property; receiver null or the call whose result has
the method. `find`: runs failing tests and writes excerpts of them. `replay`: notes what excerpts come to. Standard
library and pytest only; the files `probe*.py` are copied into the sandbox.
"""

import functools
import importlib
import inspect
import json
import operator
import os
import signal
import sys

from probe_failing import find, replay
from probe_values import answer, literal, made, on_alarm

MAX_CALLS_OF_A_TEST = 20
_GENERATOR = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Recorder:
    """pytest plugin; `calls`: a call as JSON -> ids of the tests that make it."""

    def __init__(self, root: str, tests: list[str]):
        self._root, self._tests = root, tuple(os.path.join(root, t) for t in tests)
        self._test_id, self._count = "", 0
        # By id, of the test that runs: objects (kept, so that no other gets the id) and the calls that gave them.
        self._given: dict[int, tuple[object, list]] = {}
        # Frames that have not returned yet, by id.
        self._open: dict[int, list] = {}
        # Frames of generators that have begun, by id: each item enters them again, with other values.
        self._begun: dict[int, object] = {}
        self.calls: dict[str, list[str]] = {}

    def pytest_runtest_call(self, item):
        self._test_id, self._count = item.nodeid, 0
        self._given.clear()
        self._open.clear()
        self._begun.clear()
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
        if not (inside and frame.f_back.f_code.co_filename.startswith(self._tests)) or id(frame) in self._begun:
            return
        if frame.f_code.co_flags & _GENERATOR:
            self._begun[id(frame)] = frame
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
        function = inspect.getattr_static(first if isinstance(first, type) else type(first), name, None)
        if name == "__init__" and _is_public(type(first)):
            call = _call(frame, type(first).__module__, type(first).__name__, function, skipped=1)
            if call is not None:
                self._given[id(first)] = (first, call)
            return call
        if isinstance(first, type):
            is_class_method = inspect.ismethod(getattr(first, name, None)) and _is_public(first)
            return self._noted(frame, first.__module__, f"{first.__name__}.{name}", 1) if is_class_method else None
        if id(first) not in self._given:
            return None
        receiver = self._given[id(first)][1]
        if isinstance(function, property):
            return [receiver[0], name, None, {}, receiver]
        return _call(frame, receiver[0], name, function, skipped=1, receiver=receiver)

    def _noted(self, frame, module, name, skipped=0):
        """Such a call, whose result is kept as the receiver of others."""
        try:
            function = _attribute(module, name)
        except (AttributeError, ImportError):
            return None
        call = _call(frame, module, name, function, skipped)
        if call is not None and not frame.f_code.co_flags & _GENERATOR:
            self._open[id(frame)] = call
        return call


def _is_public(kind):
    return not kind.__name__.startswith("_") and getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind


def _call(frame, module, name, function, skipped=0, receiver=None):
    """None where the receiver is a method's result itself, or an argument is no literal."""
    arguments = _arguments(frame, _defaults(function), skipped)
    if arguments is None or (receiver and receiver[4]):
        return None
    return [module, name, *arguments, receiver]


def _defaults(function):
    """Parameter -> default value."""
    try:
        parameters = inspect.signature(getattr(function, "__func__", function)).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _arguments(frame, defaults, skipped):
    """[positional, keyword] as literals, without the first `skipped`, as they stand when the function is entered.

    Defaults are left out, and what follows them is given by name. None where one is no literal.
    """
    code, values = frame.f_code, frame.f_locals
    end = code.co_argcount + code.co_kwonlyargcount
    has_rest, has_further = code.co_flags & inspect.CO_VARARGS, code.co_flags & inspect.CO_VARKEYWORDS
    rest = values[code.co_varnames[end]] if has_rest else ()
    further = values[code.co_varnames[end + bool(has_rest)]] if has_further else {}
    positional, keyword = [], {}
    for index in range(skipped, end):
        name = code.co_varnames[index]
        value = values[name]
        by_name_only = index >= code.co_argcount
        optional = by_name_only or (index >= code.co_posonlyargcount and not rest)
        if optional and name in defaults and _same(value, defaults[name]):
            continue
        if by_name_only or len(positional) < index - skipped:
            keyword[name] = value
        else:
            positional.append(value)
    texts = [literal(v) for v in (*positional, *rest)], {n: literal(v) for n, v in {**keyword, **further}.items()}
    return None if None in texts[0] or None in texts[1].values() else list(texts)


def _same(value, default):
    return value is default or literal(value) is not None and literal(value) == literal(default)


def record(spec):
    recorder = Recorder(spec["root"], spec["tests"])
    _run_pytest(spec, filter(os.path.exists, spec["tests"]), recorder)
    return [[*json.loads(key), tests] for key, tests in recorder.calls.items()]


def _run_pytest(spec, what, plugin):
    import pytest

    options = ["-c", os.devnull, f"--rootdir={spec['root']}", "-q", "-p", "no:cacheprovider", "--tb=no"]
    pytest.main([*options, *what], plugins=[plugin])


def evaluate(spec):
    """For each call [kind, text, whether the top package exports what the call begins with]."""
    return [[*answer(lambda call=call: _result(*call)), _is_exported(*(call[4] or call)[:2])] for call in spec["calls"]]


def _is_exported(module, name):
    top = name.partition(".")[0]
    try:
        return getattr(importlib.import_module(module.split(".")[0]), top, None) is _attribute(module, top)
    except Exception:
        return False


def _result(module, name, positional, keyword, receiver):
    called = getattr(_result(*receiver), name) if receiver else _attribute(module, name)
    if positional is None:
        return called
    return called(*map(made, positional), **{n: made(v) for n, v in keyword.items()})


def _attribute(module, name):
    return operator.attrgetter(name)(importlib.import_module(module))


def main():
    with open(sys.argv[1]) as f:
        spec = json.load(f)
    # A test may leave another working directory behind.
    out = os.path.abspath(sys.argv[2])
    spec["root"] = os.path.realpath(spec["root"])
    sys.path[:0] = [os.path.normpath(os.path.join(spec["root"], s)) for s in spec["source_roots"]]
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGALRM, on_alarm)
    modes = {
        "record": record,
        "evaluate": evaluate,
        "find": functools.partial(find, run_pytest=_run_pytest),
        "replay": replay,
    }
    result = modes[spec["mode"]](spec)
    with open(out, "w") as f:
        json.dump(result, f)


if __name__ == "__main__":
    main()
