"""The decoder: one definition for learning (packed rows) and for sampling (incremental, over a cache).

Shape suffixes: B rows, T tokens of a packed row, C new tokens of a row, S cache positions, D model width, N query
heads, K key/value heads, G query heads per key/value head, H head width, F feed-forward width, E experts, V vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from skillrl import sharding
from skillrl.models.attention import packed_attention
from skillrl.models.blocks import Blocks, MoeBlocks, scale, weight
from skillrl.models.cache import PagedCache, Ragged
from skillrl.models.config import ModelConfig
from skillrl.models.layers import rms_norm
from skillrl.models.lora import merge_layer
from skillrl.models.paged import extend_and_attend
from skillrl.models.quantised import dequantised
from skillrl.models.remat import LAYER_INPUT, remat
from skillrl.models.rope import rotary

# Nested dict of arrays, as `split` gives it.
Params = dict[str, Any]


class Policy(nnx.Module):
    """The decoder. Parameters are float32 by default, activations `cfg.dtype`, logits always float32."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.embed_VD = weight(rngs.params(), cfg, (cfg.vocab, cfg.embed), ("vocab", "embed"), cfg.embed)
        if cfg.dense_layers:
            self.blocks = Blocks(cfg, cfg.dense_layers, rngs=rngs)
        if cfg.dense_layers < cfg.layers:
            self.moe_blocks = MoeBlocks(cfg, cfg.layers - cfg.dense_layers, rngs=rngs)
        self.final_norm_D = scale(cfg, (cfg.embed,), ("norm",))
        if not cfg.tied:
            self.head_DV = weight(rngs.params(), cfg, (cfg.embed, cfg.vocab), ("embed", "vocab"), cfg.embed)

    @classmethod
    def create(cls, cfg: ModelConfig, mesh: Mesh, seed: int) -> "Policy":
        """A freshly initialised policy, each parameter made in its place on `mesh`."""
        init = jax.jit(functools.partial(init_params, cfg), out_shardings=param_shardings(cfg, mesh))
        return merge(cfg, init(jax.random.key(seed)))

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        positions_BT: Int[Array, "B T"],
        segment_ids_BT: Int[Array, "B T"],
        adapters: Params | None = None,
    ) -> Float[Array, "B T D"]:
        """Final hidden states of packed rows; a token sees the earlier tokens of its own segment.

        `adapters` (skillrl/models/lora.py) are added to the weights of each layer as it is computed.
        """
        adapters = adapters or {}
        rotation = rotary(positions_BT, self.cfg)
        x_BTD = self._embed(tokens_BT, "tokens")

        def attention(q_BTNH, k_BTKH, v_BTKH):
            return packed_attention(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, self.cfg.attention)

        for name, blocks in self._stacks().items():
            graphdef, stacked = nnx.split(blocks)

            def layer(x_BTD, params, graphdef=graphdef):
                x_BTD = checkpoint_name(x_BTD, LAYER_INPUT)
                params, adapters_of_layer = params
                if adapters_of_layer:
                    params = merge_layer(nnx.to_pure_dict(params), adapters_of_layer, adapters["scale"])
                block = nnx.merge(graphdef, params)
                return block(x_BTD, rotation, attention), None

            x_BTD, _ = jax.lax.scan(
                remat(layer, self.cfg.remat),
                x_BTD,
                (stacked, adapters.get(name, {})),
                unroll=min(self.cfg.unroll, blocks.layers),
            )
        return rms_norm(x_BTD, self.final_norm_D[...], self.cfg.norm_eps)

    def decode(
        self, tokens_ST: Int[Array, "S T"], ragged: Ragged, cache: PagedCache
    ) -> tuple[Float[Array, "S T D"], PagedCache]:
        """Writes the new tokens of some rows into the cache and returns their final hidden states.

        Each token sees the cache at positions up to its own, the new ones included. Hidden states of padding mean
        nothing. Donate the cache (or carry it through a loop) to update it in place. Weights may be quantised ones.
        """
        rotation = rotary(ragged.positions(tokens_ST.shape[1])[1], self.cfg)
        # The new tokens are few, and not split over the mesh as those of a packed row are.
        first, state = 0, (self._embed(tokens_ST, None), cache)
        for blocks in self._stacks().values():
            graphdef, stacked = nnx.split(blocks)

            def layer(state, inputs, graphdef=graphdef):
                (x_STD, cache), (params, index) = state, inputs

                def attention(q, k, v):
                    nonlocal cache
                    cache, out = extend_and_attend(cache, index, self.cfg.layers, q, k, v, ragged)
                    return out

                block = nnx.merge(graphdef, dequantised(params, self.cfg.dtype))
                x_STD = block(x_STD, rotation, attention, tokens=None)
                return (x_STD, cache), None

            indices = first + jnp.arange(blocks.layers)
            unroll = min(self.cfg.unroll, blocks.layers)
            state, _ = jax.lax.scan(layer, state, (stacked, indices), unroll=unroll)
            first += blocks.layers
        return rms_norm(state[0], self.final_norm_D[...], self.cfg.norm_eps), state[1]

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Float32 logits of hidden states."""
        head = self.embed_VD[...].T if self.cfg.tied else self.head_DV[...]
        return jnp.einsum("...d,dv->...v", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)

    def _embed(self, tokens_BT, tokens_axis):
        table_VD = self.embed_VD[...]
        if tokens_axis:
            # Gathered over its width: otherwise the result is moved from width to rows by way of a full copy.
            table_VD = sharding.constrain(table_VD, "vocab", None)
        x_BTD = jnp.take(table_VD, tokens_BT, axis=0, mode="clip").astype(self.cfg.dtype)
        return sharding.constrain(x_BTD, "batch", tokens_axis, None)

    def _stacks(self) -> dict[str, Blocks]:
        """The stacks of layers in their order: dense ones, then those with experts."""
        return {name: getattr(self, name) for name in ("blocks", "moe_blocks") if hasattr(self, name)}


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
    shapes = jax.eval_shape(lambda: init_params(cfg, jax.random.key(0)))
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
