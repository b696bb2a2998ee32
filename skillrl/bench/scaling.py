"""What a token costs the sampler, against the number of episodes and the length of their context.

    python -m skillrl.bench scaling [--rounds=3]

A small policy, so that what the engine does on the host counts too. Read off the columns per token: flat is linear.
"""

import argparse
import asyncio
import json
import statistics
import time
from typing import Any

import jax
import numpy as np

from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.sampling.engine import Engine

CFG = ModelConfig(vocab=512, embed=64, layers=2, q_heads=4, kv_heads=2, head_dim=16, mlp=128, unroll=2)
EPISODES = (8, 32, 128, 512)
CONTEXTS = (512, 1024, 2048, 4096, 8192)
# Of each episode where the number of episodes varies, and tokens sampled at the end of each context.
_PROMPT, _ANSWER = 48, 48
_ROWS = 8


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m skillrl.bench scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    params = models.init_params(CFG, jax.random.key(0))
    results = []
    print("  episodes   context    sampled  CPU us/token  host us/call    prefill  CPU us/token")
    print("                       tokens/s                              tokens/s")
    points = [(episodes, _PROMPT) for episodes in EPISODES] + [(_ROWS, context) for context in CONTEXTS]
    for episodes, context in points:
        results.append(measure(params, episodes, context, args.rounds))
        print(_row(results[-1]), flush=True)
    print(json.dumps({"benchmark": "scaling", "device": jax.devices()[0].device_kind, "results": results}))
    return 0


def measure(params: models.Params, episodes: int, context: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds: prompts of `context` tokens are computed, then all episodes sample after them."""
    # No token ends a turn.
    engine = Engine(CFG, params, stop_ids=(-1,), streams=episodes, max_tokens=context + 1 + 2 * _ANSWER)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, CFG.vocab, context).tolist() for _ in range(episodes)]
    asyncio.run(_round(engine, prompts[:1]))
    figures = []
    for _ in range(rounds):
        # What former rounds computed of the prompts is not to help the next.
        asyncio.run(engine.update(params, engine.version + 1))
        figures.append(asyncio.run(_round(engine, prompts)))
    return {"episodes": episodes, "context": context} | {
        name: statistics.median(figure[name] for figure in figures) for name in figures[0]
    }


async def _round(engine: Engine, prompts: list[list[int]]) -> dict[str, float]:
    streams = [await engine.open(seed=seed) for seed in range(len(prompts))]

    async def turn(known: list[list[int]], budget: int) -> dict[str, float]:
        before, started, cpu = engine.counters(), time.perf_counter(), time.process_time()
        await asyncio.gather(*(engine.generate(*one, budget=budget) for one in zip(streams, known, strict=True)))
        seconds = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
        return seconds | {name: value - before[name] for name, value in engine.counters().items()}

    first = await turn(prompts, 1)
    second = await turn([[1]] * len(prompts), _ANSWER)
    for stream in streams:
        engine.release(stream)
    return {
        "tokens_per_s": second["tokens"] / second["seconds"],
        "cpu_us_per_token": 1e6 * second["cpu_s"] / second["tokens"],
        "host_us_per_call": 1e6 * second["host_s"] / second["calls"],
        "prefill_tokens_per_s": first["prefill_tokens"] / first["seconds"],
        "prefill_cpu_us_per_token": 1e6 * first["cpu_s"] / max(first["prefill_tokens"], 1),
    }


def _row(result: dict[str, Any]) -> str:
    widths = {"episodes": 10, "context": 10, "tokens_per_s": 11, "cpu_us_per_token": 14, "host_us_per_call": 14}
    widths |= {"prefill_tokens_per_s": 11, "prefill_cpu_us_per_token": 14}
    return "".join(f"{result[name]:>{width},.0f}" for name, width in widths.items())
