"""Writes a task set: python -m skillrl.tasks.world --out=DIR [--instances=20] [--level=0,1] [--splits=train,...]"""

import argparse
import json
from pathlib import Path

from rich.progress import track

from sandbox_service.tasks import TaskSetWriter
from skillrl.tasks.world import LEVELS, SPLITS, generate


def _choices(known):
    def parse(text: str) -> list:
        by_name = {str(k): k for k in known}
        unknown = [part for part in text.split(",") if part not in by_name]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {unknown[0]!r}; a comma-separated list of {', '.join(by_name)}")
        return [by_name[part] for part in text.split(",")]

    return parse


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m skillrl.tasks.world", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the new task set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--instances", type=int, default=20, help="per split; the levels take turns")
    parser.add_argument("--level", type=_choices(LEVELS), default=[0], help="e.g. 0 or 0,1,2")
    parser.add_argument("--splits", type=_choices(SPLITS), default=list(SPLITS))
    args = parser.parse_args(argv)
    if (args.out / "set.json").exists():
        parser.error(f"{args.out} already holds a task set; choose another folder or remove it")
    writer = TaskSetWriter(f"world-{args.seed}")
    counts: dict[str, int] = {}
    wanted = [(split, index) for split in args.splits for index in range(args.instances)]
    for split, index in track(wanted, "generating", disable=None):
        level = args.level[index % len(args.level)]
        generated = generate(args.seed, index, level, split)
        generated.add_to(writer)
        key = f"{split}/level{level}/{generated.family}"
        counts[key] = counts.get(key, 0) + 1
    digest = writer.write(args.out, instances=dict(sorted(counts.items())), seed=args.seed)
    print(json.dumps({"out": str(args.out), "digest": digest, "instances": len(wanted), "tasks": len(writer.public)}))


if __name__ == "__main__":
    main()
