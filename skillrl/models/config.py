"""Sizes of the decoder and the named variants."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """A decoder in Qwen3 layout: RMSNorm, grouped queries, QK-norm, RoPE, SwiGLU, no biases."""

    vocab: int
    embed: int
    layers: int
    q_heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    # The output projection is the transposed embedding.
    tied: bool = True
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
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
