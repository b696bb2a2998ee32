import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillrl.models import rope
from skillrl.models.config import ModelConfig, variant


def _config(head_dim=8, **changes):
    return ModelConfig(vocab=8, embed=16, layers=1, q_heads=2, kv_heads=2, head_dim=head_dim, mlp=8, **changes)


def test_angles_by_hand():
    cos, sin = rope.rotary(jnp.array([[0, 1]]), _config(head_dim=4))
    np.testing.assert_allclose(cos[0, :, 0], [[1, 1], np.cos([1, 0.01])], rtol=1e-6)
    np.testing.assert_allclose(sin[0, :, 0], [[0, 0], np.sin([1, 0.01])], rtol=1e-6)


def test_rotation_by_hand():
    x = jnp.array([1.0, 2, 3, 4]).reshape(1, 1, 1, 4)
    turn = np.array([np.pi / 2, np.pi])
    got = rope.rotate(x, (np.cos(turn), np.sin(turn)))
    np.testing.assert_allclose(got.ravel(), [-3, -2, 1, -4], atol=1e-5)  # (1, 3) by a quarter, (2, 4) by a half turn
    half = rope.rotate(x, (np.cos(turn[:1]), np.sin(turn[:1])))
    np.testing.assert_allclose(half.ravel(), [-2, 1, 3, 4], atol=1e-5)  # (1, 2) by a quarter turn, the rest kept


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_products_depend_on_distance_alone(share):
    cfg = _config(rope_theta=100.0, rope_share=share)
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def dot(a, b):
        at = [rope.rotary(jnp.array([[p]]), cfg) for p in (a, b)]
        return (rope.rotate(q, at[0]) * rope.rotate(k, at[1])).sum()

    np.testing.assert_allclose(dot(7, 3), dot(104, 100), rtol=1e-3)
    assert abs(dot(7, 3) - dot(7, 2)) > 1e-3


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_derivative_is_the_rotation_s_transpose(share):
    """Of a linear map M: g M x = (M^T g) x for any x and g."""
    x, g = jax.random.normal(jax.random.key(0), (2, 1, 3, 2, 8))
    rotation = rope.rotary(jnp.array([[0, 5, 9]]), _config(rope_share=share, rope_theta=100.0))
    turned, back = jax.vjp(lambda x: rope.rotate(x, rotation), x)
    np.testing.assert_allclose((g * turned).sum(), (back(g)[0] * x).sum(), rtol=1e-5)


_YARN = {"rope_type": "yarn", "rope_factor": 4.0, "rope_original_positions": 32_768}
_CASES = {
    "default": {},
    "llama-3.1": {"rope_type": "llama3", "rope_factor": 8.0, "rope_original_positions": 8192, "rope_theta": 5e5},
    "llama-3.2": {"rope_type": "llama3", "rope_factor": 32.0, "rope_original_positions": 8192, "rope_theta": 5e5},
    "yarn": _YARN | {"rope_theta": 1e6},
    "yarn partial": _YARN | {"rope_theta": 1e6, "rope_share": 0.5},
    "yarn sharp": _YARN | {"rope_beta_fast": 16.0, "rope_beta_slow": 2.0, "rope_attention_factor": 1.25},
    "yarn short": _YARN | {"rope_original_positions": 32, "rope_theta": 100.0},
}


@pytest.mark.parametrize("case", _CASES)
def test_frequencies_are_those_of_transformers(case):
    transformers = pytest.importorskip("transformers")
    from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeRotaryEmbedding

    cfg = _config(head_dim=128, **_CASES[case])
    parameters = {
        "rope_type": cfg.rope_type,
        "rope_theta": cfg.rope_theta,
        "partial_rotary_factor": cfg.rope_share,
        "factor": cfg.rope_factor,
        "original_max_position_embeddings": cfg.rope_original_positions,
        "low_freq_factor": cfg.rope_low_freq_factor,
        "high_freq_factor": cfg.rope_high_freq_factor,
        "beta_fast": cfg.rope_beta_fast,
        "beta_slow": cfg.rope_beta_slow,
        "attention_factor": cfg.rope_attention_factor or None,
    }
    config = transformers.Glm4MoeConfig(
        head_dim=128, num_attention_heads=2, hidden_size=256, rope_parameters=parameters
    )
    oracle = Glm4MoeRotaryEmbedding(config)
    got, factor = rope.frequencies(cfg)
    np.testing.assert_allclose(got, oracle.inv_freq.numpy(), rtol=1e-6)
    np.testing.assert_allclose(factor, oracle.attention_scaling, rtol=1e-12)


def test_bad_rotations_are_refused():
    with pytest.raises(ValueError, match="rope_share=0.1 of head_dim=8 is 0"):
        _config(rope_share=0.1)
    with pytest.raises(ValueError, match="'llama3' needs rope_factor >= 1 and rope_original_positions > 0"):
        _config(rope_type="llama3")
    with pytest.raises(ValueError, match="rope_type='linear'; one of 'default', 'llama3', 'yarn'"):
        variant("tiny", rope_type="linear")
