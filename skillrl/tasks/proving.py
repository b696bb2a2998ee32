"""Grades submissions that no agent made, in a sandbox of one's own: where task sets are built and proven."""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from sandbox_service.backends.base import Backend
from sandbox_service.backends.docker import DockerBackend
from sandbox_service.backends.jail import JailBackend
from sandbox_service.errors import IsolationError
from sandbox_service.graders import grade
from sandbox_service.graders.base import Grade, GradeRequest
from sandbox_service.graders.state import state_after
from sandbox_service.runner import Runner
from sandbox_service.tasks import HiddenTask, TaskSet
from sandbox_service.workspaces import Trees
from skillrl.tasks.submissions import Handed


@dataclass(frozen=True)
class ProvingGround:
    """A sandbox of one's own, in this process."""

    backend: Backend
    trees: Trees
    runner: Runner


@contextlib.asynccontextmanager
async def proving_ground(jobs: int = 2, image: str = "") -> AsyncIterator[ProvingGround]:
    """In containers of `image` where one is named, else in the jail.

    Raises IsolationError with the remedy when the host cannot isolate what runs.
    """
    # A thread that still fills the cache when an error ends the proof must not hide that error.
    with tempfile.TemporaryDirectory(prefix="proving-", ignore_cleanup_errors=True) as folder:
        workspaces, trees = Path(folder, "workspaces"), Trees(Path(folder, "trees"))
        backend = DockerBackend(workspaces, image, pool=0) if image else JailBackend(workspaces)
        try:
            await backend.start()
            isolation = await backend.self_test()
            if isolation.unenforced:
                raise IsolationError(
                    f"isolation does not hold on this host ({', '.join(sorted(isolation.unenforced))}); "
                    "python -m sandbox_service says why; run on a host where it holds"
                )
            yield ProvingGround(backend, trees, Runner(backend, trees, concurrency=jobs))
        finally:
            await backend.stop()


def question(task_set: TaskSet, task: HiddenTask, handed: Handed) -> str:
    """Names what is asked of the grader. Code editing and bug fixing of one instance ask the same: one prompt says more
    than the other, and no grader sees a prompt. A grade that one of them was given in a run is the other's too.
    """
    kind = "editing" if task.skill in ("editing", "bug_fixing") else task.task_id
    changed = {
        path: None if data is None else hashlib.sha256(data).hexdigest() for path, data in handed.changed.items()
    }
    asked = [task_set.digest, kind, task.instance_id, sorted(task.visible.items()), sorted(changed.items())]
    asked += [repr(handed.submission), handed.script, handed.sees_solution]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


async def grade_submission(task_set: TaskSet, task: HiddenTask, handed: Handed, runner: Runner) -> Grade:
    """The grade of a submission that no agent made. Raises TaskFault when the task is not whole."""
    instance = task_set.instance_of(task)
    environment = task_set.environment_of(instance)
    request = GradeRequest(task_set, task, instance, environment, handed.submission, handed.changed)
    if handed.script:
        # As in a session: a state that cannot be read is the start's.
        with contextlib.suppress(ValueError):
            left = await state_after(request, runner, handed.script, with_solution=handed.sees_solution)
            request = replace(request, state=left)
    return await grade(request, runner)
