import dataclasses

import numpy as np
import pytest
from episodes import make_episode
from hypothesis import given
from hypothesis import strategies as st

from skillrl.rl.packing import SKILL_NAMES, PackingError, first_fit_decreasing, loss_weights, pack


def test_first_fit_decreasing_by_hand():
    assert first_fit_decreasing([3, 7, 5, 2, 4, 3], 10) == [[1, 0], [2, 4], [5, 3]]
    assert first_fit_decreasing([], 10) == []


@given(st.lists(st.integers(1, 20), max_size=40))
def test_bins_hold_everything_once(lengths):
    bins = first_fit_decreasing(lengths, 20)
    assert sorted(i for members in bins for i in members) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in members) <= 20 for members in bins)
    assert len(bins) <= max(1, 2 * sum(lengths) / 20 + 1) or not lengths


def test_every_token_keeps_what_belongs_to_it(episodes):
    advantages = np.linspace(-1, 1, len(episodes))
    batch = pack(episodes, advantages, length=40, rows_multiple=3)
    assert batch.tokens.shape == (6, 40) and batch.tokens.dtype == np.int32
    found = {}
    for row in range(6):
        for segment in range(1, batch.segment_ids[row].max() + 1):
            at = np.flatnonzero(batch.segment_ids[row] == segment)
            assert (np.diff(at) == 1).all()
            found[batch.tokens[row, at].tobytes()] = (row, at)
    assert len(found) == len(episodes)
    for episode, advantage in zip(episodes, advantages, strict=True):
        row, at = found[episode.tokens.tobytes()]
        np.testing.assert_array_equal(batch.positions[row, at], np.arange(len(at)))
        np.testing.assert_array_equal(batch.loss_mask[row, at], episode.loss_mask)
        np.testing.assert_array_equal(batch.sampler_logprobs[row, at], episode.sampler_logprobs)
        np.testing.assert_array_equal(batch.advantages[row, at], np.float32(advantage))
        assert (batch.skill_ids[row, at] == SKILL_NAMES.index(episode.task.skill)).all()
        assert ((batch.loss_weights[row, at] > 0) == episode.loss_mask).all()
    padding = batch.segment_ids == 0
    assert not batch.loss_mask[padding].any() and not batch.loss_weights[padding].any()
    assert (batch.skill_ids[padding] == -1).all()


def _episodes(counts_by_skill):
    return [
        make_episode(range(n + 1), [0] + [1] * n, number=i, skill=skill) for i, (skill, n) in enumerate(counts_by_skill)
    ]


@pytest.mark.parametrize(
    ("denominator", "expected"),
    [
        ("token_mean", [1 / 10, 1 / 10, 1 / 10]),
        ("skill_token_mean", [1 / 16, 1 / 16, 1 / 4]),  # two skills; 8 tokens of one, 2 of the other
        ("sequence_mean", [1 / 15, 1 / 9, 1 / 6]),
    ],
)
def test_denominators_by_hand(denominator, expected):
    episodes = _episodes([("editing", 5), ("editing", 3), ("review", 2)])
    np.testing.assert_allclose(loss_weights(episodes, denominator), expected)
    batch = pack(episodes, [1, 1, 1], length=16, denominator=denominator)
    np.testing.assert_allclose(batch.loss_weights.sum(), 1, rtol=1e-6)
    silent = dataclasses.replace(episodes[0], loss_mask=np.zeros(6, bool))
    np.testing.assert_allclose(loss_weights([silent, *episodes], denominator)[1:], expected)


def test_nothing_to_learn_from_is_all_zeros():
    batch = pack([], [], length=8, rows_multiple=4)
    assert batch.tokens.shape == (4, 8) and batch.loss_weights.sum() == 0


def test_the_first_token_is_never_learned():
    batch = pack([make_episode([5, 6], [1, 1])], [1.0], length=4)
    assert batch.loss_mask.tolist() == [[False, True, False, False]]
    assert batch.loss_weights.sum() == 1


def test_bad_input_names_episode_and_remedy(episodes):
    with pytest.raises(
        PackingError, match="episode e2 has 30 tokens but rows hold 29; lower the rollout's token budget"
    ):
        pack(episodes, [0] * 9, length=29)
    with pytest.raises(PackingError, match="9 episodes but 1 advantages"):
        pack(episodes, [0], length=40)
    with pytest.raises(PackingError, match="one of"):
        pack(episodes, [0] * 9, length=40, denominator="mean")
    with pytest.raises(PackingError, match="unknown skill 'poetry'"):
        pack([make_episode([1, 2], [0, 1], skill="poetry")], [0], length=4)
