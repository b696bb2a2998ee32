"""A grading service without the service: backend, runner and graders on the shelf's task set."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import shelf

from sandbox_service.backends.base import Backend
from sandbox_service.backends.jail import JailBackend
from sandbox_service.graders import Grade, GradeRequest, Submission, grade
from sandbox_service.runner import Runner, TestRun
from sandbox_service.tasks import TaskSet, apply_overlay
from sandbox_service.workspaces import Trees


@dataclass
class Desk:
    loop: asyncio.Runner
    backend: Backend
    runner: Runner
    tasks: TaskSet

    @classmethod
    async def open(cls, folder: Path, loop: asyncio.Runner) -> "Desk":
        backend = JailBackend(folder / "workspaces")
        await backend.start()
        return cls(loop, backend, Runner(backend, Trees(folder / "trees")), shelf.write_shelf(folder / "tasks"))

    def request(self, task_id: str, changed=None, submission=None, reward_mode="paper") -> GradeRequest:
        task = self.tasks.task(task_id)
        instance = self.tasks.instance_of(task)
        files = {p: t.encode() if isinstance(t, str) else t for p, t in (changed or {}).items()}
        environment = self.tasks.environment_of(instance)
        return GradeRequest(self.tasks, task, instance, environment, submission or Submission(), files, reward_mode)

    def grade(self, task_id: str, changed: Mapping[str, str | bytes | None] | None = None, **options) -> Grade:
        return self.loop.run(grade(self.request(task_id, changed, **options), self.runner))

    def run_tests(self, *overlays, tree: Mapping[str, bytes] | None = None, **options) -> TestRun:
        instance = self.tasks.instances[shelf.LIMIT_ID]
        run = self.runner.run_tests(self.tasks, instance.tree, overlays, shelf.ENVIRONMENT, **options)
        return self.loop.run(run)

    def start_files(self, task_id: str) -> dict[str, bytes]:
        """The tree that the task's agent starts from."""
        task = self.tasks.task(task_id)
        return apply_overlay(self.tasks.tree_files(self.tasks.instance_of(task).tree), task.visible)
