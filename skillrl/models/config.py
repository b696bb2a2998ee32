"""Sizes of the decoder and the named variants."""

from dataclasses import dataclass, replace
from typing import Any

from skillrl.models.remat import POLICIES

FAMILIES = ("qwen2", "qwen3", "qwen3_moe", "llama", "glm4_moe")
_CHOICES = {
    "family": FAMILIES,
    "rope_type": ("default", "llama3", "yarn"),
    "router": ("softmax", "sigmoid"),
    "attention": ("auto", "jnp", "splash", "triton"),
    "remat": ("none", *POLICIES),
}


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
    # Kernel of packed rows: "splash" is for TPUs, "triton" for GPUs, "auto" the one for the platform.
    attention: str = "auto"
    # What the backward pass keeps of each layer's activations; one of models/remat.py POLICIES.
    remat: str = "none"
    # Layers unrolled into one loop body. All of them is fastest for small models, 1 compiles fastest for deep ones.
    unroll: int = 1

    def __post_init__(self):
        if self.q_heads % self.kv_heads:
            raise ValueError(f"q_heads={self.q_heads} is no multiple of kv_heads={self.kv_heads}")
        if self.rotated_dim % 2 or not 0 < self.rotated_dim <= self.head_dim:
            raise ValueError(
                f"rope_share={self.rope_share} of head_dim={self.head_dim} is {self.rotated_dim}; rotary positions "
                "need an even number of dimensions"
            )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}; one of {', '.join(map(repr, known))}")
        if self.rope_type != "default" and not (self.rope_factor >= 1 and self.rope_original_positions > 0):
            raise ValueError(f"rope_type={self.rope_type!r} needs rope_factor >= 1 and rope_original_positions > 0")
        if self.experts and not 0 < self.experts_per_token <= self.experts:
            raise ValueError(f"experts_per_token={self.experts_per_token} must lie in 1..experts={self.experts}")
        if self.experts and not self.expert_mlp:
            raise ValueError("expert_mlp=0; give the width of the experts")
        if not 0 <= self.first_dense_layers <= self.layers:
            raise ValueError(f"first_dense_layers={self.first_dense_layers} must lie in 0..layers={self.layers}")

    @property
    def rotated_dim(self) -> int:
        """Dimensions of each head that rotary positions turn."""
        return int(self.head_dim * self.rope_share)

    @property
    def dense_layers(self) -> int:
        """Layers without experts; they come first."""
        return self.first_dense_layers if self.experts else self.layers

    @property
    def num_params(self) -> int:
        """All parameters."""
        return self._params(self.experts)

    @property
    def active_params(self) -> int:
        """Parameters that one token meets: of the experts only those chosen for it. Embedding and head included."""
        return self._params(self.experts_per_token)

    def _params(self, experts: int) -> int:
        heads = self.q_heads + 2 * self.kv_heads
        attention = self.embed * self.head_dim * (heads + self.q_heads)
        attention += heads * self.head_dim * self.qkv_bias + 2 * self.head_dim * self.qk_norm + 2 * self.embed
        dense = 3 * self.embed * self.mlp
        router = self.experts * (self.embed + (self.router == "sigmoid"))
        sparse = router + 3 * self.embed * (experts * self.expert_mlp + self.shared_mlp)
        layers = self.layers * attention + self.dense_layers * dense + (self.layers - self.dense_layers) * sparse
        return layers + self.embed + self.vocab * self.embed * (1 if self.tied else 2)


