"""Composite suites: python -m skillrl.tasks.suites --out=DIR [--kinds=refactoring,security] [--instances=8] [--seed=0]

The last line is one JSON object. `python -m skillrl.tasks.validate DIR` proves the set.
"""

import argparse
import json
from pathlib import Path

from skillrl.tasks.source import SPLITS
from skillrl.tasks.suites import KINDS, write_suites


def _kinds(text: str) -> list[str]:
    unknown = [part for part in text.split(",") if part not in KINDS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown {unknown[0]!r}; a comma-separated list of {', '.join(KINDS)}")
    return text.split(",")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m skillrl.tasks.suites", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new task set")
    parser.add_argument("--kinds", type=_kinds, default=list(KINDS), help="default: all")
    parser.add_argument("--instances", type=int, default=8, help="seeds of each kind; one may give several tasks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[1], help="of all tasks")
    options = parser.parse_args(argv)
    if options.instances < 1:
        parser.error("--instances must be at least 1")
    if (options.out / "set.json").exists():
        parser.error(f"{options.out} already holds a task set; choose another folder or remove it")
    digest = write_suites(options.out, dict.fromkeys(options.kinds, options.instances), options.seed, options.split)
    print(json.dumps({"out": str(options.out), "digest": digest}))


if __name__ == "__main__":
    main()
