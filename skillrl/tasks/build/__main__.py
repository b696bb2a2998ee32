"""A task set from a real package: python -m skillrl.tasks.build --pypi=inflection==0.5.1 --out=DIR

The source distribution is fetched by name, version and sha256; bugs are planted in it and proven with its own tests in
the sandbox. Prints what was made and what was left out and why; the last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sandbox_service.errors import SandboxError
from skillrl.tasks.build.fetch import BuildError, fetch, parse_requirement
from skillrl.tasks.build.package import Builder, Options, Summary
from skillrl.tasks.build.packages import DIGESTS, TEST_PACKAGES
from skillrl.tasks.source import SPLITS
from skillrl.tasks.validate import proving_ground


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m skillrl.tasks.build", description=__doc__.partition("\n")[0])
    parser.add_argument("--pypi", required=True, metavar="NAME==VERSION", help="the package")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new task set")
    parser.add_argument("--instances", type=int, default=8, help="bugs to keep; each gives up to seven tasks")
    parser.add_argument("--sha256", help="of the source distribution; known for the packages of the documentation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train", help="of all tasks: a package is never in two")
    parser.add_argument("--level", type=int, default=Options.level, help="difficulty to note on the tasks")
    parser.add_argument("--packages", default="", metavar="A==1,B==2", help="distributions that its tests need")
    parser.add_argument("--allow_licence", default="", metavar="NAME", help="take this licence although it is unknown")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="sandboxes at the same time")
    options = parser.parse_args(argv)
    if min(options.instances, options.jobs) < 1:
        parser.error("--instances and --jobs must be at least 1")
    if (options.out / "set.json").exists():
        parser.error(f"{options.out} already holds a task set; choose another folder or remove it")
    return options


async def build(options: argparse.Namespace, bar: Progress) -> tuple[str, Summary]:
    """Fetches, proves and writes; returns the set's digest and summary. Raises BuildError or SandboxError."""
    line = bar.add_task("fetching", total=options.instances)
    name, version = parse_requirement(options.pypi)
    requirement = f"{name}=={version}"
    sdist = await asyncio.to_thread(
        fetch, requirement, options.sha256 or DIGESTS.get(requirement), allow_licence=options.allow_licence
    )
    if requirement not in DIGESTS and not options.sha256:
        print(f"{requirement}: no digest was given; this archive has --sha256={sdist.sha256}", file=sys.stderr)
    chosen = Options(
        instances=options.instances,
        seed=options.seed,
        split=options.split,
        level=options.level,
        packages=tuple(filter(None, options.packages.split(","))) or TEST_PACKAGES.get(requirement, ()),
        jobs=options.jobs,
    )
    async with proving_ground(options.jobs) as ground:
        builder = Builder(sdist, ground, chosen)
        digest = await builder.build(options.out, lambda step, done: _advance(bar, line, step, done, options))
    return digest, builder.summary


def _advance(bar: Progress, line, step: str, done: int, options: argparse.Namespace) -> None:
    """The bar, or lines where there is no terminal."""
    bar.update(line, description=step, completed=done)
    if not sys.stderr.isatty():
        print(f"{step}: {done}/{options.instances}", file=sys.stderr, flush=True)


def show(summary: Summary, console: Console) -> None:
    package, baseline = summary.package, summary.baseline
    console.print(
        f"{package['name']} {package['version']} ({package['licence']}), sha256 {package['sha256']}\n"
        f"{baseline['tests']} reliable tests, {baseline['suite_s']} s a run; "
        f"{sum(summary.mutations.values())} mutations tried, {summary.instances} bugs kept, {summary.mutants} mutants",
        highlight=False,
    )
    made = Table("skill", "tasks", "left out", title="tasks")
    for skill in sorted({*summary.tasks, *summary.left_out} - {"instance", "quoted call in the issue"}):
        made.add_row(skill, str(summary.tasks.get(skill, 0)), _reasons(summary.left_out.get(skill, {})))
    console.print(made)
    dropped = Table("what", "left out and why", title="dropped")
    dropped.add_row("archive members", _reasons(summary.stripped))
    dropped.add_row("tests", _reasons(baseline["dropped"]))
    dropped.add_row("mutations", _reasons({k: n for k, n in summary.mutations.items() if k != "kept"}))
    dropped.add_row("bugs", _reasons(summary.left_out.get("instance", {})))
    dropped.add_row("quoted calls", _reasons(summary.left_out.get("quoted call in the issue", {})))
    console.print(dropped)
    for note in summary.notes:
        console.print(f"note: {note}", highlight=False)


def _reasons(counts) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items(), key=lambda kv: -kv[1])) or "-"


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(
            *columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty()
        ) as bar:
            digest, summary = asyncio.run(build(options, bar))
    except (BuildError, SandboxError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    show(summary, Console(width=None if sys.stdout.isatty() else 120))
    wall_s = round(time.monotonic() - started, 1)
    print(json.dumps({"out": str(options.out), "digest": digest, "wall_s": wall_s, **vars(summary)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
