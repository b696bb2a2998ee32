"""How far the sampler's log-probabilities lie from the learner's, on the tokens that it sampled.

    python -m skillrl.bench mismatch [--policy=DIR] [--groups=N]

For a policy with dense layers and one with experts, of random weights, or for the one in a Hugging Face folder; for
each dtype of the policy, and of the sampler's cache or weights; and for a cache so small that episodes lose their pages
while their tools run, or in the middle of a turn, and are computed again. With d = learner's - sampler's
log-probability: k1 is the mean of -d, k3 the mean of exp(d) - 1 - d, which is never negative
(http://joschu.net/blog/kl-approx.html); both estimate the divergence of the learner's policy from the sampler's.
"""

import argparse
import asyncio
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skillrl import sharding
from skillrl.bench.workload import Episodes, Sizes, longest, workload
from skillrl.models import hf
from skillrl.models import policy as models
from skillrl.models.cache import CACHE_DTYPES
from skillrl.models.config import ModelConfig
from skillrl.models.quantised import WEIGHTS_DTYPES
from skillrl.sampling import weights
from skillrl.sampling.engine import Engine

TOOL_S = 0.01
# Tokens of a group's prompt that were not computed again; streams that lost their pages parked, and running; tokens
# computed again.
COUNTED = {
    "reused": "reused_tokens",
    "evictions": "evictions",
    "retractions": "retractions",
    "recomputed": "recomputed_tokens",
}
DENSE = ModelConfig(vocab=512, embed=128, layers=4, q_heads=4, kv_heads=2, head_dim=32, mlp=320, unroll=4)
POLICIES = {
    "dense": DENSE,
    "experts": dataclasses.replace(DENSE, experts=8, experts_per_token=2, expert_mlp=96, first_dense_layers=1),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m skillrl.bench mismatch", description=__doc__.splitlines()[0])
    parser.add_argument("--policy", type=Path, help="a Hugging Face folder in place of random weights")
    parser.add_argument("--groups", type=int, default=4, help="of 4 episodes each")
    args = parser.parse_args(argv)
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    results = []
    options = [(cache, "", False) for cache in CACHE_DTYPES] + [("", name, False) for name in WEIGHTS_DTYPES if name]
    options.append(("", "", True))
    names = f"{'policy':<10}{'dtype':<10}{'cache':<15}{'weights':<10}{'tokens':>8}{'k1':>12}{'k3':>12}{'max |d|':>12}"
    print(names + "".join(f"{name:>12}" for name in COUNTED))
    for name, cfg, params in [_read(args.policy, mesh)] if args.policy else map(_random, POLICIES):
        for dtype in ("float32", "bfloat16"):
            for cache_dtype, weights_dtype, is_tight in options:
                if cache_dtype != dtype:
                    exact = dataclasses.replace(cfg, dtype=dtype)
                    found = measure(exact, params, cache_dtype, weights_dtype, args.groups, is_tight=is_tight)
                    held = {"cache_dtype": cache_dtype or dtype, "weights_dtype": weights_dtype or dtype}
                    results.append({"policy": name, "dtype": dtype} | held | found)
                    print(_row(results[-1]), flush=True)
    print(json.dumps({"benchmark": "mismatch", "device": jax.devices()[0].device_kind, "results": results}))
    return 0


def measure(
    cfg: ModelConfig, params: models.Params, cache_dtype: str, weights_dtype: str, groups: int, *, is_tight: bool
) -> dict[str, float]:
    """Samples groups of episodes of several turns, and compares. A tight cache holds one and a half of them."""
    episodes = workload(Sizes(cfg.vocab, groups, 4, (2, 4), (32, 96), (8, 32), (8, 32)))
    most = longest(episodes)
    # No token ends a turn.
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    place = {"place": functools.partial(weights.copied, cfg, mesh, weights_dtype)} if weights_dtype else {}
    engine = Engine(
        cfg,
        params,
        stop_ids=(-1,),
        streams=len(episodes),
        max_tokens=most,
        cache_dtype=cache_dtype,
        cache_tokens=most * 3 // 2 if is_tight else 0,
        **place,
    )
    played = asyncio.run(_play(engine, episodes))
    tokens = np.zeros((len(played), most), np.int32)
    sampled = np.full(tokens.shape, np.nan, np.float32)
    for row, (stream, logprobs) in enumerate(played):
        tokens[row, : len(stream)], sampled[row, : len(stream)] = stream, logprobs
    learned = np.concatenate([learner_logprobs(cfg, params, tokens[row : row + 4]) for row in range(0, len(tokens), 4)])
    d = (learned - sampled)[~np.isnan(sampled)].astype(np.float64)
    counters = engine.counters()
    return {
        "tokens": len(d),
        "k1": float(-d.mean()),
        "k3": float((np.expm1(d) - d).mean()),
        "max": float(np.abs(d).max()),
    } | {name: counters[counter] for name, counter in COUNTED.items()}


async def _play(engine: Engine, episodes: Episodes) -> list[tuple[list[int], list[float]]]:
    """Tokens and sampled log-probabilities, nan for those that were not sampled, of each episode."""

    async def one(seed: int, turns) -> tuple[list[int], list[float]]:
        stream, logprobs = await engine.open(seed=seed), []
        for turn in turns:
            await asyncio.sleep(TOOL_S)
            sampled = await engine.generate(stream, turn.known, budget=turn.answer)
            logprobs += [np.nan] * len(turn.known) + sampled.logprobs.tolist()
        engine.release(stream)
        return stream.tokens, logprobs

    return await asyncio.gather(*(one(seed, turns) for seed, turns in enumerate(episodes)))


@functools.partial(jax.jit, static_argnums=0)
def learner_logprobs(cfg: ModelConfig, params: models.Params, tokens: jax.Array) -> jax.Array:
    """Log-probability of each token [B, T] given those before it, as the learner has it; the first one's is 0."""
    policy = models.merge(cfg, params)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    logprobs = jax.nn.log_softmax(policy.logits(policy(tokens, positions, jnp.ones_like(tokens))))
    return jnp.pad(jnp.take_along_axis(logprobs[:, :-1], tokens[:, 1:, None], axis=-1)[..., 0], ((0, 0), (1, 0)))


def _random(name: str) -> tuple[str, ModelConfig, models.Params]:
    cfg = POLICIES[name]
    params = models.init_params(cfg, jax.random.key(0))
    # Freshly initialised weights give all tokens nearly the same probability; nothing could go wrong there.
    return name, cfg, jax.tree.map(lambda x: x * 2 if x.ndim > 2 else x, params)


def _read(folder: Path, mesh) -> tuple[str, ModelConfig, models.Params]:
    return folder.name, *hf.load_hf(folder, mesh, dtype="float32")


def _row(result: dict[str, Any]) -> str:
    names = f"{result['policy']:<10}{result['dtype']:<10}{result['cache_dtype']:<15}"
    names += f"{result['weights_dtype']:<10}{result['tokens']:>8,}"
    return (
        names
        + "".join(f"{result[name]:>12.1e}" for name in ("k1", "k3", "max"))
        + "".join(f"{int(result[name]):>12,}" for name in COUNTED)
    )
