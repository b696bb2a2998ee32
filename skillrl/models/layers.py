"""Parts that every layer of every family uses: projections, normalisation, the gated feed-forward."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from skillrl import sharding


@jax.custom_vjp
def project(x_BTD: Array, w_DX: Array) -> Array:
    """x w over the last axis of x and the first of w; w may have several output axes.

    The gradient of w is taken as x^T g, on CPU of matrices, which copies neither. JAX's own rule takes (g^T x)^T, and
    XLA copies on CPU what it transposes where rows and tokens are two axes.
    """
    return jnp.tensordot(x_BTD, w_DX, 1)


def _project_forward(x_BTD, w_DX):
    return project(x_BTD, w_DX), (x_BTD, w_DX)


def _project_backward(saved, g_BTX):
    x_BTD, w_DX = saved
    outputs = tuple(range(1, w_DX.ndim))
    grad_x_BTD = jnp.tensordot(g_BTX, w_DX, (tuple(axis + 1 for axis in outputs), outputs))
    # Rows and tokens that different axes of a mesh split cannot be one axis.
    if sharding.platform() != "cpu" or sharding.parts("tokens") > 1:
        return grad_x_BTD, jnp.tensordot(x_BTD, g_BTX, ((0, 1), (0, 1)))
    x_XD, g_XF = x_BTD.reshape(-1, x_BTD.shape[-1]), g_BTX.reshape(-1, math.prod(w_DX.shape[1:]))
    return grad_x_BTD, (x_XD.T @ g_XF).reshape(w_DX.shape)


project.defvjp(_project_forward, _project_backward)


def rms_norm(x: Float[Array, "*B D"], scale: Float[Array, " D"], eps: float) -> Float[Array, "*B D"]:
    """Root-mean-square normalisation over the last axis in float32 (arXiv:1910.07467)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype)


def gated_mlp(
    x_BTD: Float[Array, "B T D"],
    gate_DF: Float[Array, "D F"],
    up_DF: Float[Array, "D F"],
    down_FD: Float[Array, "F D"],
    tokens: str | None,
) -> Float[Array, "B T D"]:
    """SwiGLU, down(silu(gate(x)) * up(x)) (arXiv:2002.05202); `tokens` is the logical axis of T."""
    dtype = x_BTD.dtype
    gate_BTF, up_BTF = project(x_BTD, gate_DF.astype(dtype)), project(x_BTD, up_DF.astype(dtype))
    hidden_BTF = sharding.constrain(jax.nn.silu(gate_BTF) * up_BTF, "batch", tokens, "mlp")
    return project(hidden_BTF, down_FD.astype(dtype))
