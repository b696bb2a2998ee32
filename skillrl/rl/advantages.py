"""Group-relative advantages: how much better an episode did than the other attempts at its task."""

from collections.abc import Mapping, Sequence

import numpy as np

from skillrl.types import Episode

ESTIMATORS = ("mean", "std", "leave_one_out")

_STD_EPSILON = 1e-6
# Rewards closer than this are equal: 1 / std must not turn rounding into signal.
_TIE = 1e-5


class GroupError(ValueError):
    """Episodes that are not one group."""


def group_advantages(
    group: Sequence[Episode], estimator: str = "mean", scale: Mapping[str, float] | None = None
) -> list[float]:
    """Advantage of each episode of one group, times `scale` of its skill (default 1); 0 for ungradable ones.

    Raises GroupError when the episodes are of several groups: a baseline across tasks would be meaningless.
    """
    if len({(episode.group_id, episode.task.task_id) for episode in group}) > 1:
        raise GroupError(f"episodes of several groups: {sorted({e.group_id for e in group})}; call once a group")
    values = reward_advantages([episode.outcome.reward for episode in group], estimator)
    factor = (scale or {}).get(group[0].task.skill, 1.0) if group else 1.0
    return [factor * value for value in values]


def reward_advantages(rewards: Sequence[float | None], estimator: str = "mean") -> list[float]:
    """Advantages of the rewards r of one group; None is ungradable: it gets 0 and is in no mean.

    With mean, std (n - 1 in the denominator) and n over the graded members:
    "mean": r - mean (the paper; arXiv:2503.20783). "std": (r - mean) / (std + 1e-6) (arXiv:2402.03300).
    "leave_one_out": r - mean of the others = n / (n - 1) (r - mean) (arXiv:2402.14740).
    A single graded member, and members with equal rewards, get 0.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"advantages estimator {estimator!r}; one of {ESTIMATORS}")
    graded = [i for i, reward in enumerate(rewards) if reward is not None]
    values = np.zeros(len(rewards))
    r = np.array([rewards[i] for i in graded], np.float64)
    if not tied(r):
        centred = r - r.mean()
        if estimator == "std":
            centred /= r.std(ddof=1) + _STD_EPSILON
        elif estimator == "leave_one_out":
            centred *= len(r) / (len(r) - 1)
        values[graded] = centred
    return values.tolist()


def tied(rewards: Sequence[float]) -> bool:
    """Whether the rewards, fewer than two included, are equal up to rounding."""
    return len(rewards) < 2 or max(rewards) - min(rewards) < _TIE * max(1.0, *map(abs, rewards))
