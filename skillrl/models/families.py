"""config.json of five families, both ways: every field is understood, known to be without effect, or an error.

The tables follow the configuration classes of transformers (4.57 and 5) and the files that their makers published:
Qwen2, Qwen2.5 and Coder (arXiv:2407.10671, 2412.15115, 2409.12186), Qwen3 and Qwen3-MoE (arXiv:2505.09388), Llama 3
(arXiv:2407.21783), GLM-4.5 (arXiv:2508.06471). A field that is null counts as absent, as in transformers.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skillrl.models.config import ModelConfig


class HfError(ValueError):
    """A folder that cannot be read as this decoder; the message names file, field or tensor, and the remedy."""


@dataclass(frozen=True)
class Family:
    """What is particular to the config.json of one family."""

    architecture: str
    # Their field -> ours, beside _FIELDS.
    fields: Mapping[str, str] = field(default_factory=dict)
    # Their field -> the only value that is supported, beside _FIXED; also what an absent field means.
    fixed: Mapping[str, Any] = field(default_factory=dict)
    # Our field -> its value in this family.
    sets: Mapping[str, Any] = field(default_factory=dict)
    # Known to leave the logits as they are, beside _WITHOUT_EFFECT.
    without_effect: frozenset[str] = frozenset()


# Their field -> ours, in all families.
_FIELDS = {
    "vocab_size": "vocab",
    "hidden_size": "embed",
    "num_hidden_layers": "layers",
    "num_attention_heads": "q_heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "mlp",
    "tie_word_embeddings": "tied",
    "rms_norm_eps": "norm_eps",
    "max_position_embeddings": "max_positions",
}
# What else changes the computation, and the only value that the decoder has.
_FIXED = {"hidden_act": "silu", "quantization_config": None, "use_mrope": False, "is_encoder_decoder": False}
# Known to leave logits as they are: names, versions, token ids, initialisation, dropout and losses of other trainers.
_WITHOUT_EFFECT = frozenset(
    [
        "architectures", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range",
        "dtype", "torch_dtype", "transformers_version", "use_cache", "_name_or_path", "name_or_path", "return_dict",
        "output_attentions", "output_hidden_states", "id2label", "label2id", "problem_type", "chunk_size_feed_forward",
    ]
)  # fmt: skip
# Read only where use_sliding_window is true.
_WINDOW = frozenset({"sliding_window", "max_window_layers"})
_ROUTER_LOSS = frozenset({"output_router_logits", "router_aux_loss_coef"})
_MOE_FIELDS = {
    "num_experts_per_tok": "experts_per_token",
    "moe_intermediate_size": "expert_mlp",
    "norm_topk_prob": "router_normalize",
}
_DENSE = {"rope_share": 1.0, "experts": 0}
FAMILIES: Mapping[str, Family] = {
    "qwen2": Family(
        "Qwen2ForCausalLM",
        fixed={"use_sliding_window": False},
        sets={"qkv_bias": True, "qk_norm": False, **_DENSE},
        without_effect=_WINDOW,
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        fixed={"attention_bias": False, "use_sliding_window": False},
        sets={"qkv_bias": False, "qk_norm": True, **_DENSE},
        without_effect=_WINDOW,
    ),
    "llama": Family(
        "LlamaForCausalLM",
        fixed={"attention_bias": False, "mlp_bias": False},
        sets={"qkv_bias": False, "qk_norm": False, **_DENSE},
        without_effect=frozenset({"pretraining_tp"}),
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        fields={"num_experts": "experts", **_MOE_FIELDS},
        # The last three stand in published files; transformers does not read them.
        fixed={"attention_bias": False, "use_sliding_window": False, "decoder_sparse_step": 1, "mlp_only_layers": [],
               "qkv_bias": False, "shared_expert_intermediate_size": 0, "use_qk_norm": True},
        sets={"qkv_bias": False, "qk_norm": True, "rope_share": 1.0, "shared_mlp": 0, "first_dense_layers": 0,
              "router": "softmax", "router_scale": 1.0},
        without_effect=_WINDOW | _ROUTER_LOSS,
    ),
    "glm4_moe": Family(
        "Glm4MoeForCausalLM",
        fields={"n_routed_experts": "experts", "attention_bias": "qkv_bias", "use_qk_norm": "qk_norm",
                "first_k_dense_replace": "first_dense_layers", "routed_scaling_factor": "router_scale", **_MOE_FIELDS},
        fixed={"n_group": 1, "topk_group": 1},
        sets={"router": "sigmoid"},
        without_effect=_ROUTER_LOSS | {"num_nextn_predict_layers", "num_mtp_layers"},
    ),
}  # fmt: skip
_POSITIVE = frozenset({"vocab", "embed", "layers", "q_heads", "kv_heads", "head_dim", "mlp", "max_positions"})
# Names that transformers 5 writes for the same fields.
_ALIASES = {"qwen3_moe": {"num_local_experts": "num_experts"}, "glm4_moe": {"num_local_experts": "n_routed_experts"}}

# Parameters of rotary positions that each type knows -> ours; those of the first group must be given.
_ROPE_NEEDS = {"factor": "rope_factor", "original_max_position_embeddings": "rope_original_positions"}
_ROPE_BANDS = {"low_freq_factor": "rope_low_freq_factor", "high_freq_factor": "rope_high_freq_factor"}
_ROPE: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "default": ({}, {}),
    "llama3": (_ROPE_NEEDS | _ROPE_BANDS, {}),
    "yarn": (
        _ROPE_NEEDS,
        {"beta_fast": "rope_beta_fast", "beta_slow": "rope_beta_slow", "attention_factor": "rope_attention_factor"},
    ),
}
# Our fields that config.json holds; the others say how to compute, not what.
_HELD = frozenset(
    [
        "family", "shared_mlp", "rope_theta", "rope_type", *_FIELDS.values(),
        *(name for f in FAMILIES.values() for name in (*f.fields.values(), *f.sets)),
        *(name for needs, may in _ROPE.values() for name in (*needs.values(), *may.values())),
    ]
)  # fmt: skip


def from_hf_config(config: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """The decoder that a config.json describes. Raises HfError naming a field that is missing or not supported."""
    config = {name: value for name, value in config.items() if value is not None}
    kind = config.pop("model_type", None)
    if kind not in FAMILIES:
        raise HfError(f"{where}: model_type={kind!r} is not supported; one of {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    for alias, name in _ALIASES.get(kind, {}).items():
        if alias in config:
            config.setdefault(name, config[alias])
            _agree(where, alias, config.pop(alias), name, config[name])
    _check_fixed(config, _FIXED | dict(family.fixed), where)
    ours = _rope(config, where, partial=kind == "glm4_moe") | dict(family.sets) | {"family": kind}
    names = _FIELDS | dict(family.fields)
    if {"num_attention_heads", "hidden_size"} <= config.keys():
        width = _typed(where, "hidden_size", config["hidden_size"], "embed")
        heads = _typed(where, "num_attention_heads", config["num_attention_heads"], "q_heads")
        config.setdefault("head_dim", width // max(heads, 1))
        config.setdefault("num_key_value_heads", heads)
    config.setdefault("tie_word_embeddings", False)
    wanted = [*names, "n_shared_experts"] if kind == "glm4_moe" else list(names)
    if missing := [name for name in wanted if name not in config]:
        raise HfError(f"{where}: fields {missing} are missing; copy config.json of the model again")
    ours |= {mine: _typed(where, name, config[name], mine) for name, mine in names.items()}
    if kind == "glm4_moe":
        shared = _typed(where, "n_shared_experts", config["n_shared_experts"], "shared_mlp")
        if shared < 1:
            raise HfError(f"{where}: n_shared_experts={shared} is not supported, only 1 or more")
        ours["shared_mlp"] = shared * ours["expert_mlp"]
    known = {*wanted, *family.fixed, *_FIXED, *_WITHOUT_EFFECT, *family.without_effect}
    if unknown := {n: config[n] for n in config if n not in known}:
        shown = ", ".join(f"{name}={str(value)[:60]}" for name, value in unknown.items())
        raise HfError(
            f"{where}: fields {shown} are not known of {kind}; remove them if the model computes the same without, "
            "otherwise this decoder cannot be it"
        )
    if sizes := {n: config[n] for n, mine in names.items() if mine in _POSITIVE and config[n] < 1}:
        raise HfError(f"{where}: {sizes} must be at least 1")
    try:
        return ModelConfig(**ours)
    except ValueError as e:
        raise HfError(f"{where}: {e}; this decoder cannot be that model") from e


def to_hf_config(cfg: ModelConfig) -> dict[str, Any]:
    """The contents of config.json. Raises HfError where the layout of `cfg.family` cannot say what `cfg` computes."""
    family = FAMILIES[cfg.family]
    needs, may = _ROPE[cfg.rope_type]
    rope = {"rope_type": cfg.rope_type} | {name: getattr(cfg, ours) for name, ours in {**needs, **may}.items()}
    if rope.get("attention_factor") == 0:  # by the formula
        del rope["attention_factor"]
    outside: dict[str, Any] = {"rope_theta": cfg.rope_theta}
    if cfg.family == "glm4_moe":
        outside["partial_rotary_factor"] = cfg.rope_share
    config = {
        "architectures": [family.architecture],
        "model_type": cfg.family,
        "hidden_act": _FIXED["hidden_act"],
        **family.fixed,
        **{name: getattr(cfg, ours) for name, ours in (_FIELDS | dict(family.fields)).items()},
        # transformers 5 reads the first, older versions and other programs the rest.
        "rope_parameters": rope | outside,
        **outside,
        **({"rope_scaling": rope} if cfg.rope_type != "default" else {}),
        "attention_dropout": 0.0,
        "dtype": cfg.param_dtype,
        "torch_dtype": cfg.param_dtype,
        "use_cache": True,
    }
    if cfg.family == "glm4_moe":
        config["n_shared_experts"] = cfg.shared_mlp // max(cfg.expert_mlp, 1)
        config["num_nextn_predict_layers"] = 0
    again = from_hf_config(config, f"a config of family {cfg.family}")
    if lost := {name: getattr(cfg, name) for name in sorted(_HELD) if getattr(cfg, name) != getattr(again, name)}:
        raise HfError(
            f"the layout of family {cfg.family!r} cannot hold {', '.join(f'{n}={v!r}' for n, v in lost.items())}; "
            f"choose one of {', '.join(FAMILIES)} that can"
        )
    return config


def prediction_layers(config: Mapping[str, Any]) -> range:
    """Layers beyond the decoder's that a folder may hold for predicting several tokens at once; they are not used."""
    layers = config["num_hidden_layers"]
    return range(layers, layers + (config.get("num_nextn_predict_layers") or config.get("num_mtp_layers") or 0))


