"""config.json of the five families: the published files, what transformers writes, and what is refused."""

import dataclasses
import json

import pytest

from skillrl.models.config import VARIANTS, ModelConfig
from skillrl.models.families import FAMILIES, HfError, from_hf_config, to_hf_config

_QWEN = {"attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "rms_norm_eps": 1e-06,
         "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False}  # fmt: skip
# As published on huggingface.co beside the weights.
PUBLISHED = {
    "Qwen/Qwen3-0.6B": _QWEN | {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "bos_token_id": 151643, "eos_token_id": 151645,
        "head_dim": 128, "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
        "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 8, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
        "tie_word_embeddings": True, "transformers_version": "4.51.0", "vocab_size": 151936,
    },
    "Qwen/Qwen2.5-Coder-7B-Instruct": _QWEN | {
        "architectures": ["Qwen2ForCausalLM"], "bos_token_id": 151643, "eos_token_id": 151645, "hidden_size": 3584,
        "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen2",
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "rope_theta": 1000000.0,
        "sliding_window": 131072, "tie_word_embeddings": False, "transformers_version": "4.44.0", "vocab_size": 152064,
    },
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": _QWEN | {
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "decoder_sparse_step": 1,
        "eos_token_id": 151645, "head_dim": 128, "hidden_size": 2048, "intermediate_size": 5472,
        "max_position_embeddings": 262144, "max_window_layers": 28, "mlp_only_layers": [], "model_type": "qwen3_moe",
        "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128,
        "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": False,
        "qkv_bias": False, "rope_scaling": None, "rope_theta": 10000000, "router_aux_loss_coef": 0.0,
        "shared_expert_intermediate_size": 0, "sliding_window": None, "tie_word_embeddings": False,
        "transformers_version": "4.52.3", "use_qk_norm": True, "vocab_size": 151936,
    },
    "meta-llama/Llama-3.1-8B-Instruct": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096,
        "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.42.3", "use_cache": True, "vocab_size": 128256,
    },
    "zai-org/GLM-4.5-Air": {
        "architectures": ["Glm4MoeForCausalLM"], "attention_bias": True, "attention_dropout": 0.0,
        "pad_token_id": 151329, "eos_token_id": [151329, 151336, 151338], "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 4096, "partial_rotary_factor": 0.5, "initializer_range": 0.02, "intermediate_size": 10944,
        "max_position_embeddings": 131072, "model_type": "glm4_moe", "moe_intermediate_size": 1408,
        "norm_topk_prob": True, "num_attention_heads": 96, "n_group": 1, "topk_group": 1, "n_routed_experts": 128,
        "n_shared_experts": 1, "routed_scaling_factor": 1.0, "num_experts_per_tok": 8, "first_k_dense_replace": 1,
        "num_hidden_layers": 46, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": None,
        "rope_theta": 1000000, "num_nextn_predict_layers": 1, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "transformers_version": "4.54.0", "use_cache": True, "use_qk_norm": False, "vocab_size": 151552,
    },
}  # fmt: skip
# Each field of ours that tells the families apart, by hand from the files above.
EXPECTED = {
    "Qwen/Qwen3-0.6B": dict(family="qwen3", embed=1024, q_heads=16, kv_heads=8, head_dim=128, tied=True, qk_norm=True,
                            qkv_bias=False, rope_theta=1e6, rope_share=1.0, experts=0, norm_eps=1e-6),
    "Qwen/Qwen2.5-Coder-7B-Instruct": dict(family="qwen2", q_heads=28, kv_heads=4, head_dim=128, tied=False,
                                           qk_norm=False, qkv_bias=True, mlp=18944, vocab=152064, experts=0),
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": dict(family="qwen3_moe", experts=128, experts_per_token=8, expert_mlp=768,
                                              shared_mlp=0, first_dense_layers=0, router="softmax", qk_norm=True,
                                              router_normalize=True, router_scale=1.0, rope_theta=1e7, layers=48),
    "meta-llama/Llama-3.1-8B-Instruct": dict(family="llama", head_dim=128, rope_type="llama3", rope_factor=8.0,
                                             rope_original_positions=8192, rope_low_freq_factor=1.0,
                                             rope_high_freq_factor=4.0, rope_theta=5e5, qk_norm=False, qkv_bias=False),
    "zai-org/GLM-4.5-Air": dict(family="glm4_moe", layers=46, q_heads=96, kv_heads=8, head_dim=128, embed=4096,
                                mlp=10944, expert_mlp=1408, shared_mlp=1408, experts=128, first_dense_layers=1,
                                router="sigmoid", router_scale=1.0, rope_share=0.5, qkv_bias=True, qk_norm=False),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_understood_and_come_back(name):
    cfg = from_hf_config(PUBLISHED[name])
    assert {field: getattr(cfg, field) for field in EXPECTED[name]} == EXPECTED[name]
    variant = VARIANTS[name.partition("/")[2].lower().removesuffix("-instruct")]
    assert cfg == dataclasses.replace(variant, dtype=cfg.dtype, remat=cfg.remat)
    written = json.loads(json.dumps(to_hf_config(cfg)))
    assert from_hf_config(written) == cfg
    # What it holds of the published fields, it holds with the published value.
    same = written.keys() & PUBLISHED[name].keys() - {"torch_dtype", "num_nextn_predict_layers"}
    assert {n: written[n] for n in same} == {n: PUBLISHED[name][n] for n in same} | (
        {"rope_scaling": written["rope_scaling"]} if "rope_scaling" in same else {}
    )
    assert {"hidden_size", "model_type", "num_hidden_layers", "vocab_size", "rope_theta"} <= same


