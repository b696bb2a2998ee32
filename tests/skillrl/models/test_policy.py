import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillrl.models import attention, layers
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig, variant
from skillrl.models.remat import POLICIES


@pytest.fixture(scope="module")
def policy(cfg, mesh):
    return models.Policy.create(cfg, mesh, seed=0)


def _packed(policy, tokens, positions=None, segments=None):
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape) if positions is None else positions
    segments = np.ones_like(tokens) if segments is None else segments
    return np.asarray(_packed_logprobs(policy.cfg, models.split(policy), tokens, positions, segments))


@functools.partial(jax.jit, static_argnums=0)
def _packed_logprobs(cfg, params, *inputs):
    policy = models.merge(cfg, params)
    return jax.nn.log_softmax(policy.logits(policy(*inputs)))


def _tokens(rows, length, seed=0):
    return np.random.default_rng(seed).integers(0, 64, (rows, length)).astype(np.int32)


def test_rms_norm_by_hand():
    got = layers.rms_norm(jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0]), 0.0)  # root mean square = sqrt(12.5)
    np.testing.assert_allclose(got, [3 / 12.5**0.5, 8 / 12.5**0.5], rtol=1e-6)


def test_projection_has_the_gradients_of_a_product():
    x, w = jax.random.normal(jax.random.key(0), (2, 3, 4)), jax.random.normal(jax.random.key(1), (4, 5, 6))

    def loss(product):
        return lambda x, w: jnp.sin(product(x, w)).sum()

    got = jax.grad(loss(layers.project), argnums=(0, 1))(x, w)
    want = jax.grad(loss(lambda x, w: jnp.einsum("btd,dnh->btnh", x, w)), argnums=(0, 1))(x, w)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_attention_by_hand():
    # Two queries over two keys; scores q k / sqrt(4): [0, 1] and [0, 2]; the first query sees only the first key.
    q = jnp.array([1.0, 2.0]).reshape(1, 1, 1, 2, 1) * jnp.array([1.0, 0, 0, 0])
    k = jnp.array([0.0, 2.0]).reshape(1, 1, 2, 1) * jnp.array([1.0, 0, 0, 0])
    v = jnp.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]).reshape(1, 1, 2, 4)
    out = attention.attend(q, k, v, jnp.array([[[True, False], [True, True]]]))[0, 0, 0]
    p = np.exp(2) / (1 + np.exp(2))
    np.testing.assert_allclose(out, [[1, 0, 0, 0], [1 - p, p, 0, 0]], rtol=1e-6)


def test_a_token_sees_nothing_after_it_and_nothing_of_other_segments(policy):
    tokens = _tokens(1, 24)
    segments = np.repeat([[1, 2, 0]], 8, axis=1)
    positions = np.tile(np.arange(8), (1, 3))
    base = _packed(policy, tokens, positions, segments)
    changed = tokens.copy()
    changed[0, 12:] = (changed[0, 12:] + 1) % 64
    got = _packed(policy, changed, positions, segments)
    np.testing.assert_array_equal(got[0, :12], base[0, :12])
    assert np.abs(got[0, 12:16] - base[0, 12:16]).max() > 1e-3


@pytest.mark.parametrize("length", [24, 300])
def test_packed_equals_separate(policy, length):
    """300 tokens take several blocks of queries."""
    tokens, cuts = _tokens(1, length, seed=1), [0, length // 3, length // 3 + 5, length]
    segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    for i, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False), 1):
        segments[0, a:b], positions[0, a:b] = i, np.arange(b - a)
    packed = _packed(policy, tokens, positions, segments)
    for a, b in zip(cuts, cuts[1:], strict=False):
        np.testing.assert_allclose(packed[:, a:b], _packed(policy, tokens[:, a:b]), atol=2e-5)


def test_unrolling_does_not_change_values(cfg, policy):
    other = models.merge(dataclasses.replace(cfg, unroll=1), models.split(policy))
    tokens = _tokens(2, 16)
    np.testing.assert_allclose(_packed(other, tokens), _packed(policy, tokens), atol=1e-5)


@functools.cache
def _gradient(cfg):
    """Compiled gradient of a sum of log-probabilities at 16 tokens."""

    def loss(params, tokens):
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden = models.merge(cfg, params)(tokens, positions, jnp.ones_like(tokens))
        return jnp.square(hidden).sum(where=jnp.arange(hidden.shape[-1]) % 2 == 0)

    shapes = models.abstract_params(cfg), jax.ShapeDtypeStruct((2, 16), jnp.int32)
    return jax.jit(jax.grad(loss)).lower(*shapes).compile()


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICIES)
def test_what_is_recomputed_does_not_change_gradients(cfg, policy, name):
    cfg = dataclasses.replace(cfg, unroll=1)
    other = _gradient(dataclasses.replace(cfg, remat=name))
    args = models.split(policy), _tokens(2, 16)
    for got, want in zip(jax.tree.leaves(other(*args)), jax.tree.leaves(_gradient(cfg)(*args)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    ("name", "total"),
    [  # of the weights' files on huggingface.co, a tied head counted once
        ("qwen2.5-coder-7b", 7_615_616_512),
        ("qwen2.5-coder-32b", 32_763_876_352),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-32b", 32_762_123_264),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.2-1b", 1_235_814_400),
    ],
)
def test_variants_have_their_published_sizes(name, total):
    assert variant(name).num_params == total


def test_active_parameters_by_hand():
    """Of 4 experts of 3 * 8 * 4 weights each, a token meets 1: in the second of two layers."""
    cfg = ModelConfig(
        vocab=8, embed=8, layers=2, q_heads=2, kv_heads=2, head_dim=4, mlp=8, experts=4, experts_per_token=1,
        expert_mlp=4, first_dense_layers=1,
    )  # fmt: skip
    assert cfg.num_params - cfg.active_params == 3 * (3 * 8 * 4)
    assert variant("tiny").active_params == variant("tiny").num_params


def test_initial_activations_keep_their_scale(mesh):
    """Fan-in initialisation: logits of a fresh policy have a spread near one, whatever the width."""
    for width in (32, 128):
        wide = ModelConfig(vocab=64, embed=width, layers=2, q_heads=4, kv_heads=2, head_dim=16, mlp=2 * width)
        fresh = models.Policy.create(wide, mesh, seed=0)
        assert 0.5 < _packed(fresh, _tokens(2, 32)).std(axis=-1).mean() < 2


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="unknown model variant 'nano'"):
        variant("nano")
    with pytest.raises(ValueError, match="no multiple of kv_heads"):
        variant("tiny", kv_heads=3)
