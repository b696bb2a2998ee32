"""Rotary positions (arXiv:2104.09864), over all or the first dimensions of each head, and their long-context forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from skillrl.models.config import ModelConfig


def frequencies(cfg: ModelConfig) -> tuple[np.ndarray, float]:
    """Angle per position of each pair, float32 [rotated_dim / 2], and the factor on cosines and sines."""
    exponents = np.arange(0, cfg.rotated_dim, 2, dtype=np.float32) / np.float32(cfg.rotated_dim)
    plain = np.float32(1) / np.float32(cfg.rope_theta) ** exponents
    if cfg.rope_type == "llama3":
        return _llama3(cfg, plain), 1.0
    if cfg.rope_type == "yarn":
        return _yarn(cfg, plain), cfg.rope_attention_factor or 0.1 * math.log(cfg.rope_factor) + 1.0
    return plain, 1.0


def _llama3(cfg: ModelConfig, plain: np.ndarray) -> np.ndarray:
    """Long waves are slowed by the factor, short ones kept, those between mixed (Llama 3.1's `apply_scaling`)."""
    turns = cfg.rope_original_positions * plain / np.float32(2 * math.pi)  # within the context trained for
    low, high = cfg.rope_low_freq_factor, cfg.rope_high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return ((1 - kept) * plain / cfg.rope_factor + kept * plain).astype(np.float32)


def _yarn(cfg: ModelConfig, plain: np.ndarray) -> np.ndarray:
    """Slowed where a pair turns fewer than beta_slow times, kept above beta_fast (arXiv:2309.00071, section 3.2)."""

    def pair_of(turns: float) -> float:
        waves = math.log(cfg.rope_original_positions / (turns * 2 * math.pi))
        return cfg.rotated_dim * waves / (2 * math.log(cfg.rope_theta))

    first = max(math.floor(pair_of(cfg.rope_beta_fast)), 0)
    last = min(math.ceil(pair_of(cfg.rope_beta_slow)), cfg.rotated_dim - 1)
    slowed = np.clip((np.arange(len(plain)) - first) / max(last - first, 1e-3), 0, 1)
    return (plain * (1 - slowed) + plain / cfg.rope_factor * slowed).astype(np.float32)


def rotary(positions: Int[Array, "B T"], cfg: ModelConfig) -> tuple[Array, Array]:
    """Cosines and sines, float32 [B, T, 1, rotated_dim / 2], of the rotary angles at these positions."""
    angle, factor = frequencies(cfg)
    angles = positions[..., None, None].astype(jnp.float32) * angle
    # The barrier keeps them tables: fused into every layer, forward and backward, they cost more than attention on CPU.
    return jax.lax.optimization_barrier((jnp.cos(angles) * factor, jnp.sin(angles) * factor))


@jax.custom_vjp
def rotate(x: Float[Array, "B T N H"], rotation: tuple[Array, Array]) -> Float[Array, "B T N H"]:
    """Turns the pairs (i, i + R / 2) of each head's first R dimensions by its position's angles; keeps the rest.

    The derivative turns them back; positions have none. JAX's own rule pads both halves to whole heads and adds them:
    on CPU that was measured to cost more than a matrix product.
    """
    cos, sin = rotation
    half = cos.shape[-1]
    x32 = x[..., : 2 * half].astype(jnp.float32)
    first, second = x32[..., :half], x32[..., half:]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
    return turned if 2 * half == x.shape[-1] else jnp.concatenate([turned, x[..., 2 * half :]], axis=-1)


def _rotate_forward(x, rotation):
    return rotate(x, rotation), rotation


def _rotate_backward(rotation, g):
    cos, sin = rotation
    return rotate(g, (cos, -sin)), None


rotate.defvjp(_rotate_forward, _rotate_backward)
