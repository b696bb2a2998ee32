"""Writes a checkpoint's policy as a Hugging Face folder, reads it back and compares.

python -m skillrl.export --workdir=DIR [--step=N] [--tokenizer=DIR] --out=DIR
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from skillrl import sharding
from skillrl.checkpoint import CheckpointError, load_policy
from skillrl.metrics import read_metrics
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.models.families import HfError
from skillrl.models.hf import MAX_FILE_BYTES, differing_tensor, save_hf
from skillrl.models.hf_tokenizer import write_hf_tokenizer

SENTENCEPIECE = "tokenizer.model"
GENERATION = "generation_config.json"
TOKENIZER_FILES = (
    SENTENCEPIECE, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", GENERATION,
)  # fmt: skip
# What a run leaves in its workdir: its config, and scores before and after.
CONFIG_FILE = "config.json"
SUMMARY_FILE = "summary.json"


class ExportError(ValueError):
    """The folder cannot be written, or is not what was meant; nothing is left at its place."""


def export(
    out: str | Path,
    cfg: ModelConfig,
    params: models.Params,
    tokenizer_path: str | Path,
    card: str,
    *,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Path:
    """Writes the folder `out` (config, weights, tokenizer, README.md with `card`) and verifies it bit by bit.

    `tokenizer_path` is a SentencePiece model or a folder with tokenizer files. `out` appears only when it is complete.
    On several processes all take part, and the first one writes. Raises ExportError where `out` exists already or
    reads back differently.
    """
    out = Path(out).absolute()
    if jax.process_index() > 0:
        save_hf(out, cfg, params)
        differing_tensor(out, cfg, params)
    else:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ExportError(f"{out} exists and is not empty; choose another --out or remove it")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            folder = Path(temporary) / "folder"
            folder.mkdir()
            _copy_tokenizer(Path(tokenizer_path), folder)
            (folder / "README.md").write_text(card, encoding="utf-8")
            save_hf(folder, cfg, params, max_file_bytes=max_file_bytes)
            verify(folder, cfg, params)
            if out.exists():
                out.rmdir()
            folder.rename(out)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("export")
    return out


def verify(folder: Path, cfg: ModelConfig, params: models.Params) -> None:
    """Raises ExportError unless the folder holds exactly these parameters."""
    if name := differing_tensor(folder, cfg, params):
        raise ExportError(f"{folder}: {name} reads back differently; the disk may be full or failing")


def _copy_tokenizer(source: Path, folder: Path) -> None:
    files = [source] if source.is_file() else [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not any(file.name != GENERATION for file in files):
        raise ExportError(
            f"no tokenizer at {source}; give a SentencePiece model or a folder that holds {SENTENCEPIECE} or "
            "tokenizer.json"
        )
    for file in files:
        shutil.copyfile(file, folder / (SENTENCEPIECE if source.is_file() else file.name))
    if (folder / SENTENCEPIECE).is_file() and not (folder / "tokenizer.json").is_file():
        write_hf_tokenizer(folder / SENTENCEPIECE, folder)
    if not (folder / GENERATION).is_file():
        generation = _generation(folder) | {"do_sample": True}
        (folder / GENERATION).write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def _generation(folder: Path) -> dict[str, Any]:
    """Ids of the tokens that end a turn and that fill rows, from the tokenizer's own files."""
    config = _read(folder / "tokenizer_config.json")
    added = _read(folder / "tokenizer.json").get("added_tokens", [])
    ids = {token["content"]: token["id"] for token in added}
    found = {}
    for field in ("eos_token", "pad_token"):
        token = config.get(field)
        name = token["content"] if isinstance(token, Mapping) else token
        if name in ids:
            found[f"{field}_id"] = ids[name]
    return found


def model_card(cfg: ModelConfig, workdir: Path, step: int) -> str:
    """README.md of the exported folder: the policy, and what the run in `workdir` left in numbers up to `step`."""
    rows = [row for row in read_metrics(workdir) if row["step"] < step]
    tokens = sum(row.get("learner/tokens", row.get("tokens", 0.0)) for row in rows)
    active = f", {cfg.active_params:,} of them active for each token" if cfg.experts else ""
    lines = [
        "---", "library_name: transformers", "pipeline_tag: text-generation", "tags:", "- skillrl", "---",
        f"# skillrl policy, step {step}", "",
        f"A decoder of {cfg.num_params:,} parameters{active}, in the layout of {cfg.family}, weights in "
        f"{cfg.param_dtype}, trained by skillrl.", "",
        "| | |", "|---|---|", f"| steps | {step:,} |", f"| tokens learned from | {tokens:,.0f} |",
    ]  # fmt: skip
    config = _read(workdir / CONFIG_FILE)
    if config:
        lines += [f"| program | {config.get('program')} |", f"| started from | {config['policy']['source']} |"]
        lines += [f"| seed | {config.get('seed')} |"]
    if rows:
        lines += [f"| {name}, last step | {rows[-1][name]:.4g} |" for name in ("score", "loss") if name in rows[-1]]
    if unsafe := int(sum(row.get("unsafe", 0) for row in rows)):
        lines += [f"| training outcomes without proven isolation | {unsafe:,} |"]
    lines += [""]
    for title, text in (("Scores before and after", _read(workdir / SUMMARY_FILE)), ("Config", config)):
        if text:
            lines += [f"## {title}", "", "```json", json.dumps(text, indent=1), "```", ""]
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _load(checkpoints: Path, step: int | None) -> tuple[int, ModelConfig, models.Params]:
    """The policy over all devices, or on one where they do not divide it."""
    try:
        return load_policy(checkpoints, sharding.make_mesh(), step)[:3]
    except sharding.ShardingError:
        return load_policy(checkpoints, sharding.make_mesh({}, devices=jax.local_devices()[:1]), step)[:3]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m skillrl.export", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path, help="workdir of a training run")
    parser.add_argument("--step", type=int, help="checkpoint to export; the newest by default")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer model or folder; that of the run by default")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    args = parser.parse_args(argv)
    try:
        step, cfg, params = _load(args.workdir / "checkpoints", args.step)
        kept = (args.workdir / SENTENCEPIECE, args.workdir / "tokenizer")
        tokenizer_path = args.tokenizer or next((path for path in kept if path.exists()), kept[0])
        out = export(args.out, cfg, params, tokenizer_path, model_card(cfg, args.workdir, step))
    except (CheckpointError, ExportError, HfError, OSError, sharding.ShardingError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"step {step}: {cfg.num_params:,} parameters written to {out}, read back and equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
