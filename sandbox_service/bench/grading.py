"""What a grade costs beyond the runs of tests that it is made of."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox_service.backends.base import Backend
from sandbox_service.graders import GradeRequest, Submission, grade
from sandbox_service.runner import Runner, TestRun
from sandbox_service.tasks import (
    Candidate,
    Environment,
    HiddenTask,
    Instance,
    TaskSet,
    TaskSetWriter,
    gold_overlay,
    read_task_set,
)
from sandbox_service.workspaces import Trees

SKILLS = ("localization", "editing", "unit_tests", "reproduction", "review")
SOURCE, TESTS = "pkg/money.py", "tests/test_money.py"
_GOLD = '''\
def discount(total, percent):
    """The total after a discount, which orders of 100 and more get."""
    if total >= 100:
        return round(total * (100 - percent) / 100, 2)
    return total
'''
_TEST = """\
import time

import pytest

from pkg.money import discount


@pytest.mark.parametrize("case", range({cases}))
def test_small_orders(case):
    time.sleep({pause_s})
    assert discount(case, 10) == case


def test_the_limit():
    assert discount(100, 10) == 90.0


def test_rounding():
    assert discount(333, 33) == 223.11
"""
_MUTANTS = (("100:", "101:"), ("100 -", "100 +"), ("/ 100, 2", "/ 101, 2"), (">=", ">"), (", 2)", ", 0)"), (">=", "<="))


def write_tasks(path: Path, cases: int, pause_s: float) -> TaskSet:
    """One instance with a task for every skill. Its suite has `cases` tests of `pause_s` each, and two quick ones."""
    writer = TaskSetWriter("bench")
    test = _TEST.format(cases=cases, pause_s=pause_s)
    tree = writer.add_tree({"pkg/__init__.py": b"", SOURCE: _GOLD.encode(), TESTS: test.encode()})
    writer.environments["e"] = Environment("e", (), (".",), ("tests",), timeout_s=120.0)
    bug, f2p = {SOURCE: _GOLD.replace(">=", ">")}, (f"{TESTS}::test_the_limit",)
    p2p = (*(f"{TESTS}::test_small_orders[{n}]" for n in range(cases)), f"{TESTS}::test_rounding")
    mutants = tuple({SOURCE: _GOLD.replace(old, new, 1)} for old, new in _MUTANTS)
    candidates = (Candidate({SOURCE: _GOLD}, True),)
    writer.instances.append(Instance("i", "e", tree, bug, f2p, p2p, SOURCE, "discount", mutants, candidates))
    without = test.partition("def test_the_limit")[0].rstrip() + "\n"
    for skill in SKILLS:
        visible = {TESTS: None} if skill == "unit_tests" else {**bug, TESTS: without}
        submitted = "tests/test_submission.py" if skill in ("unit_tests", "reproduction") else ""
        writer.tasks.append(HiddenTask(f"t-{skill}", skill, "i", visible, submitted, 0 if skill == "review" else -1))
        writer.public.append({"task_id": f"t-{skill}", "skill": skill})
    writer.write(path)
    return read_task_set(path)


def gold_request(tasks: TaskSet, skill: str) -> GradeRequest:
    """A submission that scores the maximum."""
    task = tasks.task(f"t-{skill}")
    instance = tasks.instance_of(task)
    correct = tasks.tree_files(instance.tree)
    changed: Mapping[str, bytes | None] = {}
    if skill == "editing":
        changed = {p: (t or "").encode() for p, t in gold_overlay(instance.bug, correct).items()}
    elif skill in ("unit_tests", "reproduction"):
        changed = {task.submission_path: correct[TESTS]}
    submission = Submission(files=tuple(instance.bug), judgment="YES", review="It is right.")
    return GradeRequest(tasks, task, instance, tasks.environment_of(instance), submission, changed)


class TimedRunner(Runner):
    """Adds up the seconds that tests were running."""

    tests_s = 0.0
    runs = 0

    async def run_tests(self, *arguments, pristine: bool = False, **options) -> TestRun:
        run = await super().run_tests(*arguments, pristine=pristine, **options)
        if not pristine:
            self.tests_s += run.wall_s
            self.runs += 1
        return run


@dataclass(frozen=True)
class Cost:
    """Means over the gradings of one skill."""

    grade_s: float
    tests_s: float
    runs: float

    @property
    def overhead_share(self) -> float:
        """Time beside the test runs, as a share of them; 0 for a skill that runs none."""
        return (self.grade_s - self.tests_s) / self.tests_s if self.tests_s else 0.0


async def costs(backend: Backend, folder: Path, tasks: TaskSet, repeats: int) -> dict[str, Cost]:
    """Grades the gold submission of every skill, one run of tests at a time.

    What the service makes once for a task and remembers (trees, runs that hold nothing of an agent) is made before.
    """
    runner = TimedRunner(backend, Trees(folder / "trees"), concurrency=1)
    found = {}
    for skill in SKILLS:
        request = gold_request(tasks, skill)
        await _grade(request, runner)
        runner.tests_s, runner.runs, started = 0.0, 0, time.perf_counter()
        for _ in range(repeats):
            await _grade(request, runner)
        seconds = time.perf_counter() - started
        found[skill] = Cost(seconds / repeats, runner.tests_s / repeats, runner.runs / repeats)
    return found


async def _grade(request: GradeRequest, runner: Runner) -> None:
    given = await grade(request, runner)
    if given.reward != 1:
        raise RuntimeError(f"the gold submission for {request.task.skill} got {given}; is the host overloaded?")


async def plain_pytest(tasks: TaskSet, folder: Path, python: str, repeats: int) -> float:
    """Seconds of `python -m pytest` on the correct tree as a subprocess without any sandbox; the median."""
    root = await Trees(folder / "trees").materialise(tasks, next(iter(tasks.instances.values())).tree)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        null = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            python, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=root, stdout=null, stderr=null
        )
        if await process.wait():
            raise RuntimeError("the benchmark's own tests fail under plain pytest")
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2]
