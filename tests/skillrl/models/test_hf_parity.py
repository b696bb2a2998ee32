"""The five families against transformers: the same logits from its folders, and from ours in it."""

import jax
import numpy as np
import pytest
from hf_folders import EXPERTS, LLAMA3, YARN, write_folder

from skillrl.models import check
from skillrl.models import policy as models
from skillrl.models.hf import load_hf, save_hf

_PLAIN = {"rope_type": "default", "rope_theta": 1e6}
_GLM = EXPERTS | {"n_routed_experts": 4, "num_hidden_layers": 3, "first_k_dense_replace": 1, "attention_bias": True}
CASES = {
    "qwen2": ("qwen2", {"rope_parameters": _PLAIN}),
    "qwen2-tied-yarn": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 1, "rope_parameters": YARN}),
    "qwen3": ("qwen3", {"head_dim": 8, "rope_parameters": _PLAIN}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True, "head_dim": 16, "num_key_value_heads": 4}),
    "qwen3-yarn": ("qwen3", {"head_dim": 8, "rope_parameters": YARN | {"attention_factor": 1.5, "beta_fast": 8.0}}),
    "llama": ("llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama-tied-llama3": ("llama", {"tie_word_embeddings": True, "head_dim": 16, "rope_parameters": LLAMA3}),
    "llama-yarn": ("llama", {"num_key_value_heads": 1, "rope_parameters": YARN}),
    "qwen3_moe": ("qwen3_moe", EXPERTS | {"num_experts": 4, "norm_topk_prob": True}),
    "qwen3_moe-sums": ("qwen3_moe", EXPERTS | {"num_experts": 6, "num_experts_per_tok": 3, "norm_topk_prob": False}),
    "glm4_moe": ("glm4_moe", _GLM),
    "glm4_moe-norms": (
        "glm4_moe",
        _GLM | {"use_qk_norm": True, "attention_bias": False, "first_k_dense_replace": 0, "num_hidden_layers": 2,
                "n_shared_experts": 2, "routed_scaling_factor": 2.5},
    ),
    "glm4_moe-whole-yarn": (
        "glm4_moe",
        _GLM | {"first_k_dense_replace": 2, "norm_topk_prob": False, "tie_word_embeddings": True,
                "rope_parameters": YARN | {"partial_rotary_factor": 1.0}},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_logits_and_weights_are_those_of_transformers_both_ways(case, tmp_path, mesh):
    family, changes = CASES[case]
    torch = pytest.importorskip("torch", reason="the oracle needs torch")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    model = write_folder(tmp_path / "theirs", family, **changes)
    tokens = np.random.default_rng(1).integers(0, 64, (2, 48)).astype(np.int32)
    with torch.inference_mode():
        want = model(torch.from_numpy(tokens).long()).logits.numpy()
    assert 0.5 < np.abs(want).max() < 50  # of ordinary size, so that 1e-4 says something

    cfg, params = load_hf(tmp_path / "theirs", mesh, unroll=1)
    np.testing.assert_allclose(check.our_logits(cfg, params, mesh, tokens), want, rtol=0, atol=1e-4)

    save_hf(tmp_path / "ours", cfg, params)
    np.testing.assert_array_equal(check.their_logits(tmp_path / "ours", tokens), want)

    again, loaded = load_hf(tmp_path / "ours", mesh, unroll=1)
    assert again == cfg
    assert jax.tree.structure(loaded) == jax.tree.structure(models.abstract_params(cfg))
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))
