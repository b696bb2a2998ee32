"""Sampled tokens a second of agentic episodes: our engine beside samplers in lock step, of ours and of others.

    python -m skillrl.bench sampler [--scale=full|small] [--groups=N] [--rounds=N] [--sides=...] [--tunix-python=PATH]

Groups of episodes share a prompt; each episode takes turns with a tool, whose latencies are drawn from a log-normal
distribution. All sides hold the same random weights, read prompts and tool replies of the same lengths and have to
sample the same number of tokens in each turn, so that they differ in nothing but time. They play one after the other,
round by round, those of others in processes of their own: no two of them compute at the same moment. In lock step all
episodes take their turn as one batch, from the first token again, and wait for the slowest tool.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from skillrl import sharding
from skillrl.bench import workload
from skillrl.bench.workload import Episodes, Sizes
from skillrl.models import hf
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.sampling.engine import Engine
from skillrl.sampling.scheduler import Shapes


@dataclass(frozen=True)
class Scale:
    cfg: ModelConfig
    sizes: Sizes


SCALES = {
    # 50M parameters.
    "full": Scale(
        ModelConfig(
            vocab=8192, embed=512, layers=14, q_heads=8, kv_heads=4, head_dim=64, mlp=1536, rope_theta=1e6, unroll=2
        ),
        Sizes(8192, 8, 8, (3, 8), (128, 384), (16, 128), (16, 64)),
    ),
    "small": Scale(
        ModelConfig(vocab=1536, embed=128, layers=4, q_heads=4, kv_heads=2, head_dim=32, mlp=320, unroll=4),
        Sizes(1536, 4, 4, (3, 5), (64, 128), (8, 32), (8, 32)),
    ),
}
# Ways to play beside our engine; "kept" is our lock step with the cache of earlier turns kept.
SIDES = ("lockstep", "kept", "transformers", "tunix")
# One round of a side: seconds of the clock and of all cores.
Seconds = dict[str, float]


async def play(engine: Engine, episodes: Episodes) -> None:
    """Every episode for itself, as the collector plays them."""

    async def one(seed: int, turns: list[workload.Turn]) -> None:
        stream = await engine.open(seed=seed)
        for turn in turns:
            await engine.generate(stream, turn.known, budget=turn.answer)
            await asyncio.sleep(turn.latency_s)
        engine.release(stream)

    await asyncio.gather(*(one(seed, turns) for seed, turns in enumerate(episodes)))


def play_lockstep(engine: Engine, episodes: Episodes, *, keep: bool = False) -> None:
    """All episodes turn by turn; from the first token again, unless the streams are kept."""
    streams = {}

    async def one(number: int, history: list[int], budget: int):
        stream = streams.pop(number, None) or await engine.open(seed=number)
        sampled = await engine.generate(stream, history[len(stream.tokens) :], budget=budget)
        if keep:
            streams[number] = stream
        else:
            engine.release(stream)
        return sampled.tokens

    async def batch(*arguments):
        return await asyncio.gather(*(one(*each) for each in zip(*arguments, strict=True)))

    workload.play_lockstep(lambda *arguments: asyncio.run(batch(*arguments)), episodes)
    for stream in streams.values():
        engine.release(stream)


def main(argv: list[str]) -> int:
    args = _parse(argv)
    result = measure(_scale(args), args.rounds, [side for side in args.sides.split(",") if side], args.tunix_python)
    print(table(result))
    print(json.dumps(result))
    return 0


def measure(scale: Scale, rounds: int, sides: list[str], tunix_python: str = "") -> dict[str, Any]:
    """Medians over rounds in which the sides take turns. Ratios are taken within each round."""
    episodes = workload.workload(scale.sizes)
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    params = models.split(models.Policy.create(scale.cfg, mesh, seed=0))
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        hf.save_hf(folder, scale.cfg, params)
        workload.write(folder / "workload.json", episodes)
        engine, plays = _ours(scale.cfg, params, episodes, sides)
        for side, module, python in (
            ("transformers", "peer_generate", sys.executable),
            ("tunix", "peer_tunix", tunix_python),
        ):
            if side in sides and not python:
                absent[side] = "no environment of its own was given, see --tunix-python"
            elif side in sides:
                plays[side] = stack.enter_context(_peer([python, "-m", f"skillrl.bench.{module}", folder]))
        figures, counters = _rounds(plays, rounds, engine, absent)
    return _result(scale, episodes, figures, counters, absent)


def _ours(cfg, params, episodes: Episodes, sides) -> tuple[Engine, dict[str, Callable[[], Seconds]]]:
    """Our sides, compiled: by a hurried round where calls have several shapes, else by two turns."""
    most, longest = len(episodes), workload.longest(episodes)
    # No token ends a turn.
    make = functools.partial(Engine, cfg, params, stop_ids=(-1,), streams=most, max_tokens=longest)
    # One batch of all, and chunks as large as are useful: nothing else is to be in the way.
    lockstep = make(shapes=Shapes((most,), (1024,), page_tokens=32))
    engines = {
        "engine": (make(), lambda engine, episodes: asyncio.run(play(engine, episodes))),
        "lockstep": (lockstep, play_lockstep),
        "kept": (lockstep, functools.partial(play_lockstep, keep=True)),
    }
    plays = {}
    for side, (engine, playing) in engines.items():
        if side == "engine" or side in sides:
            several = engine.shapes.most > 1
            playing(engine, workload.hurried(episodes) if several else [[turns[0]] for turns in episodes[:2]])
            plays[side] = functools.partial(_timed, engine, params, playing, episodes)
    return engines["engine"][0], plays


def _timed(engine: Engine, params: models.Params, playing: Callable, episodes: Episodes) -> Seconds:
    # What former rounds computed of the prompts is not to help this one.
    asyncio.run(engine.update(params, version=engine.version + 1))
    started, cpu = time.perf_counter(), time.process_time()
    playing(engine, episodes)
    return {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}


def _rounds(plays, rounds: int, engine: Engine, absent: dict[str, str]):
    """All rounds of each side, and what the engine's counters grew by in each of its own."""
    figures: dict[str, list[Seconds]] = {side: [] for side in plays}
    counters = []
    for number in range(rounds):
        for side, once in plays.items():
            if side in absent:
                continue
            before = engine.counters()
            try:
                figures[side].append(once())
            except PeerError as e:
                absent[side] = str(e)
                continue
            print(f"round {number}: {side} {figures[side][-1]}, load {os.getloadavg()[0]:.1f}", flush=True)
            if side == "engine":
                counters.append({name: value - before[name] for name, value in engine.counters().items()})
    return figures, counters


