"""Rewards, by skill. One file a skill; `grade` is the only entrance."""

import logging

from sandbox_service.errors import SandboxError, TaskSetError
from sandbox_service.graders import (
    commands,
    editing,
    leaderboard,
    localization,
    ml_engineering,
    refactoring,
    reproduction,
    review,
    reward_file,
    sanitizer,
    security,
    terminal,
    unit_tests,
    unwired,
)
from sandbox_service.graders.base import Grade, GradeRequest, Submission, TaskFault
from sandbox_service.runner import Runner

log = logging.getLogger(__name__)

_GRADERS = {
    "localization": localization.grade,
    "editing": editing.grade,
    "unit_tests": unit_tests.grade,
    "reproduction": reproduction.grade,
    "review": review.grade,
    # The same tests decide; the agent only knows less.
    "bug_fixing": editing.grade,
    "refactoring": refactoring.grade,
    "security": security.grade,
    "ml_engineering": ml_engineering.grade,
    "terminal": terminal.grade,
}

# Kinds whose generated tasks are graded here, and whose records of datasets bring a rule of their own.
_OWN_RULES = {"security", "ml_engineering", "terminal"}
_RULES = {"reward_file": reward_file.grade, "leaderboard": leaderboard.grade, "sanitizer": sanitizer.grade}


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    """Grades a submission in fresh workspaces. A fault that is not the agent's gives a reason instead of a reward."""
    skill = request.task.skill
    try:
        if skill not in _GRADERS:
            raise TaskFault(f"task {request.task.task_id} is for {skill!r}, which has no grader: {sorted(_GRADERS)}")
        if request.environment.parser and _GRADERS[skill] is editing.grade:
            return await commands.grade(request, runner)
        if request.environment.rule and skill in _OWN_RULES:
            return await _RULES.get(request.environment.rule, unwired.grade)(request, runner)
        return await _GRADERS[skill](request, runner)
    except (TaskFault, TaskSetError) as e:
        return Grade(None, reason="task", detail=str(e))
    except SandboxError as e:
        return Grade(None, reason="infra", detail=f"{type(e).__name__}: {e}")
    except Exception as e:
        log.exception("grader of %s failed on task %s", skill, request.task.task_id)
        return Grade(None, reason="grader", detail=f"{type(e).__name__}: {e}")


__all__ = ["Grade", "GradeRequest", "Submission", "grade"]
