"""What a layer keeps for its backward pass: the one table from the name in the config to JAX's policy."""

from collections.abc import Callable

import jax

# Names that the layers give to values (jax.ad_checkpoint.checkpoint_name) so that policies can speak of them.
ATTENTION_OUTPUT = "attention_output"
LAYER_INPUT = "layer_input"

_policies = jax.checkpoint_policies
POLICIES: dict[str, Callable] = {
    # Recompute the layer from its input.
    "full": _policies.nothing_saveable,
    # Keep the results of matrix products with parameters: recomputes norms, activations and attention.
    "dots": _policies.dots_with_no_batch_dims_saveable,
    # Keep the heads' outputs: attention is not recomputed, everything else is.
    "attention": _policies.save_only_these_names(ATTENTION_OUTPUT),
    # As "full", with the layers' inputs in the host's memory: for rows too long for the chip.
    "offload": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[LAYER_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def remat(layer: Callable, name: str) -> Callable:
    """The layer, a body of `jax.lax.scan`, under the named policy; "none" keeps all activations."""
    if name == "none":
        return layer
    # In a scan nothing can be merged across iterations, so the barriers against it would only cost.
    return jax.checkpoint(layer, prevent_cse=False, policy=POLICIES[name])
