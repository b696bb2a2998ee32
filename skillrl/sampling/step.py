"""The two jitted calls of the sampler: prefill a chunk, decode several steps. Pure but for the donated cache.

Both work on A of the cache's R rows, chosen by index: the rows are copied out, advanced and copied back, so rows that
wait for a tool cost nothing. An index of R is padding. A is one of a few fixed sizes, which bounds compilation.

Shape suffixes: A rows of this call, C tokens of a chunk, K decode steps, V vocabulary.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from skillrl import sharding
from skillrl.models.cache import KVCache
from skillrl.models.config import ModelConfig
from skillrl.models.policy import Params, merge


class Decoded(NamedTuple):
    """What K decode steps gave; of each row only the first `counts` tokens mean something."""

    tokens_AK: Int[Array, "A K"]
    logprobs_AK: Float[Array, "A K"]
    counts_A: Int[Array, " A"]
    stopped_A: Bool[Array, " A"]
    # Rows whose logits were not finite; their last step gave no token.
    failed_A: Bool[Array, " A"]
    steps: Int[Array, ""]


def sample(
    logits_AV: Float[Array, "A V"],
    seeds_A: Int[Array, " A"],
    positions_A: Int[Array, " A"],
    temperatures_A: Float[Array, " A"],
) -> tuple[Int[Array, " A"], Float[Array, " A"], Bool[Array, " A"]]:
    """One token a row, its log-probability, and whether the row's logits were finite.

    Inverts the distribution function over the full vocabulary at the row's temperature, at one uniform number that
    is a function of the row's seed and the token's position alone (a sixth of the time of Gumbel noise over the
    vocabulary on a CPU). Temperature 0 takes the likeliest token and reports its log-probability at temperature 1.
    """
    greedy_A = temperatures_A <= 0
    scaled_AV = logits_AV / jnp.where(greedy_A, 1.0, temperatures_A)[:, None]
    normaliser_A = jax.nn.logsumexp(scaled_AV, axis=-1)
    probs_AV = jnp.exp(scaled_AV - normaliser_A[:, None])
    below_AV = jnp.cumsum(probs_AV, axis=-1)

    def uniform(seed, position):
        return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), position))

    target_A = jax.vmap(uniform)(seeds_A, positions_A) * below_AV[:, -1]
    # Sums are rounded: a token without probability must not be hit, and the last one must not be overshot.
    hit_AV = (below_AV > target_A[:, None]) & (probs_AV > 0)
    greedy_A |= ~hit_AV.any(axis=-1)
    tokens_A = jnp.where(greedy_A, jnp.argmax(scaled_AV, axis=-1), jnp.argmax(hit_AV, axis=-1)).astype(jnp.int32)
    logprobs_A = jnp.take_along_axis(scaled_AV, tokens_A[:, None], axis=-1)[:, 0] - normaliser_A
    return tokens_A, logprobs_A, jnp.isfinite(normaliser_A)


@functools.partial(jax.jit, static_argnames=("cfg", "rows", "max_tokens"))
def empty_cache(cfg: ModelConfig, rows: int, max_tokens: int) -> KVCache:
    """A cache placed exactly as the calls return it, so that the first call compiles nothing of its own."""
    return _placed(KVCache.create(cfg, rows, max_tokens))


@functools.partial(jax.jit, static_argnames="cfg", donate_argnames="cache")
def prefill(
    cfg: ModelConfig,
    params: Params,
    cache: KVCache,
    rows_A: Int[Array, " A"],
    tokens_AC: Int[Array, "A C"],
    positions_AC: Int[Array, "A C"],
) -> KVCache:
    """Writes a chunk of known tokens into the rows; position -1 is padding."""
    _, part = merge(cfg, params).decode(tokens_AC, positions_AC, _take(cache, rows_A))
    return _put(cache, rows_A, part)


@functools.partial(jax.jit, static_argnames=("cfg", "max_steps", "stop_ids"), donate_argnames="cache")
def decode(
    cfg: ModelConfig,
    max_steps: int,
    stop_ids: tuple[int, ...],
    params: Params,
    cache: KVCache,
    rows_A: Int[Array, " A"],
    tokens_A: Int[Array, " A"],
    positions_A: Int[Array, " A"],
    budgets_A: Int[Array, " A"],
    seeds_A: Int[Array, " A"],
    temperatures_A: Float[Array, " A"],
    min_active: Int[Array, ""],
) -> tuple[KVCache, Decoded]:
    """Samples up to `max_steps` tokens a row, from the row's last token (at `positions_A`, not yet in the cache).

    A row ends with a stop token, with its budget (0 for padding), or when its logits are not finite. The call
    ends with its last row, or once no more than `min_active` rows are left.
    """
    policy = merge(cfg, params)
    size = rows_A.shape[0]

    def unfinished(state):
        _, out, _, active_A = state
        return (out.steps < max_steps) & (active_A.sum() > min_active)

    def step(state):
        part, out, last_A, active_A = state
        at_A = positions_A + out.counts_A
        hidden_A1D, part = policy.decode(last_A[:, None], jnp.where(active_A, at_A, -1)[:, None], part)
        new_A, logprobs_A, finite_A = sample(policy.logits(hidden_A1D[:, 0]), seeds_A, at_A + 1, temperatures_A)
        kept_A = active_A & finite_A
        counts_A = out.counts_A + kept_A
        stopped_A = out.stopped_A | (kept_A & jnp.isin(new_A, jnp.asarray(stop_ids, new_A.dtype)))
        out = Decoded(
            out.tokens_AK.at[:, out.steps].set(new_A),
            out.logprobs_AK.at[:, out.steps].set(logprobs_A),
            counts_A,
            stopped_A,
            out.failed_A | (active_A & ~finite_A),
            out.steps + 1,
        )
        return part, out, new_A, kept_A & ~stopped_A & (counts_A < budgets_A)

    none_A = jnp.zeros(size, bool)
    empty = Decoded(
        jnp.zeros((size, max_steps), jnp.int32),
        jnp.zeros((size, max_steps), jnp.float32),
        jnp.zeros(size, jnp.int32),
        none_A,
        none_A,
        jnp.int32(0),
    )
    state = (_take(cache, rows_A), empty, tokens_A, budgets_A > 0)
    part, out, _, _ = jax.lax.while_loop(unfinished, step, state)
    return _put(cache, rows_A, part), out


def _take(cache: KVCache, rows_A: Array) -> KVCache:
    return jax.tree.map(lambda x: x.at[rows_A].get(mode="clip"), cache)


def _put(cache: KVCache, rows_A: Array, part: KVCache) -> KVCache:
    return _placed(jax.tree.map(lambda full, new: full.at[rows_A].set(new, mode="drop"), cache, part))


def _placed(cache: KVCache) -> KVCache:
    return jax.tree.map(lambda x: sharding.constrain(x, "batch", "kv_heads", None, None), cache)
