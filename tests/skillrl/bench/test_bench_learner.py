import json

import numpy as np
import pytest

from skillrl.bench import __main__ as bench
from skillrl.bench.learner import measure, random_batch, step_flops, table
from skillrl.models.config import ModelConfig
from skillrl.types import Batch

CFG = ModelConfig(vocab=64, embed=16, layers=1, q_heads=2, kv_heads=1, head_dim=8, mlp=32, remat="full")


def test_rows_are_full_and_positions_begin_anew_in_each_episode():
    batch = random_batch(CFG, rows=3, tokens=32, seed=1)
    assert batch.segment_ids[:, 0].tolist() == [1, 1, 1] and batch.segment_ids.max() == 2
    for segments, positions in zip(batch.segment_ids, batch.positions, strict=True):
        for segment in (1, 2):
            inside = positions[segments == segment]
            np.testing.assert_array_equal(inside, np.arange(len(inside)))
    assert not batch.loss_mask[batch.positions == 0].any()
    assert batch.loss_weights.sum() == pytest.approx(1) and not batch.loss_weights[~batch.loss_mask].any()


def test_operations_are_counted_by_hand():
    """One row of episodes of 3 and 1 tokens, two of them the policy's."""
    shape, ints = (1, 4), np.zeros((1, 4), np.int32)
    segments, mask = np.array([[1, 1, 1, 2]], np.int32), np.array([[False, True, True, False]])
    floats = np.zeros(shape, np.float32)
    batch = Batch(ints, segments, ints, mask, floats, floats, ints, floats)
    # q, k, v, o; gate, up, down; norms of the layer, of heads and at the end, which the shared count includes.
    layer = 16 * 8 * (2 + 1 + 1 + 2) + 3 * 16 * 32 + 2 * 16 + 2 * 8 + 16
    attention = 2 * (3**2 + 1**2) * 2 * 8
    assert step_flops(CFG, batch) == 3 * (2 * 4 * layer + 2 * 2 * 64 * 16 + attention)


def test_an_unknown_benchmark_names_the_known_ones(capsys):
    assert bench.main(["speed"]) == 2
    assert "learner" in capsys.readouterr().err


@pytest.mark.deep
def test_both_sides_compute_the_same_loss_before_and_after_updates():
    """Packed rows, two micro-batches, AdamW and clipping are the same in PyTorch."""
    pytest.importorskip("torch")
    result = measure(CFG, random_batch(CFG, rows=4, tokens=32, seed=0), rounds=3, micro_rows=2, threads=1)
    assert result["loss_difference_first"] < 1e-5 and result["loss_difference_last"] < 1e-4
    assert 0 < result["mfu"] < 1 and result["tokens_per_s"] * result["step_s"] == pytest.approx(128)
    assert json.loads(json.dumps(result)) == result and "times as fast as PyTorch" in table(result)
