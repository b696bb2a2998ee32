"""Floating-point operations of a step, counted from the model's sizes: multiplications and additions both count."""

from dataclasses import dataclass

from skillrl.models.config import ModelConfig


@dataclass(frozen=True)
class Flops:
    """Of the whole mesh."""

    # What the mathematics needs: forward and backward pass.
    model: float
    # Done a second time in the backward pass, to save memory.
    recomputed: float

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.model + other.model, self.recomputed + other.recomputed)

    def __mul__(self, times: int) -> "Flops":
        return Flops(self.model * times, self.recomputed * times)

    @property
    def total(self) -> float:
        return self.model + self.recomputed


def layer_params(cfg: ModelConfig) -> int:
    """Parameters of all layers that multiply each token: 2 operations a token each, forward."""
    embeddings = cfg.vocab * cfg.embed * (1 if cfg.tied else 2)
    return cfg.active_params - embeddings


def attention_flops(cfg: ModelConfig, rows: int, tokens: int) -> float:
    """Forward pass of all layers' causal attention, where each row is one segment.

    Scores and weighted values take 2 * tokens**2 * q_heads * head_dim each without the mask; half of it is masked.
    """
    return 2.0 * rows * tokens**2 * cfg.layers * cfg.q_heads * cfg.head_dim


def gradient_flops(cfg: ModelConfig, rows: int, tokens: int) -> Flops:
    """Forward and backward pass over packed rows: 6 operations a token and active parameter (arXiv:2001.08361,
    section 2.1), three times the forward attention.

    The rows count as full, of one segment, every token scored by the head: an upper bound. The head's logits are
    always made again in the backward pass (skillrl/rl/logprobs.py); what else is follows `cfg.remat`.
    """
    layers, head, attention = _forward(cfg, rows, tokens)
    again = {"none": 0, "full": layers + attention, "offload": layers + attention, "attention": layers}
    return Flops(3 * (layers + head + attention), head + again.get(cfg.remat, attention))


def forward_flops(cfg: ModelConfig, rows: int, tokens: int) -> Flops:
    """Log-probabilities of packed rows, without a backward pass."""
    return Flops(sum(_forward(cfg, rows, tokens)), 0.0)


def _forward(cfg: ModelConfig, rows: int, tokens: int) -> tuple[float, float, float]:
    """Of the layers' parameters, the head and the attention."""
    layers = 2.0 * rows * tokens * layer_params(cfg)
    return layers, 2.0 * rows * tokens * cfg.vocab * cfg.embed, attention_flops(cfg, rows, tokens)


def decode_flops(cfg: ModelConfig, rows: int, context: int) -> Flops:
    """One new token for each of `rows`, each looking at `context` tokens."""
    attention = 4.0 * rows * context * cfg.layers * cfg.q_heads * cfg.head_dim
    return Flops(2.0 * rows * (layer_params(cfg) + cfg.vocab * cfg.embed) + attention, 0.0)


def prefill_flops(cfg: ModelConfig, rows: int, chunk: int, context: int) -> Flops:
    """`chunk` known tokens for each of `rows`, each looking at `context` tokens; no logits are made."""
    attention = 4.0 * rows * chunk * context * cfg.layers * cfg.q_heads * cfg.head_dim
    return Flops(2.0 * rows * chunk * layer_params(cfg) + attention, 0.0)