_LARGE = {"dtype": "bfloat16", "remat": "full"}
_QWEN25 = ModelConfig(
    family="qwen2", vocab=152_064, embed=3584, layers=28, q_heads=28, kv_heads=4, head_dim=128, mlp=18_944, tied=False,
    qkv_bias=True, qk_norm=False, rope_theta=1e6, max_positions=32_768, **_LARGE,
)  # fmt: skip
_QWEN3 = ModelConfig(
    family="qwen3", vocab=151_936, embed=4096, layers=36, q_heads=32, kv_heads=8, head_dim=128, mlp=12_288, tied=False,
    rope_theta=1e6, max_positions=40_960, **_LARGE,
)  # fmt: skip
_QWEN3_MOE = replace(
    _QWEN3, family="qwen3_moe", embed=2048, layers=48, kv_heads=4, mlp=6144, experts=128, experts_per_token=8,
    expert_mlp=768,
)  # fmt: skip
_LLAMA31 = ModelConfig(
    family="llama", vocab=128_256, embed=4096, layers=32, q_heads=32, kv_heads=8, head_dim=128, mlp=14_336, tied=False,
    qk_norm=False, norm_eps=1e-5, rope_theta=5e5, rope_type="llama3", rope_factor=8.0, rope_original_positions=8192,
    max_positions=131_072, **_LARGE,
)  # fmt: skip
_GLM45 = ModelConfig(
    family="glm4_moe", vocab=151_552, embed=5120, layers=92, q_heads=96, kv_heads=8, head_dim=128, mlp=12_288,
    tied=False, qkv_bias=True, qk_norm=True, norm_eps=1e-5, rope_theta=1e6, rope_share=0.5, experts=160,
    experts_per_token=8, expert_mlp=1536, shared_mlp=1536, first_dense_layers=3, router="sigmoid", router_scale=2.5,
    max_positions=131_072, **_LARGE,
)  # fmt: skip

# Each is the config.json of the repository on huggingface.co that the comment names.
VARIANTS = {
    # Ours: the smallest decoder that learns the demo's skills.
    "tiny": ModelConfig(
        vocab=1024, embed=128, layers=4, q_heads=4, kv_heads=2, head_dim=32, mlp=320, max_positions=2048, unroll=4
    ),
    "qwen2.5-coder-7b": _QWEN25,  # Qwen/Qwen2.5-Coder-7B-Instruct
    "qwen2.5-coder-32b": replace(  # Qwen/Qwen2.5-Coder-32B-Instruct
        _QWEN25, embed=5120, layers=64, q_heads=40, kv_heads=8, mlp=27_648
    ),
    "qwen3-0.6b": replace(  # Qwen/Qwen3-0.6B
        _QWEN3, embed=1024, layers=28, q_heads=16, mlp=3072, tied=True
    ),
    "qwen3-8b": _QWEN3,  # Qwen/Qwen3-8B
    "qwen3-32b": replace(_QWEN3, embed=5120, layers=64, q_heads=64, mlp=25_600),  # Qwen/Qwen3-32B
    "qwen3-30b-a3b": _QWEN3_MOE,  # Qwen/Qwen3-30B-A3B
    "qwen3-coder-30b-a3b": replace(  # Qwen/Qwen3-Coder-30B-A3B-Instruct
        _QWEN3_MOE, mlp=5472, rope_theta=1e7, max_positions=262_144
    ),
    "llama-3.1-8b": _LLAMA31,  # meta-llama/Llama-3.1-8B-Instruct
    "llama-3.2-1b": replace(  # meta-llama/Llama-3.2-1B-Instruct
        _LLAMA31, embed=2048, layers=16, head_dim=64, mlp=8192, tied=True, rope_factor=32.0
    ),
    "glm-4.5": _GLM45,  # zai-org/GLM-4.5
    "glm-4.5-air": replace(  # zai-org/GLM-4.5-Air
        _GLM45, embed=4096, layers=46, mlp=10_944, qk_norm=False, experts=128, expert_mlp=1408, shared_mlp=1408,
        first_dense_layers=1, router_scale=1.0,
    ),
}  # fmt: skip


def variant(name: str, **changes: Any) -> ModelConfig:
    """The named variant with some fields replaced. Raises ValueError for an unknown name."""
    if name not in VARIANTS:
        raise ValueError(f"unknown model variant {name!r}; one of {sorted(VARIANTS)}")
    return replace(VARIANTS[name], **changes)
