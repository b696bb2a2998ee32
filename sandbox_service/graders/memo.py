"""Equal submissions to one task are graded once: the members of a group often say the same."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from sandbox_service.graders.base import Grade, GradeRequest


class GradeMemo:
    """`grade` with a memory of the last `kept` submissions. What could not be graded is not remembered.

    A submission that is being graded is joined, and a caller that goes away does not end it for the others.
    """

    def __init__(self, grade: Callable[[GradeRequest], Awaitable[Grade]], kept: int = 4096):
        self._grade, self._kept = grade, kept
        self._grades: OrderedDict[str, asyncio.Task[Grade]] = OrderedDict()

    async def __call__(self, request: GradeRequest) -> Grade:
        key = _fingerprint(request)
        task = self._grades.get(key)
        if task is None:
            task = self._grades[key] = asyncio.create_task(self._grade(request))
            task.add_done_callback(lambda done: self._finished(key, done))
        self._grades.move_to_end(key)
        return await asyncio.shield(task)

    def _finished(self, key: str, done: asyncio.Task[Grade]) -> None:
        if done.cancelled() or done.exception() is not None or done.result().reward is None:
            self._grades.pop(key, None)
        while len(self._grades) > self._kept:
            self._grades.popitem(last=False)


def _fingerprint(request: GradeRequest) -> str:
    whole = hashlib.sha256()
    for part in (request.task_set.digest, request.task.task_id, request.reward_mode, request.submission):
        whole.update(repr(part).encode() + b"\0")
    for path, data in sorted(request.changed.items()):
        whole.update(f"{path!r} {-1 if data is None else len(data)}\0".encode())
        whole.update(data or b"")
    whole.update(b"none" if request.state is None else hashlib.sha256(request.state).digest())
    return whole.hexdigest()
