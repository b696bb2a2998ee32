"""Runs pytest on the tree in the workspace and reports per-test results over a private channel.

This module runs inside the sandbox, in a process forked for one run from a warm parent that has imported it, so it
imports nothing of the project and keeps no state.

What it guards: the configuration (own empty ini, no plugin autoload, conftest files only where the caller says that
they are the harness's own), the search path (the standard library cannot be shadowed), bytecode (none is read or
written), and the results (taken from the raised exceptions, not from the printed log or the report objects alone).

What it cannot guard: the tested code runs in this very process, so code that was written against it can find the
nonce and the report's descriptor by walking frames or the heap and forge whatever it likes. A forged report is caught
outside: `runner` wants exactly one report with the run's nonce, an exit status that agrees with it, and every expected
test id; graders run a second time with expectations quietly turned wrong (`sentinel`), and such a run must fail.
"""

import base64
import fcntl
import importlib
import json
import os
import sys
import sysconfig
import warnings
from pathlib import Path, PurePath

import pytest
from _pytest.config import default_plugins

# Loaded now, in the parent, because every run would load them anyway.
for _name in default_plugins:
    importlib.import_module(f"_pytest.{_name}")

for _name in ("_pytest._argcomplete", "pdb", "unittest.mock"):
    importlib.import_module(_name)
sysconfig.get_config_vars()

_UNUSED_PLUGINS = (
    *("cacheprovider", "doctest", "faulthandler", "junitxml", "pastebin", "setuponly", "setupplan", "stepwise"),
    *("terminalprogress", "threadexception", "unraisableexception", "warnings"),
)
_OPTIONS = (
    *("-c", os.devnull, "--import-mode=prepend", "--continue-on-collection-errors", "-q", "--color=no"),
    # Nobody reads why an assertion failed, and to rewrite them and write long traces cost up to two thirds of a run.
    *("--assert=plain", "--tb=line"),
    *(f"-pno:{name}" for name in _UNUSED_PLUGINS),
)
_RANK = {"passed": 0, "xfailed": 1, "skipped": 2, "failed": 3, "error": 4}


class ScriptItem(pytest.Item):
    """A plain script as one test: exit status 1 is its failed assertion, 0 its success, all else an error."""

    def runtest(self) -> None:
        import runpy

        sys.argv = [str(self.path)]
        try:
            runpy.run_path(str(self.path), run_name="__main__")
        except SystemExit as e:
            status = 0 if e.code is None else e.code
            if status == 1 or isinstance(status, str):
                raise AssertionError(f"exit status {status}") from None
            if status != 0:
                raise RuntimeError(f"exit status {status}") from None


class ScriptFile(pytest.File):
    def collect(self):
        yield ScriptItem.from_parent(self, name="script")


class Collector:
    """Gathers `results`: id -> [status, exception type, phase, innermost frame's file, line in the test file]."""

    def __init__(self, root: str, scripts: frozenset[str], test_ids: frozenset[str]):
        self._root, self._scripts, self._wanted = root, scripts, test_ids
        self.collected: list[str] = []
        self.results: dict[str, list] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config):
        # What it writes of each test takes a twelfth of a run; `_print` tells what failed.
        config.pluginmanager.unregister(name="terminalreporter")

    @pytest.fixture(scope="session")
    def doctest_namespace(self):
        """Suites whose conftest fills it run without doctests too."""
        return {}

    def pytest_pycollect_makemodule(self, module_path, parent):
        if os.path.relpath(module_path, self._root) in self._scripts:
            return ScriptFile.from_parent(parent, path=module_path)
        return None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        if self._wanted:
            items[:] = [item for item in items if item.nodeid in self._wanted]
        self.collected = [item.nodeid for item in items]
        for item in items:
            item.repr_failure = _in_short

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self, collector):
        report = yield
        if report.failed:
            error = report.call.excinfo.value if report.call.excinfo else None
            # pytest wraps what an import raised.
            cause = error.__cause__ or error if error is not None else None
            self._record(report.nodeid, "error", "collect", cause, collector.path)
            _print("error", report)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        error = call.excinfo.value if call.excinfo is not None else None
        if report.outcome == "skipped":
            status = "xfailed" if hasattr(report, "wasxfail") else "skipped"
        elif report.outcome == "passed" and error is None:
            status = "passed"
        else:
            # A report that says "passed" although the call raised was tampered with.
            status = "failed" if call.when == "call" else "error"
        if status != "passed" or call.when == "call":
            self._record(item.nodeid, status, call.when, error, item.path)
        if report.failed:
            _print(status, report)
        return report

    def _record(self, test_id: str, status: str, phase: str, error: BaseException | None, path: Path) -> None:
        old = self.results.get(test_id)
        if old is None or _RANK[status] > _RANK[old[0]]:
            self.results[test_id] = [status, *_describe(error, phase, self._root, str(path))]


