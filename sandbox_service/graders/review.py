"""Code review: 1 when the judgment equals the label that running the tests on the candidate gave, else 0."""

from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.runner import Runner

VERDICTS = {"YES": True, "NO": False}


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    candidates, index = request.instance.candidates, request.task.candidate
    if not 0 <= index < len(candidates):
        raise TaskFault(f"{request.instance.instance_id}: no candidate {index}")
    verdict = None if request.submission.missing else VERDICTS.get(request.submission.judgment)
    right = verdict is candidates[index].correct
    components = {
        "answered": float(verdict is not None),
        "said_yes": float(verdict is True),
        "label_yes": float(candidates[index].correct),
        "has_review": float(bool(request.submission.review.strip())),
    }
    return Grade(float(right), components)
