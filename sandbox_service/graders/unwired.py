"""Kinds whose records are read and kept, and whose published rules this service cannot apply yet: never a reward."""

from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.runner import Runner


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    raise TaskFault(
        f"{request.instance.instance_id}: no grader applies the rule {request.environment.rule!r} of "
        f"{request.task.skill} yet; leave this kind out (--config.tasks.kinds, or --skills when reading the dataset)"
    )
