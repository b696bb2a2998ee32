"""The policy's weights as sampling wants them: whole in each replica, in the arithmetic's dtype.

The learner stores every weight in parts over the whole mesh and gathers it where a layer uses it. Over the thousands of
tokens of a micro-batch that costs little; a decode step has one token a row, and would wait for the links.
"""

import functools

import jax
from jax.sharding import Mesh

from skillrl import sharding
from skillrl.models.config import ModelConfig
from skillrl.models.policy import Params, abstract_params, param_axes
from skillrl.models.quantised import Quantised, quantise, summed_axes

# The policy computes with these in float32, whatever its dtype: rounded, they would be another policy.
_UNROUNDED = ("norm_D", "norm_H", "router_DE", "router_bias_E")


def replica_mesh(mesh: Mesh, chips: int) -> Mesh:
    """The devices of `mesh` as replicas of `chips` each, which share every layer by its heads and widths.

    Raises ShardingError where the replicas do not divide the devices.
    """
    return sharding.make_mesh({"data": -1, "tensor": chips}, devices=list(mesh.devices.flat))


def abstract_weights(cfg: ModelConfig, mesh: Mesh, dtype: str = "") -> Params:
    """Shapes, dtypes and places on `mesh` of what `copied` gives. Raises ShardingError where it does not divide."""
    abstract = abstract_params(cfg, mesh)
    held = jax.eval_shape(functools.partial(_held, cfg, dtype), abstract)

    def placed(x, axes, whole):
        if not isinstance(x, Quantised):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole.sharding)
        channels = [axis if size > 1 else None for axis, size in zip(axes, x.scale.shape, strict=True)]
        scale = jax.ShapeDtypeStruct(x.scale.shape, x.scale.dtype, sharding=sharding.named(mesh, *channels))
        return Quantised(jax.ShapeDtypeStruct(x.values.shape, x.values.dtype, sharding=whole.sharding), scale)

    return jax.tree.map(placed, held, param_axes(cfg), abstract, is_leaf=lambda x: isinstance(x, Quantised))


def copied(cfg: ModelConfig, mesh: Mesh, dtype: str, params: Params) -> Params:
    """Copies of the learner's `params` in their places on `mesh`, rounded as the policy's layers round them.

    `dtype` is one of WEIGHTS_DTYPES: with "int8" they are quantised, on the devices that hold the parameters.
    """
    places = jax.tree.map(lambda x: x.sharding, abstract_weights(cfg, mesh, dtype))
    return jax.device_put(_held(cfg, dtype, params), places)


@functools.partial(jax.jit, static_argnames=("cfg", "dtype"))
def _held(cfg: ModelConfig, dtype: str, params: Params) -> Params:
    def hold(path, x):
        if str(path[-1].key).endswith(_UNROUNDED):
            return x
        summed = summed_axes(path)
        return quantise(x, summed) if dtype and summed else x.astype(cfg.dtype)

    return jax.tree_util.tree_map_with_path(hold, params)
