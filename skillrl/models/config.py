"""Sizes of the decoder and the named variants."""

from dataclasses import dataclass, replace
from typing import Any

FAMILIES = ("qwen2", "qwen3", "qwen3_moe", "llama", "glm4_moe")


@dataclass(frozen=True)
class ModelConfig:
    """One decoder: RMSNorm, grouped queries, RoPE, SwiGLU or experts; what the families differ in is a field."""

    vocab: int
    embed: int
    layers: int
    q_heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    # Whose layout a Hugging Face folder of it has; one of FAMILIES. The computation follows the fields below alone.
    family: str = "qwen3"
    # The output projection is the transposed embedding.
    tied: bool = True
    # Biases of the query, key and value projections.
    qkv_bias: bool = False
    # RMSNorm over each query and key head.
    qk_norm: bool = True
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    # Share of each head that is rotated: its first dimensions.
    rope_share: float = 1.0
    # Change of the rotary frequencies for contexts longer than trained: "default" (none), "llama3" or "yarn".
    rope_type: str = "default"
    rope_factor: float = 1.0
    # Context that the frequencies were trained for.
    rope_original_positions: int = 0
    # Of "llama3".
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    # Of "yarn" (arXiv:2309.00071); attention_factor 0 means 0.1 ln(rope_factor) + 1.
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0
    rope_attention_factor: float = 0.0
    # Experts of each layer from `first_dense_layers` on; 0 where all layers are dense.
    experts: int = 0
    experts_per_token: int = 0
    expert_mlp: int = 0
    # Width of the expert that every token uses; 0 for none.
    shared_mlp: int = 0
    first_dense_layers: int = 0
    # "softmax" over all experts, or "sigmoid" of each, chosen by score + bias (arXiv:2412.19437, section 2.1.2).
    router: str = "softmax"
    # The weights of the chosen experts are divided by their sum, then multiplied by `router_scale`.
    router_normalize: bool = True
    router_scale: float = 1.0
    # Longest context that the weights were made for; informative, written to the exported config.
    max_positions: int = 4096
    param_dtype: str = "float32"
    # Of matrix products and activations; norms, softmax, logits and log-probabilities are always float32.
    dtype: str = "float32"
    # "none" keeps activations for the backward pass; "full" recomputes each layer.
    remat: str = "none"
    # Layers unrolled into one loop body. All of them is fastest for small models, 1 compiles fastest for deep ones.
    unroll: int = 1

    def __post_init__(self):
        if self.q_heads % self.kv_heads:
            raise ValueError(f"q_heads={self.q_heads} is no multiple of kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even for rotary positions")
        if self.family not in FAMILIES:
            raise ValueError(f"family={self.family!r}; one of {', '.join(FAMILIES)}")
        if self.rope_type not in ("default", "llama3", "yarn"):
            raise ValueError(f"rope_type={self.rope_type!r}; one of 'default', 'llama3', 'yarn'")
        if self.router not in ("softmax", "sigmoid"):
            raise ValueError(f"router={self.router!r}; one of 'softmax', 'sigmoid'")
        if self.experts and not 0 < self.experts_per_token <= self.experts:
            raise ValueError(f"experts_per_token={self.experts_per_token} must lie in 1..experts={self.experts}")
        if self.remat not in ("none", "full"):
            raise ValueError(f"remat={self.remat!r}; one of 'none', 'full'")

    @property
    def num_params(self) -> int:
        attention = self.embed * self.head_dim * 2 * (self.q_heads + self.kv_heads) + 2 * self.head_dim
        layer = attention + 3 * self.embed * self.mlp + 2 * self.embed
        return self.layers * layer + self.embed + self.vocab * self.embed * (1 if self.tied else 2)


VARIANTS = {
    "tiny": ModelConfig(
        vocab=1024, embed=128, layers=4, q_heads=4, kv_heads=2, head_dim=32, mlp=320, max_positions=2048, unroll=4
    ),
    "qwen3-0.6b": ModelConfig(
        vocab=151_936, embed=1024, layers=28, q_heads=16, kv_heads=8, head_dim=128, mlp=3072, rope_theta=1e6,
        max_positions=40_960, dtype="bfloat16", remat="full",
    ),
    "qwen3-8b": ModelConfig(
        vocab=151_936, embed=4096, layers=36, q_heads=32, kv_heads=8, head_dim=128, mlp=12_288, tied=False,
        rope_theta=1e6, max_positions=40_960, dtype="bfloat16", remat="full",
    ),
}  # fmt: skip


def variant(name: str, **changes: Any) -> ModelConfig:
    """The named variant with some fields replaced. Raises ValueError for an unknown name."""
    if name not in VARIANTS:
        raise ValueError(f"unknown model variant {name!r}; one of {sorted(VARIANTS)}")
    return replace(VARIANTS[name], **changes)