def _check_fixed(config: dict[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    for name, value in fixed.items():
        if name in config and config[name] != value:
            raise HfError(f"{where}: {name}={config[name]!r} is not supported, only {value!r}")
    types = config.pop("layer_types", ())
    if other := sorted({str(t) for t in types} - {"full_attention"}):
        raise HfError(f"{where}: layer_types {other} are not supported, only 'full_attention'")


def _rope(config: dict[str, Any], where: str, partial: bool) -> dict[str, Any]:
    """Takes the fields of rotary positions out of `config`; as transformers 5 writes them, or as before."""
    rope: dict[str, Any] = {}
    for source in ("rope_parameters", "rope_scaling"):
        given = config.pop(source, {})
        if not isinstance(given, Mapping):
            raise HfError(f"{where}: {source}={given!r} must be an object of fields")
        for name, value in given.items():
            if value is not None:
                _agree(where, name, value, f"{source}.{name}", rope.setdefault(name, value))
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in config:
            value = config.pop(name)
            _agree(where, name, value, f"rope_parameters.{name}", rope.setdefault(name, value))
    kind = rope.pop("rope_type", rope.get("type", "default"))
    _agree(where, "type", rope.pop("type", kind), "rope_type", kind)
    if kind not in _ROPE:
        raise HfError(f"{where}: rope_type={kind!r} is not supported, only {', '.join(_ROPE)}")
    needs, may = _ROPE[kind]
    names = {"rope_theta": "rope_theta", **needs}
    if missing := [name for name in names if name not in rope]:
        raise HfError(f"{where}: fields {missing} are missing; copy config.json of the model again")
    ours = {"rope_type": kind}
    share = rope.pop("partial_rotary_factor", 1.0 if not partial else 0.5)
    if not partial and share != 1.0:
        raise HfError(f"{where}: partial_rotary_factor={share!r} is not supported in this family, only 1.0")
    ours["rope_share"] = _typed(where, "partial_rotary_factor", share, "rope_share")
    if rope.pop("truncate", True) is not True:
        raise HfError(f"{where}: truncate=False of rope_type={kind!r} is not supported, only True")
    for name, value in rope.items():
        if name not in names and name not in may:
            raise HfError(
                f"{where}: {name}={value!r} of rope_type={kind!r} is not supported; remove it if it is unused"
            )
        ours[names.get(name) or may[name]] = _typed(where, name, value, names.get(name) or may[name])
    return ours


def _agree(where: str, name: str, value: Any, other_name: str, other: Any) -> None:
    if value != other:
        raise HfError(f"{where}: {name}={value!r} contradicts {other_name}={other!r}; keep the one that is meant")


_TYPES = {f.name: f.type for f in dataclasses.fields(ModelConfig)}


def _typed(where: str, name: str, value: Any, ours: str) -> Any:
    """`value` in the type of our field; JSON has 1000000 for 1e6."""
    kind = _TYPES[ours]
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise HfError(f"{where}: {name}={value!r} must be of type {kind.__name__}")
    return value
