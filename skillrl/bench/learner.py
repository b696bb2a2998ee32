"""Tokens a second and model FLOPs utilisation of `Learner.update`, beside the same step in PyTorch.

    python -m skillrl.bench learner [--variant=NAME] [--rows=8 --row-tokens=512] [--dtype=float32] [--rounds=3]

Both sides hold the same weights (ours, exported), the same packed rows, loss and AdamW, in a process each; they take
turns step by step, so that what else the machine does falls on both. First their losses are compared, at the first step
and after the updates. The peak is measured in the same turns, by a large matrix product: no CPU has a published one.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skillrl import sharding
from skillrl.compile.flops import layer_params
from skillrl.models import hf
from skillrl.models.config import ModelConfig, variant
from skillrl.models.remat import POLICIES
from skillrl.rl.learner import Learner, LearnerConfig
from skillrl.rl.losses import LossConfig
from skillrl.types import Batch

SMALL = ModelConfig(
    vocab=8192, embed=512, layers=14, q_heads=8, kv_heads=4, head_dim=64, mlp=1536, rope_theta=1e6, unroll=2
)
# Share of each episode's tokens that the policy wrote, and episodes in a row.
_POLICY_SHARE = 0.4
_EPISODES_A_ROW = 2


def main(argv: list[str]) -> int:
    args = _parse(argv)
    cfg = SMALL if args.variant == "small" else variant(args.variant)
    cfg = dataclasses.replace(cfg, dtype=args.dtype, param_dtype="float32", remat=args.remat)
    if args.layers:
        cfg = dataclasses.replace(cfg, layers=args.layers)
    batch = random_batch(cfg, args.rows, args.row_tokens, seed=0)
    result = measure(cfg, batch, args.rounds, args.micro_rows or args.rows, args.threads)
    print(table(result))
    print(json.dumps(result))
    return 0


def measure(cfg: ModelConfig, batch: Batch, rounds: int, micro_rows: int, threads: int) -> dict[str, Any]:
    """Medians over `rounds` alternating steps of both sides."""
    platform = jax.default_backend()
    learner_cfg = LearnerConfig(
        loss=LossConfig(loss="sft"), micro_rows=micro_rows, learning_rate=1e-4, max_grad_norm=1.0
    )
    learner = Learner(cfg, learner_cfg, sharding.make_mesh({}, devices=jax.devices()[:1]))
    state = learner.init(0)
    ours, theirs, peaks, differences = [], [], [], []
    with (
        tempfile.TemporaryDirectory() as temporary,
        _peer(Path(temporary), cfg, state, batch, learner_cfg, threads) as ask,
    ):
        # The first step of both compiles or warms up.
        for turn in range(rounds + 1):
            started = time.perf_counter()
            state, metrics = learner.update(state, batch)
            seconds = time.perf_counter() - started
            answer = ask()
            differences.append(abs(metrics["loss"] - answer["loss"]))
            if turn:
                ours.append(seconds)
                theirs.append(answer["seconds"])
                peaks.append(_matmul_flops(cfg.dtype))
            print(
                f"step {turn}: loss {metrics['loss']:.6f}, in PyTorch {answer['loss']:.6f}; "
                f"{seconds:.2f} s, {answer['seconds']:.2f} s",
                flush=True,
            )
    tokens, flops, peak = batch.tokens.size, step_flops(cfg, batch), max(peaks)
    mine, torch = statistics.median(ours), statistics.median(theirs)
    return {
        "benchmark": "learner",
        "platform": platform,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "parameters": cfg.num_params,
        "rows": len(batch.tokens),
        "row_tokens": batch.tokens.shape[1],
        "dtype": cfg.dtype,
        "remat": cfg.remat,
        "rounds": rounds,
        "step_s": mine,
        "torch_step_s": torch,
        "tokens_per_s": tokens / mine,
        "torch_tokens_per_s": tokens / torch,
        "ratio_torch": statistics.median(t / m for m, t in zip(ours, theirs, strict=True)),
        "model_flops": flops,
        "peak_flops": peak,
        "mfu": flops / mine / peak,
        "torch_mfu": flops / torch / peak,
        "loss_difference_first": differences[0],
        "loss_difference_last": differences[-1],
    }


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    rows = [
        ("", "skillrl", "PyTorch"),
        ("seconds a step", f"{result['step_s']:.2f}", f"{result['torch_step_s']:.2f}"),
        ("tokens a second", f"{result['tokens_per_s']:,.0f}", f"{result['torch_tokens_per_s']:,.0f}"),
        ("model FLOPs utilisation", f"{result['mfu']:.1%}", f"{result['torch_mfu']:.1%}"),
    ]
    lines = [f"{name:<26}{left:>12}{right:>12}" for name, left, right in rows]
    head = (
        f"{result['parameters'] / 1e6:,.0f}M parameters, {result['rows']} rows x {result['row_tokens']} tokens, "
        f"{result['dtype']}, remat={result['remat']}, {result['device']}"
    )
    ratio = (
        f"{result['ratio_torch']:.2f} times as fast as PyTorch (median of {result['rounds']} rounds); losses differ "
        f"by {result['loss_difference_first']:.1e} at first and {result['loss_difference_last']:.1e} after the updates"
    )
    peak = f"peak for the utilisation: {result['peak_flops'] / 1e9:,.0f} GFLOP/s, the fastest large product here"
    return "\n".join([head, *lines, ratio, peak])


def random_batch(cfg: ModelConfig, rows: int, tokens: int, seed: int) -> Batch:
    """Full rows of `_EPISODES_A_ROW` episodes of random tokens, some of which the policy is taken to have written."""
    rng = np.random.default_rng(seed)
    shape = (rows, tokens)
    cuts = np.sort(rng.integers(1, tokens, (rows, _EPISODES_A_ROW - 1)), axis=1)
    segments = 1 + (np.arange(tokens)[None, :, None] >= cuts[:, None, :]).sum(-1)
    starts = np.maximum.accumulate(np.where(np.diff(segments, axis=1, prepend=0) > 0, np.arange(tokens), 0), axis=1)
    positions = np.arange(tokens) - starts
    mask = (rng.random(shape) < _POLICY_SHARE) & (positions > 0)
    return Batch(
        tokens=rng.integers(0, cfg.vocab, shape, dtype=np.int32),
        segment_ids=segments.astype(np.int32),
        positions=positions.astype(np.int32),
        loss_mask=mask,
        advantages=rng.uniform(0.5, 1.5, shape).astype(np.float32),
        sampler_logprobs=np.zeros(shape, np.float32),
        skill_ids=np.zeros(shape, np.int32),
        loss_weights=np.where(mask, 1 / mask.sum(), 0).astype(np.float32),
    )


def step_flops(cfg: ModelConfig, batch: Batch) -> float:
    """What the mathematics of a step needs, forward and backward: recomputation does not count.

    6 operations a token and parameter of the layers, and a policy token and parameter of the head; attention within
    segments alone, below the diagonal.
    """
    lengths = np.concatenate([np.unique(row[row > 0], return_counts=True)[1] for row in batch.segment_ids])
    layers = 2.0 * lengths.sum() * layer_params(cfg)
    head = 2.0 * batch.loss_mask.sum() * cfg.vocab * cfg.embed
    attention = 2.0 * (lengths.astype(np.float64) ** 2).sum() * cfg.layers * cfg.q_heads * cfg.head_dim
    return 3 * float(layers + head + attention)


@contextlib.contextmanager
def _peer(folder: Path, cfg, state, batch: Batch, learner: LearnerConfig, threads: int) -> Iterator[Any]:
    """A function that has the other process take one step, and returns its answer."""
    hf.save_hf(folder, cfg, state.params)
    np.savez(folder / "batch.npz", **{f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)})
    names = ("learning_rate", "beta1", "beta2", "epsilon", "max_grad_norm", "micro_rows")
    options = {name: getattr(learner, name) for name in names} | {
        "device": "cuda" if jax.default_backend() == "gpu" else "cpu",
        "dtype": cfg.dtype,
        "checkpointing": cfg.remat != "none",
        "threads": threads,
    }
    command = [sys.executable, "-m", "skillrl.bench.peer_torch", folder, folder / "batch.npz", json.dumps(options)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask() -> dict[str, float]:
        print("step", file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError("the PyTorch process ended; its message is above (torch and transformers are needed)")
        return json.loads(answer)

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _matmul_flops(dtype: str) -> float:
    """Operations a second of a square matrix product of this dtype, the best of a few."""
    size = 8192 if jax.default_backend() == "gpu" else 2048
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m skillrl.bench learner", description=__doc__.splitlines()[0])
    gpu = jax.default_backend() == "gpu"
    default = "llama-3.2-1b" if gpu else "small"
    parser.add_argument("--variant", default=default, help="of skillrl.models.config, or `small`: 50M parameters")
    parser.add_argument("--layers", type=int, help="fewer layers than the variant has")
    parser.add_argument("--rows", type=int, default=1 if gpu else 8)
    parser.add_argument("--row-tokens", type=int, default=8192 if gpu else 512)
    parser.add_argument("--micro-rows", type=int, help="rows of a micro-batch; all by default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16" if gpu else "float32")
    parser.add_argument("--remat", choices=("none", *POLICIES), default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    return parser.parse_args(argv)
