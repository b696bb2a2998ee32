"""A task set from real packages: python -m skillrl.tasks.build --pypi=inflection==0.5.1 --out=DIR

    --pypi=NAME==VERSION   a source distribution, fetched by name, version and sha256
    --repo=PATH            a repository on this machine
    --manifest=FILE        several of both, as in configs/tasks/pypi.json

Bugs are planted and proven with the package's own tests in the sandbox. A build that is stopped goes on with the same
command. Prints what was made and what was left out and why; the last line is one JSON object.
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

from sandbox_service.errors import SandboxError
from skillrl.tasks.build.assemble import build_set, parts_of
from skillrl.tasks.build.manifest import Entry, Manifest, known, read_manifest
from skillrl.tasks.build.summary import show, totals
from skillrl.tasks.build.tree import BuildError
from skillrl.tasks.source import SPLITS


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m skillrl.tasks.build", description=__doc__.partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--pypi", metavar="NAME==VERSION", help="a package")
    what.add_argument("--repo", metavar="PATH", help="the root of a repository")
    what.add_argument("--manifest", type=Path, metavar="FILE", help="several, with the options below for each")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new task set")
    parser.add_argument("--instances", type=int, default=Entry.instances, help="bugs to keep; each gives up to 7 tasks")
    parser.add_argument(
        "--refactorings", type=int, default=Entry.refactorings, help="to ask for, where they are proven"
    )
    parser.add_argument("--sha256", default="", help="of the source distribution; known for the shipped manifest's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train", help="of all tasks: a package is never in two")
    parser.add_argument("--level", type=int, default=Entry.level, help="difficulty to note on the tasks")
    parser.add_argument("--packages", default="", metavar="A==1,B==2", help="distributions that its tests need")
    parser.add_argument("--allow_licence", default="", metavar="NAME", help="take this licence although it is unknown")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="sandboxes at the same time")
    options = parser.parse_args(argv)
    if min(options.instances, options.jobs) < 1:
        parser.error("--instances and --jobs must be at least 1")
    if options.refactorings < 0:
        parser.error("--refactorings must be at least 0")
    if (options.out / "set.json").exists():
        parser.error(f"{options.out} already holds a task set; choose another folder or remove it")
    return options


def manifest_of(options: argparse.Namespace) -> Manifest:
    """The manifest, or one of the single package that the flags describe. Raises BuildError."""
    if options.manifest:
        return read_manifest(options.manifest)
    shipped = known(options.pypi) if options.pypi else None
    entry = Entry(
        requirement=options.pypi or "",
        repo=options.repo or "",
        sha256=options.sha256 or (shipped.sha256 if shipped else ""),
        split=options.split,
        instances=options.instances,
        refactorings=options.refactorings,
        packages=tuple(filter(None, options.packages.split(","))) or (shipped.packages if shipped else ()),
        allow_licence=options.allow_licence,
        level=options.level,
    )
    return Manifest(entry.label, (entry,), options.seed)


async def build(options: argparse.Namespace, bar: Progress) -> tuple[str, list[dict]]:
    """Returns the set's digest and its packages' summaries. Raises BuildError, SandboxError or OSError."""
    manifest = manifest_of(options)
    lines = {entry.label: bar.add_task(entry.label, total=entry.instances) for entry in manifest.packages}

    def advance(entry: Entry, step: str, made: int) -> None:
        bar.update(lines[entry.label], description=f"{entry.label}: {step}", completed=made)
        if not sys.stderr.isatty():
            print(f"{entry.label}: {step}: {made}/{entry.instances}", file=sys.stderr, flush=True)

    return await build_set(manifest, options.out, jobs=options.jobs, progress=advance)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    screen = Console(stderr=True)
    try:
        with Progress(*columns, TimeRemainingColumn(), console=screen, disable=not sys.stderr.isatty()) as bar:
            digest, packages = asyncio.run(build(options, bar))
    except (BuildError, SandboxError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except OSError as e:
        print(
            f"error: {e}; what is proven stands in {parts_of(options.out)}: make room there, then run the same "
            "command again",
            file=sys.stderr,
        )
        return 2
    show(packages, Console(width=None if sys.stdout.isatty() else 160))
    for package in packages:
        if not (options.sha256 or options.repo):
            print(f"{package['package']['name']}: --sha256={package['package']['sha256']}")
    found = {"out": str(options.out), "digest": digest, "wall_s": round(time.monotonic() - started, 1)}
    print(json.dumps({**found, "tasks": totals(packages), "packages": packages}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