def _result(scale: Scale, episodes: Episodes, figures, counters, absent) -> dict[str, Any]:
    tokens = sum(turn.answer for turns in episodes for turn in turns)
    ours = figures["engine"]

    def median(name: str, values=None) -> float:
        return statistics.median(x[name] for x in (counters if values is None else values))

    def ratio(side: str, name: str) -> float | None:
        if side in absent or side not in figures:
            return None
        return statistics.median(x[name] / y[name] for x, y in zip(figures[side], ours, strict=True))

    seconds = median("seconds", ours)
    return {
        "benchmark": "sampler",
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "parameters": scale.cfg.num_params,
        "episodes": len(episodes),
        "tokens": tokens,
        "rounds": len(ours),
        "seconds": seconds,
        "cpu_s": median("cpu_s", ours),
        "tokens_per_s": tokens / seconds,
        **{f"ratio_{side}": ratio(side, "seconds") for side in SIDES},
        **{f"cpu_ratio_{side}": ratio(side, "cpu_s") for side in SIDES},
        # The device works on nothing; of that, while some episode has work for it.
        "idle_share": statistics.median(1 - c["busy_s"] / x["seconds"] for c, x in zip(counters, ours, strict=True)),
        "idle_share_runnable": statistics.median(
            c["host_s"] / x["seconds"] for c, x in zip(counters, ours, strict=True)
        ),
        "rows_used": statistics.median(c["tokens"] / c["decode_steps"] for c in counters),
        "prefill_tokens": median("prefill_tokens"),
        "prefill_tokens_saved": median("reused_tokens"),
        "prefill_tokens_lockstep": _from_the_first_token(episodes),
        "absent": absent,
    }


def _from_the_first_token(episodes: Episodes) -> int:
    """Known tokens of all turns where each begins again: what lock step computes, but for shared prompts."""
    total = 0
    for turns in episodes:
        length = 0
        for turn in turns:
            length += len(turn.known)
            total += length
            length += turn.answer
    return total


class PeerError(RuntimeError):
    """A peer's process ended; why stands above on standard error."""


@contextlib.contextmanager
def _peer(command: list) -> Iterator[Callable[[], Seconds]]:
    """A function that has the other process play one round, and returns its seconds."""
    # From the checkout: the other environment has no skillrl of its own.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=Path.cwd()
    )

    def ask() -> Seconds:
        with contextlib.suppress(BrokenPipeError):
            print("play", file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            raise PeerError(f"{command[2]} of {command[0]} ended with status {process.wait()}; its message is above")
        return json.loads(answer)

    try:
        # While it warms up nobody plays.
        process.stdout.readline()
        yield ask
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.terminate()
        process.wait()
        process.stdout.close()


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"{result['parameters'] / 1e6:,.1f}M parameters, {result['episodes']} episodes, {result['tokens']:,} sampled "
        f"tokens, {result['device']}, {result['rounds']} rounds",
        f"{'tokens a second':<36}{result['tokens_per_s']:>10,.0f}",
    ]
    for side in SIDES:
        if result[f"ratio_{side}"] is not None:
            rate = result["tokens_per_s"] / result[f"ratio_{side}"]
            lines.append(
                f"{'  ' + side:<36}{rate:>10,.0f}{result[f'ratio_{side}']:>8.2f} times the time,"
                f"{result[f'cpu_ratio_{side}']:>7.2f} times the CPU seconds of ours"
            )
    lines += [f"  {side}: {why}" for side, why in result["absent"].items()]
    lines += [
        f"{'device idle':<36}{result['idle_share']:>10.1%}",
        f"{'  while episodes had work for it':<36}{result['idle_share_runnable']:>10.1%}",
        f"{'rows used in a decode step':<36}{result['rows_used']:>10.1f}",
        f"{'known tokens computed':<36}{result['prefill_tokens']:>10,}",
        f"{'  saved by sharing prompts':<36}{result['prefill_tokens_saved']:>10,}",
        f"{'  of turns from the first token':<36}{result['prefill_tokens_lockstep']:>10,}",
    ]
    return "\n".join(lines)


def _scale(args: argparse.Namespace) -> Scale:
    scale = SCALES[args.scale]
    return replace(scale, sizes=replace(scale.sizes, groups=args.groups or scale.sizes.groups))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m skillrl.bench sampler", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--groups", type=int, default=0, help="other than the scale's")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sides", default=",".join(SIDES), help="comma-separated; empty: our engine alone")
    parser.add_argument("--tunix-python", default="", help="python of an environment with google-tunix")
    return parser.parse_args(argv)
