"""What grading takes and gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox_service.tasks import Environment, HiddenTask, Instance, TaskSet


@dataclass(frozen=True)
class Submission:
    """What the agent's final message handed in; trees and files are taken from its workspace."""

    # localization: the paths of the answer.
    files: tuple[str, ...] = ()
    # review: "YES" or "NO", and the text.
    judgment: str = ""
    review: str = ""
    # True when the message lacked what the skill's format asks for.
    missing: bool = False


@dataclass(frozen=True)
class GradeRequest:
    """One submission for one task."""

    task_set: TaskSet
    task: HiddenTask
    instance: Instance
    environment: Environment
    submission: Submission
    # The agent's workspace against its base; None marks a deletion.
    changed: Mapping[str, bytes | None]
    # "paper": the paper's reward; "shaped": partial credit where the skill has a natural measure of it.
    reward_mode: str = "paper"
    # Where the state of the container is the submission (graders/state.py): the workspace as an archive. None: it is
    # as it was at the start, or could not be read.
    state: bytes | None = None

    @property
    def shaped(self) -> bool:
        return self.reward_mode == "shaped"


@dataclass(frozen=True)
class Grade:
    """Either a reward, or the reason ("infra", "task" or "grader") why there is none."""

    reward: float | None
    components: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    detail: str = ""

    def __post_init__(self):
        if (self.reward is None) == (self.reason is None):
            raise ValueError("a grade has either a reward or a reason why there is none")


class TaskFault(Exception):
    """The task itself does not behave as its record says; the submission cannot be judged by it."""
