"""The paged key/value cache of incremental decoding, and which of its rows the tokens of a step belong to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from skillrl import sharding
from skillrl.models.config import ModelConfig

# What keys and values may be stored in; "" is the policy's dtype. Of float8, the form with the longer mantissa: what is
# beyond its largest number, 448, is stored as that.
CACHE_DTYPES = ("", "bfloat16", "float8_e4m3fn")


class PagedCache(NamedTuple):
    """Keys and values of all layers and pages of S replicas, in the layout that the platform's kernel wants.

    arrays: one [S * layers * pages, page_tokens, 2 * kv_heads, head_dim] with keys at even heads and values at odd ones
    (TPUs, and CPUs too); or two [S * layers * pages, kv_heads, page_tokens, head_dim], keys and values (GPUs). Page p
    of layer l of a replica is their entry l * pages + p, so that one cache serves a loop over layers. A page needs no
    clearing before it is used again: what is stale lies behind the mask.
    """

    arrays: tuple[jax.Array, ...]

    @classmethod
    def create(
        cls,
        cfg: ModelConfig,
        pages: int,
        page_tokens: int,
        replicas: int = 1,
        dtype: str = "",
        by_head: bool | None = None,
    ) -> "PagedCache":
        """An empty cache of `pages` x `page_tokens` positions for each replica; `dtype` is one of CACHE_DTYPES.

        `by_head` asks for two arrays; the default is what the platform of the current mesh wants.
        """
        entries, by_head = replicas * cfg.layers * pages, sharding.platform() == "gpu" if by_head is None else by_head
        if by_head:
            shapes = [(entries, cfg.kv_heads, page_tokens, cfg.head_dim)] * 2
        else:
            shapes = [(entries, page_tokens, 2 * cfg.kv_heads, cfg.head_dim)]
        return cls(tuple(jnp.zeros(shape, dtype or cfg.dtype) for shape in shapes)).placed()

    @property
    def by_head(self) -> bool:
        return len(self.arrays) == 2

    @property
    def entries(self) -> int:
        return self.arrays[0].shape[0]

    @property
    def page_tokens(self) -> int:
        return self.arrays[0].shape[2 if self.by_head else 1]

    @property
    def kv_heads(self) -> int:
        return self.arrays[0].shape[1] if self.by_head else self.arrays[0].shape[2] // 2

    @property
    def dtype(self) -> jnp.dtype:
        return self.arrays[0].dtype

    def logical_axes(self) -> tuple[str | None, ...]:
        """Of each of the arrays."""
        return ("batch", "kv_heads", None, None) if self.by_head else ("batch", None, "kv_heads", None)

    def placed(self) -> "PagedCache":
        return PagedCache(tuple(sharding.constrain(x, *self.logical_axes()) for x in self.arrays))

    def written(
        self,
        entry_T: Int[Array, " T"],
        slot_T: Int[Array, " T"],
        k_TKH: Float[Array, "T K H"],
        v_TKH: Float[Array, "T K H"],
    ) -> "PagedCache":
        """With these keys and values in place; an entry at or beyond the number of entries is padding."""
        if self.by_head:
            new, at = (k_TKH, v_TKH), (entry_T, slice(None), slot_T)
        else:
            new, at = (jnp.stack([k_TKH, v_TKH], axis=2).reshape(-1, *self.arrays[0].shape[2:]),), (entry_T, slot_T)
        pairs = zip(self.arrays, new, strict=True)
        return PagedCache(tuple(x.at[at].set(_stored(y, self.dtype), mode="drop") for x, y in pairs))

    def read(self, entries_BP: Int[Array, "B P"]) -> tuple[Float[Array, "B P page K H"], Float[Array, "B P page K H"]]:
        """Keys and values of whole pages, as they are stored."""
        # Whole pages as rows, whose numbers are not checked: half the time of a gather of four dimensions on a CPU.
        if entries_BP.size == 1:
            read = [jax.lax.dynamic_index_in_dim(x, entries_BP[0, 0]) for x in self.arrays]
        else:
            rows = (x.reshape(self.entries, -1) for x in self.arrays)
            read = [x.at[entries_BP].get(mode="promise_in_bounds") for x in rows]
        if self.by_head:
            keys, values = (x.reshape(*entries_BP.shape, *self.arrays[0].shape[1:]).swapaxes(2, 3) for x in read)
        else:
            kv = read[0].reshape(*entries_BP.shape, self.page_tokens, self.kv_heads, 2, -1)
            keys, values = kv[..., 0, :], kv[..., 1, :]
        return keys, values


def _stored(x: jax.Array, dtype) -> jax.Array:
    """`x` as the cache holds it."""
    # Pages are used again, and a masked 0 x NaN would be NaN: what is not finite must not get into them.
    x = jnp.where(jnp.isfinite(x), x, 0)
    # Float8 has no infinity, and would make a NaN of what is too large for it.
    if jnp.dtype(dtype).itemsize == 1:
        limit = float(jnp.finfo(dtype).max)
        x = jnp.clip(x, -limit, limit)
    return x.astype(dtype)


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
