"""Writes a checkpoint's policy as a Hugging Face folder, reads it back and compares.

python -m skillrl.export --workdir=DIR [--step=N] [--tokenizer=DIR] --out=DIR
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from skillrl import sharding, tokenizer
from skillrl.checkpoint import CheckpointError, load_policy
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.models.hf import HfError, load_hf, save_hf
from skillrl.models.hf_tokenizer import write_hf_tokenizer

SENTENCEPIECE = "tokenizer.model"
TOKENIZER_FILES = (SENTENCEPIECE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
                   "merges.txt", "added_tokens.json", "chat_template.jinja")  # fmt: skip


class ExportError(ValueError):
    """The folder cannot be written, or is not what was meant; nothing is left at its place."""


def export(out: str | Path, cfg: ModelConfig, params: models.Params, tokenizer_path: str | Path, card: str) -> Path:
    """Writes the folder `out` (config, weights, tokenizer, README.md with `card`) and verifies it bit by bit.

    `tokenizer_path` is a SentencePiece model or a folder with tokenizer files. `out` appears only when it is complete.
    Raises ExportError where it exists already or reads back differently.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is not empty; choose another --out or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / "folder"
        folder.mkdir()
        save_hf(folder, cfg, params)
        _copy_tokenizer(Path(tokenizer_path), folder)
        (folder / "README.md").write_text(card)
        verify(folder, cfg, params)
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return out


def verify(folder: Path, cfg: ModelConfig, params: models.Params) -> None:
    """Raises ExportError unless the folder reads back as exactly these parameters."""
    mesh = sharding.make_mesh({}, devices=jax.local_devices()[:1])
    _, again = load_hf(folder, mesh, param_dtype=cfg.param_dtype)
    for (path, want), got in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(again), strict=True):
        if not np.array_equal(np.asarray(want), np.asarray(got), equal_nan=True):
            raise ExportError(f"{folder}: {jax.tree_util.keystr(path)} reads back differently; the disk may be full")


def _copy_tokenizer(source: Path, folder: Path) -> None:
    files = [source] if source.is_file() else [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not files:
        raise ExportError(
            f"no tokenizer at {source}; give a SentencePiece model or a folder that holds {SENTENCEPIECE}"
        )
    for file in files:
        shutil.copyfile(file, folder / (SENTENCEPIECE if source.is_file() else file.name))
    if not (folder / SENTENCEPIECE).is_file():
        return
    tok = tokenizer.SentencePieceTokenizer(folder / SENTENCEPIECE)
    generation = {"eos_token_id": tok.special_id(tokenizer.END), "pad_token_id": tok.pad_id, "do_sample": True}
    if not (folder / "tokenizer.json").is_file():
        write_hf_tokenizer(folder / SENTENCEPIECE, folder)
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def model_card(cfg: ModelConfig, step: int) -> str:
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n"
        f"# skillrl policy, step {step}\n\n"
        f"A decoder of {cfg.num_params:,} parameters in Qwen3 layout, trained by reinforcement learning over five "
        "coding skills. Messages use the compact format of `skillrl/chat.py`; `tokenizer.model` is its SentencePiece "
        "model and `tokenizer.json` the same for transformers.\n"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m skillrl.export", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path, help="workdir of a training run")
    parser.add_argument("--step", type=int, help="checkpoint to export; the newest by default")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer model or folder; WORKDIR/tokenizer.model by default")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    args = parser.parse_args(argv)
    mesh = sharding.make_mesh({}, devices=jax.local_devices()[:1])
    try:
        step, cfg, params, _ = load_policy(args.workdir / "checkpoints", mesh, args.step)
        tokenizer_path = args.tokenizer or args.workdir / "tokenizer.model"
        out = export(args.out, cfg, params, tokenizer_path, model_card(cfg, step))
    except (CheckpointError, ExportError, HfError, sharding.ShardingError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"step {step}: {cfg.num_params:,} parameters written to {out}, read back and equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
