"""Attention over a paged cache: jax's Pallas kernel on TPU, else a loop over blocks of pages.

Shape suffixes beside those of policy.py: S replicas, T new tokens, A rows, P pages of a row, C queries of a block.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from skillrl import sharding
from skillrl.models.cache import PagedCache, Ragged

_MASKED = -1e30  # finite: a row without any key must stay finite too
_QUERY_BLOCK = 16
_KEY_BLOCK = 64


def extend_and_attend(
    cache: PagedCache,
    layer: Int[Array, ""],
    layers: int,
    q_STNH: Float[Array, "S T N H"],
    k_STKH: Float[Array, "S T K H"],
    v_STKH: Float[Array, "S T K H"],
    ragged: Ragged,
) -> tuple[PagedCache, Float[Array, "S T N H"]]:
    """Writes the new keys and values into `layer` of the cache, then attends each query up to its own position.

    On a mesh every replica works on its own pages and every chip of the tensor axis on its own heads. Donate the cache
    (or carry it through a loop) to update it in place.
    """
    local = functools.partial(_local, layers=layers)
    if not jax.sharding.get_abstract_mesh().empty:
        heads, kv = sharding.spec("batch", None, "heads", None), sharding.spec("batch", None, "kv_heads", None)
        rows = Ragged(*[sharding.spec("batch")] * len(ragged))
        local = jax.shard_map(
            local,
            in_specs=(kv, PartitionSpec(), heads, kv, kv, rows),
            out_specs=(kv, heads),
            check_vma=False,
        )
    kv, out_STNH = local(cache.kv, layer, q_STNH, k_STKH, v_STKH, ragged)
    return PagedCache(kv), out_STNH


def _local(kv, layer, q_STNH, k_STKH, v_STKH, ragged, *, layers):
    """For one replica: S is 1."""
    q_TNH, tokens = q_STNH[0], q_STNH.shape[1]
    pages, size = kv.shape[0] // layers, kv.shape[1]
    (row_ST, position_ST), (starts_A, lengths_A, rows, table_AP) = ragged.positions(tokens), (x[0] for x in ragged)
    row_T, position_T = row_ST[0], position_ST[0]
    new_TKH = jnp.stack([k_STKH[0], v_STKH[0]], axis=2).reshape(tokens, *kv.shape[2:])
    # Pages are used again, and a masked 0 x NaN would be NaN: what is not finite must not get into them.
    new_TKH = jnp.where(jnp.isfinite(new_TKH), new_TKH, 0).astype(kv.dtype)
    page_T = table_AP[row_T, position_T // size] + layer * pages
    kv = kv.at[jnp.where(position_T < 0, kv.shape[0], page_T), position_T % size].set(new_TKH, mode="drop")
    attention = attend_pages_on_tpu if sharding.platform() == "tpu" else attend_pages
    return kv, attention(q_TNH, kv, lengths_A, table_AP + layer * pages, starts_A, rows)[None]


def attend_pages_on_tpu(q_TNH, kv, lengths_A, table_AP, starts_A, rows):
    """jax's ragged paged attention. Its own choice of block sizes asks the local device, which may be none."""
    # Pallas is imported only where it is used: it takes long to import.
    from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

    return ragged_paged_attention(
        q_TNH,
        kv,
        jnp.maximum(lengths_A, starts_A[1:] - starts_A[:-1]),
        table_AP,
        starts_A,
        rows[None],
        sm_scale=q_TNH.shape[-1] ** -0.5,
        num_kv_pages_per_block=min(table_AP.shape[1], max(1, 256 // kv.shape[1])),
        num_queries_per_block=min(q_TNH.shape[0], 32),
    )


def attend_pages(
    q_TNH: Float[Array, "T N H"],
    kv: Float[Array, "X page 2K H"],
    lengths_A: Int[Array, " A"],
    table_AP: Int[Array, "A P"],
    starts_A: Int[Array, " A+1"],
    rows: Int[Array, ""],
) -> Float[Array, "T N H"]:
    """The same as the kernel, in jnp: softmax in float32, made up block by block of keys (arXiv:1805.02867).

    Reads only as many blocks as the longest row has. A block behind a row's end adds exactly nothing: a row's result
    does not depend on its neighbours, bit by bit.
    """
    tokens, heads, width = q_TNH.shape
    num_rows, size, kv_heads = lengths_A.shape[0], kv.shape[1], kv.shape[2] // 2
    block = 1 if tokens == num_rows else _QUERY_BLOCK
    token_BC, row_B, position_BC = _query_blocks(starts_A, lengths_A, rows, tokens, block)
    q_BKGCH = q_TNH[token_BC].reshape(-1, block, kv_heads, heads // kv_heads, width).transpose(0, 2, 3, 1, 4)
    q_BKGCH = q_BKGCH * width**-0.5
    per = max(1, _KEY_BLOCK // size)
    table_BP = jnp.pad(table_AP, ((0, 0), (0, -table_AP.shape[1] % per)))[row_B]

    def add_block(i, state):
        best, total, out = state
        pages_BPSKVH = kv[jax.lax.dynamic_slice_in_dim(table_BP, i * per, per, axis=1)].reshape(
            -1, per, size, kv_heads, 2, width
        )
        keys, values = pages_BPSKVH[..., 0, :], pages_BPSKVH[..., 1, :]
        at_PS = (i * per * size + jnp.arange(per * size)).reshape(per, size)
        seen = at_PS <= position_BC[:, None, None, :, None, None]
        scores = jnp.einsum("bkgch,bpskh->bkgcps", q_BKGCH, keys, preferred_element_type=jnp.float32)
        scores = jnp.where(seen, scores, _MASKED)
        new_best = jnp.maximum(best, scores.max(axis=(-2, -1)))
        weights = jnp.exp(scores - new_best[..., None, None])
        shrink = jnp.exp(best - new_best)
        added = jnp.einsum(
            "bkgcps,bpskh->bkgch", weights.astype(values.dtype), values, preferred_element_type=jnp.float32
        )
        return new_best, total * shrink + weights.sum(axis=(-2, -1)), out * shrink[..., None] + added

    shape = q_BKGCH.shape[:-1]
    start = jnp.full(shape, _MASKED), jnp.zeros(shape), jnp.zeros(q_BKGCH.shape, jnp.float32)
    blocks = position_BC.max() // (per * size) + 1
    _, total, out = jax.lax.fori_loop(0, blocks, add_block, start)
    # A query of padding has seen nothing.
    out = (out / jnp.maximum(total, 1e-30)[..., None]).astype(q_TNH.dtype)
    out_BCNH = out.transpose(0, 3, 1, 2, 4).reshape(-1, block, heads, width)
    target_BC = jnp.where(position_BC < 0, tokens, token_BC)
    return jnp.zeros_like(q_TNH).at[target_BC].set(out_BCNH, mode="drop")


def _query_blocks(starts_A, lengths_A, rows, tokens, block):
    """Cuts the rows' tokens into blocks of one row each: their tokens, row and positions (-1 is padding)."""
    num_rows = lengths_A.shape[0]
    count_A = jnp.where(jnp.arange(num_rows) < rows, starts_A[1:] - starts_A[:-1], 0)
    ends_A = jnp.cumsum(-(-count_A // block))
    b_B = jnp.arange(tokens if block == 1 else tokens // block + num_rows)
    row_B = jnp.minimum(jnp.searchsorted(ends_A, b_B, side="right"), num_rows - 1)
    first_B = (b_B - ends_A[row_B] + -(-count_A[row_B] // block)) * block
    offset_BC = first_B[:, None] + jnp.arange(block)
    count_B1 = count_A[row_B][:, None]
    position_BC = lengths_A[row_B][:, None] - count_B1 + offset_BC
    valid_BC = (offset_BC < count_B1) & (lengths_A[row_B][:, None] > 0)
    token_BC = jnp.clip(starts_A[row_B][:, None] + offset_BC, 0, tokens - 1)
    return token_BC, row_B, jnp.where(valid_BC, position_BC, -1)
