"""A task set from a public dataset: python -m skillrl.tasks.readers swebench rows.jsonl --out=DIR

SOURCE is a JSON Lines, JSON or Parquet file, a folder of such or of task directories, or a dataset's name on the
Hugging Face hub. Prints the tasks of each skill and what was left out and why; the last line is one JSON object.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sandbox_service.errors import SandboxError
from skillrl.progress import progress
from skillrl.tasks.readers import READERS
from skillrl.tasks.readers.build import SetBuilder, Source, Summary, overlap_of
from skillrl.tasks.readers.convert import Options
from skillrl.tasks.readers.rows import ReaderError
from skillrl.tasks.source import TaskSetError
from skillrl.types import COMPOSITE_KINDS, SKILLS


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m skillrl.tasks.readers", description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=sorted(READERS), metavar="NAME", help=", ".join(sorted(READERS)))
    parser.add_argument("source", metavar="SOURCE", help="file, folder, or owner/name on the hub")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new task set")
    parser.add_argument("--part", default="", help="the dataset's own split: train, test, dev ...")
    parser.add_argument(
        "--repositories", type=Path, metavar="DIR", help="git clones; without them a tree is in its image alone"
    )
    parser.add_argument(
        "--image",
        choices=("record", "local"),
        default="record",
        help="local: the tests run in the sandbox's own Python, with --packages, and not in the dataset's image",
    )
    parser.add_argument("--packages", default="", metavar="A==1,B==2", help="distributions for --image=local")
    parser.add_argument("--skills", default="", metavar="A,B", help="only these; all that the records support")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="stop after N instances; 0: all")
    parser.add_argument(
        "--heldout_share", type=float, default=0.0, help="share of a training set's repositories to hold out"
    )
    parser.add_argument(
        "--evaluation", type=Path, action="append", default=[], metavar="DIR",
        help="a task set that is evaluated on: nothing of it may come into this one; may be repeated",
    )  # fmt: skip
    parser.add_argument("--skip_damaged", action="store_true", help="count damaged rows and go on")
    options = parser.parse_args(argv)
    options.skills = tuple(filter(None, options.skills.split(",")))
    if unknown := set(options.skills) - {*SKILLS, *COMPOSITE_KINDS}:
        parser.error(f"unknown skill {sorted(unknown)[0]!r}; one of {', '.join((*SKILLS, *COMPOSITE_KINDS))}")
    if not 0 <= options.heldout_share <= 1 or options.limit < 0:
        parser.error("--heldout_share must be within 0 and 1, and --limit at least 0")
    if options.repositories is not None and not options.repositories.is_dir():
        parser.error(f"--repositories={options.repositories} is no folder")
    if (options.out / "set.json").exists():
        parser.error(f"{options.out} already holds a task set; choose another folder or remove it")
    return options


def builder_of(options: argparse.Namespace) -> SetBuilder:
    """Raises SandboxError or TaskSetError when an evaluation set cannot be read."""
    source = Source(
        name=options.name,
        reader=READERS[options.name],
        location=options.source,
        part=options.part,
        repositories=options.repositories,
        heldout_share=options.heldout_share,
        limit=options.limit,
        skip_damaged=options.skip_damaged,
    )
    packages = tuple(filter(None, options.packages.split(",")))
    chosen = Options(image=options.image, packages=packages, skills=options.skills)
    return SetBuilder(source, chosen, overlap_of(options.evaluation), options.out)


def show(summary: Summary, console: Console) -> None:
    console.print(
        f"{summary.dataset}: {summary.rows} rows, {summary.instances} instances of {len(summary.repositories)} "
        f"repositories, {summary.images} images ({summary.licence})",
        highlight=False,
    )
    made = Table("skill", "tasks", "left out", title="tasks")
    for skill in sorted({*summary.tasks, *summary.left_out}):
        made.add_row(skill, str(summary.tasks[skill]), _reasons(summary.left_out.get(skill, {})))
    console.print(made)
    other = Table("what", "how many", title="rows")
    other.add_row("splits (instances)", _reasons(summary.splits))
    other.add_row("dropped", _reasons(summary.dropped))
    other.add_row("columns not read", _reasons(summary.unread_columns))
    console.print(other)


def _reasons(counts) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))) or "-"


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    started = time.monotonic()
    try:
        with progress() as bars:
            bar = bars.add_task("reading rows", total=None)
            builder = builder_of(options)
            digest = builder.build(
                lambda rows, n: bars.update(bar, completed=rows, description=f"reading rows, {n} instances")
            )
    except (ReaderError, SandboxError, TaskSetError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    show(builder.summary, Console(width=None if sys.stdout.isatty() else 120))
    wall_s = round(time.monotonic() - started, 1)
    figures = vars(builder.summary) | {"repositories": len(builder.summary.repositories)}
    print(json.dumps({"out": str(options.out), "digest": digest, "wall_s": wall_s, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
