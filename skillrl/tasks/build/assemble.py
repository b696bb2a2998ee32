"""A manifest -> one task set: each package is built on its own, then all are put together.

Finished packages and what was proven of others stand beside the set (`OUT.parts`) until it is whole, so that the same
command goes on where it was stopped.
"""

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from sandbox_service.errors import SandboxError
from sandbox_service.tasks import TREES, TaskSetWriter, read_task_set
from skillrl.tasks.build.manifest import Entry, Manifest, built_from
from skillrl.tasks.build.origins import Evaluated
from skillrl.tasks.build.package import Builder
from skillrl.tasks.build.summary import totals
from skillrl.tasks.build.tree import BuildError
from skillrl.tasks.proving import ProvingGround, proving_ground

# (package, step, instances made).
Progress = Callable[[Entry, str, int], None]


def parts_of(out: Path) -> Path:
    """Where unfinished work for the set at `out` stands."""
    return out.with_name(f"{out.name}.parts")


async def build_set(manifest: Manifest, out: Path, *, jobs: int, progress: Progress) -> tuple[str, list[dict]]:
    """Writes the set and returns its digest and the packages' summaries.

    All packages are tried; then the first BuildError or SandboxError is raised, and what is proven stays. A package
    that must not be trained on is left out and named in set.json, unless there is no other.
    """
    parts = parts_of(out)
    parts.mkdir(parents=True, exist_ok=True)
    slots = asyncio.Semaphore(jobs)
    async with proving_ground(jobs) as ground:

        async def one(entry: Entry) -> Path:
            async with slots:
                try:
                    return await _part(entry, manifest.seed, parts, ground, jobs, progress)
                except (BuildError, SandboxError, OSError) as e:
                    progress(entry, "left out" if isinstance(e, Evaluated) else "failed", 0)
                    raise

        done = await asyncio.gather(*map(one, manifest.packages), return_exceptions=True)
    refused = {e.label: str(r) for e, r in zip(manifest.packages, done, strict=True) if isinstance(r, Evaluated)}
    for entry, result in zip(manifest.packages, done, strict=True):
        if isinstance(result, Exception) and (entry.label not in refused or len(refused) == len(done)):
            raise result if len(done) == 1 else _named(entry, result, sum(isinstance(r, Path) for r in done))
    digest, summaries = _put_together(manifest, [r for r in done if isinstance(r, Path)], refused, out)
    shutil.rmtree(parts)
    return digest, summaries


def _named(entry: Entry, fault: Exception, finished: int) -> Exception:
    if not isinstance(fault, BuildError | SandboxError):
        return fault
    kept = f"{finished} other packages are finished and kept: take this one out of the manifest, or repair it"
    return BuildError(f"{entry.label}: {fault}\n{kept}, and run the same command again")


async def _part(entry: Entry, seed: int, parts: Path, ground: ProvingGround, jobs: int, progress: Progress) -> Path:
    """The task set of one package, built unless it is there."""
    part = parts / entry.label
    if head_of(part).get("built_from") == built_from(entry, seed):
        progress(entry, "built before", entry.instances)
        return part
    shutil.rmtree(part, ignore_errors=True)
    progress(entry, "fetching", 0)
    package = await asyncio.to_thread(entry.read)
    builder = Builder(package, ground, entry, seed=seed, jobs=jobs)
    await builder.build(part, parts / f"{entry.label}.jsonl", lambda step, made: progress(entry, step, made))
    progress(entry, "built", builder.summary.instances)
    return part


def head_of(part: Path) -> dict:
    """What stands in a set's set.json; empty where there is none."""
    try:
        return json.loads((part / "set.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _put_together(
    manifest: Manifest, parts: list[Path], refused: Mapping[str, str], out: Path
) -> tuple[str, list[dict]]:
    writer, summaries = TaskSetWriter(manifest.name), []
    for part in parts:
        part_set = read_task_set(part)
        lines = (part / "tasks.jsonl").read_text(encoding="utf-8").split("\n")
        writer.public += [json.loads(line) for line in lines if line]
        writer.environments.update(part_set.environments)
        writer.instances += part_set.instances.values()
        writer.tasks += part_set.tasks.values()
        writer.trees |= {tree: (part / TREES / f"{tree}.tar").read_bytes() for tree in part_set.repositories}
        summaries.append(head_of(part)["summary"])
    digest = writer.write(out, summary={"tasks": totals(summaries), "packages": summaries, "refused": refused})
    return digest, summaries
