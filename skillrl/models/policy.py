"""The decoder: one definition for learning (packed rows) and for sampling (incremental, over a cache).

Shape suffixes: B rows, T tokens of a packed row, C new tokens of a row, S cache positions, D model width, N query
heads, K key/value heads, G query heads per key/value head, H head width, F feed-forward width, V vocabulary, L layers.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from skillrl import sharding
from skillrl.models.cache import KVCache
from skillrl.models.config import ModelConfig

# Nested dict of arrays, as `split` gives it.
Params = dict[str, Any]

_MASKED = -1e30  # finite: a row without any key must stay finite too
_QUERY_BLOCK = 64
_READ_LENGTHS = 8


def _weight(key: jax.Array, cfg: ModelConfig, shape: tuple[int, ...], axes: tuple[str, ...], fan_in: int) -> nnx.Param:
    """Normal with variance 1 / fan_in; `axes` are the logical axes that skillrl/sharding.py maps to the mesh."""
    return nnx.Param(jax.random.normal(key, shape, cfg.param_dtype) * fan_in**-0.5, axes=axes)


def _scale(cfg: ModelConfig, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
    return nnx.Param(jnp.ones(shape, cfg.param_dtype), axes=axes)


@jax.custom_vjp
def project(x_BTD: Array, w_DX: Array) -> Array:
    """x w over the last axis of x and the first of w; w may have several output axes.

    The gradient of w is taken as x^T g. JAX's own rule takes (g^T x)^T; where g is wider than x the transposed copy
    of g was measured to be the most expensive operation of a training step on CPU.
    """
    return jnp.tensordot(x_BTD, w_DX, 1)


def _project_forward(x_BTD, w_DX):
    return project(x_BTD, w_DX), (x_BTD, w_DX)


def _project_backward(saved, g_BTX):
    x_BTD, w_DX = saved
    outputs = tuple(range(1, w_DX.ndim))
    grad_x_BTD = jnp.tensordot(g_BTX, w_DX, (tuple(axis + 1 for axis in outputs), outputs))
    return grad_x_BTD, jnp.tensordot(x_BTD, g_BTX, ((0, 1), (0, 1)))


project.defvjp(_project_forward, _project_backward)


def rms_norm(x: Float[Array, "*B D"], scale: Float[Array, " D"], eps: float) -> Float[Array, "*B D"]:
    """Root-mean-square normalisation over the last axis in float32 (arXiv:1910.07467)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype)


def rotary(positions: Int[Array, "B T"], head_dim: int, theta: float) -> tuple[Array, Array]:
    """Cosines and sines [B, T, 1, head_dim / 2] of the rotary angles (arXiv:2104.09864)."""
    frequencies = theta ** -(jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    # The barrier keeps them tables: fused into every layer, forward and backward, they cost more than attention on CPU.
    return jax.lax.optimization_barrier((jnp.cos(angles), jnp.sin(angles)))


def rotate(x: Float[Array, "B T N H"], rotation: tuple[Array, Array]) -> Float[Array, "B T N H"]:
    """Turns the pairs (i, i + H / 2) of each head by the angles of its position."""
    cos, sin = rotation
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def attend(
    q: Float[Array, "B K G Q H"], k: Float[Array, "B K H S"], v: Float[Array, "B K S H"], mask: Array
) -> Float[Array, "B K G Q H"]:
    """Softmax attention in float32; `mask` [B, Q, S] is True where a query may look. Used by both paths.

    A single query is a matrix-vector product: written as multiply and sum it is fused with the mask and the softmax.
    """
    q = q * q.shape[-1] ** -0.5
    if q.shape[3] == 1:
        scores = (q[:, :, :, 0, :, None] * k[:, :, None]).astype(jnp.float32).sum(axis=-2)[:, :, :, None]
    else:
        scores = jnp.einsum("bkgqh,bkhs->bkgqs", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores, _MASKED)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    # Normalising the output instead of the weights saves a pass over [Q, S], forward and backward.
    out = jnp.einsum("bkgqs,bksh->bkgqh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / weights.sum(axis=-1, keepdims=True)).astype(q.dtype)


def packed_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """Causal attention within each segment, over blocks of queries so that most of the upper triangle is never made."""
    batch, length, heads, width = q.shape
    groups = heads // k.shape[2]
    q = q.reshape(batch, length, k.shape[2], groups, width).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
    index = jnp.arange(length)
    block = max(_QUERY_BLOCK, -(-length // 16))
    outs = []
    for start in range(0, length, block):
        end = min(start + block, length)
        same = segment_ids[:, start:end, None] == segment_ids[:, None, :end]
        mask = same & (index[start:end, None] >= index[None, :end])
        outs.append(attend(q[:, :, :, start:end], k[..., :end], v[:, :, :end], mask))
    out = outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=3)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def cached_attention(
    q: Float[Array, "B C N H"],
    k: Float[Array, "B K H S"],
    v: Float[Array, "B K S H"],
    positions: Int[Array, "B C"],
) -> Float[Array, "B C N H"]:
    """Attention of new tokens over the cache at positions up to their own.

    Only the smallest of a few static lengths that holds every position is read: time follows the longest row in
    use, not the capacity.
    """
    batch, count, heads, width = q.shape
    kv_heads, capacity = k.shape[1], k.shape[-1]
    q = q.reshape(batch, count, kv_heads, heads // kv_heads, width).transpose(0, 2, 3, 1, 4)
    step = 128 * max(1, math.ceil(capacity / (128 * _READ_LENGTHS)))

    def over(end, q, k, v):
        mask = jnp.arange(end) <= positions[..., None]
        return attend(q, k[..., :end], v[:, :, :end], mask)

    branches = [functools.partial(over, min(end, capacity)) for end in range(step, capacity + step, step)]
    longest = jnp.clip(positions.max(), 0, capacity - 1)
    out = jax.lax.switch(longest // step, branches, q, k, v)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, count, heads, width)


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
