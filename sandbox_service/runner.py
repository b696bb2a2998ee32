"""Runs tests in fresh workspaces and turns what the harness reports into data.

The harness's spec is a JSON object: `nonce`, `root` (the workspace), `source_roots` (put on sys.path), `test_paths`,
`test_ids` (empty: all that is collected), `files` (path -> base64, or null to delete; written before anything is
imported), `mtime` (their age, that of all other files) and `conftest` (whether the tree's conftest files are used).
Its report is one JSON object: `nonce`, `exit_code`, `collected` and `results` (id -> status, exception type, phase,
innermost file, line in the test file).
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from sandbox_service.backends.base import WORKSPACE, Backend, Ended, HarnessResult, Workspace
from sandbox_service.tasks import Environment, Overlay, TaskSet
from sandbox_service.workspaces import MTIME, Trees

LOG_KEPT_CHARACTERS = 4000
PYTEST_PASSED, PYTEST_FAILED, PYTEST_NONE_COLLECTED = 0, 1, 5
BAD_STATUSES = frozenset({"failed", "error"})

Run = TypeVar("Run")


@dataclass(frozen=True)
class Place:
    """Where a test that did not pass raised."""

    # "collect", "setup", "call" or "teardown".
    phase: str
    # File of the innermost frame inside the repository; empty when there is none.
    path: str
    # Line in the test's own file; 0 when no frame is in it.
    line: int


@dataclass(frozen=True)
class TestRun:
    """What one run of the tests showed."""

    __test__ = False

    ended: Ended
    # True when the run came to its end and exactly one report came, with the run's nonce and in accord with the exit
    # status.
    reported: bool
    # pytest's exit status; -1 when the run was stopped.
    exit_code: int
    wall_s: float
    # Test id -> "passed", "failed", "error", "skipped" or "xfailed". A file that cannot be collected is an "error"
    # under its path. Empty when nothing was reported.
    results: Mapping[str, str] = field(default_factory=dict)
    # Test id -> exception type, qualified by its module unless it is a builtin. pytest.fail gives "Failed".
    failures: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)
    # The end of what the run printed.
    log: str = ""

    def passed(self, test_ids: Iterable[str]) -> float:
        """Share of `test_ids` that are present and passed; 1 when there are none."""
        wanted = list(test_ids)
        return sum(self.results.get(i) == "passed" for i in wanted) / len(wanted) if wanted else 1.0


class Runner:
    """Runs tests; remembers the runs that hold nothing of an agent. One event loop.

    `concurrency` bounds the runs that go on at the same time. Faults of the host raise SandboxError.
    """

    def __init__(self, backend: Backend, trees: Trees, *, concurrency: int | None = None, remembered: int = 2048):
        self._backend, self._trees = backend, trees
        self._slots = asyncio.Semaphore(concurrency or max(2, os.cpu_count() or 1))
        self._remembered = remembered
        self._known: OrderedDict[str, asyncio.Task] = OrderedDict()
        self._tree_files: OrderedDict[tuple[str, str], dict[str, bytes]] = OrderedDict()

    async def tree_files(self, task_set: TaskSet, tree: str) -> Mapping[str, bytes]:
        """The files of a stored tree; the last few are kept."""
        key = (task_set.digest, tree)
        if key not in self._tree_files:
            self._tree_files[key] = await asyncio.to_thread(task_set.tree_files, tree)
            while len(self._tree_files) > 64:
                self._tree_files.popitem(last=False)
        return self._tree_files[key]

    async def run_tests(
        self,
        task_set: TaskSet,
        tree: str,
        overlays: Sequence[Overlay],
        environment: Environment,
        *,
        test_paths: Sequence[str],
        test_ids: Sequence[str] = (),
        extra_files: Mapping[str, bytes | None] | None = None,
        timeout_s: float | None = None,
        pristine: bool = False,
    ) -> TestRun:
        """Runs `test_paths` in a fresh workspace over `tree` changed by `overlays`, with `extra_files` written into it.

        `test_ids` narrows the run. `pristine` says that nothing in the run comes from an agent: the run is then made
        once and remembered.
        """
        arguments = (task_set, tree, tuple(overlays), environment, tuple(test_paths), tuple(test_ids))
        limit_s = timeout_s or environment.timeout_s
        if not pristine:
            return await self._run(*arguments, extra_files or {}, limit_s)
        key = _key(*arguments, extra_files or {})
        return await self.once(key, lambda: self._run(*arguments, extra_files or {}, limit_s), lambda r: r.reported)

    async def once(
        self, key: str, make: Callable[[], Coroutine[Any, Any, Run]], is_usable: Callable[[Run], bool]
    ) -> Run:
        """What `make` gives, made once for a key. A run that is not usable may have been a moment of overload: it is
        made again for the next who asks.
        """

        def forget_if_unusable(done: asyncio.Task) -> None:
            if done.cancelled() or done.exception() is not None or not is_usable(done.result()):
                self._known.pop(key, None)

        task = self._known.get(key)
        if task is None:
            task = self._known[key] = asyncio.create_task(make())
            task.add_done_callback(forget_if_unusable)
            while len(self._known) > self._remembered:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return await asyncio.shield(task)

    @contextlib.asynccontextmanager
    async def workspace(
        self,
        task_set: TaskSet,
        tree: str,
        overlays: Sequence[Overlay],
        environment: Environment,
        *,
        packages: Path | None = None,
    ) -> AsyncIterator[Workspace]:
        """A fresh workspace over `tree` changed by `overlays`; counts as a run while it is open.

        `packages` stands in for the environment's.
        """
        packages = packages or await self._trees.packages_dir(environment.packages)
        async with self._slots:
            base = await self._trees.materialise(task_set, tree, *overlays)
            workspace = await self._backend.open_workspace(base, packages=packages)
            try:
                yield workspace
            finally:
                await workspace.close()

    def folder_for_one(self) -> contextlib.AbstractContextManager[Path]:
        """An empty folder that may be the `packages` of one workspace; gone at the end."""
        return self._trees.folder_for_one()

    async def _run(self, task_set, tree, overlays, environment, test_paths, test_ids, extra_files, limit_s) -> TestRun:
        nonce = secrets.token_hex(16)
        spec = {
            "nonce": nonce,
            "root": WORKSPACE,
            "source_roots": environment.source_roots,
            "test_paths": test_paths,
            "test_ids": test_ids,
            "files": {p: None if d is None else base64.b64encode(d).decode() for p, d in extra_files.items()},
            "mtime": MTIME,
            "conftest": await self._has_conftest(task_set, tree, overlays),
        }
        async with self.workspace(task_set, tree, overlays, environment) as workspace:
            outcome = await workspace.run_harness(json.dumps(spec).encode(), timeout_s=limit_s)
        return read_report(outcome, nonce)

    async def _has_conftest(self, task_set: TaskSet, tree: str, overlays: Sequence[Overlay]) -> bool:
        names = set(await self.tree_files(task_set, tree))
        for overlay in overlays:
            names |= {p for p, text in overlay.items() if text is not None}
            names -= {p for p, text in overlay.items() if text is None}
        return any(PurePosixPath(name).name == "conftest.py" for name in names)


def read_report(outcome: HarnessResult, nonce: str) -> TestRun:
    """The run as the harness reported it; without results when the report is absent, forged or contradicted."""
    execution = outcome.exec
    log = execution.output.decode(errors="replace")[-LOG_KEPT_CHARACTERS:]
    silent = TestRun(execution.ended, False, execution.exit_code, execution.wall_s, log=log)
    if execution.ended is not Ended.EXITED or outcome.report is None:
        return silent
    try:
        report = json.loads(outcome.report)
        rows = {
            _text(i): (_text(status), _text(kind), Place(_text(phase), _text(path), int(line)))
            for i, (status, kind, phase, path, line) in report["results"].items()
        }
        trusted = report["nonce"] == nonce and report["exit_code"] == execution.exit_code
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return silent
    bad = any(row[0] in BAD_STATUSES for row in rows.values())
    # Any other status: the session was cut short (sys.exit while collecting, pytest.exit, an internal error).
    possible = {PYTEST_FAILED} if bad else {PYTEST_PASSED, PYTEST_NONE_COLLECTED}
    if not trusted or execution.exit_code not in possible:
        return silent
    return TestRun(
        execution.ended,
        True,
        execution.exit_code,
        execution.wall_s,
        results={i: row[0] for i, row in rows.items()},
        failures={i: row[1] for i, row in rows.items() if row[1]},
        places={i: row[2] for i, row in rows.items() if row[0] != "passed"},
        log=log,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value


def _key(task_set, tree, overlays, environment, test_paths, test_ids, extra_files) -> str:
    head = [task_set.digest, tree, overlays, environment.environment_id, test_paths, test_ids]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for path, data in sorted(extra_files.items()):
        digest.update(f"\0{path}\0{-1 if data is None else len(data)}\0".encode() + (data or b""))
    return digest.hexdigest()
