"""Metrics of an update: per-token values to sums per skill, and those to means."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from skillrl.rl.packing import SKILL_NAMES

# Per-token metrics whose batch value is a maximum, not a mean.
_MAXIMA = ("mismatch_ratio_max",)


def token_sums(metrics: dict[str, Any], mask: Any, skill_ids: Any) -> dict[str, Any]:
    """Per skill: number of policy tokens, and the sum (or maximum) of each metric [B, T] over them."""
    member = mask[..., None] & (skill_ids[..., None] == jnp.arange(len(SKILL_NAMES)))
    sums = {"tokens": member.sum(axis=(0, 1)).astype(jnp.float32)}
    for name, value in metrics.items():
        spread = jnp.where(member, value[..., None], 0)
        sums[name] = spread.max(axis=(0, 1)) if name in _MAXIMA else spread.sum(axis=(0, 1))
    return sums


def merge_sums(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    return {n: jnp.maximum(left[n], right[n]) if n in _MAXIMA else left[n] + right[n] for n in left}


def summary(sums: dict[str, Any], updates: list[dict[str, Any]]) -> dict[str, float]:
    """Means over tokens of the whole batch (`name`) and of each skill in it (`name/skill`)."""
    counts = sums["tokens"]
    out = {
        "loss": float(sums["loss"]) / len(updates),
        "tokens": float(counts.sum()),
        "grad_norm": float(np.mean([u["grad_norm"] for u in updates])),
        "skipped_updates": float(sum(bool(u["skipped"]) for u in updates)),
    }
    out |= {f"tokens/{skill}": float(n) for skill, n in zip(SKILL_NAMES, counts, strict=True) if n}
    for name, values in sums.items():
        if name in ("loss", "tokens"):
            continue
        maximum = name in _MAXIMA
        out[name] = float(values.max() if maximum else values.sum() / max(counts.sum(), 1))
        for skill, value, n in zip(SKILL_NAMES, values, counts, strict=True):
            if n:
                out[f"{name}/{skill}"] = float(value if maximum else value / n)
    return out
