"""The decoder: one definition for learning (packed rows) and for sampling (incremental, over a cache).

Shape suffixes: B rows, T tokens of a packed row, C new tokens of a row, S cache positions, D model width, N query
heads, K key/value heads, G query heads per key/value head, H head width, F feed-forward width, V vocabulary, L layers.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from skillrl import sharding
from skillrl.models.attention import cached_attention, packed_attention
from skillrl.models.cache import KVCache
from skillrl.models.config import ModelConfig
from skillrl.models.layers import project, rms_norm, rotary, rotate

# Nested dict of arrays, as `split` gives it.
Params = dict[str, Any]


def _weight(key: jax.Array, cfg: ModelConfig, shape: tuple[int, ...], axes: tuple[str, ...], fan_in: int) -> nnx.Param:
    """Normal with variance 1 / fan_in; `axes` are the logical axes that skillrl/sharding.py maps to the mesh."""
    return nnx.Param(jax.random.normal(key, shape, cfg.param_dtype) * fan_in**-0.5, axes=axes)


def _scale(cfg: ModelConfig, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
    return nnx.Param(jnp.ones(shape, cfg.param_dtype), axes=axes)


class Blocks(nnx.Module):
    """All layers, parameters stacked on a leading layer axis. `nnx.merge` with one slice of them gives one layer."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        layers, embed, mlp, width = cfg.layers, cfg.embed, cfg.mlp, cfg.head_dim

        def weight(shape, axes, fan_in):
            return _weight(rngs.params(), cfg, (layers, *shape), ("layer", *axes), fan_in)

        def scale(size, axis):
            return _scale(cfg, (layers, size), ("layer", axis))

        self.attention_norm_D = scale(embed, "norm")
        self.q_DNH = weight((embed, cfg.q_heads, width), ("embed", "heads", "head_dim"), embed)
        self.k_DKH = weight((embed, cfg.kv_heads, width), ("embed", "kv_heads", "head_dim"), embed)
        self.v_DKH = weight((embed, cfg.kv_heads, width), ("embed", "kv_heads", "head_dim"), embed)
        self.q_norm_H = scale(width, "norm")
        self.k_norm_H = scale(width, "norm")
        self.o_NHD = weight((cfg.q_heads, width, embed), ("heads", "head_dim", "embed"), cfg.q_heads * width)
        self.mlp_norm_D = scale(embed, "norm")
        self.gate_DF = weight((embed, mlp), ("embed", "mlp"), embed)
        self.up_DF = weight((embed, mlp), ("embed", "mlp"), embed)
        self.down_FD = weight((mlp, embed), ("mlp", "embed"), mlp)

    def __call__(
        self, x_BTD: Array, rotation: tuple[Array, Array], attention: Callable[[Array, Array, Array], Array]
    ) -> Array:
        """One layer; `attention` maps q, k, v [B, T, heads, H] to the heads' output [B, T, N, H]."""
        cfg, dtype = self.cfg, x_BTD.dtype
        y_BTD = rms_norm(x_BTD, self.attention_norm_D[...], cfg.norm_eps)
        q_BTNH = project(y_BTD, self.q_DNH[...].astype(dtype))
        k_BTKH = project(y_BTD, self.k_DKH[...].astype(dtype))
        v_BTKH = project(y_BTD, self.v_DKH[...].astype(dtype))
        q_BTNH = rotate(rms_norm(q_BTNH, self.q_norm_H[...], cfg.norm_eps), rotation)
        k_BTKH = rotate(rms_norm(k_BTKH, self.k_norm_H[...], cfg.norm_eps), rotation)
        q_BTNH = sharding.constrain(q_BTNH, "batch", None, "heads", None)
        k_BTKH = sharding.constrain(k_BTKH, "batch", None, "kv_heads", None)
        heads_BTNH = attention(q_BTNH, k_BTKH, v_BTKH)
        x_BTD = x_BTD + jnp.einsum("btnh,nhd->btd", heads_BTNH, self.o_NHD[...].astype(dtype))
        x_BTD = sharding.constrain(x_BTD, "batch", None, None)

        # SwiGLU, down(silu(gate(x)) * up(x)) (arXiv:2002.05202).
        y_BTD = rms_norm(x_BTD, self.mlp_norm_D[...], cfg.norm_eps)
        gate_BTF = project(y_BTD, self.gate_DF[...].astype(dtype))
        up_BTF = project(y_BTD, self.up_DF[...].astype(dtype))
        hidden_BTF = sharding.constrain(jax.nn.silu(gate_BTF) * up_BTF, "batch", None, "mlp")
        x_BTD = x_BTD + jnp.einsum("btf,fd->btd", hidden_BTF, self.down_FD[...].astype(dtype))
        return sharding.constrain(x_BTD, "batch", None, None)


