"""Causal attention with float32 softmax within the segments of packed rows, by the kernel for the platform."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from skillrl import sharding
from skillrl.models.remat import ATTENTION_OUTPUT

_MASKED = -1e30  # finite: a row without any key must stay finite too
_QUERY_BLOCK = 64
_SERIAL_BLOCK = 128
# What "auto" means on each platform.
_KERNELS = {"tpu": "splash", "gpu": "triton", "cpu": "jnp"}


def attend(
    q: Float[Array, "B K G Q H"], k: Float[Array, "B K S H"], v: Float[Array, "B K S H"], mask: Array
) -> Float[Array, "B K G Q H"]:
    """Softmax attention in float32; `mask` [B, Q, S] is True where a query may look."""
    # Added, not selected: XLA then fuses both products with the mask and the softmax on CPU.
    bias = jnp.where(mask, 0.0, _MASKED)[:, None, None]
    q = q * q.shape[-1] ** -0.5
    scores = jnp.einsum("bkgqh,bksh->bkgqs", q, k, preferred_element_type=jnp.float32) + bias
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    # Normalising the output instead of the weights saves a pass over [Q, S], forward and backward.
    out = jnp.einsum("bkgqs,bksh->bkgqh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / weights.sum(axis=-1, keepdims=True)).astype(q.dtype)


def packed_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
    kernel: str = "auto",
) -> Float[Array, "B T N H"]:
    """Causal attention within each segment of packed rows, sharded as the current mesh says.

    `kernel` is "jnp", "splash" (TPU), "triton" (GPU) or "auto", the one for the platform. The two Pallas kernels run
    interpreted, for tests, where the platform is a CPU. Raises ValueError where a kernel was asked for that cannot run.
    """
    platform = sharding.platform()
    if kernel == "auto":
        kernel = _KERNELS[platform] if _obstacle(_KERNELS[platform], platform, q.shape[-1]) is None else "jnp"
    if obstacle := _obstacle(kernel, platform, q.shape[-1]):
        raise ValueError(f"attention={kernel!r}: {obstacle}; use attention='auto' or 'jnp'")
    # Pallas is imported only where it is used: it takes longer to import than the rest of this package.
    if kernel == "splash":
        from skillrl.models.splash import splash_attention

        return splash_attention(q, k, v, segment_ids, interpret=platform == "cpu")
    if kernel == "triton":
        from skillrl.models.triton import triton_attention

        out = triton_attention(q, k, v, segment_ids, interpret=platform == "cpu")
    else:
        out = _jnp_attention(q, k, v, segment_ids)
    return checkpoint_name(out, ATTENTION_OUTPUT)


def _obstacle(kernel: str, platform: str, head_dim: int) -> str | None:
    """Why this kernel cannot run, or None."""
    if kernel == "splash" and platform == "gpu":
        return "the splash kernel is for TPUs"
    if kernel == "splash" and head_dim % 64:
        return f"the splash kernel needs a head_dim that is a multiple of 64, not {head_dim}"
    if kernel == "triton" and platform == "tpu":
        return "the Triton kernel is for GPUs"
    if kernel == "triton" and head_dim < 16:
        return f"the Triton kernel needs a head_dim of at least 16, not {head_dim}"
    if kernel == "triton" and sharding.parts("tokens") > 1:
        return "the Triton kernel cannot split tokens over the mesh axis 'context'"
    return None


def _jnp_attention(q, k, v, segment_ids):
    """Plain JAX. Tokens split over the mesh are gathered as keys and values, never as queries."""
    shards = sharding.parts("tokens")
    if shards == 1:
        return _blocked(q, k, v, segment_ids, segment_ids)
    axes = sharding.RULES["tokens"]

    def local(q, k, v, ids):
        k, v, all_ids = (jax.lax.all_gather(x, axes, axis=1, tiled=True) for x in (k, v, ids))
        return _blocked(q, k, v, ids, all_ids, first=jax.lax.axis_index(axes) * q.shape[1])

    q_spec, kv_spec, ids_spec = (
        sharding.spec("batch", "tokens", *rest) for rest in (("heads", None), ("kv_heads", None), ())
    )
    return jax.shard_map(local, in_specs=(q_spec, kv_spec, kv_spec, ids_spec), out_specs=q_spec)(q, k, v, segment_ids)


def _blocked(q, k, v, q_ids, kv_ids, first=0):
    """Attention of q [B, T, N, H], whose global positions begin at `first`, over all of k and v [B, S, K, H].

    In blocks of queries, so that [T, S] is never made. Where `first` is static the keys after a block are left out.
    """
    batch, length, heads, width = q.shape
    total = k.shape[1]
    q = q.reshape(batch, length, k.shape[2], heads // k.shape[2], width).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    index = jnp.arange(total)

    def rows(start, count, seen):
        """The output of the queries [start, start + count) over the first `seen` keys."""
        same = jax.lax.dynamic_slice_in_dim(q_ids, start, count, 1)[..., None] == kv_ids[:, None, :seen]
        mask = same & (first + start + index[:count, None] >= index[None, :seen])
        return attend(jax.lax.dynamic_slice_in_dim(q, start, count, 3), k[:, :, :seen], v[:, :, :seen], mask)

    block = max(_QUERY_BLOCK, -(-length // 16))
    if block > 2 * _SERIAL_BLOCK:
        block += -block % _SERIAL_BLOCK
    outs = []
    for start in range(0, length, block):
        count = min(block, length - start)
        seen = start + count if isinstance(first, int) else total
        outs.append(_serially(rows, start, count, seen) if block > 2 * _SERIAL_BLOCK else rows(start, count, seen))
    out = outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=3)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def _serially(rows, start, count, seen):
    """`rows` in smaller parts, one after the other and again in the backward pass.

    Without the loop XLA schedules the blocks of a long row at once, which takes the memory that they are to save: at
    8192 tokens it was measured to need five times as much, forward and backward, and the loop up to twice the time.
    """
    if count % _SERIAL_BLOCK:
        return rows(start, count, seen)
    part = jax.checkpoint(lambda at: rows(at, _SERIAL_BLOCK, seen))
    outs = jax.lax.map(part, jnp.arange(start, start + count, _SERIAL_BLOCK))
    return jnp.moveaxis(outs, 0, 3).reshape(*outs.shape[1:4], count, outs.shape[-1])
