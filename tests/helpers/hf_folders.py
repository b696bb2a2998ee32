"""Small models of the five families with random weights: folders as transformers writes them, and parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillrl.models import policy as models
from skillrl.models.config import ModelConfig

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 24, "num_experts_per_tok": 2, "head_dim": 8}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}


def write_folder(folder, family, **changes):
    """Saves a random model of transformers; returns it. Skips where torch or transformers are missing.

    All weights are drawn anew: as initialised, norms are 1, biases 0, and logits too small to tell much.
    """
    torch = pytest.importorskip("torch", reason="the oracle needs torch")
    transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")
    config = transformers.AutoConfig.for_model(family, **{**SIZES, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("norm.weight"):
                tensor.copy_(1 + 0.3 * noise)
            else:
                tensor.copy_(noise * (0.3 if tensor.ndim == 1 else tensor.shape[-1] ** -0.5))
    model.save_pretrained(folder)
    return model


def random_params(cfg: ModelConfig, seed: int = 0) -> models.Params:
    """Parameters of any values, without compiling an initialisation."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), models.abstract_params(cfg))
