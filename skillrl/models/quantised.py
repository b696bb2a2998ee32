"""int8 weights for sampling: of each output channel, a scale and integers of -127 to 127.

The projections of attention, feed-forwards and routed experts are held so; embedding, head, norms, biases and routers
are not: they are small, or decide too much. A layer makes its weights anew as it is computed, which on TPUs happens
inside the product that reads them: memory holds and gives out one byte a weight.

qwix (0.1.8) cannot do this here, for the reason given in lora.py: its `quantize_model` puts the integers into the
module that owns a weight while that is traced, and our layers are modules for the length of one scan step
(`TraceContextError: Cannot mutate 'Blocks' from different trace level`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from skillrl.models.lora import INPUTS

# What the sampler's weights may be held in; "" is the policy's dtype.
WEIGHTS_DTYPES = ("", "int8")
_STEPS = 127
# Axes, that of the layers included, over which a product sums.
_SUMMED = {name: tuple(range(1, 1 + inputs)) for name, inputs in INPUTS.items()} | dict.fromkeys(
    ("expert_gate_EDF", "expert_up_EDF", "expert_down_EFD"), (2,)
)


class Quantised(NamedTuple):
    """A stack of weights: values * scale. The scale has 1 in place of the axes over which a product sums."""

    values: Int8[Array, "*weight"]
    scale: Float[Array, "*channels"]


def summed_axes(path: tuple) -> tuple[int, ...]:
    """Axes over which products with the parameter at `path` sum; none where it is not held in int8."""
    return _SUMMED.get(str(path[-1].key), ())


def quantise(weight: Float[Array, "*weight"], summed: tuple[int, ...]) -> Quantised:
    """Each channel's largest weight becomes 127 steps. What is not finite stays so, through the scale."""
    weight = weight.astype(jnp.float32)
    scale = jnp.abs(weight).max(axis=summed, keepdims=True) / _STEPS
    values = jnp.round(weight / jnp.where(scale > 0, scale, 1)).astype(jnp.int8)
    return Quantised(values, scale)


def dequantised(tree: Any, dtype) -> Any:
    """The tree with ordinary weights in place of quantised ones."""

    def restore(x):
        return (x.values.astype(jnp.float32) * x.scale).astype(dtype) if isinstance(x, Quantised) else x

    return jax.tree.map(restore, tree, is_leaf=lambda x: isinstance(x, Quantised))
