"""Compares this decoder with transformers on a Hugging Face folder: logits of the same random tokens, both in float32.

python -m skillrl.models.check HF_DIR [--tokens=64] [--seed=0]

The last line is max_abs_logit_diff=... The exit status is 1 where that is above 1e-4 of the largest logit, or above
1e-4 itself where all logits are smaller than 1; 2 where the folder cannot be compared.
"""

import argparse
import gc
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from skillrl import sharding
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.models.families import HfError
from skillrl.models.hf import check_hf, load_hf

_TOLERANCE = 1e-4
_ROWS = 2


class CheckError(RuntimeError):
    """Nothing to compare with; the message names the remedy."""


def our_logits(cfg: ModelConfig, params: models.Params, mesh: Mesh, tokens_BT: np.ndarray) -> np.ndarray:
    """Logits [B, T, V] of this decoder, matrix products in full float32."""
    positions_BT = np.tile(np.arange(tokens_BT.shape[1], dtype=np.int32), (len(tokens_BT), 1))

    @jax.jit
    def forward(params, tokens_BT):
        policy = models.merge(cfg, params)
        return policy.logits(policy(tokens_BT, positions_BT, np.ones_like(positions_BT)))

    with jax.default_matmul_precision("float32"), jax.set_mesh(mesh):
        return np.asarray(forward(params, tokens_BT))


def their_logits(folder: Path, tokens_BT: np.ndarray) -> np.ndarray:
    """Logits [B, T, V] of transformers on the CPU, in float32. Raises CheckError where it is not installed."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as e:
        raise CheckError(f"{e.name} is missing; pip install 'transformers>=5.0' torch") from e
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.from_numpy(tokens_BT).long()).logits.numpy()


def within_tolerance(ours: np.ndarray, theirs: np.ndarray) -> tuple[bool, float]:
    """Whether the logits agree, and their largest absolute difference."""
    difference = float(np.max(np.abs(ours - theirs)))
    return difference <= _TOLERANCE * max(1.0, float(np.max(np.abs(theirs)))), difference


def main(argv: list[str] | None = None) -> int:
    description, _, rule = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m skillrl.models.check", description=description, epilog=rule)
    parser.add_argument("folder", type=Path, metavar="HF_DIR", help="folder with config.json and safetensors")
    parser.add_argument("--tokens", type=int, default=64, help="length of each of the two random rows")
    parser.add_argument("--seed", type=int, default=0, help="of the random tokens")
    args = parser.parse_args(argv)
    try:
        mesh = sharding.make_mesh({}, devices=jax.local_devices()[:1])
        # First, since transformers ends in a traceback on a damaged folder, and fills in what is missing.
        cfg = check_hf(args.folder, mesh)
        tokens_BT = np.random.default_rng(args.seed).integers(0, cfg.vocab, (_ROWS, args.tokens)).astype(np.int32)
        theirs = their_logits(args.folder, tokens_BT)
        gc.collect()  # one copy of the weights at a time
        cfg, params = load_hf(args.folder, mesh, param_dtype="float32", dtype="float32", unroll=1)
        ours = our_logits(cfg, params, mesh, tokens_BT)
    except (CheckError, HfError, sharding.ShardingError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    agrees, difference = within_tolerance(ours, theirs)
    largest = float(np.max(np.abs(theirs)))
    print(f"{cfg.family}, {cfg.num_params:,} parameters, {_ROWS} x {args.tokens} random tokens of seed {args.seed}")
    print(f"largest logit {largest:.4g}; allowed difference {_TOLERANCE * max(1.0, largest):.3g}")
    print(f"max_abs_logit_diff={difference:.3g}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
