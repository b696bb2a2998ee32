"""The key/value cache of incremental decoding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from skillrl import sharding
from skillrl.models.config import ModelConfig


class KVCache(NamedTuple):
    """Keys and values of S positions for each of B rows, one array a layer.

    The rows are axis 0 of every leaf: `jax.tree.map(lambda x: x[rows], cache)` picks or forks rows. The slot of a
    token is its position, so a row needs no clearing before it is used again: what is stale lies behind the mask.
    Separate arrays a layer, keys stored with positions last: both were measured to keep the update in place and the
    dot products contiguous on CPU.
    """

    k_BKHS: tuple[jax.Array, ...]
    v_BKSH: tuple[jax.Array, ...]

    @classmethod
    def create(cls, cfg: ModelConfig, rows: int, max_tokens: int, mesh: Mesh | None = None) -> "KVCache":
        """An empty cache of `rows` x `max_tokens`, sharded over `mesh` by rows and heads."""

        def zeros(*shape):
            device = None if mesh is None else sharding.named(mesh, "batch", "kv_heads", None, None)
            return jnp.zeros(shape, cfg.dtype, device=device)

        k = tuple(zeros(rows, cfg.kv_heads, cfg.head_dim, max_tokens) for _ in range(cfg.layers))
        v = tuple(zeros(rows, cfg.kv_heads, max_tokens, cfg.head_dim) for _ in range(cfg.layers))
        return cls(k, v)

    @property
    def rows(self) -> int:
        return self.k_BKHS[0].shape[0]

    @property
    def max_tokens(self) -> int:
        return self.k_BKHS[0].shape[-1]
