"""A grading service without the service: backend, runner and graders on the shelf's task set."""

import asyncio
import itertools
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import shelf

from sandbox_service.backends.base import Backend
from sandbox_service.backends.jail import JailBackend
from sandbox_service.graders import Grade, GradeRequest, Submission, grade
from sandbox_service.runner import Runner, TestRun
from sandbox_service.sessions import Sessions
from sandbox_service.tasks import TaskSet, apply_overlay
from sandbox_service.workspaces import Trees


@dataclass
class Desk:
    loop: asyncio.Runner
    backend: Backend
    runner: Runner
    tasks: TaskSet
    sessions: Sessions
    _names: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    async def open(cls, folder: Path, loop: asyncio.Runner, backend: Backend | None = None) -> "Desk":
        """On a backend that has been started, or on a jail of its own."""
        if backend is None:
            backend = JailBackend(folder / "workspaces")
            await backend.start()
        trees, tasks = Trees(folder / "trees"), shelf.write_shelf(folder / "tasks")
        runner = Runner(backend, trees)
        sessions = Sessions(backend, trees, [tasks], lambda request: grade(request, runner))
        sessions.accept()
        return cls(loop, backend, runner, tasks, sessions)

    def request(self, task_id: str, changed=None, submission=None, reward_mode="paper") -> GradeRequest:
        task = self.tasks.task(task_id)
        instance = self.tasks.instance_of(task)
        files = {p: t.encode() if isinstance(t, str) else t for p, t in (changed or {}).items()}
        environment = self.tasks.environment_of(instance)
        return GradeRequest(self.tasks, task, instance, environment, submission or Submission(), files, reward_mode)

    def grade(self, task_id: str, changed: Mapping[str, str | bytes | None] | None = None, **options) -> Grade:
        return self.loop.run(grade(self.request(task_id, changed, **options), self.runner))

    def play(self, task_id: str, program: str, submission: Submission | None = None) -> Grade:
        """An episode: a session in which a Python program runs, whose workspace is then graded."""
        return self.loop.run(self._play(task_id, program, submission or Submission()))

    async def _play(self, task_id: str, program: str, submission: Submission) -> Grade:
        name, skill = f"session-{next(self._names)}", self.tasks.task(task_id).skill
        await self.sessions.open(name, "run", self.tasks.digest, task_id, skill)
        try:
            await self.sessions.exec(name, "1", f"python3 -c {shlex.quote(program)}", 60.0)
            return await self.sessions.score(name, "2", submission)
        finally:
            await self.sessions.close([name])

    def run_tests(self, *overlays, tree: Mapping[str, bytes] | None = None, **options) -> TestRun:
        instance = self.tasks.instances[shelf.LIMIT_ID]
        run = self.runner.run_tests(self.tasks, instance.tree, overlays, shelf.ENVIRONMENT, **options)
        return self.loop.run(run)

    def start_files(self, task_id: str) -> dict[str, bytes]:
        """The tree that the task's agent starts from."""
        task = self.tasks.task(task_id)
        return apply_overlay(self.tasks.tree_files(self.tasks.instance_of(task).tree), task.visible)