class Policy(nnx.Module):
    """The decoder. Parameters are float32 by default, activations `cfg.dtype`, logits always float32."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.embed_VD = _weight(rngs.params(), cfg, (cfg.vocab, cfg.embed), ("vocab", "embed"), cfg.embed)
        self.blocks = Blocks(cfg, rngs=rngs)
        self.final_norm_D = _scale(cfg, (cfg.embed,), ("norm",))
        if not cfg.tied:
            self.head_DV = _weight(rngs.params(), cfg, (cfg.embed, cfg.vocab), ("embed", "vocab"), cfg.embed)

    @classmethod
    def create(cls, cfg: ModelConfig, mesh: Mesh, seed: int) -> "Policy":
        """A freshly initialised policy, each parameter made in its place on `mesh`."""
        init = jax.jit(functools.partial(init_params, cfg), out_shardings=param_shardings(cfg, mesh))
        return merge(cfg, init(jax.random.key(seed)))

    def __call__(
        self, tokens_BT: Int[Array, "B T"], positions_BT: Int[Array, "B T"], segment_ids_BT: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Final hidden states of packed rows; a token sees the earlier tokens of its own segment."""
        rotation = rotary(positions_BT, self.cfg.head_dim, self.cfg.rope_theta)
        graphdef, stacked = nnx.split(self.blocks)

        def layer(x_BTD, params):
            block = nnx.merge(graphdef, params)
            return block(x_BTD, rotation, lambda q, k, v: packed_attention(q, k, v, segment_ids_BT)), None

        if self.cfg.remat == "full":
            layer = jax.checkpoint(layer, prevent_cse=False)
        x_BTD, _ = jax.lax.scan(layer, self._embed(tokens_BT), stacked, unroll=min(self.cfg.unroll, self.cfg.layers))
        return rms_norm(x_BTD, self.final_norm_D[...], self.cfg.norm_eps)

    def decode(
        self, tokens_BC: Int[Array, "B C"], positions_BC: Int[Array, "B C"], cache: KVCache
    ) -> tuple[Float[Array, "B C D"], KVCache]:
        """Writes C new tokens a row into the cache and returns their final hidden states.

        C = 1 decodes, C > 1 prefills a chunk. Each token sees the cache at positions up to its own, the new ones
        included. A token with position -1, or at or beyond the cache's capacity, is padding: it is written nowhere
        and its hidden state means nothing. Donate the cache (or carry it through a loop) to update it in place.
        """
        rotation = rotary(positions_BC, self.cfg.head_dim, self.cfg.rope_theta)
        slots_BC = jnp.where(positions_BC < 0, cache.max_tokens, positions_BC)
        rows_B1 = jnp.arange(tokens_BC.shape[0])[:, None]
        graphdef, stacked = nnx.split(self.blocks)
        keys, values = [], []

        def attention(layer, q, k, v):
            keys.append(cache.k_BKHS[layer].at[rows_B1, :, :, slots_BC].set(k, mode="drop"))
            values.append(cache.v_BKSH[layer].at[rows_B1, :, slots_BC].set(v, mode="drop"))
            return cached_attention(q, keys[-1], values[-1], positions_BC)

        x_BCD = self._embed(tokens_BC)
        # A loop over layers, not a scan: scanning would copy every layer's cache in each step.
        for layer in range(self.cfg.layers):
            block = nnx.merge(graphdef, jax.tree.map(lambda p, layer=layer: p[layer], stacked))
            x_BCD = block(x_BCD, rotation, functools.partial(attention, layer))
        return rms_norm(x_BCD, self.final_norm_D[...], self.cfg.norm_eps), KVCache(tuple(keys), tuple(values))

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Float32 logits of hidden states."""
        head = self.embed_VD[...].T if self.cfg.tied else self.head_DV[...]
        return jnp.einsum("...d,dv->...v", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)

    def _embed(self, tokens_BT):
        x_BTD = jnp.take(self.embed_VD[...], tokens_BT, axis=0, mode="clip").astype(self.cfg.dtype)
        return sharding.constrain(x_BTD, "batch", None, None)


def split(policy: Policy) -> Params:
    """The parameters as a nested dict of arrays: what jit, optimizer and checkpoint work on."""
    return nnx.to_pure_dict(nnx.split(policy)[1])


def merge(cfg: ModelConfig, params: Params) -> Policy:
    """The policy with these parameters; inverse of `split`, free of cost inside and outside of jit."""
    return nnx.merge(_structure(cfg)[0], params)


def init_params(cfg: ModelConfig, key: jax.Array) -> Params:
    """Fresh parameters; pure, so it can be jitted with the shardings of `param_shardings`."""
    return split(Policy(cfg, rngs=nnx.Rngs(params=key)))


def abstract_params(cfg: ModelConfig, mesh: Mesh | None = None) -> Params:
    """Shapes and dtypes of the parameters, with shardings where a mesh is given; allocates nothing."""
    shapes = jax.eval_shape(functools.partial(init_params, cfg), jax.random.key(0))
    if mesh is None:
        return shapes
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, param_shardings(cfg, mesh)
    )


def param_axes(cfg: ModelConfig) -> dict[str, Any]:
    """Logical axes of every parameter, in the nested layout of the parameters."""
    return _structure(cfg)[1]


def param_shardings(cfg: ModelConfig, mesh: Mesh) -> dict[str, Any]:
    """NamedSharding of every parameter. Raises ShardingError where the mesh does not divide the model."""

    def place(path, x, axes) -> NamedSharding:
        sharding.check_divides(jax.tree_util.keystr(path, simple=True, separator="."), x.shape, axes, mesh)
        return sharding.named(mesh, *axes)

    return jax.tree_util.tree_map_with_path(place, abstract_params(cfg), param_axes(cfg))


@functools.cache
def _structure(cfg: ModelConfig):
    policy = nnx.eval_shape(lambda: Policy(cfg, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(policy)
    axes = jax.tree.map(lambda p: p.get_metadata("axes"), state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    return graphdef, nnx.to_pure_dict(axes)