ROPES = {
    "default": {},
    "llama3": dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=3.0,
                   original_max_position_embeddings=64),
    "yarn": dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=64, beta_fast=16.0),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rope", ROPES)
def test_rope_of_transformers_5_and_of_older_files_is_the_same(family, rope):
    published = next(c for c in PUBLISHED.values() if c["model_type"] == family)
    base = {n: v for n, v in published.items() if not n.startswith("rope_") and n != "partial_rotary_factor"}
    share = {"partial_rotary_factor": 0.5} if family == "glm4_moe" else {}
    new = {"rope_theta": 12345, "rope_type": "default", **ROPES[rope], **share}
    old = {("type" if n == "rope_type" else n): v for n, v in ROPES[rope].items()}
    cfg = from_hf_config(base | {"rope_parameters": new})
    assert cfg == from_hf_config(base | share | {"rope_theta": 12345.0, "rope_scaling": old or None})
    assert cfg == from_hf_config(to_hf_config(cfg))
    assert (cfg.rope_theta, cfg.rope_type, cfg.rope_share) == (12345.0, rope, 0.5 if share else 1.0)
    if rope == "yarn":
        assert (cfg.rope_factor, cfg.rope_beta_fast, cfg.rope_beta_slow) == (2.0, 16.0, 1.0)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("qwen3", {"model_type": "mamba"}, "model_type='mamba' is not supported; one of qwen2, "),
        ("qwen3", {"model_type": None}, "model_type=None"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True is not supported, only False"),
        ("qwen3", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config=.*is not supported"),
        ("llama", {"mlp_bias": True}, "mlp_bias=True"),
        ("llama", {"logit_scale": 0.5}, "fields logit_scale=0.5 are not known of llama; remove them if"),
        ("llama", {"sliding_window": 4096}, "sliding_window=4096 are not known of llama"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types \['sliding_attention'\]"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, r"mlp_only_layers=\[0\] is not supported, only \[\]"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step=2"),
        ("qwen3_moe", {"shared_expert_intermediate_size": 64}, "shared_expert_intermediate_size=64"),
        ("qwen3_moe", {"num_local_experts": 64}, "num_local_experts=64 contradicts num_experts=128"),
        ("glm4_moe", {"n_group": 4}, "n_group=4 is not supported, only 1"),
        ("glm4_moe", {"n_shared_experts": 0}, "n_shared_experts=0"),
        ("glm4_moe", {"use_qk_norm": None}, r"fields \['use_qk_norm'\] are missing"),
        ("glm4_moe", {"partial_rotary_factor": "half"}, "partial_rotary_factor='half' must be of type float"),
        ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported in this family"),
        ("qwen3", {"hidden_size": "1024"}, "hidden_size='1024' must be of type int"),
        ("qwen3", {"num_attention_heads": 0}, "'num_attention_heads': 0} must be at least 1"),
        ("qwen3", {"num_key_value_heads": 3}, "no multiple of kv_heads=3"),
        ("qwen3", {"rope_theta": None}, r"fields \['rope_theta'\] are missing"),
        ("qwen3", {"rope_scaling": {"rope_type": "dynamic"}}, "rope_type='dynamic' is not supported"),
        ("qwen3", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, r"\['original_max_position_embeddings'\]"),
        ("qwen3", {"rope_scaling": {"rope_type": "default", "mrope_section": [8]}}, r"mrope_section=\[8\]"),
        ("qwen3", {"rope_parameters": {"rope_theta": 5.0}}, "rope_theta=1000000 contradicts .*rope_theta=5.0"),
        ("qwen3", {"rope_parameters": [1]}, r"rope_parameters=\[1\] must be an object"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(family, change, message):
    published = next(c for c in PUBLISHED.values() if c["model_type"] == family)
    with pytest.raises(HfError, match=message):
        from_hf_config(published | change, "DIR/config.json")


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "vocab_size", "rms_norm_eps"])
def test_missing_fields_are_named(name):
    published = {n: v for n, v in PUBLISHED["Qwen/Qwen3-0.6B"].items() if n != name}
    with pytest.raises(HfError, match=rf"c.json: fields \['{name}'\] are missing"):
        from_hf_config(published, "c.json")


def test_every_field_of_a_file_matters_or_is_known():
    """No field can be renamed without an error, but those that are known to be without effect."""
    harmless = {"architectures", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype",
                "initializer_range", "transformers_version", "use_cache", "pretraining_tp", "sliding_window",
                "max_window_layers", "router_aux_loss_coef", "output_router_logits",
                "num_nextn_predict_layers"}  # fmt: skip
    for published in PUBLISHED.values():
        for name in published.keys() - harmless:
            if published[name] is not None:
                renamed = {("x_" + n if n == name else n): v for n, v in published.items()}
                with pytest.raises(HfError, match=name):
                    from_hf_config(renamed)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("qwen3", {"qkv_bias": True}, "'qwen3' cannot hold qkv_bias=True"),
        ("llama", {"qk_norm": True}, "'llama' cannot hold qk_norm=True"),
        ("qwen2", {"experts": 4, "experts_per_token": 2, "expert_mlp": 8}, "'qwen2' cannot hold .*experts=4"),
        ("qwen3_moe", {"shared_mlp": 16}, "'qwen3_moe' cannot hold shared_mlp=16"),
        ("glm4_moe", {"shared_mlp": 1409}, "'glm4_moe' cannot hold shared_mlp=1409"),
        ("glm4_moe", {"router": "softmax"}, "cannot hold router='softmax'"),
    ],
)
def test_a_layout_that_cannot_say_it_is_refused(family, change, message):
    published = next(c for c in PUBLISHED.values() if c["model_type"] == family)
    with pytest.raises(HfError, match=message):
        to_hf_config(dataclasses.replace(from_hf_config(published), **change))


def test_runtime_fields_are_not_in_the_file():
    cfg = ModelConfig(vocab=64, embed=16, layers=2, q_heads=4, kv_heads=2, head_dim=8, mlp=32)
    assert from_hf_config(to_hf_config(dataclasses.replace(cfg, dtype="bfloat16", remat="full", unroll=2))) == cfg
