"""What the service cannot run is refused by name, with the remedy, and never earns a reward."""

import asyncio
from dataclasses import replace

import foreign
import pytest
from service_support import BareTrees, PlainBackend

from sandbox_service.errors import TaskSetError
from sandbox_service.graders import GradeRequest, Submission, grade
from sandbox_service.sessions import Sessions
from sandbox_service.tasks import read_task_set

IMAGE = "swebench/sweb.eval.x86_64.acme_1776_money-7:latest"


def of_image(environment, instance):
    return replace(environment, image=IMAGE, workdir="/testbed"), instance


def without_tree(environment, instance):
    return environment, replace(instance, tree="", gold_patch="x")


async def opened(tmp_path, tasks, run):
    backend = PlainBackend(tmp_path / "workspaces")
    await backend.start()
    sessions = Sessions(backend, BareTrees(tmp_path / "trees"), [tasks], lambda request: grade(request, None))
    sessions.accept()
    try:
        return await run(sessions, backend)
    finally:
        await sessions.stop()
        await backend.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [(of_image, f"needs the image {IMAGE}.*--backend=docker --image={IMAGE}"), (without_tree, "--repositories=DIR")],
)
def test_a_session_is_refused_and_leaves_nothing(tmp_path, change, message):
    tasks = foreign.write_foreign(tmp_path / "tasks", change=change)

    async def run(sessions, backend):
        for _ in range(2):  # the same id may try again, and is refused again
            with pytest.raises(TaskSetError, match=message):
                await sessions.open("s1", "run", tasks.digest, "money-editing", "editing")
        assert len(sessions) == 0 and not backend.workspaces

    asyncio.run(opened(tmp_path, tasks, run))


def test_the_image_that_the_service_has_is_opened(tmp_path):
    foreign.write_foreign(tmp_path / "tasks", change=of_image)
    tasks = read_task_set(tmp_path / "tasks", [IMAGE])

    async def run(sessions, backend):
        await sessions.open("s1", "run", tasks.digest, "money-editing", "editing")
        assert len(backend.workspaces) == 1

    asyncio.run(opened(tmp_path, tasks, run))


@pytest.mark.parametrize("kind", ["security", "ml_engineering", "terminal"])
def test_kinds_whose_rule_is_not_wired_are_ungradable(tmp_path, kind):
    tasks = foreign.write_foreign(tmp_path / "tasks")
    task = replace(tasks.task("money-editing"), skill=kind)
    environment = replace(foreign.UNITTEST, rule="by_hand")
    request = GradeRequest(tasks, task, tasks.instance_of(task), environment, Submission(), {})
    result = asyncio.run(grade(request, None))
    assert result.reward is None and result.reason == "task"
    assert "no grader applies the rule 'by_hand'" in result.detail and "--skills" in result.detail


@pytest.mark.parametrize("skill", ["localization", "editing", "reproduction", "bug_fixing"])
def test_a_task_without_its_tree_is_ungradable(tmp_path, skill):
    tasks = foreign.write_foreign(tmp_path / "tasks", change=without_tree)
    task = tasks.task(f"money-{skill}")
    instance = tasks.instance_of(task)

    class NoRuns:
        async def tree_files(self, task_set, tree):
            return task_set.tree_files(tree)

    changed = {foreign.SOURCE: foreign.MONEY.encode(), task.submission_path: b"def test_a():\n    assert 0\n"}
    submission = Submission(files=(foreign.SOURCE,))
    request = GradeRequest(tasks, task, instance, tasks.environment_of(instance), submission, changed)
    result = asyncio.run(grade(request, NoRuns()))
    assert result.reward is None and result.reason == "task", result
