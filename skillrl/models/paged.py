"""Attention over a paged cache: jax's Pallas kernels on TPU and GPU, a loop over single pages on CPU, else over blocks.

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
# Widths of a head that the kernel for GPUs can tile, and into how many parts it may split a row's keys.
_TRITON_WIDTHS = (16, 32, 64, 128, 256)
_KEY_SPLITS = (1, 2, 4, 8, 16)
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
        pages = jax.tree.map(lambda _: sharding.spec(*cache.logical_axes()), cache)
        rows = Ragged(*[sharding.spec("batch")] * len(ragged))
        local = jax.shard_map(
            local,
            in_specs=(pages, PartitionSpec(), heads, kv, kv, rows),
            out_specs=(pages, heads),
            check_vma=False,
        )
    return local(cache, layer, q_STNH, k_STKH, v_STKH, ragged)


def _local(cache, layer, q_STNH, k_STKH, v_STKH, ragged, *, layers):
    """For one replica: S is 1."""
    q_TNH, tokens = q_STNH[0], q_STNH.shape[1]
    pages, size = cache.entries // layers, cache.page_tokens
    (row_ST, position_ST), (starts_A, lengths_A, rows, table_AP) = ragged.positions(tokens), (x[0] for x in ragged)
    row_T, position_T = row_ST[0], position_ST[0]
    page_T = table_AP[row_T, position_T // size] + layer * pages
    entry_T = jnp.where(position_T < 0, cache.entries, page_T)
    cache = cache.written(entry_T, position_T % size, k_STKH[0], v_STKH[0])
    attend = _form(cache, q_TNH, len(lengths_A))
    return cache, attend(q_TNH, cache, lengths_A, table_AP + layer * pages, starts_A, rows)[None]


def _form(cache, q_TNH, rows):
    """The fastest form of attention that the platform has for these arrays."""
    platform, (tokens, _, width) = sharding.platform(), q_TNH.shape
    # The kernels take heads as wide as the chip's lanes; smaller ones, of policies for tests, go the other way.
    if platform == "tpu" and not cache.by_head and width % _LANES == 0:
        return attend_pages_on_tpu
    # That for GPUs reads a row's keys for each of its queries, rounds float32 to TF32, and takes no float8 as it is.
    if platform == "gpu" and tokens == rows and cache.dtype == q_TNH.dtype == jnp.bfloat16 and width in _TRITON_WIDTHS:
        return attend_pages_on_gpu
    return attend_pages_on_cpu if platform == "cpu" and not cache.by_head else attend_pages


def attend_pages_on_tpu(q_TNH, cache, lengths_A, table_AP, starts_A, rows):
    """jax's ragged paged attention. Its own choice of block sizes asks the local device, which may be none."""
    # Pallas is imported only where it is used: it takes long to import.
    from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

    (kv,) = cache.arrays
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


def attend_pages_on_gpu(q_TNH, cache, lengths_A, table_AP, starts_A, rows, *, interpret=False):
    """jax's paged attention through Triton, made for single queries; `interpret` runs it without a GPU, for tests.

    Each head of keys and values is a row of its own to the kernel, whose pages are then the cache's as they lie.
    """
    from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention

    (tokens, heads, width), kv_heads = q_TNH.shape, cache.kv_heads
    ragged = Ragged(starts_A[None], lengths_A[None], rows[None], table_AP[None])
    row_T, position_T = (x[0] for x in ragged.positions(tokens))
    per = max(1, _KEY_BLOCK // cache.page_tokens)
    splits = max(n for n in _KEY_SPLITS if n == 1 or n * per <= table_AP.shape[1])
    table_TP = jnp.pad(table_AP, ((0, 0), (0, -table_AP.shape[1] % (per * splits))))[row_T]
    table_TKP = table_TP[:, None] * kv_heads + jnp.arange(kv_heads)[:, None]
    out = paged_attention(
        (q_TNH * width**-0.5).reshape(tokens * kv_heads, heads // kv_heads, width),
        *(x.reshape(1, -1, *x.shape[2:]) for x in cache.arrays),
        table_TKP.reshape(tokens * kv_heads, -1),
        jnp.repeat(position_T + 1, kv_heads),
        pages_per_compute_block=per,
        k_splits=splits,
        interpret=interpret,
    )
    return out.reshape(q_TNH.shape)


def attend_pages(
    q_TNH: Float[Array, "T N H"],
    cache: PagedCache,
    lengths_A: Int[Array, " A"],
    table_AP: Int[Array, "A P"],
    starts_A: Int[Array, " A+1"],
    rows: Int[Array, ""],
) -> Float[Array, "T N H"]:
    """The same as the kernels, in jnp: softmax in float32, made up block by block of keys (arXiv:1805.02867).

    Reads only as many blocks as the longest row has. A block behind a row's end adds exactly nothing: a row's result
    does not depend on its neighbours, bit by bit.
    """
    tokens, num_rows = q_TNH.shape[0], lengths_A.shape[0]
    block = 1 if tokens == num_rows else _QUERY_BLOCK
    token_BC, row_B, position_BC = _query_blocks(starts_A, lengths_A, rows, tokens, block)
    per = max(1, _KEY_BLOCK // cache.page_tokens)
    table_AP = jnp.pad(table_AP, ((0, 0), (0, -table_AP.shape[1] % per)))

    def attend(token_BC, row_B, position_BC):
        return _attend_blocks(q_TNH[token_BC], cache, table_AP[row_B], position_BC, per)

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


def attend_pages_on_cpu(q_TNH, cache, lengths_A, table_AP, starts_A, rows):
    """The same as `attend_pages`, one block of queries after the other and one page at a time.

    Each page is read where it lies, once, and none behind the end of its row; pages that are gathered first are copied,
    as many for a short row as for the longest. Single queries of few heads take all of them in one product.
    """
    tokens, num_rows = q_TNH.shape[0], lengths_A.shape[0]
    block = 1 if tokens == num_rows else _QUERY_BLOCK
    token_BC, row_B, position_BC = _query_blocks(starts_A, lengths_A, rows, tokens, block)
    target_BC = jnp.where(position_BC < 0, tokens, token_BC)
    together = block == 1 and q_TNH.shape[1] * 2 * cache.kv_heads * q_TNH.shape[2] <= _MOST_ZEROS

    def one_block(b, out_TNH):
        q_CNH, table_P, position_C = q_TNH[token_BC[b]], table_AP[row_B[b]], position_BC[b]
        if together:
            part_CNH = _attend_at_once(q_CNH[0], cache.arrays[0], table_P, position_C[0])[None]
        else:
            part_CNH = _attend_blocks(q_CNH[None], cache, table_P[None], position_C[None], 1)[0]
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


def _attend_blocks(q_BCNH, cache, table_BP, position_BC, per):
    """Attention of blocks of queries, each over the pages of its row, `per` pages at a time; position -1 is padding."""
    num_blocks, block, heads, width = q_BCNH.shape
    size, kv_heads = cache.page_tokens, cache.kv_heads
    q_BKGCH = q_BCNH.reshape(num_blocks, block, kv_heads, heads // kv_heads, width).transpose(0, 2, 3, 1, 4)
    q_BKGCH = q_BKGCH * width**-0.5

    def add_block(i, state):
        best, total, out = state
        read = cache.read(jax.lax.dynamic_slice_in_dim(table_BP, i * per, per, axis=1))
        keys, values = (x.astype(q_BCNH.dtype) for x in read)
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
