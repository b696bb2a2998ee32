"""What the graders of one request share: the trees, runs over them, twins and sentinels."""

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sandbox_service.graders.base import GradeRequest, TaskFault
from sandbox_service.graders.controls import behaviour_preserving, text_neutral
from sandbox_service.graders.paths import is_source
from sandbox_service.runner import Runner, TestRun
from sandbox_service.sentinel import Planted, extra_file
from sandbox_service.tasks import apply_overlay, gold_overlay

# Failed assertions, and pytest.fail (which pytest.raises uses).
ASSERTIONS = frozenset({"AssertionError", "Failed"})
# The test did not reach the behaviour, or the run was broken: never the right reason to fail.
BROKEN = frozenset({"ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError", "TabError", "SystemExit"})
SENTINEL_VARIANTS = 4
CONTROL_VARIANTS = 16
_dice = random.SystemRandom()

Files = dict[str, bytes | None]
Result = TypeVar("Result")


async def together(runs: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """All runs at once, begun in an order that nobody can know; results are in the given order.

    So a submission cannot tell by the time which of them it is in. The first fault cancels the others and is raised as
    it is.
    """
    tasks: dict[int, asyncio.Task[Result]] = {}
    given = list(enumerate(runs))
    try:
        async with asyncio.TaskGroup() as group:
            for index, run in _dice.sample(given, len(given)):
                tasks[index] = group.create_task(run)
    except BaseExceptionGroup as faults:
        raise faults.exceptions[0] from None
    return [tasks[index].result() for index in range(len(given))]


@dataclass(frozen=True)
class Sentinel:
    """A test file beside the submission, and the one test in it that must fail."""

    path: str
    text: str
    test_id: str

    def holds(self, run: TestRun) -> bool:
        return must_fail(run, [self.test_id])

    def without(self, run: TestRun) -> dict[str, str]:
        """The run's results that are the submission's own."""
        return {i: status for i, status in run.results.items() if i != self.test_id and i != self.path}


def must_fail(run: TestRun, test_ids: Iterable[str]) -> bool:
    """True when every one of `test_ids` was reported as failed, by a failed assertion in the test itself."""
    return run.reported and all(
        run.results.get(i) == "failed" and run.failures.get(i) == "AssertionError" and run.places[i].phase == "call"
        for i in test_ids
    )


class Bench:
    """Runs for one request. `start` is the tree that the agent started from, `correct` the correct one."""

    def __init__(self, request: GradeRequest, runner: Runner, correct: Mapping[str, bytes]):
        self.request, self.runner, self.correct = request, runner, correct
        self.start = apply_overlay(correct, request.task.visible)
        submitted = hashlib.sha256()
        for path, data in sorted(request.changed.items()):
            # The agent may give a file any name, text or not.
            submitted.update(path.encode(errors="surrogatepass") + b"\0" + (data or b"") + b"\0")
        # Same submission, same controls; another submission, others. Few, so that runs without it can be remembered.
        self.seed = submitted.digest()[0] % CONTROL_VARIANTS

    @classmethod
    async def make(cls, request: GradeRequest, runner: Runner) -> "Bench":
        return cls(request, runner, await runner.tree_files(request.task_set, request.instance.tree))

    async def run_visible(self, files: Files, paths: Sequence[str], **options) -> TestRun:
        """Runs on the tree the agent started from: what was hidden from it stays hidden from what it wrote."""
        return await self._run((self.request.task.visible,), files, paths, **options)

    async def run_complete(self, files: Files, paths: Sequence[str], *, buggy: bool, **options) -> TestRun:
        """Runs on the repository with all of its tests."""
        return await self._run((self.request.instance.bug,) if buggy else (), files, paths, **options)

    async def _run(self, overlays, files, paths, **options) -> TestRun:
        r = self.request
        return await self.runner.run_tests(
            r.task_set, r.instance.tree, overlays, r.environment, test_paths=paths, extra_files=files, **options
        )

    @property
    def buggy_files(self) -> Files:
        return {path: _bytes(text) for path, text in self.request.instance.bug.items()}

    @property
    def gold_files(self) -> Files:
        return {path: _bytes(t) for path, t in gold_overlay(self.request.instance.bug, self.correct).items()}

    @property
    def known_ids(self) -> tuple[str, ...]:
        return (*self.request.instance.fail_to_pass, *self.request.instance.pass_to_pass)

    @property
    def known_paths(self) -> list[str]:
        return sorted({test_id.partition("::")[0] for test_id in self.known_ids})

    def is_source(self, path: str) -> bool:
        return is_source(path, self.request.environment)

    async def plain_twin(self, files: Files) -> Files:
        return await _rewritten(files, lambda _, text: text_neutral(text, self.seed))

    async def rewritten_twin(self, files: Files, decoys: Sequence[Files], thorough: bool) -> Files:
        """`decoys` are other versions of the files; a file that only they have is there too, so that its presence
        tells nothing.
        """

        def rewrite(path: str, text: str) -> str:
            others = [d[path].decode() for d in decoys if d.get(path) is not None]
            return behaviour_preserving(text, self.seed, others, thorough=thorough)

        present = {p: next((v[p] for v in (files, *decoys) if v.get(p) is not None), None) for p in files}
        return await _rewritten(present, rewrite)

    async def keeps_behaviour(self, twin: Files, *, buggy: bool) -> bool:
        """Whether the repository's own tests see no difference between a twin and the version it is made of."""
        run = await self.run_complete(twin, self.known_paths, buggy=buggy, pristine=True)
        instance = self.request.instance
        if run.passed(instance.pass_to_pass) < 1:
            return False
        return run.passed(instance.fail_to_pass) == (0 if buggy else 1)

    async def sentinel(self, *versions: Files) -> Sentinel:
        """A sentinel that is proven to fail on every given version of the visible tree without a submission.

        Raises TaskFault when none does: then tests cannot be run at all.
        """
        ids = [i for i in self.request.instance.pass_to_pass if i.partition("::")[0] in self.start]
        sources = {i.partition("::")[0]: self.start[i.partition("::")[0]].decode() for i in ids}
        folder = (self.request.environment.test_roots or (".",))[0]
        folder = "." if folder in self.start else folder
        first = self.seed % SENTINEL_VARIANTS
        run = None
        for seed, tests in ((first, ids), (first + 1, ids), (first, [])):
            planted = extra_file(sources, tests, self.start.keys(), folder, seed)
            sentinel = _as_sentinel(planted)
            for version in versions:
                files = {**version, sentinel.path: sentinel.text.encode()}
                run = await self.run_visible(files, [sentinel.path], pristine=True)
                if not sentinel.holds(run):
                    break
            else:
                return sentinel
        raise TaskFault(f"{self.request.instance.instance_id}: no test runs in its tree: {run.log[-500:]}")


def _as_sentinel(planted: Planted) -> Sentinel:
    (path, text), (test_id,) = *planted.files.items(), planted.functions
    return Sentinel(path, text, test_id)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


async def _rewritten(files: Files, rewrite: Callable[[str, str], str]) -> Files:
    """Each Python file by `rewrite(path, text)`; in a thread, since large files take a second."""

    def written(path: str, data: bytes | None) -> bytes | None:
        return data if data is None or not path.endswith(".py") else rewrite(path, data.decode()).encode()

    return await asyncio.to_thread(lambda: {path: written(path, data) for path, data in files.items()})
