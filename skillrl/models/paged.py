"""Attention over a paged cache: jax's Pallas kernel on TPU, a loop over single pages on CPU, else over blocks of them.

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
# Queries of a block, blocks computed together, keys read at a time.
_QUERY_BLOCK = 16
_LANES = 128
_BLOCKS = 4
_KEY_BLOCK = 64
# Most heads x width of a cached position for which a product with zeros is cheaper than a copy (measured on CPU).
_MOST_ZEROS = 16384


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
    new_TKH = stored(jnp.where(jnp.isfinite(new_TKH), new_TKH, 0), kv.dtype)
    page_T = table_AP[row_T, position_T // size] + layer * pages
    kv = kv.at[jnp.where(position_T < 0, kv.shape[0], page_T), position_T % size].set(new_TKH, mode="drop")
    # The kernel takes heads as wide as the chip's lanes; smaller ones, of policies for tests, go the other way.
    on_tpu = sharding.platform() == "tpu" and q_TNH.shape[-1] % _LANES == 0
    on_cpu = sharding.platform() == "cpu"
    attention = attend_pages_on_tpu if on_tpu else attend_pages_on_cpu if on_cpu else attend_pages
    return kv, attention(q_TNH, kv, lengths_A, table_AP + layer * pages, starts_A, rows)[None]


def stored(x: jax.Array, dtype) -> jax.Array:
    """`x` as the cache holds it: float8 has no infinity, and would make a NaN of what is too large for it."""
    if jnp.dtype(dtype).itemsize == 1:
        limit = float(jnp.finfo(dtype).max)
        x = jnp.clip(x, -limit, limit)
    return x.astype(dtype)


def attend_pages_on_tpu(q_TNH, kv, lengths_A, table_AP, starts_A, rows):
    """jax's ragged paged attention. Its own choice of block sizes asks the local device, which may be none."""
    # Pallas is imported only where it is used: it takes long to import.
    from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

    # With a scale the kernel takes what it has read to the queries' dtype before it multiplies.
    scale = None if kv.dtype == q_TNH.dtype else 1.0
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
        k_scale=scale,
        v_scale=scale,
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
    tokens, num_rows = q_TNH.shape[0], lengths_A.shape[0]
    block = 1 if tokens == num_rows else _QUERY_BLOCK
    token_BC, row_B, position_BC = _query_blocks(starts_A, lengths_A, rows, tokens, block)
    per = max(1, _KEY_BLOCK // kv.shape[1])
    table_AP = jnp.pad(table_AP, ((0, 0), (0, -table_AP.shape[1] % per)))

    def attend(token_BC, row_B, position_BC):
        return _attend_blocks(q_TNH[token_BC], kv, table_AP[row_B], position_BC, per)

    # What is beyond the tokens is dropped.
    target_BC = jnp.where(position_BC < 0, tokens, token_BC)
    if block == 1:
        return jnp.zeros_like(q_TNH).at[target_BC].set(attend(token_BC, row_B, position_BC), mode="drop")
    # Most blocks of a chunk are padding: those in use come first, and no others are computed.
    pad = [(0, -len(row_B) % _BLOCKS)]
    position_BC = jnp.pad(position_BC, [*pad, (0, 0)], constant_values=-1)
    target_BC = jnp.pad(target_BC, [*pad, (0, 0)], constant_values=tokens)
    blocks = jnp.pad(token_BC, [*pad, (0, 0)]), jnp.pad(row_B, pad), position_BC, target_BC

    def some_blocks(i, out_TNH):
        *part, target = (jax.lax.dynamic_slice_in_dim(x, i * _BLOCKS, _BLOCKS) for x in blocks)
        return out_TNH.at[target].set(attend(*part), mode="drop")

    return jax.lax.fori_loop(0, -(-_used(position_BC) // _BLOCKS), some_blocks, jnp.zeros_like(q_TNH))


def attend_pages_on_cpu(q_TNH, kv, lengths_A, table_AP, starts_A, rows):
    """The same as `attend_pages`, one block of queries after the other and one page at a time.

    Each page is read where it lies, once, and none behind the end of its row; pages that are gathered first are copied,
    as many for a short row as for the longest. Single queries of few heads take all of them in one product.
    """
    tokens, num_rows = q_TNH.shape[0], lengths_A.shape[0]
    block = 1 if tokens == num_rows else _QUERY_BLOCK
    token_BC, row_B, position_BC = _query_blocks(starts_A, lengths_A, rows, tokens, block)
    target_BC = jnp.where(position_BC < 0, tokens, token_BC)
    together = block == 1 and q_TNH.shape[1] * kv.shape[2] * kv.shape[3] <= _MOST_ZEROS

    def one_block(b, out_TNH):
        q_CNH, table_P, position_C = q_TNH[token_BC[b]], table_AP[row_B[b]], position_BC[b]
        if together:
            part_CNH = _attend_at_once(q_CNH[0], kv, table_P, position_C[0])[None]
        else:
            part_CNH = _attend_blocks(q_CNH[None], kv, table_P[None], position_C[None], 1)[0]
        return out_TNH.at[target_BC[b]].set(part_CNH, mode="drop")

    return jax.lax.fori_loop(0, _used(position_BC), one_block, jnp.zeros_like(q_TNH))


def _attend_at_once(q_NH, kv, table_P, position):
    """Attention of one query with all its heads in one product a page.

    Each head's query stands where its keys stand in a position's row of the page, with zeros for the values and the
    other heads. So a page is used as it lies; taken apart by heads it is copied, which costs more while heads are few.
    """
    heads, width = q_NH.shape
    size, slots = kv.shape[1:3]
    key_N = 2 * (jnp.arange(heads) // (2 * heads // slots))
    place_NV = jnp.arange(slots) == key_N[:, None]
    q_NW = jnp.where(place_NV[..., None], (q_NH * width**-0.5)[:, None], 0).reshape(heads, slots * width)

    def add_page(i, state):
        best_N, total_N, out_NW = state
        page_SW = jax.lax.dynamic_index_in_dim(kv, table_P[i], keepdims=False).reshape(size, -1).astype(q_NH.dtype)
        scores_NS = jnp.einsum("nw,sw->ns", q_NW, page_SW, preferred_element_type=jnp.float32)
        scores_NS = jnp.where(i * size + jnp.arange(size) <= position, scores_NS, _MASKED)
        new_best_N = jnp.maximum(best_N, scores_NS.max(axis=-1))
        weights_NS, shrink_N = jnp.exp(scores_NS - new_best_N[:, None]), jnp.exp(best_N - new_best_N)
        added_NW = jnp.einsum(
            "ns,sw->nw", weights_NS.astype(page_SW.dtype), page_SW, preferred_element_type=jnp.float32
        )
        return new_best_N, total_N * shrink_N + weights_NS.sum(axis=-1), out_NW * shrink_N[:, None] + added_NW

    start = jnp.full(heads, _MASKED), jnp.zeros(heads), jnp.zeros(q_NW.shape, jnp.float32)
    _, total_N, out_NW = jax.lax.fori_loop(0, position // size + 1, add_page, start)
    # A head's values follow its keys.
    out_NH = jnp.take_along_axis(out_NW.reshape(heads, slots, width), key_N[:, None, None] + 1, axis=1)[:, 0]
    return (out_NH / jnp.maximum(total_N, 1e-30)[:, None]).astype(q_NH.dtype)


def _attend_blocks(q_BCNH, kv, table_BP, position_BC, per):
    """Attention of blocks of queries, each over the pages of its row, `per` pages at a time; position -1 is padding."""
    num_blocks, block, heads, width = q_BCNH.shape
    size, kv_heads = kv.shape[1], kv.shape[2] // 2
    q_BKGCH = q_BCNH.reshape(num_blocks, block, kv_heads, heads // kv_heads, width).transpose(0, 2, 3, 1, 4)
    q_BKGCH = q_BKGCH * width**-0.5
    # Whole pages as rows, whose numbers are not checked: half the time of a gather of four dimensions on a CPU.
    pages_XW = kv.reshape(kv.shape[0], -1).at

    def read(numbers_BP):
        if numbers_BP.size == 1:
            return jax.lax.dynamic_index_in_dim(kv, numbers_BP[0, 0])
        return pages_XW[numbers_BP].get(mode="promise_in_bounds")

    def add_block(i, state):
        best, total, out = state
        numbers_BP = jax.lax.dynamic_slice_in_dim(table_BP, i * per, per, axis=1)
        pages_BPSKVH = read(numbers_BP).reshape(-1, per, size, kv_heads, 2, width)
        keys, values = (pages_BPSKVH[..., j, :].astype(q_BCNH.dtype) for j in range(2))
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
    _, total, out = jax.lax.fori_loop(0, position_BC.max() // (per * size) + 1, add_block, start)
    # A query of padding has seen nothing.
    out = (out / jnp.maximum(total, 1e-30)[..., None]).astype(q_BCNH.dtype)
    return out.transpose(0, 3, 1, 2, 4).reshape(q_BCNH.shape)


def _used(position_BC):
    """Blocks up to the last one with a query."""
    return ((position_BC.max(axis=1) >= 0) * (1 + jnp.arange(len(position_BC)))).max()


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