def _in_short(excinfo: pytest.ExceptionInfo, style: str | None = None) -> str:
    """Instead of a trace, whose making takes a tenth of a run in which many tests fail."""
    return excinfo.exconly()


def _print(status: str, report: pytest.CollectReport | pytest.TestReport) -> None:
    said = f"{report.longreprtext[-2000:]}\n{report.capstdout[-2000:]}"
    print(f"{status.upper()} {report.nodeid}\n{said}", flush=True)


def _describe(error: BaseException | None, phase: str, root: str, test_path: str) -> tuple[str, str, str, int]:
    """Exception type, phase, file of the innermost frame inside the repository, line of the test file."""
    if error is None:
        return "", phase, "", 0
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    innermost, line, trace = "", 0, error.__traceback__
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if filename.startswith(root + os.sep):
            innermost = os.path.relpath(filename, root)
        if filename == test_path and not line:
            line = trace.tb_lineno
        trace = trace.tb_next
    return name, phase, innermost, line


def _write_files(root: Path, files: dict[str, str | None], mtime: int) -> None:
    """Writes (base64) or deletes files."""
    for name, data in files.items():
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ValueError(f"{name!r} leads out of the workspace")
        path = root / name
        if data is None:
            path.unlink(missing_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))
        os.utime(path, (mtime, mtime))


def _set_search_path(root: str, source_roots: list[str]) -> None:
    """Standard library, then the repository, then installed distributions."""
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    own = str(Path(__file__).resolve().parent.parent)
    first, last = [], []
    for entry in sys.path:
        if entry in ("", root, own) or not os.path.isabs(entry):
            continue
        in_library = entry in standard or entry.endswith((".zip", "lib-dynload"))
        (first if in_library else last).append(entry)
    sys.path[:] = [*first, *(os.path.normpath(os.path.join(root, s)) for s in source_roots), *last]


def _is_test_file(path: str) -> bool:
    name = PurePath(path).name
    return name.startswith("test_") or name.endswith("_test.py") or name == "tests.py"


def _send(report_fd: int, report: dict) -> None:
    data = json.dumps(report).encode()
    while data:
        data = data[os.write(report_fd, data) :]
    os.close(report_fd)


def main(spec: bytes, report_fd: int) -> int:
    """Runs what `spec` (JSON, see `runner.py`) asks for and returns pytest's exit status.

    The one report goes to `report_fd`, which is closed. Must be called in a process of its own.
    """
    sys.modules.pop(__name__, None)
    sys.modules.pop(__name__.partition(".")[0], None)
    sys.dont_write_bytecode = True
    # A descriptor number that cannot be guessed; the tested code's children do not inherit it.
    hidden_fd = fcntl.fcntl(report_fd, fcntl.F_DUPFD_CLOEXEC, 64 + int.from_bytes(os.urandom(1)))
    os.close(report_fd)
    wanted = json.loads(spec)
    nonce = wanted.pop("nonce")
    root = os.path.realpath(wanted["root"])
    os.chdir(root)
    _write_files(Path(root), wanted.pop("files"), wanted.pop("mtime"))
    _set_search_path(root, wanted["source_roots"])
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    warnings.resetwarnings()
    # A path that is absent would stop the whole run; its tests are simply not reported.
    paths = [p for p in wanted["test_paths"] if os.path.exists(p)]
    scripts = frozenset(p for p in paths if os.path.isfile(p) and not _is_test_file(p))
    collector = Collector(root, scripts, frozenset(wanted["test_ids"]))
    options = [*_OPTIONS, f"--rootdir={root}", *([] if wanted["conftest"] else ["--noconftest"])]
    del spec, wanted
    exit_code = int(pytest.main([*options, *paths], plugins=[collector])) if paths else 5
    report = {"nonce": nonce, "exit_code": exit_code, "collected": collector.collected, "results": collector.results}
    _send(hidden_fd, report)
    return exit_code
