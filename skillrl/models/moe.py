"""Mixture of experts without dropping tokens: router, grouped matrix products, experts over the mesh.

Shape suffixes beside those of policy.py: N tokens of a chip, X experts chosen for a token, R = N X rows, one for each
chosen expert of each token.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from skillrl import sharding
from skillrl.models.config import ModelConfig


def route(
    cfg: ModelConfig, x_ND: Float[Array, "N D"], router_DE: Float[Array, "D E"], bias_E: Float[Array, " E"] | None
) -> tuple[Float[Array, "N X"], Int[Array, "N X"]]:
    """Weights, float32, and numbers of the experts chosen for each token.

    "softmax": probabilities over all experts (Qwen3-MoE). "sigmoid": a score for each expert; the bias moves the choice
    alone, not the weights, and gets no gradient (arXiv:2412.19437, section 2.1.2; one group of experts).
    """
    # Highest: a TPU would otherwise round the factors to bfloat16.
    logits = jnp.dot(x_ND.astype(jnp.float32), router_DE.astype(jnp.float32), precision="highest")
    scores = jax.nn.softmax(logits) if cfg.router == "softmax" else jax.nn.sigmoid(logits)
    choice = jax.lax.stop_gradient(scores if bias_E is None else scores + bias_E)
    chosen_NX = jax.lax.top_k(choice, cfg.experts_per_token)[1]
    weights_NX = jnp.take_along_axis(scores, chosen_NX, axis=-1)
    if cfg.router_normalize:
        weights_NX = weights_NX / (weights_NX.sum(axis=-1, keepdims=True) + 1e-20)
    return weights_NX * cfg.router_scale, chosen_NX


# JAX's gradient of a gather is a scatter, slow on accelerators. That of a gather by a permutation is a gather by its
# inverse, so each of the next two functions is the gradient of the other.


@jax.custom_vjp
def dispatch(x: Float[Array, "N *D"], order: Int[Array, " R"], inverse: Int[Array, " R"]) -> Float[Array, "R *D"]:
    """The rows of x, each repeated R / N times, in the order of the permutation `order`; `inverse` is its inverse."""
    return x[order // (len(order) // len(x))]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def combine(y: Float[Array, "R *D"], order: Int[Array, " R"], inverse: Int[Array, " R"], copies: int):
    """For each row that `dispatch` repeated, the sum of its `copies`: [N, *D]."""
    return y[inverse].reshape(-1, copies, *y.shape[1:]).sum(axis=1)


def _dispatch_forward(x, order, inverse):
    return dispatch(x, order, inverse), (order, inverse, len(order) // len(x))


def _dispatch_backward(saved, g):
    order, inverse, copies = saved
    return combine(g, order, inverse, copies), None, None


def _combine_forward(y, order, inverse, copies):
    return combine(y, order, inverse, copies), (order, inverse)


def _combine_backward(copies, saved, g):
    return dispatch(g, *saved), None, None


dispatch.defvjp(_dispatch_forward, _dispatch_backward)
combine.defvjp(_combine_forward, _combine_backward)


def experts(
    x_ND: Float[Array, "N D"],
    weights_NX: Float[Array, "N X"],
    chosen_NX: Int[Array, "N X"],
    gate_EDF: Float[Array, "E D F"],
    up_EDF: Float[Array, "E D F"],
    down_EFD: Float[Array, "E F D"],
) -> Float[Array, "N D"]:
    """Weighted sum of the outputs of each token's experts. Experts outside of 0..E-1 count nothing: others have them.

    Rows are sorted by expert, so that each of the three products is one grouped matrix product over N X rows, however
    the tokens are spread over the experts: none is dropped, and the memory does not depend on the router.
    """
    held_R = ((chosen_NX >= 0) & (chosen_NX < len(gate_EDF))).ravel()
    expert_R = jnp.where(held_R, chosen_NX.ravel(), len(gate_EDF))
    order = jnp.argsort(expert_R)
    inverse = jnp.argsort(order)
    sizes_E = (expert_R[:, None] == jnp.arange(len(gate_EDF))).sum(axis=0, dtype=jnp.int32)

    # What a grouped product leaves in rows beyond its groups differs between backends; masked on both sides it counts
    # neither here nor in the gradients.
    held_R1 = held_R[order][:, None]
    x_RD = jnp.where(held_R1, dispatch(x_ND, order, inverse), 0)
    gate_RF = jax.lax.ragged_dot(x_RD, gate_EDF, sizes_E)
    up_RF = jax.lax.ragged_dot(x_RD, up_EDF, sizes_E)
    # Weighted before the last product, where rows are narrower than after it.
    hidden_RF = jax.nn.silu(gate_RF) * up_RF * dispatch(weights_NX.ravel(), order, inverse)[:, None]
    hidden_RF = jnp.where(held_R1, hidden_RF, 0).astype(x_ND.dtype)
    out_RD = jnp.where(held_R1, jax.lax.ragged_dot(hidden_RF, down_EFD, sizes_E), 0)
    return combine(out_RD, order, inverse, chosen_NX.shape[1])


def mixture(
    cfg: ModelConfig,
    x_BTD: Float[Array, "B T D"],
    router_DE: Float[Array, "D E"],
    bias_E: Float[Array, " E"] | None,
    gate_EDF: Float[Array, "E D F"],
    up_EDF: Float[Array, "E D F"],
    down_EFD: Float[Array, "E F D"],
    tokens: str | None,
) -> Float[Array, "B T D"]:
    """The routed experts' output; `tokens` is the logical axis of T.

    On a mesh every chip routes its own tokens, and the layer's expert weights are gathered over the axes that store
    their width in parts. Over the `experts` axis the weights stay where they are: each chip of it gets the tokens of
    all, computes its experts' share of them, and the shares are added up where the tokens came from. A token goes to
    several of the 8 or fewer parts of that axis anyway, so sending it to all costs little more than an exact exchange,
    and needs no room for the case that all tokens choose the same part.
    """
    if bias_E is None:
        bias_E = jnp.zeros(cfg.experts, jnp.float32)
    operands = x_BTD, router_DE, bias_E, gate_EDF, up_EDF, down_EFD
    if jax.sharding.get_abstract_mesh().empty:
        return _local_mixture(cfg, None, *operands)
    inner = sharding.spec("experts", "expert_embed", "expert_mlp")
    outer = sharding.spec("experts", "expert_mlp", "expert_embed")
    rows = sharding.spec("batch", tokens, None)
    specs = (rows, sharding.spec(None, None), sharding.spec(None), inner, inner, outer)
    # Without a split of the tokens the types of shard_map cannot tell that all chips of its axis hold the same result.
    local = functools.partial(_local_mixture, cfg, sharding.RULES)
    return jax.shard_map(local, in_specs=specs, out_specs=rows, check_vma=tokens is not None)(*operands)


def _local_mixture(cfg, axes, x_BTD, router_DE, bias_E, gate_EDF, up_EDF, down_EFD):
    """`mixture` of one chip's tokens and weights inside of shard_map; outside of it, where `axes` is None, of all."""
    dtype = x_BTD.dtype
    x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
    weights_NX, chosen_NX = route(cfg, x_ND, router_DE, bias_E)
    if axes is None:
        weights = (w.astype(dtype) for w in (gate_EDF, up_EDF, down_EFD))
        return experts(x_ND, weights_NX, chosen_NX, *weights).reshape(x_BTD.shape)
    stored = axes["experts"] + axes["expert_embed"]
    copied = tuple(axis for axis in axes["batch"] if axis not in stored)

    def gather(w, axis):
        # As copies before they are gathered: their gradients are then added up over `copied` after they were split.
        w = jax.lax.pcast(w, copied, to="varying").astype(dtype)
        return jax.lax.all_gather(w, axes["expert_embed"], axis=axis, tiled=True)

    weights = gather(gate_EDF, 1), gather(up_EDF, 1), gather(down_EFD, 2)
    if jax.lax.axis_size(axes["experts"]) == 1:
        out_ND = experts(x_ND, weights_NX, chosen_NX, *weights)
    else:
        first = jax.lax.axis_index(axes["experts"]) * len(gate_EDF)
        everyone = jax.lax.all_gather((x_ND, weights_NX, chosen_NX), axes["experts"])
        # One part's tokens at a time, recomputed in the backward pass: the sorted rows of all would not fit.
        share = jax.checkpoint(lambda args: experts(args[0], args[1], args[2] - first, *weights))
        out_ND = jax.lax.psum_scatter(jax.lax.map(share, everyone), axes["experts"])
    return jax.lax.psum(out_ND, axes["expert_mlp"]).reshape(x_BTD.shape)
