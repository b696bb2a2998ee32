"""Causal attention in float32 softmax: within the segments of packed rows, and over the cache."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_MASKED = -1e30  # finite: a row without any key must stay finite too
_QUERY_BLOCK = 64
_READ_LENGTHS = 8


def attend(
    q: Float[Array, "B K G Q H"], k: Float[Array, "B K H S"], v: Float[Array, "B K S H"], mask: Array
) -> Float[Array, "B K G Q H"]:
    """Softmax attention in float32; `mask` [B, Q, S] is True where a query may look. Used by both paths.

    A single query is a matrix-vector product: written as multiply and sum it is fused with the mask and the softmax.
    """
    q = q * q.shape[-1] ** -0.5
    if q.shape[3] == 1:
        scores = (q[:, :, :, 0, :, None] * k[:, :, None]).astype(jnp.float32).sum(axis=-2)[:, :, :, None]
    else:
        scores = jnp.einsum("bkgqh,bkhs->bkgqs", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores, _MASKED)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    # Normalising the output instead of the weights saves a pass over [Q, S], forward and backward.
    out = jnp.einsum("bkgqs,bksh->bkgqh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / weights.sum(axis=-1, keepdims=True)).astype(q.dtype)


def packed_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """Causal attention within each segment, over blocks of queries so that most of the upper triangle is never made."""
    batch, length, heads, width = q.shape
    groups = heads // k.shape[2]
    q = q.reshape(batch, length, k.shape[2], groups, width).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
    index = jnp.arange(length)
    block = max(_QUERY_BLOCK, -(-length // 16))
    outs = []
    for start in range(0, length, block):
        end = min(start + block, length)
        same = segment_ids[:, start:end, None] == segment_ids[:, None, :end]
        mask = same & (index[start:end, None] >= index[None, :end])
        outs.append(attend(q[:, :, :, start:end], k[..., :end], v[:, :, :end], mask))
    out = outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=3)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def cached_attention(
    q: Float[Array, "B C N H"],
    k: Float[Array, "B K H S"],
    v: Float[Array, "B K S H"],
    positions: Int[Array, "B C"],
) -> Float[Array, "B C N H"]:
    """Attention of new tokens over the cache at positions up to their own.

    Only the smallest of a few static lengths that holds every position is read: time follows the longest row in
    use, not the capacity.
    """
    batch, count, heads, width = q.shape
    kv_heads, capacity = k.shape[1], k.shape[-1]
    q = q.reshape(batch, count, kv_heads, heads // kv_heads, width).transpose(0, 2, 3, 1, 4)
    step = 128 * max(1, math.ceil(capacity / (128 * _READ_LENGTHS)))

    def over(end, q, k, v):
        mask = jnp.arange(end) <= positions[..., None]
        return attend(q, k[..., :end], v[:, :, :end], mask)

    branches = [functools.partial(over, min(end, capacity)) for end in range(step, capacity + step, step)]
    longest = jnp.clip(positions.max(), 0, capacity - 1)
    out = jax.lax.switch(longest // step, branches, q, k, v)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, count, heads, width)
