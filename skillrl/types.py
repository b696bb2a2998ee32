"""The words of the system as frozen dataclasses: Task, Turn, Episode, Outcome, Batch."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

SKILLS = ("localization", "editing", "unit_tests", "reproduction", "review")
COMPOSITE_KINDS = ("bug_fixing", "refactoring", "security", "ml_engineering", "terminal")
UNGRADABLE_REASONS = ("infra", "task", "grader")


@dataclass(frozen=True)
class Task:
    """The public half of a task: everything the trainer and the prompt may see."""

    task_id: str
    # One of SKILLS or COMPOSITE_KINDS.
    skill: str
    instance_id: str
    # Where the repository comes from; splits never share one.
    repository: str
    # Kind of repository (world: the domain template; real code: the package).
    family: str
    # "train", "heldout_repositories" or "heldout_families".
    split: str
    # Difficulty, 0 is the easiest.
    level: int
    # What the prompt is made of; the keys are the skill's (`skillrl/skills/*.py`): issue, instruction, target,
    # contract, diff, submission_path.
    inputs: Mapping[str, str]
    # Digest of the task set that holds it, for the sandbox service.
    task_set: str = ""


class Status(enum.Enum):
    """How an episode ended. All but INFRA_ERROR are graded."""

    SUBMITTED = "submitted"
    TRUNCATED_TOKENS = "truncated_tokens"
    TRUNCATED_TURNS = "truncated_turns"
    TIMED_OUT = "timed_out"
    MALFORMED = "malformed"
    INFRA_ERROR = "infra_error"


@dataclass(frozen=True)
class Outcome:
    """Either graded (a reward) or ungradable (a reason); never both."""

    reward: float | None
    components: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    detail: str = ""
    # The service ran with --allow-unsafe: the agent's commands may have reached what graded them.
    unsafe: bool = False

    def __post_init__(self):
        if (self.reward is None) == (self.reason is None):
            raise ValueError("an outcome has either a reward or a reason why there is none")
        if self.reason is not None and self.reason not in UNGRADABLE_REASONS:
            raise ValueError(f"unknown reason {self.reason!r}; one of {UNGRADABLE_REASONS}")

    @property
    def graded(self) -> bool:
        return self.reward is not None


@dataclass(frozen=True)
class Turn:
    """One message of the token stream: [start, end) in the episode's tokens."""

    # "user", "assistant" or "tool".
    role: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Episode:
    """One attempt at one task: an append-only token stream and what became of it. T tokens."""

    episode_id: str
    # Episodes of one group share the task and are compared with each other.
    group_id: str
    task: Task
    tokens: np.ndarray  # int32 [T]
    # True on tokens that the policy sampled, the end-of-turn token included.
    loss_mask: np.ndarray  # bool [T]
    # Log-probability of each sampled token when it was sampled; 0 elsewhere.
    sampler_logprobs: np.ndarray  # float32 [T]
    # Policy version that sampled the token; -1 elsewhere.
    versions: np.ndarray  # int32 [T]
    turns: tuple[Turn, ...]
    status: Status
    outcome: Outcome
    # Seconds spent waiting, by "sampling", "tools", "grading".
    times_s: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        shape = self.tokens.shape
        if not (
            len(shape) == 1 and shape == self.loss_mask.shape == self.sampler_logprobs.shape == self.versions.shape
        ):
            raise ValueError(f"episode {self.episode_id}: per-token arrays differ in shape")


@dataclass(frozen=True)
class Batch:
    """Packed episodes: B rows of T tokens, several episodes a row, told apart by segment_ids.

    A value at position t belongs to the token at t; the learner shifts (the log-probability of token t comes from
    the output at t - 1).
    """

    tokens: np.ndarray  # int32 [B, T]
    # 1, 2, ... for the episodes of a row, 0 for padding.
    segment_ids: np.ndarray  # int32 [B, T]
    # Position within the episode.
    positions: np.ndarray  # int32 [B, T]
    loss_mask: np.ndarray  # bool [B, T]
    advantages: np.ndarray  # float32 [B, T], the episode's advantage on each of its tokens
    sampler_logprobs: np.ndarray  # float32 [B, T]
    # Index into SKILLS + COMPOSITE_KINDS, -1 on padding.
    skill_ids: np.ndarray  # int32 [B, T]
    # Weight of each token in the loss (denominators per skill are already in it); 0 where loss_mask is False.
    loss_weights: np.ndarray  # float32 [B, T]
