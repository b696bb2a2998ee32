"""The paged key/value cache of incremental decoding, and which of its rows the tokens of a step belong to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from skillrl import sharding
from skillrl.models.config import ModelConfig

# What keys and values may be stored in; "" is the policy's dtype. Of float8, the form with the longer mantissa: what is
# beyond its largest number, 448, is stored as that.
CACHE_DTYPES = ("", "bfloat16", "float8_e4m3fn")


class PagedCache(NamedTuple):
    """Keys and values of all layers and pages of S replicas.

    kv: [S * layers * pages, page_tokens, 2 * kv_heads, head_dim], keys at even heads and values at odd ones: the layout
    of jax's ragged paged attention kernel. Page p of layer l of a replica is its entry l * pages + p, so one array
    serves a loop over layers. A page needs no clearing before it is used again: what is stale lies behind the mask.
    """

    kv: jax.Array

    @classmethod
    def create(cls, cfg: ModelConfig, pages: int, page_tokens: int, replicas: int = 1, dtype: str = "") -> "PagedCache":
        """An empty cache of `pages` x `page_tokens` positions for each replica; `dtype` is one of CACHE_DTYPES."""
        shape = replicas * cfg.layers * pages, page_tokens, 2 * cfg.kv_heads, cfg.head_dim
        return cls(jnp.zeros(shape, dtype or cfg.dtype)).placed()

    def placed(self) -> "PagedCache":
        return PagedCache(sharding.constrain(self.kv, "batch", None, "kv_heads", None))


class Ragged(NamedTuple):
    """To which rows of the cache the T new tokens of a step belong, for each of S replicas with A rows.

    Row a has the tokens `starts[a]` to `starts[a + 1]`; they are its last ones when it holds `lengths[a]` positions.
    What lies beyond the first `rows` rows, or has length 0, is padding: it is written nowhere.
    """

    starts_SA: Int[Array, "S A+1"]
    lengths_SA: Int[Array, "S A"]
    rows_S: Int[Array, " S"]
    # Page of positions i * page_tokens and following, for each row.
    table_SAP: Int[Array, "S A P"]

    def positions(self, tokens: int) -> tuple[Int[Array, "S T"], Int[Array, "S T"]]:
        """Row and position of each of `tokens` new tokens; position -1 is padding."""
        return jax.vmap(lambda starts_A, lengths_A, rows, _: _positions(starts_A, lengths_A, rows, tokens))(*self)


def _positions(starts_A, lengths_A, rows, tokens):
    t_T = jnp.arange(tokens)
    row_T = jnp.minimum(jnp.searchsorted(starts_A[1:], t_T, side="right"), lengths_A.shape[0] - 1)
    position_T = lengths_A[row_T] - starts_A[row_T + 1] + t_T
    return row_T, jnp.where((t_T < starts_A[rows]) & (lengths_A[row_T] > 0), position_T, -1)
