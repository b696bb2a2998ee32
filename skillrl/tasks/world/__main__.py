"""Writes a task set: python -m skillrl.tasks.world --out=DIR [--instances=20 | train=200,...] [--level=0,1]"""

import argparse
import json
from pathlib import Path

from skillrl.progress import progress
from skillrl.tasks.world import LEVELS, SPLITS, write_set


def _choices(known):
    def parse(text: str) -> list:
        by_name = {str(k): k for k in known}
        unknown = [part for part in text.split(",") if part not in by_name]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {unknown[0]!r}; a comma-separated list of {', '.join(by_name)}")
        return [by_name[part] for part in text.split(",")]

    return parse


def _counts(text: str) -> dict[str, int]:
    """`20` for every split, or `train=200,heldout_repositories=24`."""
    if text.isdecimal():
        return dict.fromkeys(SPLITS, int(text))
    counts = {}
    for part in text.split(","):
        split, _, number = part.partition("=")
        if split not in SPLITS or not number.isdecimal():
            raise argparse.ArgumentTypeError(f"{part!r}; write a number, or SPLIT=NUMBER with {', '.join(SPLITS)}")
        counts[split] = int(number)
    return counts


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m skillrl.tasks.world", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the new task set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--instances", type=_counts, default="20", help="per split; the levels take turns")
    parser.add_argument("--level", type=_choices(LEVELS), default=[0], help="e.g. 0 or 0,1,2")
    args = parser.parse_args(argv)
    if (args.out / "set.json").exists():
        parser.error(f"{args.out} already holds a task set; choose another folder or remove it")
    counts = args.instances
    with progress() as bars:
        bar = bars.add_task("generating", total=sum(counts.values()))
        digest = write_set(
            args.out, seed=args.seed, levels=args.level, counts=counts, on_instance=lambda: bars.advance(bar)
        )
    print(json.dumps({"out": str(args.out), "digest": digest, "instances": sum(counts.values())}))


if __name__ == "__main__":
    main()
