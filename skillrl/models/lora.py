"""Low-rank adapters (arXiv:2106.09685): W + scale * A B in place of the frozen W, made anew in each layer.

Adapters are a tree beside the parameters: {"blocks": {"q_DNH": {"a": [L, D, R], "b": [L, R, N, H]}, ...}}, R the rank,
and "scale", alpha / R. A is normal, B is zero, so a fresh adapter changes nothing. Adapted are the projections of
attention and of dense and shared feed-forwards; routers, the routed experts, embedding and head stay as they are.

qwix (0.1.8) cannot do this here: it makes adapters while `__call__` is traced, on the module that owns a weight, and
puts random counters into every module. Our layers are modules for the length of one scan step, made from slices of
stacked weights; the counters have no layer axis (the scan fails), and adapters made inside it would be lost.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

# Nested dict of arrays.
Params = dict[str, Any]

_STACKS = ("blocks", "moe_blocks")
# Projections and how many of their axes, the first ones, are inputs.
INPUTS = {
    "q_DNH": 1,
    "k_DKH": 1,
    "v_DKH": 1,
    "o_NHD": 2,
    "gate_DF": 1,
    "up_DF": 1,
    "down_FD": 1,
    "shared_gate_DF": 1,
    "shared_up_DF": 1,
    "shared_down_FD": 1,
}


def init_adapters(abstract: Params, rank: int, alpha: float, key: jax.Array) -> Params:
    """Fresh float32 adapters for all layers of a policy with the (abstract) parameters."""
    adapters: Params = {"scale": jnp.float32(alpha / rank)}
    for stack, name, inputs in _targets(abstract):
        layers, *shape = abstract[stack][name].shape
        key, draw = jax.random.split(key)
        fan_in = math.prod(shape[:inputs])
        adapters.setdefault(stack, {})[name] = {
            "a": jax.random.normal(draw, (layers, *shape[:inputs], rank), jnp.float32) * fan_in**-0.5,
            "b": jnp.zeros((layers, rank, *shape[inputs:]), jnp.float32),
        }
    return adapters


def adapter_axes(axes: dict[str, Any]) -> dict[str, Any]:
    """Logical axes of the adapters from those of the parameters: split over the mesh alike, but for the rank."""
    out: dict[str, Any] = {"scale": ()}
    for stack, name, inputs in _targets(axes):
        layer, *rest = axes[stack][name]
        out.setdefault(stack, {})[name] = {
            "a": (layer, *rest[:inputs], None),
            "b": (layer, None, *rest[inputs:]),
        }
    return out


def merge_layer(params: Any, adapters: Any, scale: jax.Array) -> Any:
    """The weights of one layer with its adapters added; `params` and `adapters` by name, without the layer axis."""
    merged = dict(params)
    for name, adapter in adapters.items():
        change = jnp.tensordot(adapter["a"], adapter["b"], 1)
        merged[name] = (params[name].astype(jnp.float32) + scale * change).astype(params[name].dtype)
    return merged


def merge_adapters(params: Params, adapters: Params) -> Params:
    """Parameters of a policy without adapters that computes the same: what is sampled from and exported."""
    merged = dict(params)
    for stack in _STACKS:
        if stack in adapters:
            merged[stack] = jax.vmap(merge_layer, (0, 0, None))(params[stack], adapters[stack], adapters["scale"])
    return merged


def _targets(tree: dict[str, Any]):
    """Stack, name and number of input axes of every adapted weight."""
    return [(s, name, inputs) for s in _STACKS if s in tree for name, inputs in INPUTS.items() if name in tree[s]]
