"""Sampled tokens a second of agentic episodes: our engine, the same step in lock step, and transformers `generate`.

    python -m skillrl.bench sampler [--scale=full|small] [--peers=lockstep,transformers]

Groups of episodes share a prompt; each episode takes turns with a tool, whose latencies are drawn from a log-normal
distribution. All sides hold the same random weights, read prompts and tool replies of the same lengths and have to
sample the same number of tokens in each turn, so that they differ in nothing but time. "Lock step" is how most samplers
are used: all episodes take their turn as one batch, from the first token again, and wait for the slowest tool.
"""

import argparse
import asyncio
import dataclasses
import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from skillrl import sharding
from skillrl.models import hf
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.sampling.engine import Engine
from skillrl.sampling.scheduler import Shapes

# Of the tools' latencies: one in sixty takes longer than 5 s.
_MEDIAN_S, _SIGMA = 0.3, 1.32


@dataclass(frozen=True)
class Scale:
    cfg: ModelConfig
    groups: int
    group_size: int
    turns: tuple[int, int]
    prompt: tuple[int, int]
    reply: tuple[int, int]
    answer: tuple[int, int]


SCALES = {
    # 50M parameters.
    "full": Scale(
        ModelConfig(
            vocab=8192, embed=512, layers=14, q_heads=8, kv_heads=4, head_dim=64, mlp=1536, rope_theta=1e6, unroll=14
        ),
        8, 8, (3, 8), (128, 384), (16, 128), (16, 64),
    ),
    "small": Scale(
        ModelConfig(vocab=1536, embed=128, layers=4, q_heads=4, kv_heads=2, head_dim=32, mlp=320, unroll=4),
        4, 4, (3, 5), (64, 128), (8, 32), (8, 32),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    known: tuple[int, ...]
    answer: int
    latency_s: float


def workload(scale: Scale, seed: int = 0) -> list[list[Turn]]:
    """The turns of each episode; the first one's known tokens are the group's prompt."""
    episodes = []
    for group in range(scale.groups):
        rng = np.random.default_rng((seed, group))

        def tokens(low_high, rng=rng):
            return tuple(rng.integers(0, scale.cfg.vocab, rng.integers(*low_high)).tolist())

        prompt = tokens(scale.prompt)
        for _ in range(scale.group_size):
            turns = rng.integers(scale.turns[0], scale.turns[1] + 1)
            episodes.append(
                [
                    Turn(
                        prompt if turn == 0 else tokens(scale.reply),
                        int(rng.integers(*scale.answer)),
                        float(rng.lognormal(math.log(_MEDIAN_S), _SIGMA)) if turn < turns - 1 else 0.0,
                    )
                    for turn in range(turns)
                ]
            )
    return episodes


def longest(episodes: list[list[Turn]]) -> int:
    return max(sum(len(turn.known) + turn.answer for turn in turns) for turns in episodes)


async def play(engine: Engine, episodes: list[list[Turn]]) -> None:
    """Every episode for itself, as the collector plays them."""

    async def one(seed: int, turns: list[Turn]) -> None:
        stream = await engine.open(seed=seed)
        for turn in turns:
            await engine.generate(stream, turn.known, budget=turn.answer)
            await asyncio.sleep(turn.latency_s)
        engine.release(stream)

    await asyncio.gather(*(one(seed, turns) for seed, turns in enumerate(episodes)))


async def play_lockstep(engine: Engine, episodes: list[list[Turn]]) -> None:
    """All episodes turn by turn, each turn from its first token."""
    histories: list[list[int]] = [[] for _ in episodes]

    async def one(seed: int, turn: Turn) -> None:
        stream = await engine.open(seed=seed)
        histories[seed] += turn.known
        sampled = await engine.generate(stream, histories[seed], budget=turn.answer)
        histories[seed] += sampled.tokens.tolist()
        engine.release(stream)

    for at in range(max(map(len, episodes))):
        active = [(seed, turns[at]) for seed, turns in enumerate(episodes) if at < len(turns)]
        await asyncio.gather(*(one(seed, turn) for seed, turn in active))
        await asyncio.sleep(max(turn.latency_s for _, turn in active))


def play_transformers(model: Any, episodes: list[list[Turn]]) -> None:
    """`generate` on left-padded batches, each turn as long as its longest answer."""
    import torch

    histories: list[list[int]] = [[] for _ in episodes]
    for at in range(max(map(len, episodes))):
        active = [(seed, turns[at]) for seed, turns in enumerate(episodes) if at < len(turns)]
        for seed, turn in active:
            histories[seed] += turn.known
        width = max(len(histories[seed]) for seed, _ in active)
        ids = torch.tensor([[0] * (width - len(histories[seed])) + histories[seed] for seed, _ in active])
        mask = torch.tensor([[0] * (width - len(histories[seed])) + [1] * len(histories[seed]) for seed, _ in active])
        count = max(turn.answer for _, turn in active)
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=count, min_new_tokens=count
            )
        for row, (seed, turn) in zip(out[:, width:].tolist(), active, strict=True):
            histories[seed] += row[: turn.answer]
        time.sleep(max(turn.latency_s for _, turn in active))


def main(argv: list[str]) -> int:
    args = _parse(argv)
    scale = SCALES[args.scale]
    result = measure(scale, args.peers.split(",") if args.peers else [])
    print(table(result))
    print(json.dumps(result))
    return 0


def measure(scale: Scale, peers: list[str]) -> dict[str, Any]:
    """Each side plays the workload once to compile or warm up (without waiting for tools), then once for the clock."""
    episodes = workload(scale)
    tokens = sum(turn.answer for turns in episodes for turn in turns)
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    params = models.split(models.Policy.create(scale.cfg, mesh, seed=0))
    seconds, counters = _engine_seconds(scale.cfg, params, episodes, play)
    result = {
        "benchmark": "sampler",
        "device": jax.devices()[0].device_kind,
        "parameters": scale.cfg.num_params,
        "episodes": len(episodes),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        # The device works on nothing; of that, while some episode has work for it.
        "idle_share": 1 - counters["busy_s"] / seconds,
        "idle_share_runnable": counters["host_s"] / seconds,
        "rows_used": counters["tokens"] / max(counters["decode_steps"], 1),
        "prefill_tokens": counters["prefill_tokens"],
        "prefill_tokens_saved": counters["reused_tokens"],
        "ratio_lockstep": None,
        "ratio_transformers": None,
    }
    if "lockstep" in peers:
        lockstep, spent = _engine_seconds(
            scale.cfg, params, episodes, play_lockstep, Shapes((len(episodes),), (1024,), page_tokens=32)
        )
        result |= {"ratio_lockstep": lockstep / seconds, "lockstep_prefill_tokens": spent["prefill_tokens"]}
    if "transformers" in peers:
        result["ratio_transformers"] = _transformers_seconds(scale.cfg, params, episodes) / seconds
    return result


def _engine_seconds(cfg, params, episodes, playing, shapes=None):
    engine = Engine(
        cfg, params, stop_ids=(-1,), streams=len(episodes), max_tokens=longest(episodes), shapes=shapes
    )  # no token ends a turn
    hurried = [[dataclasses.replace(turn, latency_s=0.0) for turn in turns] for turns in episodes]
    asyncio.run(playing(engine, hurried))
    # What the first pass computed of the prompts is not to help the second.
    asyncio.run(engine.update(params, version=1))
    before, started = engine.counters(), time.perf_counter()
    asyncio.run(playing(engine, episodes))
    seconds = time.perf_counter() - started
    return seconds, {name: value - before[name] for name, value in engine.counters().items()}


def _transformers_seconds(cfg, params, episodes) -> float:
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        hf.save_hf(Path(folder), cfg, params)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    play_transformers(model, [[dataclasses.replace(turns[0], answer=2, latency_s=0.0)] for turns in episodes])
    started = time.perf_counter()
    play_transformers(model, episodes)
    return time.perf_counter() - started


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"{result['parameters'] / 1e6:,.1f}M parameters, {result['episodes']} episodes, {result['tokens']:,} sampled "
        f"tokens, {result['device']}",
        f"{'tokens a second':<36}{result['tokens_per_s']:>10,.0f}",
    ]
    for name in ("lockstep", "transformers"):
        if result[f"ratio_{name}"] is not None:
            rate = result["tokens_per_s"] / result[f"ratio_{name}"]
            lines.append(f"{'  ' + name:<36}{rate:>10,.0f}{result[f'ratio_{name}']:>8.2f} times as fast")
    lines += [
        f"{'device idle':<36}{result['idle_share']:>10.1%}",
        f"{'  while episodes had work for it':<36}{result['idle_share_runnable']:>10.1%}",
        f"{'rows used in a decode step':<36}{result['rows_used']:>10.1f}",
        f"{'known tokens computed':<36}{result['prefill_tokens']:>10,}",
        f"{'  saved by sharing prompts':<36}{result['prefill_tokens_saved']:>10,}",
    ]
    return "\n".join(lines)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m skillrl.bench sampler", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--peers", default="lockstep,transformers", help="comma-separated; empty: none")
    return parser.parse_args(argv)
