"""Splash attention, JAX's blocked Pallas kernel for TPUs, on the current mesh: rows, heads and tokens split.

Where the tokens are split over the context axis, each device holds 1/c of the queries and gathers all keys and values.
With contiguous parts the last device would compute nearly twice the average of the causal triangle, so the queries are
exchanged first: of 2c chunks, device i computes chunks i and 2c - 1 - i, which together cost the same everywhere
(the zigzag order of arXiv:2407.21783, section 3.3.2).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from skillrl import sharding
from skillrl.models.remat import ATTENTION_OUTPUT

_LANES = 128
# Tiles of the forward kernel and of the two backward kernels: those of MaxText's tuned v5p and v6e configurations
# (benchmarks/maxtext_trillium_model_configs.py); none was measured here.
_QUERY_BLOCK, _BACKWARD_QUERY_BLOCK, _KEY_BLOCK = 1024, 2048, 512


def splash_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
    *,
    interpret: bool,
) -> Float[Array, "B T N H"]:
    """Causal attention within segments; `interpret` runs the kernel without a TPU, for tests.

    T is padded to whole blocks. Under remat policies that save `ATTENTION_OUTPUT` the backward pass does not run the
    forward kernel again.
    """
    shards = sharding.parts("tokens")
    length = q.shape[1]
    padding = -length % (_LANES * (2 * shards if shards > 1 else 1))
    if padding:
        q, k, v, segment_ids = (
            jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2)) for x in (q, k, v, segment_ids)
        )
    kernel = _kernel(q.shape[1], q.shape[2] // sharding.parts("heads"), shards, interpret)
    operands = (q * q.shape[-1] ** -0.5, k, v, segment_ids)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _local(kernel, *operands, axes=None, shards=1)[:, :length]
    axes = sharding.RULES["tokens"]
    kernel_spec = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, axes)))
    q_spec, kv_spec, ids_spec = (
        sharding.spec("batch", "tokens", *rest) for rest in (("heads", None), ("kv_heads", None), ())
    )
    out = jax.shard_map(
        functools.partial(_local, axes=axes, shards=shards),
        in_specs=(kernel_spec, q_spec, kv_spec, kv_spec, ids_spec),
        out_specs=q_spec,
        check_vma=False,  # Pallas calls do not say over which axes their results vary
    )(kernel, *operands)
    return out[:, :length]


class _CausalMask(masks.CausalMask):
    """The causal mask over queries at the global positions `q_sequence`, ascending without gaps inside each block.

    While the kernel is prepared it asks of each block only whether any and whether all of it is visible. Two corners
    answer that; made in full, the blocks of 128K tokens take minutes.
    """

    def __init__(self, q_sequence: np.ndarray):
        super().__init__((q_sequence.size, q_sequence.size))
        self.q_sequence = q_sequence

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        queries, keys = self.q_sequence[index[0]], index[1]
        return np.array([[queries[0] >= keys.stop - 1, queries[-1] >= keys.start]])


def _kernel(length: int, heads: int, shards: int, interpret: bool) -> splash.SplashAttentionKernel:
    """The kernel of one device's heads and 1/shards of the queries, whose global positions follow `_chunks`."""
    chunks = _chunks(shards)
    chunk = length // chunks.size
    mask = _CausalMask((chunks.reshape(-1, 1) * chunk + np.arange(chunk, dtype=np.int32)).astype(np.int32).ravel())
    queries, backward, keys = (_tile(size, chunk) for size in (_QUERY_BLOCK, _BACKWARD_QUERY_BLOCK, _KEY_BLOCK))
    return splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            block_q=queries,
            block_kv=keys,
            block_q_dkv=backward,
            block_kv_dkv=keys,
            block_q_dq=backward,
            block_kv_dq=keys,
        ),
        head_shards=1,
        q_seq_shards=shards,
        residual_checkpoint_name=ATTENTION_OUTPUT,
        interpret=interpret,
    )


def _tile(size: int, length: int) -> int:
    """The largest tile of at most `size` that divides `length`, a multiple of 128."""
    return next(tile for tile in range(size, 0, -_LANES) if length % tile == 0)


def _local(kernel, q, k, v, q_ids, *, axes, shards):
    """One device's part: q [b, t, n, H] in natural order, k and v [b, t, k, H], segment ids [b, t]."""
    ids = q_ids
    if shards > 1:
        k, v, ids = (jax.lax.all_gather(x, axes, axis=1, tiled=True) for x in (k, v, q_ids))
        q, q_ids = (_exchange(x, axes, shards) for x in (q, q_ids))
    heads_first = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    out = jax.vmap(kernel)(*heads_first, splash.SegmentIds(q=q_ids, kv=ids)).transpose(0, 2, 1, 3)
    return _exchange(out, axes, shards, back=True) if shards > 1 else out


def _chunks(shards: int) -> np.ndarray:
    """Chunk of the row in each half of each device after the exchange, [shards, 2]; [[0]] where nothing is split.

    Device i has chunks i and 2c - 1 - i, one even and one odd; the even one comes first, because the first halves of
    all devices are the even chunks.
    """
    if shards == 1:
        return np.zeros((1, 1), int)
    chunks = np.stack([np.arange(shards), 2 * shards - 1 - np.arange(shards)], axis=1)
    return np.take_along_axis(chunks, np.argsort(chunks % 2, axis=1), axis=1)


def _exchange(x: Array, axes: tuple[str, ...], shards: int, back: bool = False) -> Array:
    """Moves the halves of axis 1 from contiguous order to that of `_chunks`, or back."""
    moved = []
    for half, part in enumerate(jnp.split(x, 2, axis=1)):
        pairs = [(int(chunk) // 2, device) for device, chunk in enumerate(_chunks(shards)[:, half])]
        moved.append(jax.lax.ppermute(part, axes, [(to, start) for start, to in pairs] if back else pairs))
    return jnp.concatenate(moved, axis=1)
