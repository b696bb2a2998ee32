"""What the end of an episode means for learning."""

from collections.abc import Sequence

from skillrl.rl.advantages import tied
from skillrl.types import Episode, Status

TRUNCATED = (Status.TRUNCATED_TOKENS, Status.TRUNCATED_TURNS, Status.TIMED_OUT)
TRUNCATION_POLICIES = ("keep", "mask")


def learnable(group: Sequence[Episode], truncated: str = "keep") -> list[Episode]:
    """The members of a group that are learned from; empty where they say nothing about each other.

    Out of both loss and baseline are: ungradable episodes (a fault of ours is not a reward), episodes in which the
    policy said nothing, and with truncated="mask" those that ran out of tokens, turns or time ("keep" learns from
    their graded reward). What remains of a group teaches nothing when it is a single episode or all rewards are equal.
    """
    if truncated not in TRUNCATION_POLICIES:
        raise ValueError(f"truncated={truncated!r}; one of {TRUNCATION_POLICIES}")
    kept = [
        episode
        for episode in group
        if episode.outcome.graded
        and episode.loss_mask.any()
        and not (truncated == "mask" and episode.status in TRUNCATED)
    ]
    if len(kept) < 2 or tied([episode.outcome.reward for episode in kept]):
        return []
    return kept
