"""Parts that every layer of every family uses: projections, normalisation, rotary positions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.custom_vjp
def project(x_BTD: Array, w_DX: Array) -> Array:
    """x w over the last axis of x and the first of w; w may have several output axes.

    The gradient of w is taken as x^T g. JAX's own rule takes (g^T x)^T; where g is wider than x the transposed copy
    of g was measured to be the most expensive operation of a training step on CPU.
    """
    return jnp.tensordot(x_BTD, w_DX, 1)


def _project_forward(x_BTD, w_DX):
    return project(x_BTD, w_DX), (x_BTD, w_DX)


def _project_backward(saved, g_BTX):
    x_BTD, w_DX = saved
    outputs = tuple(range(1, w_DX.ndim))
    grad_x_BTD = jnp.tensordot(g_BTX, w_DX, (tuple(axis + 1 for axis in outputs), outputs))
    return grad_x_BTD, jnp.tensordot(x_BTD, g_BTX, ((0, 1), (0, 1)))


project.defvjp(_project_forward, _project_backward)


def rms_norm(x: Float[Array, "*B D"], scale: Float[Array, " D"], eps: float) -> Float[Array, "*B D"]:
    """Root-mean-square normalisation over the last axis in float32 (arXiv:1910.07467)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype)


def rotary(positions: Int[Array, "B T"], head_dim: int, theta: float) -> tuple[Array, Array]:
    """Cosines and sines [B, T, 1, head_dim / 2] of the rotary angles (arXiv:2104.09864)."""
    frequencies = theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    # The barrier keeps them tables: fused into every layer, forward and backward, they cost more than attention on CPU.
    return jax.lax.optimization_barrier((jnp.cos(angles), jnp.sin(angles)))


def rotate(x: Float[Array, "B T N H"], rotation: tuple[Array, Array]) -> Float[Array, "B T N H"]:
    """Turns the pairs (i, i + H / 2) of each head by the angles of its position."""
    cos, sin = rotation
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
