"""Runs a package's own suite in the sandbox, and finds which of its tests can be relied on."""

import asyncio
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sandbox_service.backends.base import Ended
from sandbox_service.graders.bench import ASSERTIONS
from sandbox_service.graders.paths import is_source
from sandbox_service.runner import BAD_STATUSES, Runner, TestRun
from sandbox_service.tasks import Environment, Overlay, TaskSet
from skillrl.tasks.build.diagnose import causes, fault
from skillrl.tasks.build.ledger import Ledger
from skillrl.tasks.build.tree import BuildError

# Object addresses, and characters that a terminal or a file of lines would not give back as they are.
_UNSTABLE_ID = re.compile(r" at 0x[0-9a-f]+|[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Baseline:
    """What the suite does on the correct tree."""

    # Ids that passed in every run.
    stable: frozenset[str]
    # Why other ids are left out -> how many.
    dropped: Mapping[str, int]
    # Test files that could not be imported in any run.
    broken: frozenset[str]
    # The slowest run.
    wall_s: float


@dataclass(frozen=True)
class Verdict:
    """What the suite does on a changed tree: the tests that fail, or why the change is of no use."""

    failing: frozenset[str]
    # Of these, the ones that fail by an assertion or by an exception out of the package's own code.
    proper: frozenset[str] = frozenset()
    # "", or one of "timeout", "no report", "collection error".
    rejected: str = ""


class Suite:
    """One repository's tests, run on its correct tree and on changes of it. What the ledger knows is not run again."""

    def __init__(
        self, runner: Runner, task_set: TaskSet, tree: str, environment: Environment, ledger: Ledger, package: str
    ):
        self._runner, self.task_set, self.tree, self._ledger = runner, task_set, tree, ledger
        self._package = package
        self.environment = environment
        self._lock: dict[str, asyncio.Lock] = {}
        # Of runs that were really made.
        self.runs, self.busy_s = 0, 0.0

    async def run(
        self, overlay: Overlay | None = None, *, timeout_s: float | None = None, paths: Sequence[str] = ()
    ) -> TestRun:
        """The whole suite, or the files at `paths` alone, in a fresh workspace with `overlay` written into it."""
        files = {path: None if text is None else text.encode() for path, text in (overlay or {}).items()}
        started = time.monotonic()
        done = await self._runner.run_tests(
            self.task_set,
            self.tree,
            (),
            self.environment,
            test_paths=paths or self.environment.test_roots,
            extra_files=files,
            timeout_s=timeout_s,
        )
        self.runs += 1
        self.busy_s += time.monotonic() - started
        return done

    async def verdict(
        self,
        overlay: Overlay,
        baseline: Baseline,
        *,
        timeout_s: float | None = None,
        repeat: int = 0,
        paths: Sequence[str] = (),
    ) -> Verdict:
        """What the tests (of all files, or of `paths`) say of a change, run once for each `repeat`."""
        stable = baseline.stable
        if paths:
            stable = frozenset(test_id for test_id in stable if test_id.partition("::")[0] in paths)
        subject = [sorted(overlay.items()), sorted(stable), repeat]
        key = hashlib.sha256(json.dumps(subject).encode()).hexdigest()
        async with self._lock.setdefault(key, asyncio.Lock()):
            if kept := self._ledger.get(key):
                return Verdict(frozenset(kept[0]), frozenset(kept[1]), kept[2])
            run = await self.run(overlay, timeout_s=timeout_s, paths=paths)
            verdict = read_verdict(run, baseline, stable, lambda path: is_source(path, self.environment))
            self._ledger.put(key, [sorted(verdict.failing), sorted(verdict.proper), verdict.rejected])
            return verdict

    async def passing(self, overlay: Overlay, test_ids: Collection[str]) -> frozenset[str]:
        """Those of the tests that pass on a change; none of a file that cannot be imported, or of a run that breaks."""
        key = hashlib.sha256(json.dumps(["passing", sorted(overlay.items()), sorted(test_ids)]).encode()).hexdigest()
        if (kept := self._ledger.get(key)) is None:
            run = await self.run(overlay)
            kept = sorted(i for i in test_ids if run.reported and run.results.get(i) == "passed")
            self._ledger.put(key, kept)
        return frozenset(kept)

    async def baseline(self, repeats: int = 3) -> Baseline:
        """Raises BuildError when the suite does not run, or nothing in it passes."""
        if kept := self._ledger.get("baseline"):
            return Baseline(frozenset(kept[0]), kept[1], frozenset(kept[2]), kept[3])
        found = await self._baseline(repeats)
        self._ledger.put("baseline", [sorted(found.stable), found.dropped, sorted(found.broken), found.wall_s])
        return found

    async def _baseline(self, repeats: int) -> Baseline:
        runs = [await self.run() for _ in range(repeats)]
        for run in runs:
            if not run.reported:
                end = "timed out" if run.ended is Ended.TIMEOUT else f"ended without a report ({run.ended.value})"
                raise await self._fault(f"the suite {end}", run.log)
        stable, dropped = compare_runs([run.results for run in runs])
        if not stable:
            raise await self._fault(f"no test of {', '.join(self.environment.test_roots)} passes", runs[0].log)
        return Baseline(stable, dropped, broken_files([run.results for run in runs]), max(run.wall_s for run in runs))

    async def _fault(self, told: str, log: str) -> BuildError:
        files = await self._runner.tree_files(self.task_set, self.tree)
        return fault(told, log, causes(log, files, self._package))


def compare_runs(runs: list[Mapping[str, str]]) -> tuple[frozenset[str], dict[str, int]]:
    """Ids that passed in every run, and why the other ids are left out."""
    stable, dropped = set(), Counter()
    for test_id in set().union(*runs):
        statuses = {run.get(test_id, "absent") for run in runs}
        if _UNSTABLE_ID.search(test_id):
            dropped["id differs between runs"] += 1
        elif len(statuses) > 1:
            dropped["flaky"] += 1
        elif statuses == {"passed"}:
            stable.add(test_id)
        else:
            dropped[f"always {statuses.pop()}"] += 1
    return frozenset(stable), dict(dropped)


def broken_files(runs: list[Mapping[str, str]]) -> frozenset[str]:
    """Test files that could not be imported in any run."""
    broken = [{i for i, status in run.items() if status == "error" and "::" not in i} for run in runs]
    return frozenset(set.intersection(*broken))


def read_verdict(run: TestRun, baseline: Baseline, stable: frozenset[str], is_source: Callable[[str], bool]) -> Verdict:
    """Which of the tests in `stable` fail. One that is absent or does not reach its own code rejects the change."""
    if run.ended is Ended.TIMEOUT:
        return Verdict(frozenset(), rejected="timeout")
    if not run.reported:
        return Verdict(frozenset(), rejected="no report")
    statuses = {test_id: run.results.get(test_id, "absent") for test_id in stable}
    collected = all(s not in ("absent", "error", "skipped") for s in statuses.values())
    if not collected or not broken_files([run.results]) <= baseline.broken:
        return Verdict(frozenset(), rejected="collection error")
    failing = frozenset(i for i, s in statuses.items() if s in BAD_STATUSES)
    proper = frozenset(
        i for i in failing if run.failures.get(i) in ASSERTIONS or (i in run.places and is_source(run.places[i].path))
    )
    return Verdict(failing, proper)
