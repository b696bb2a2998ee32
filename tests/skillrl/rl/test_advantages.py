import dataclasses

import numpy as np
import pytest
from episodes import make_episode
from hypothesis import given
from hypothesis import strategies as st

from skillrl.rl.advantages import ESTIMATORS, GroupError, group_advantages, reward_advantages
from skillrl.rl.outcomes import learnable
from skillrl.types import Outcome, Status

UNGRADABLE = Outcome(None, reason="infra")
A, B, C, D = [1, 0, 0, 1], [0.2, 0.8, 0.5, 0.5], [1, 1, 1, 1], [0.7]


def _group(rewards, skill="editing", group="g"):
    outcomes = [UNGRADABLE if r is None else Outcome(r) for r in rewards]
    episodes = [
        make_episode([1, 2, 3], [0, 1, 1], number=i, skill=skill, group=group, outcome=o)
        for i, o in enumerate(outcomes)
    ]
    return [dataclasses.replace(e, task=episodes[0].task) for e in episodes]


@pytest.mark.parametrize(
    ("estimator", "rewards", "expected"),
    [
        ("mean", A, [0.5, -0.5, -0.5, 0.5]),
        ("mean", B, [-0.3, 0.3, 0, 0]),
        ("std", A, [0.866024, -0.866024, -0.866024, 0.866024]),
        ("std", B, [-1.22474, 1.22474, 0, 0]),
        ("std", B[:3], [-0.999997, 0.999997, 0]),
        ("leave_one_out", A, [2 / 3, -2 / 3, -2 / 3, 2 / 3]),
        ("leave_one_out", B, [-0.4, 0.4, 0, 0]),
        ("leave_one_out", [1, 2, 3, 4], [-2, -2 / 3, 2 / 3, 2]),
        ("mean", [1, 0, None, 1], [1 / 3, -2 / 3, 0, 1 / 3]),
        ("leave_one_out", [1, 0, None, 1], [0.5, -1, 0, 0.5]),
        ("mean", [None, None], [0, 0]),
        ("mean", [], []),
    ],
)
def test_vectors(estimator, rewards, expected):
    np.testing.assert_allclose(reward_advantages(rewards, estimator), expected, atol=6e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    "rewards", [C, D, [0.7, None], [0.35] * 7 + [0.35 + 1e-7], [1e6] * 3 + [1e6 + 0.01], [0.1 + 0.2, 0.3, 0.3]], ids=str
)
def test_singletons_ties_and_near_ties_give_zero(estimator, rewards):
    assert reward_advantages(rewards, estimator) == [0.0] * len(rewards)


@given(st.lists(st.none() | st.floats(-1, 1), max_size=12), st.sampled_from(ESTIMATORS), st.floats(-2, 2))
def test_centred_bounded_and_blind_to_a_shift_and_to_ungradable_members(rewards, estimator, shift):
    values = reward_advantages(rewards, estimator)
    assert abs(sum(values)) < 1e-6
    assert max(map(abs, values), default=0) <= len(rewards) + 1
    graded = [r for r in rewards if r is not None]
    alone = [v for r, v in zip(rewards, values, strict=True) if r is not None]
    np.testing.assert_allclose(reward_advantages(graded, estimator), alone)
    if not graded or max(graded) - min(graded) > 1e-3:
        shifted = [None if r is None else r + shift for r in rewards]
        np.testing.assert_allclose(reward_advantages(shifted, estimator), values, atol=1e-6)


def test_groups_never_merge_and_skills_scale():
    uneven = [_group(A, group="a"), _group(B[:3], group="b")]
    np.testing.assert_allclose(
        group_advantages(uneven[0], "std"), [0.866024, -0.866024, -0.866024, 0.866024], atol=6e-6
    )
    np.testing.assert_allclose(group_advantages(uneven[1], "std"), [-0.999997, 0.999997, 0], atol=6e-6)
    with pytest.raises(GroupError, match=r"\['a', 'b'\]"):
        group_advantages([*uneven[0], *uneven[1]])
    scale = {"localization": 0.5}
    assert group_advantages(_group([1, -1], "localization"), scale=scale) == [0.5, -0.5]
    assert group_advantages(_group([1, 0]), scale=scale) == [0.5, -0.5]
    with pytest.raises(ValueError, match="one of"):
        group_advantages(_group(A), "median")


def test_what_is_learned_from():
    group = _group([1, 0, None, 1])
    assert [e.episode_id for e in learnable(group)] == ["e0", "e1", "e3"]
    assert learnable(_group([1, None, None])) == []
    assert learnable(_group(C)) == []
    silent = dataclasses.replace(group[1], loss_mask=np.zeros(3, bool))
    assert learnable([group[0], silent, group[3]]) == []

    cut = [dataclasses.replace(group[1], status=s) for s in Status if "TRUNCATED" in s.name or s is Status.TIMED_OUT]
    for episode in cut:
        assert len(learnable([group[0], episode])) == 2
        assert learnable([group[0], episode], "mask") == []
        kept = learnable([*_group([1, 0]), episode], "mask")
        assert group_advantages(kept) == [0.5, -0.5]
    with pytest.raises(ValueError, match="truncated='drop'"):
        learnable(group, "drop")
