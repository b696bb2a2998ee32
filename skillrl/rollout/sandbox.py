"""What an episode needs of the sandbox service; `sandbox_service.client` provides it."""

from typing import Protocol

from sandbox_service import sandbox_pb2 as pb
from skillrl.skills import Submission
from skillrl.types import UNGRADABLE_REASONS, Outcome


class Session(Protocol):
    """One workspace. Calls raise when the service, not the agent's request, is at fault."""

    async def exec(self, command: str, timeout_s: float) -> pb.ExecReply: ...

    async def str_replace(
        self, command: str, path: str, new_text: str = "", old_text: str = ""
    ) -> pb.StrReplaceReply: ...

    async def score(self, submission: pb.Submission, reward_mode: str) -> pb.ScoreReply: ...

    async def close(self) -> None:
        """Safe to repeat; never raises."""
        ...


class Sandbox(Protocol):
    """Opens sessions. A cancelled `open` leaves none behind."""

    async def open(self, task_set: str, task_id: str, skill: str) -> Session: ...


def submission_message(submission: Submission) -> pb.Submission:
    return pb.Submission(
        files=submission.files, judgment=submission.judgment, review=submission.review, missing=submission.missing
    )


def outcome_of(reply: pb.ScoreReply) -> Outcome:
    """A graded or ungradable outcome; a reason that this client does not know counts as the grader's fault."""
    if reply.graded:
        return Outcome(reply.reward, dict(reply.components), detail=reply.detail, unsafe=reply.unsafe)
    reason, detail = reply.reason, reply.detail
    if reason not in UNGRADABLE_REASONS:
        reason, detail = "grader", f"unknown reason {reason!r}: {detail}"
    return Outcome(None, dict(reply.components), reason, detail, reply.unsafe)
