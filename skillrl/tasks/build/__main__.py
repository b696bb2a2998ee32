"""A task set from real packages: python -m skillrl.tasks.build --pypi=semver==3.1.1 [--out=DIR]

    --pypi=NAME==VERSION   a source distribution, fetched by name, version and sha256
    --repo=PATH            a repository on this machine
    --manifest=FILE        several of both, as in configs/tasks/pypi.json

The set goes to DIR, or to a folder below tasks/ with the name of what it is made of, such as tasks/pypi.

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

from sandbox_service.errors import SandboxError
from skillrl.progress import Bars, progress
from skillrl.tasks.build.assemble import build_set, head_of, parts_of
from skillrl.tasks.build.manifest import Entry, Manifest, known, read_manifest
from skillrl.tasks.build.summary import show, totals
from skillrl.tasks.build.tree import BuildError
from skillrl.tasks.source import SPLITS

DEFAULT_FOLDER = Path("tasks")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m skillrl.tasks.build", description=__doc__.partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--pypi", metavar="NAME==VERSION", help="a package")
    what.add_argument("--repo", metavar="PATH", help="the root of a repository")
    what.add_argument("--manifest", type=Path, metavar="FILE", help="several, with the options below for each")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the new task set; else below tasks/")
    parser.add_argument("--instances", type=int, default=Entry.instances, help="bugs to keep; each gives up to 7 tasks")
    parser.add_argument(
        "--refactorings", type=int, default=Entry.refactorings, help="to ask for, where they are proven"
    )
    parser.add_argument("--sha256", default="", help="of the source distribution; known for the shipped manifest's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train", help="of all tasks: a package is never in two")
    parser.add_argument("--level", type=int, default=Entry.level, help="difficulty to note on the tasks")
    parser.add_argument(
        "--packages", metavar="A==1,B==2", help="all that it and its tests need, in place of what its files declare"
    )
    parser.add_argument("--allow_licence", default="", metavar="NAME", help="take this licence although it is unknown")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="sandboxes at the same time")
    options = parser.parse_args(argv)
    if min(options.instances, options.jobs) < 1:
        parser.error("--instances and --jobs must be at least 1")
    options.out = options.out or DEFAULT_FOLDER / _name(options)
    if options.refactorings < 0:
        parser.error("--refactorings must be at least 0")
    if (options.out / "set.json").exists():
        parser.error(f"{options.out} already holds a task set; choose another folder or remove it")
    return options


def _name(options: argparse.Namespace) -> str:
    """`pypi` of configs/tasks/pypi.json, `semver==3.1.1`, or a repository's folder."""
    if options.manifest:
        return options.manifest.stem
    return options.pypi.strip() if options.pypi else Path(options.repo).resolve().name


def manifest_of(options: argparse.Namespace) -> Manifest:
    """The manifest, or one of the single package that the flags describe. Raises BuildError."""
    if options.manifest:
        return read_manifest(options.manifest)
    shipped = known(options.pypi) if options.pypi else None
    packages = shipped.packages if shipped else None
    if options.packages is not None:
        packages = tuple(filter(None, options.packages.split(",")))
    entry = Entry(
        requirement=options.pypi or "",
        repo=options.repo or "",
        sha256=options.sha256 or (shipped.sha256 if shipped else ""),
        split=options.split,
        instances=options.instances,
        packages=packages,
        refactorings=options.refactorings,
        allow_licence=options.allow_licence,
        level=options.level,
    )
    return Manifest(entry.label, (entry,), options.seed)


async def build(options: argparse.Namespace, bars: Bars) -> tuple[str, list[dict]]:
    """Returns the set's digest and its packages' summaries. Raises BuildError, SandboxError or OSError."""
    manifest = manifest_of(options)
    lines = {entry.label: bars.add_task(entry.label, total=entry.instances) for entry in manifest.packages}

    def advance(entry: Entry, step: str, made: int) -> None:
        bars.update(lines[entry.label], description=f"{entry.label}: {step}", completed=made)

    return await build_set(manifest, options.out, jobs=options.jobs, progress=advance)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    started = time.monotonic()
    print(f"the set goes to {options.out}; until it is whole, its parts to {parts_of(options.out)}", file=sys.stderr)
    try:
        with progress() as bars:
            digest, packages = asyncio.run(build(options, bars))
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
    refused = head_of(options.out)["summary"]["refused"]
    show(packages, Console(width=None if sys.stdout.isatty() else 160))
    for reason in refused.values():
        print(f"left out: {reason}")
    for package in packages:
        if not (options.sha256 or options.repo):
            print(f"{package['package']['name']}: --sha256={package['package']['sha256']}")
    found = {"out": str(options.out), "digest": digest, "wall_s": round(time.monotonic() - started, 1)}
    print(f"The set is in {options.out}. To prove it: python -m skillrl.tasks.validate {options.out}")
    print(json.dumps({**found, "tasks": totals(packages), "packages": packages, "refused": refused}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
