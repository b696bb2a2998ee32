"""Policy losses per token, their corrections and their metrics: pure functions over packed rows.

A loss here is an array [B, T]; the scalar is `sum(loss_weights * loss)`, so that denominators (skillrl/rl/packing.py)
do not depend on how a batch is cut. Values under a False mask may be anything, NaN and -inf included: they are
replaced before any exp, because inf * 0 would poison the gradient.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

LOSSES = ("grpo", "gspo", "cispo", "sft")
IMPORTANCE_LEVELS = ("token", "sequence", "geometric")

Tokens = Float[Array, "B T"]


@dataclass(frozen=True)
class LossConfig:
    loss: str = "grpo"
    # The ratio is clipped to [1 - clip_low, 1 + clip_high].
    clip_low: float = 0.2
    clip_high: float = 0.2
    # Bound c on the loss of tokens with negative advantage, c * |A| (arXiv:1912.09729); None is off.
    dual_clip: float | None = None
    # Weight of KL(policy || reference), estimator k3; 0 is off and needs no reference.
    kl_coef: float = 0.0
    # Cap of the importance weight against the sampler's log-probabilities; None only measures the mismatch.
    importance_cap: float | None = None
    # "token"; "sequence": the episode's product of ratios; "geometric": its geometric mean.
    importance_level: str = "token"

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r}; one of {LOSSES}")
        if self.importance_level not in IMPORTANCE_LEVELS:
            raise ValueError(f"importance_level={self.importance_level!r}; one of {IMPORTANCE_LEVELS}")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ValueError(f"dual_clip={self.dual_clip} must be above 1, or None")


def policy_loss(
    cfg: LossConfig,
    logprobs: Tokens,  # of the sampled tokens, current policy
    old_logprobs: Tokens,  # of the same tokens, before this step's updates
    advantages: Tokens,
    loss_mask: Bool[Array, "B T"],  # True on policy tokens
    segment_ids: Int[Array, "B T"],
    sampler_logprobs: Tokens,
    ref_logprobs: Tokens | None = None,
) -> tuple[Tokens, dict[str, Tokens]]:
    """Loss and metrics of every token; 0 where `loss_mask` is False."""
    advantages = jnp.where(loss_mask, advantages, 0)
    if cfg.loss == "sft":
        return jnp.where(loss_mask, -advantages * jnp.where(loss_mask, logprobs, 0), 0), {}
    log_ratio = jnp.where(loss_mask, logprobs - jax.lax.stop_gradient(old_logprobs), 0.0)
    if cfg.loss == "cispo":
        loss, clipped = cispo_loss(log_ratio, jnp.where(loss_mask, logprobs, 0), advantages, cfg)
    else:
        ratio_log = segment_mean(log_ratio, loss_mask, segment_ids) if cfg.loss == "gspo" else log_ratio
        loss, clipped = clip_loss(ratio_log, advantages, cfg)
    metrics = {"clip_fraction": clipped.astype(jnp.float32), "approx_kl": k3(log_ratio)}

    sampler_log_ratio = mismatch(old_logprobs, sampler_logprobs, loss_mask)
    metrics |= mismatch_metrics(sampler_log_ratio)
    if cfg.importance_cap is not None:
        weight = importance_weights(sampler_log_ratio, loss_mask, segment_ids, cfg)
        loss = loss * weight
        metrics["importance_weight"] = weight
    if cfg.kl_coef:
        kl = k3(jnp.where(loss_mask, ref_logprobs - logprobs, 0.0))
        loss = loss + cfg.kl_coef * kl
        metrics["ref_kl"] = kl
    metrics = {name: jax.lax.stop_gradient(jnp.where(loss_mask, value, 0)) for name, value in metrics.items()}
    return jnp.where(loss_mask, loss, 0), metrics


def clip_loss(log_ratio: Tokens, advantages: Tokens, cfg: LossConfig) -> tuple[Tokens, Bool[Array, "B T"]]:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = exp(log_ratio), and where the clip binds.

    Sources: arXiv:2402.03300 eq. 3 without its KL term; two bounds as in arXiv:2503.14476. GSPO
    (arXiv:2507.18071 eq. 5) is the same with an episode's mean log-ratio on each of its tokens.
    """
    ratio = jnp.exp(log_ratio)
    plain = -ratio * advantages
    clipped = -jnp.clip(ratio, 1 - cfg.clip_low, 1 + cfg.clip_high) * advantages
    loss = jnp.maximum(plain, clipped)
    if cfg.dual_clip is not None:
        loss = jnp.where(advantages < 0, jnp.minimum(loss, -cfg.dual_clip * advantages), loss)
    return loss, loss != plain


def cispo_loss(log_ratio: Tokens, logprobs: Tokens, advantages: Tokens, cfg: LossConfig):
    """-sg(clip(r)) A log p (arXiv:2506.13585 eq. 4): a clipped token still has a gradient."""
    ratio = jax.lax.stop_gradient(jnp.exp(log_ratio))
    weight = jnp.clip(ratio, 1 - cfg.clip_low, 1 + cfg.clip_high)
    return -weight * advantages * logprobs, weight != ratio


def k3(log_ratio: Tokens) -> Tokens:
    """exp(d) - d - 1, d = log q - log p: unbiased, non-negative estimate of KL(p || q) for samples of p."""
    return jnp.exp(log_ratio) - log_ratio - 1


def mismatch(old_logprobs: Tokens, sampler_logprobs: Tokens, loss_mask: Bool[Array, "B T"]) -> Tokens:
    """log(learner / sampler) of each policy token, without gradient; 0 where the sampler gave no finite value."""
    known = loss_mask & jnp.isfinite(sampler_logprobs)
    return jax.lax.stop_gradient(jnp.where(known, old_logprobs - jnp.where(known, sampler_logprobs, 0), 0.0))


def mismatch_metrics(log_ratio: Tokens) -> dict[str, Tokens]:
    """Estimates of KL(sampler || learner), samples being the sampler's: k1, k3; and the larger of ratio and inverse."""
    return {
        "mismatch_k1": -log_ratio,
        "mismatch_k3": k3(log_ratio),
        "mismatch_ratio_max": jnp.exp(jnp.abs(log_ratio)),
    }


def importance_weights(
    log_ratio: Tokens, loss_mask: Bool[Array, "B T"], segment_ids: Int[Array, "B T"], cfg: LossConfig
) -> Tokens:
    """min(learner / sampler, cap) per token, or per episode (arXiv:2508.03772 truncates the token ratio)."""
    if cfg.importance_level == "geometric":
        log_ratio = segment_mean(log_ratio, loss_mask, segment_ids)
    elif cfg.importance_level == "sequence":
        log_ratio = segment_sum(log_ratio, loss_mask, segment_ids)
    return jnp.minimum(jnp.exp(log_ratio), cfg.importance_cap)


def segment_sum(values: Tokens, mask: Bool[Array, "B T"], segment_ids: Int[Array, "B T"]) -> Tokens:
    """Sum over the masked tokens of each token's own segment, on every token of it."""
    values = jnp.where(mask, values, 0)

    def row(values_T, ids_T):
        return jax.ops.segment_sum(values_T, ids_T, num_segments=values_T.shape[0] + 1)[ids_T]

    return jax.vmap(row)(values, segment_ids)


def segment_mean(values: Tokens, mask: Bool[Array, "B T"], segment_ids: Int[Array, "B T"]) -> Tokens:
    count = segment_sum(jnp.ones_like(values), mask, segment_ids)
    return segment_sum(values, mask, segment_ids) / jnp.maximum(count, 1)
