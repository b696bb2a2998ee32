"""A grading desk on generated composite work."""

import dataclasses
import shlex
import uuid
from collections.abc import Mapping
from pathlib import Path

from desk import Desk

from sandbox_service.graders import Submission, grade
from sandbox_service.runner import Runner
from sandbox_service.sessions import Sessions
from sandbox_service.tasks import TaskSet, TaskSetWriter, read_task_set
from sandbox_service.workspaces import Trees
from skillrl.tasks.suites.case import Case, add


def write_cases(path: Path, kind: str, cases: Mapping[int, list[Case]]) -> TaskSet:
    """A task set of the cases, by seed, read back."""
    writer = TaskSetWriter(kind)
    for seed, few in cases.items():
        for case in few:
            add(writer, case, kind=kind, seed=seed, split="train")
    writer.write(path)
    return read_task_set(path)


def family_tasks(tasks: TaskSet) -> dict[str, str]:
    """Family -> task id, for a set with one task of each."""
    return {task.instance_id.partition("__")[2].partition(".")[0]: name for name, task in tasks.tasks.items()}


def desk_on(desk: Desk, tasks: TaskSet, folder: Path) -> Desk:
    """The same backend, other tasks."""
    trees = Trees(folder / "trees")
    runner = Runner(desk.backend, trees)
    sessions = Sessions(desk.backend, trees, [tasks], lambda request: grade(request, runner))
    sessions.accept()
    return dataclasses.replace(desk, runner=runner, tasks=tasks, sessions=sessions)


async def play(desk, task_id, program):
    """The grade of an episode in which a program runs, which must come to its end: one that stumbles proves nothing."""
    name = f"attack-{uuid.uuid4().hex}"
    await desk.sessions.open(name, "run", desk.tasks.digest, task_id, desk.tasks.task(task_id).skill)
    try:
        done = await desk.sessions.exec(name, "1", f"python3 -c {shlex.quote(program)}", 60.0)
        assert done.exit_code == 0, done.output.decode()
        return await desk.sessions.score(name, "2", Submission())
    finally:
        await desk.sessions.close([name])
