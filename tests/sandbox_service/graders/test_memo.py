"""Equal submissions are graded once, unequal ones and ungradable ones again."""

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from sandbox_service.graders.base import Grade, Submission
from sandbox_service.graders.memo import GradeMemo


@dataclass(frozen=True)
class Named:
    digest: str = "set"
    task_id: str = "task"


@dataclass(frozen=True)
class Request:
    task_set: Named = Named()
    task: Named = Named()
    submission: Submission = Submission(files=("a.py",))
    changed: dict = field(default_factory=lambda: {"a.py": b"x", "b.py": None})
    reward_mode: str = "paper"
    state: bytes | None = None


class Grader:
    def __init__(self, grade: Grade):
        self.calls, self.result = 0, grade

    async def __call__(self, request) -> Grade:
        self.calls += 1
        await asyncio.sleep(0.01)
        return self.result


GRADED = Grade(1.0, {}, None, "")


def test_equal_submissions_are_graded_once_even_at_the_same_time():
    async def go():
        grader = Grader(GRADED)
        memo = GradeMemo(grader)
        assert await asyncio.gather(*(memo(Request()) for _ in range(5))) == [GRADED] * 5
        assert await memo(Request(changed={"b.py": None, "a.py": b"x"})) == GRADED
        return grader.calls

    assert asyncio.run(go()) == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(Request(), task=Named(task_id="other")),
        replace(Request(), task_set=Named(digest="other")),
        replace(Request(), submission=Submission(files=("b.py",))),
        replace(Request(), changed={"a.py": b"y", "b.py": None}),
        replace(Request(), changed={"a.py": b"x"}),
        replace(Request(), reward_mode="shaped"),
        replace(Request(), state=b""),
    ],
)
def test_unequal_submissions_are_graded_apart(other):
    async def go():
        grader = Grader(GRADED)
        memo = GradeMemo(grader)
        await memo(Request())
        await memo(other)
        return grader.calls

    assert asyncio.run(go()) == 2


def test_ungradable_is_tried_again_and_memory_is_bounded():
    async def go():
        faulty = Grader(Grade(None, {}, "infra", "down"))
        memo = GradeMemo(faulty)
        await memo(Request())
        await memo(Request())
        bounded = Grader(GRADED)
        memo = GradeMemo(bounded, kept=1)
        for mode in ("paper", "shaped", "paper"):
            await memo(replace(Request(), reward_mode=mode))
        return faulty.calls, bounded.calls

    assert asyncio.run(go()) == (2, 3)


def test_a_caller_that_goes_away_does_not_end_it_for_the_others():
    async def go():
        grader = Grader(GRADED)
        memo = GradeMemo(grader)
        first = asyncio.create_task(memo(Request()))
        await asyncio.sleep(0)
        second = asyncio.create_task(memo(Request()))
        await asyncio.sleep(0)
        first.cancel()
        return await second, grader.calls

    assert asyncio.run(go()) == (GRADED, 1)
