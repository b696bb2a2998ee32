"""Operations of a step, by hand."""

import dataclasses

from skillrl.compile.flops import decode_flops, gradient_flops, layer_params, prefill_flops
from skillrl.models.config import ModelConfig, variant

TINY = ModelConfig(
    vocab=10, embed=4, layers=2, q_heads=2, kv_heads=1, head_dim=2, mlp=8, qk_norm=False, tied=False, remat="full"
)
# Of a layer: queries and output 2 * 16, keys and values 2 * 8, feed-forward 3 * 32; norms 2 * 4; the last norm 4.
LAYERS = 2 * (32 + 16 + 96 + 8) + 4


def test_layers_parameters():
    assert layer_params(TINY) == LAYERS
    assert layer_params(dataclasses.replace(TINY, tied=True)) == LAYERS


def test_a_gradient_is_three_forward_passes_and_full_remat_a_fourth():
    # 3 rows of 5 tokens. Head 10 * 4; causal attention 2 * 25 a row, layer and dimension of the heads.
    forward, head, attention = 2 * 15 * LAYERS, 2 * 15 * 40, 3 * 2 * 25 * 2 * 4
    full = gradient_flops(TINY, rows=3, tokens=5)
    assert full.model == 3 * (forward + head + attention)
    assert full.recomputed == forward + head + attention
    assert gradient_flops(dataclasses.replace(TINY, remat="none"), 3, 5).recomputed == head
    assert gradient_flops(dataclasses.replace(TINY, remat="attention"), 3, 5).recomputed == forward + head


def test_sampling_looks_at_its_whole_context():
    # Each new token: 2 operations a parameter, 4 a position of the context, layer and dimension of the heads.
    assert decode_flops(TINY, rows=3, context=7).model == 3 * (2 * (LAYERS + 40) + 4 * 7 * 2 * 4)
    assert prefill_flops(TINY, rows=3, chunk=6, context=7).model == 18 * (2 * LAYERS + 4 * 7 * 2 * 4)


def test_only_chosen_experts_work():
    """GLM-4.5-Air: 46 layers of attention, one dense, 45 of a router, 8 experts and the shared one."""
    attention = 4096 * 128 * (2 * 96 + 2 * 8) + (96 + 2 * 8) * 128 + 2 * 4096
    dense, expert, router = 3 * 4096 * 10_944, 3 * 4096 * 1408, 128 * 4096 + 128
    assert layer_params(variant("glm-4.5-air")) == 46 * attention + dense + 45 * (router + 9 * expert) + 4096
