"""Hugging Face folders in Qwen3 layout, both ways and exact: config and tensors <-> ModelConfig and parameters."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from safetensors import safe_open
from safetensors.numpy import save_file

from skillrl.models import policy as models
from skillrl.models.config import ModelConfig

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Our name of a layer's parameter -> its name in the folder, below "model.layers.N.".
_LAYER_NAMES = {
    "attention_norm_D": "input_layernorm.weight",
    "q_DNH": "self_attn.q_proj.weight",
    "k_DKH": "self_attn.k_proj.weight",
    "v_DKH": "self_attn.v_proj.weight",
    "q_norm_H": "self_attn.q_norm.weight",
    "k_norm_H": "self_attn.k_norm.weight",
    "o_NHD": "self_attn.o_proj.weight",
    "mlp_norm_D": "post_attention_layernorm.weight",
    "gate_DF": "mlp.gate_proj.weight",
    "up_DF": "mlp.up_proj.weight",
    "down_FD": "mlp.down_proj.weight",
}
_TOP_NAMES = {
    "embed_VD": "model.embed_tokens.weight",
    "final_norm_D": "model.norm.weight",
    "head_DV": "lm_head.weight",
}

# Their config field -> ours.
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
_FIXED = {
    "model_type": "qwen3",
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "quantization_config": None,
}


class HfError(ValueError):
    """A folder that cannot be read as this decoder; the message names field or tensors, and the remedy."""


def to_hf_config(cfg: ModelConfig) -> dict[str, Any]:
    """The contents of config.json."""
    fixed = {name: value for name, value in _FIXED.items() if value is not None}
    return {
        "architectures": ["Qwen3ForCausalLM"],
        **fixed,
        **{theirs: getattr(cfg, ours) for theirs, ours in _FIELDS.items()},
        "rope_theta": cfg.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": cfg.rope_theta},
        "attention_dropout": 0.0,
        "dtype": cfg.param_dtype,
        "torch_dtype": cfg.param_dtype,
        "use_cache": True,
    }


def from_hf_config(config: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """The configuration of a Qwen3 folder. Raises HfError naming the field that is missing or not supported."""
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise HfError(f"{where}: {name}={config[name]!r} is not supported, only {value!r}")
    if "model_type" not in config:
        raise HfError(f"{where}: no model_type; the folder must hold a Qwen3 model")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise HfError(f"{where}: rope type {kind!r} is not supported, only 'default'")
    theta = rope.get("rope_theta", config.get("rope_theta"))
    missing = [name for name in _FIELDS if name not in config] + ["rope_theta"] * (theta is None)
    if missing:
        raise HfError(f"{where}: fields {missing} are missing; write them as the Qwen3 configuration does")
    if any(kind != "full_attention" for kind in config.get("layer_types") or ()):
        raise HfError(f"{where}: layer_types other than full_attention are not supported")
    return ModelConfig(**{ours: config[theirs] for theirs, ours in _FIELDS.items()}, rope_theta=float(theta))


def to_hf(cfg: ModelConfig, params: models.Params) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors by their name in the folder."""
    for ours, theirs in _TOP_NAMES.items():
        if ours in params:
            value = np.asarray(params[ours])
            yield theirs, np.ascontiguousarray(value.T if ours == "head_DV" else value)
    for ours, theirs in _LAYER_NAMES.items():
        stacked = np.asarray(params["blocks"][ours])
        for layer in range(cfg.layers):
            value = stacked[layer]
            if value.ndim > 1:  # theirs is [out, in] with heads flattened
                inputs = value.shape[:-1] if ours == "o_NHD" else value.shape[:1]
                value = value.reshape(int(np.prod(inputs)), -1).T
            yield f"model.layers.{layer}.{theirs}", np.ascontiguousarray(value)


def save_hf(path: Path, cfg: ModelConfig, params: models.Params) -> None:
    """Writes config.json and model.safetensors into the folder `path`, which exists."""
    (path / "config.json").write_text(json.dumps(to_hf_config(cfg), indent=2) + "\n")
    save_file(dict(to_hf(cfg, params)), path / WEIGHTS, metadata={"format": "pt"})


def load_hf(path: str | Path, mesh: Mesh, **changes: Any) -> tuple[ModelConfig, models.Params]:
    """Reads a Qwen3 folder onto `mesh`; `changes` replace fields that no folder fixes (dtype, remat, unroll).

    Raises HfError when config or tensors do not fit this decoder.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise HfError(f"{path} holds no config.json; give the folder of a Qwen3 model as export writes it")
    config = json.loads((path / "config.json").read_text())
    cfg = from_hf_config(config, str(path / "config.json"))
    cfg = ModelConfig(**{**vars(cfg), "unroll": min(cfg.layers, 4), **changes})
    files = _tensor_files(path)
    abstract = models.abstract_params(cfg, mesh)
    names = {name: x for name, x in abstract.items() if name != "blocks"}
    expected = {_TOP_NAMES[name] for name in names}
    expected |= {f"model.layers.{i}.{theirs}" for theirs in _LAYER_NAMES.values() for i in range(cfg.layers)}
    if cfg.tied:  # some folders repeat the embedding
        files.pop("lm_head.weight", None)
    if files.keys() != expected:
        missing, extra = sorted(expected - files.keys()), sorted(files.keys() - expected)
        raise HfError(
            f"{path}: tensors do not match config.json: {len(missing)} missing {missing[:4]}, {len(extra)} unknown "
            f"{extra[:4]}; the folder is damaged or of another architecture"
        )

    def tensor(name: str, ours: str, shape: tuple[int, ...]) -> np.ndarray:
        with safe_open(files[name], framework="numpy") as file:
            value = file.get_tensor(name)
        value = value.T if ours == "head_DV" or (name not in _TOP_NAMES.values() and value.ndim > 1) else value
        if value.size != np.prod(shape):
            raise HfError(f"{path}: {name} has {value.shape}, config.json says {shape}")
        return value.reshape(shape).astype(cfg.param_dtype)

    params: models.Params = {
        name: jax.device_put(tensor(_TOP_NAMES[name], name, x.shape), x.sharding) for name, x in names.items()
    }
    params["blocks"] = {}
    for ours, theirs in _LAYER_NAMES.items():
        x = abstract["blocks"][ours]
        layers = [tensor(f"model.layers.{i}.{theirs}", ours, x.shape[1:]) for i in range(cfg.layers)]
        params["blocks"][ours] = jax.device_put(np.stack(layers), x.sharding)
    return cfg, params


def _tensor_files(path: Path) -> dict[str, Path]:
    """File of each tensor, of one file or of several with an index."""
    if (path / INDEX).is_file():
        index = json.loads((path / INDEX).read_text())["weight_map"]
        return {name: path / file for name, file in index.items()}
    if not (path / WEIGHTS).is_file():
        raise HfError(f"{path} holds no {WEIGHTS}; convert the weights to safetensors")
    with safe_open(path / WEIGHTS, framework="numpy") as file:
        return dict.fromkeys(file.keys(), path / WEIGHTS)
