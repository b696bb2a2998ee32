"""The decoder's layers: attention, then a gated feed-forward or experts. Shape suffixes as in policy.py."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from skillrl import sharding
from skillrl.models import moe
from skillrl.models.config import ModelConfig
from skillrl.models.layers import gated_mlp, project, rms_norm
from skillrl.models.rope import rotate


def weight(key: jax.Array, cfg: ModelConfig, shape: tuple[int, ...], axes: tuple[str, ...], fan_in: int) -> nnx.Param:
    """Normal with variance 1 / fan_in; `axes` are the logical axes that skillrl/sharding.py maps to the mesh."""
    return nnx.Param(jax.random.normal(key, shape, cfg.param_dtype) * fan_in**-0.5, axes=axes)


def scale(cfg: ModelConfig, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
    return nnx.Param(jnp.ones(shape, cfg.param_dtype), axes=axes)


class Blocks(nnx.Module):
    """Dense layers, parameters stacked on a leading layer axis. `nnx.merge` with one slice of them gives one layer."""

    def __init__(self, cfg: ModelConfig, layers: int, *, rngs: nnx.Rngs):
        self.cfg, self.layers = cfg, layers
        embed, width = cfg.embed, cfg.head_dim
        self.attention_norm_D = self._scale(embed)
        self.q_DNH = self._weight(rngs, (embed, cfg.q_heads, width), ("embed", "heads", "head_dim"))
        self.k_DKH = self._weight(rngs, (embed, cfg.kv_heads, width), ("embed", "kv_heads", "head_dim"))
        self.v_DKH = self._weight(rngs, (embed, cfg.kv_heads, width), ("embed", "kv_heads", "head_dim"))
        if cfg.qkv_bias:
            self.q_bias_NH = self._zeros((cfg.q_heads, width), ("heads", "head_dim"))
            self.k_bias_KH = self._zeros((cfg.kv_heads, width), ("kv_heads", "head_dim"))
            self.v_bias_KH = self._zeros((cfg.kv_heads, width), ("kv_heads", "head_dim"))
        if cfg.qk_norm:
            self.q_norm_H = self._scale(width)
            self.k_norm_H = self._scale(width)
        heads = cfg.q_heads * width
        self.o_NHD = self._weight(rngs, (cfg.q_heads, width, embed), ("heads", "head_dim", "embed"), fan_in=heads)
        self.mlp_norm_D = self._scale(embed)
        self._init_feed_forward(rngs)

    def _init_feed_forward(self, rngs: nnx.Rngs) -> None:
        self.gate_DF = self._weight(rngs, (self.cfg.embed, self.cfg.mlp), ("embed", "mlp"))
        self.up_DF = self._weight(rngs, (self.cfg.embed, self.cfg.mlp), ("embed", "mlp"))
        self.down_FD = self._weight(rngs, (self.cfg.mlp, self.cfg.embed), ("mlp", "embed"))

    def __call__(
        self,
        x_BTD: Array,
        rotation: tuple[Array, Array],
        attention: Callable[[Array, Array, Array], Array],
        tokens: str | None = "tokens",
    ) -> Array:
        """One layer; `attention` maps q, k, v [B, T, heads, H] to the heads' output [B, T, N, H].

        `tokens` is the logical axis of T: "tokens" for packed rows, None for rows that are not split over the mesh.
        """
        cfg, dtype = self.cfg, x_BTD.dtype
        y_BTD = rms_norm(x_BTD, self.attention_norm_D[...], cfg.norm_eps)
        q_BTNH = project(y_BTD, self.q_DNH[...].astype(dtype))
        k_BTKH = project(y_BTD, self.k_DKH[...].astype(dtype))
        v_BTKH = project(y_BTD, self.v_DKH[...].astype(dtype))
        if cfg.qkv_bias:
            q_BTNH = q_BTNH + self.q_bias_NH[...].astype(dtype)
            k_BTKH = k_BTKH + self.k_bias_KH[...].astype(dtype)
            v_BTKH = v_BTKH + self.v_bias_KH[...].astype(dtype)
        if cfg.qk_norm:
            q_BTNH = rms_norm(q_BTNH, self.q_norm_H[...], cfg.norm_eps)
            k_BTKH = rms_norm(k_BTKH, self.k_norm_H[...], cfg.norm_eps)
        q_BTNH = sharding.constrain(rotate(q_BTNH, rotation), "batch", tokens, "heads", None)
        k_BTKH = sharding.constrain(rotate(k_BTKH, rotation), "batch", tokens, "kv_heads", None)
        heads_BTNH = attention(q_BTNH, k_BTKH, v_BTKH)
        x_BTD = x_BTD + jnp.einsum("btnh,nhd->btd", heads_BTNH, self.o_NHD[...].astype(dtype))
        x_BTD = sharding.constrain(x_BTD, "batch", tokens, None)
        y_BTD = rms_norm(x_BTD, self.mlp_norm_D[...], cfg.norm_eps)
        return sharding.constrain(x_BTD + self._feed_forward(y_BTD, tokens), "batch", tokens, None)

    def _feed_forward(self, y_BTD: Array, tokens: str | None) -> Array:
        return gated_mlp(y_BTD, self.gate_DF[...], self.up_DF[...], self.down_FD[...], tokens)

    def _weight(self, rngs, shape, axes, fan_in=None) -> nnx.Param:
        stacked = (self.layers, *shape)
        return weight(rngs.params(), self.cfg, stacked, ("layer", *axes), fan_in or shape[-2 if len(axes) == 2 else 0])

    def _scale(self, size) -> nnx.Param:
        return scale(self.cfg, (self.layers, size), ("layer", "norm"))

    def _zeros(self, shape, axes) -> nnx.Param:
        return nnx.Param(jnp.zeros((self.layers, *shape), self.cfg.param_dtype), axes=("layer", *axes))


class MoeBlocks(Blocks):
    """Layers whose feed-forward is a router, experts and perhaps a shared expert."""

    def _init_feed_forward(self, rngs: nnx.Rngs) -> None:
        cfg = self.cfg
        embed, inner = (cfg.experts, cfg.embed, cfg.expert_mlp), ("experts", "expert_embed", "expert_mlp")
        self.router_DE = self._weight(rngs, (cfg.embed, cfg.experts), ("embed", "router"))
        if cfg.router == "sigmoid":
            # float32 whatever the other parameters are: differences of 1e-3 decide who is chosen.
            zeros = jnp.zeros((self.layers, cfg.experts), jnp.float32)
            self.router_bias_E = nnx.Param(zeros, axes=("layer", "router"))
        self.expert_gate_EDF = self._weight(rngs, embed, inner, fan_in=cfg.embed)
        self.expert_up_EDF = self._weight(rngs, embed, inner, fan_in=cfg.embed)
        outer = (cfg.experts, cfg.expert_mlp, cfg.embed), ("experts", "expert_mlp", "expert_embed")
        self.expert_down_EFD = self._weight(rngs, *outer, fan_in=cfg.expert_mlp)
        if cfg.shared_mlp:
            self.shared_gate_DF = self._weight(rngs, (cfg.embed, cfg.shared_mlp), ("embed", "mlp"))
            self.shared_up_DF = self._weight(rngs, (cfg.embed, cfg.shared_mlp), ("embed", "mlp"))
            self.shared_down_FD = self._weight(rngs, (cfg.shared_mlp, cfg.embed), ("mlp", "embed"))

    def _feed_forward(self, y_BTD: Array, tokens: str | None) -> Array:
        bias_E = self.router_bias_E[...] if self.cfg.router == "sigmoid" else None
        experts = self.expert_gate_EDF[...], self.expert_up_EDF[...], self.expert_down_EFD[...]
        out_BTD = moe.mixture(self.cfg, y_BTD, self.router_DE[...], bias_E, *experts, tokens=tokens)
        if not self.cfg.shared_mlp:
            return out_BTD
        shared = self.shared_gate_DF[...], self.shared_up_DF[...], self.shared_down_FD[...]
        return out_BTD + gated_mlp(y_BTD, *shared, tokens)
