"""The sampler's jitted step: a chunk of known tokens of some rows, then several decode steps. Pure but for the cache.

One program for each size of rows and chunk. The chunk is skipped where there is none, decoding ends with its last row.

Shape suffixes: S replicas, A rows of this call, P pages of a row, T known tokens of the chunk, K decode steps,
V vocabulary.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from skillrl.models.cache import PagedCache, Ragged
from skillrl.models.config import ModelConfig
from skillrl.models.policy import Params, merge


class Batch(NamedTuple):
    """What a call works on."""

    table_SAP: Int[Array, "S A P"]
    # Pages to copy first; a target at or beyond the number of pages is padding.
    copy_from_SA: Int[Array, "S A"]
    copy_to_SA: Int[Array, "S A"]
    # Known tokens, those of row a from starts[a] to starts[a + 1], and the rows' lengths with them.
    chunk_ST: Int[Array, "S T"]
    chunk_starts_SA: Int[Array, "S A+1"]
    chunk_lengths_SA: Int[Array, "S A"]
    # Rows that have a chunk; they come first.
    chunk_rows_S: Int[Array, " S"]
    # The last known token of each row that samples, its position, and the most tokens to sample (0 for padding).
    last_SA: Int[Array, "S A"]
    position_SA: Int[Array, "S A"]
    steps_SA: Int[Array, "S A"]
    seed_SA: Int[Array, "S A"]
    temperature_SA: Float[Array, "S A"]
    top_k_SA: Int[Array, "S A"]
    top_p_SA: Float[Array, "S A"]
    # Tokens that end a turn.
    stop_ids: Int[Array, " n"]
    # Decoding ends once no more rows than this are left.
    min_active: Int[Array, ""]


class Decoded(NamedTuple):
    """What K decode steps gave; of each row only the first `counts` tokens mean something."""

    tokens_AK: Int[Array, "*S A K"]
    logprobs_AK: Float[Array, "*S A K"]
    support_logprobs_AK: Float[Array, "*S A K"]
    counts_A: Int[Array, "*S A"]
    stopped_A: Bool[Array, "*S A"]
    # Rows whose known tokens or logits gave something that is not finite; their last step gave no token.
    failed_A: Bool[Array, "*S A"]
    steps: Int[Array, ""]


def sample(
    logits_AV: Float[Array, "A V"],
    seeds_A: Int[Array, " A"],
    positions_A: Int[Array, " A"],
    temperatures_A: Float[Array, " A"],
    top_k_A: Int[Array, " A"],
    top_p_A: Float[Array, " A"],
) -> tuple[Int[Array, " A"], Float[Array, " A"], Float[Array, " A"], Bool[Array, " A"]]:
    """One token a row, its log-probability over the full and the truncated support, and whether logits were finite.

    Inverts the distribution function at the row's temperature, at one uniform number that is a function of the row's
    seed and the token's position alone (a sixth of the time of Gumbel noise over the vocabulary on a CPU).
    Temperature 0 takes the likeliest token and reports its log-probability at temperature 1.
    """
    greedy_A = temperatures_A <= 0
    scaled_AV = logits_AV / jnp.where(greedy_A, 1.0, temperatures_A)[:, None]
    normaliser_A = jax.nn.logsumexp(scaled_AV, axis=-1)
    probs_AV = jnp.exp(scaled_AV - normaliser_A[:, None])
    cut = ((top_k_A > 0) | (top_p_A < 1)).any()
    probs_AV = jax.lax.cond(cut, _truncated, lambda probs_AV, *_: probs_AV, probs_AV, top_k_A, top_p_A)
    below_AV = jnp.cumsum(probs_AV, axis=-1)

    def uniform(seed, position):
        return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), position))

    target_A = jax.vmap(uniform)(seeds_A, positions_A) * below_AV[:, -1]
    # Sums are rounded: a token without probability must not be hit, and the last one must not be overshot.
    hit_AV = (below_AV > target_A[:, None]) & (probs_AV > 0)
    greedy_A |= ~hit_AV.any(axis=-1)
    tokens_A = jnp.where(greedy_A, jnp.argmax(scaled_AV, axis=-1), jnp.argmax(hit_AV, axis=-1)).astype(jnp.int32)
    logprobs_A = jnp.take_along_axis(scaled_AV, tokens_A[:, None], axis=-1)[:, 0] - normaliser_A
    kept_A = jnp.where((top_k_A > 0) | (top_p_A < 1), jnp.log(below_AV[:, -1]), 0.0)
    return tokens_A, logprobs_A, logprobs_A - kept_A, jnp.isfinite(normaliser_A)


def _truncated(probs_AV, top_k_A, top_p_A):
    """The probabilities of the top_k likeliest tokens, of these the likeliest that reach top_p of their sum.

    Tokens as likely as the last one kept are kept too.
    """
    vocab = probs_AV.shape[-1]
    sorted_AV = -jnp.sort(-probs_AV, axis=-1)
    count_A = jnp.where(top_k_A > 0, jnp.minimum(top_k_A, vocab), vocab)
    sorted_AV = jnp.where(jnp.arange(vocab) < count_A[:, None], sorted_AV, 0)
    before_AV = jnp.cumsum(sorted_AV, axis=-1) - sorted_AV
    needed_AV = before_AV < (top_p_A * sorted_AV.sum(axis=-1))[:, None]
    last_A = jnp.clip((needed_AV & (sorted_AV > 0)).sum(axis=-1) - 1, 0)
    least_A = jnp.take_along_axis(sorted_AV, last_A[:, None], axis=-1)
    return jnp.where(probs_AV >= least_A, probs_AV, 0)


@functools.partial(jax.jit, static_argnames=("cfg", "pages", "page_tokens", "replicas", "dtype"))
def empty_cache(cfg: ModelConfig, pages: int, page_tokens: int, replicas: int, dtype: str) -> PagedCache:
    """A cache placed exactly as `step` returns it, so that the first call compiles nothing of its own."""
    return PagedCache.create(cfg, pages, page_tokens, replicas, dtype)


@functools.partial(jax.jit, static_argnames=("cfg", "max_steps"), donate_argnames="cache")
def step(
    cfg: ModelConfig, max_steps: int, params: Params, cache: PagedCache, batch: Batch
) -> tuple[PagedCache, Decoded]:
    """Copies pages, takes the chunk into the cache, then samples up to `max_steps` tokens of each row.

    A row ends with one of the stop tokens, with its steps, or when its logits are not finite.
    """
    policy = merge(cfg, params)
    replicas, rows = batch.last_SA.shape
    cache = _copy_pages(cfg, cache, batch.copy_from_SA, batch.copy_to_SA)
    # A loop of one round or none: a branch would copy the whole cache (measured on CPU).
    cache, broken_SA = jax.lax.fori_loop(
        0,
        jnp.minimum(batch.chunk_rows_S.max(), 1),
        lambda _, state: _take_chunk(policy, state[0], batch),
        (cache, jnp.zeros((replicas, rows), bool)),
    )
    starts_SA = jnp.broadcast_to(jnp.arange(rows + 1), (replicas, rows + 1))
    all_rows_S = jnp.full(replicas, rows)

    def unfinished(state):
        _, out, _, active_SA = state
        return (out.steps < max_steps) & (active_SA.sum() > batch.min_active)

    def advance(state):
        cache, out, last_SA, active_SA = state
        at_SA = batch.position_SA + out.counts_A
        ragged = Ragged(starts_SA, jnp.where(active_SA, at_SA + 1, 0), all_rows_S, batch.table_SAP)
        hidden_SAD, cache = policy.decode(last_SA, ragged, cache)
        logits = policy.logits(hidden_SAD).reshape(replicas * rows, -1)
        per_row = batch.seed_SA, at_SA + 1, batch.temperature_SA, batch.top_k_SA, batch.top_p_SA
        sampled = sample(logits, *(x.reshape(-1) for x in per_row))
        new_SA, logprobs_SA, support_SA, finite_SA = (x.reshape(replicas, rows) for x in sampled)
        kept_SA = active_SA & finite_SA
        counts_SA = out.counts_A + kept_SA
        stopped_SA = out.stopped_A | (kept_SA & jnp.isin(new_SA, batch.stop_ids))
        out = Decoded(
            out.tokens_AK.at[..., out.steps].set(new_SA),
            out.logprobs_AK.at[..., out.steps].set(logprobs_SA),
            out.support_logprobs_AK.at[..., out.steps].set(support_SA),
            counts_SA,
            stopped_SA,
            out.failed_A | (active_SA & ~finite_SA),
            out.steps + 1,
        )
        return cache, out, new_SA, kept_SA & ~stopped_SA & (counts_SA < batch.steps_SA)

    def zeros(dtype, *shape):
        return jnp.zeros((replicas, rows, *shape), dtype)

    empty = Decoded(
        zeros(jnp.int32, max_steps),
        zeros(jnp.float32, max_steps),
        zeros(jnp.float32, max_steps),
        zeros(jnp.int32),
        zeros(bool),
        broken_SA,
        jnp.int32(0),
    )
    state = cache, empty, batch.last_SA, (batch.steps_SA > 0) & ~broken_SA
    cache, out, _, _ = jax.lax.while_loop(unfinished, advance, state)
    return cache.placed(), out


def _take_chunk(policy, cache, batch):
    """The cache with the chunk's keys and values, and the rows of which something was not finite."""
    ragged = Ragged(batch.chunk_starts_SA, batch.chunk_lengths_SA, batch.chunk_rows_S, batch.table_SAP)
    hidden_STD, cache = policy.decode(batch.chunk_ST, ragged, cache)
    row_ST, position_ST = ragged.positions(batch.chunk_ST.shape[1])
    bad_ST = ~jnp.isfinite(hidden_STD).all(axis=-1) & (position_ST >= 0)
    rows = batch.last_SA.shape[1]
    return cache, jax.vmap(lambda bad_T, row_T: jnp.zeros(rows, bool).at[row_T].max(bad_T))(bad_ST, row_ST)


def _copy_pages(cfg, cache, from_SA, to_SA):
    def copied(pages):
        by_layer = pages.reshape(len(from_SA), cfg.layers, -1, *pages.shape[1:])
        copy = jax.vmap(lambda x, source_A, target_A: x.at[:, target_A].set(x[:, source_A], mode="drop"))
        return copy(by_layer, from_SA, to_SA).reshape(pages.shape)

    return jax.tree.map(copied, cache).placed()
