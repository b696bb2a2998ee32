"""The policy's weights as sampling wants them: whole in each replica, in the arithmetic's dtype.

The learner stores every weight in parts over the whole mesh and gathers it where a layer uses it. Over the thousands of
tokens of a micro-batch that costs little; a decode step has one token a row, and would wait for the links.
"""

import functools

import jax
from jax.sharding import Mesh

from skillrl import sharding
from skillrl.models.config import ModelConfig
from skillrl.models.policy import Params, abstract_params

# The policy computes with these in float32, whatever its dtype: rounded, they would be another policy.
_UNROUNDED = ("norm_D", "norm_H", "router_DE", "router_bias_E")


def replica_mesh(mesh: Mesh, chips: int) -> Mesh:
    """The devices of `mesh` as replicas of `chips` each, which share every layer by its heads and widths.

    Raises ShardingError where the replicas do not divide the devices.
    """
    return sharding.make_mesh({"data": -1, "tensor": chips}, devices=list(mesh.devices.flat))


def abstract_weights(cfg: ModelConfig, mesh: Mesh) -> Params:
    """Shapes, dtypes and places on `mesh` of what `replicate` gives. Raises ShardingError where it does not divide."""

    def rounded(path, x):
        dtype = x.dtype if _unrounded(path) else cfg.dtype
        return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)

    return jax.tree_util.tree_map_with_path(rounded, abstract_params(cfg, mesh))


def replicate(cfg: ModelConfig, mesh: Mesh, params: Params) -> Params:
    """Copies of the learner's `params`, rounded as the policy's layers round them, in their places on `mesh`."""
    places = jax.tree.map(lambda x: x.sharding, abstract_weights(cfg, mesh))
    return jax.device_put(_rounded(cfg, params), places)


@functools.partial(jax.jit, static_argnames="cfg")
def _rounded(cfg: ModelConfig, params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, x: x if _unrounded(path) else x.astype(cfg.dtype), params)


def _unrounded(path) -> bool:
    return str(path[-1].key).endswith(_UNROUNDED)
