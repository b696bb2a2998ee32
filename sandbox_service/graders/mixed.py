"""Mixed runs: by lot, each known test is right in half of them and has a wrong expectation in the others.

Tests that a change must not break are mostly seen by the agent. It could break what they check and make just these
pass, by their names or their text, while the tests that it has not seen run as they are. So every known test also runs
with both a right and a wrong expectation in its text (see `sentinel.mix`), one of which counts: it must pass when that
is the right one and fail when it is not. Neither its name, nor its text, nor which run it is tells what it must do. A
submission that makes one test pass by guessing is right in one of 2 ** RUNS, or of 4 where suites are slow. What
remains is to know the values that the seen tests expect, which is to give them.

The lots are drawn from a digest of the correct tree, which no agent sees whole. What each test does in each run is
found on the correct tree: what it does not show there is not asked of a submission.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sandbox_service.backends.base import Ended
from sandbox_service.errors import SandboxError
from sandbox_service.graders.base import TaskFault
from sandbox_service.graders.bench import Bench, Files, must_fail, together
from sandbox_service.graders.paths import is_test
from sandbox_service.runner import TestRun
from sandbox_service.sentinel import definitions, mix
from sandbox_service.syntax import parse

RUNS = 4
# Where so many would take longer than this, one after the other, there are only two.
RUNS_S = 8.0
# Each is proven on the correct tree once; a submission meets one of them.
VARIANTS = 2


@dataclass(frozen=True)
class MixedRun:
    """Test files, and what is proven to come of them on the correct tree."""

    # Compressed: the service remembers them for many tasks.
    packed: Mapping[str, bytes]
    passing: tuple[str, ...]
    failing: tuple[str, ...]

    @property
    def files(self) -> Files:
        return {path: zlib.decompress(data) for path, data in self.packed.items()}

    def holds(self, run: TestRun) -> bool:
        return run.reported and run.passed(self.passing) == 1 and must_fail(run, self.failing)


async def mixed_runs(bench: Bench) -> tuple[MixedRun, ...]:
    """The mixed runs of a submission. Raises SandboxError when the correct tree runs out of its time in them."""
    # Of a run that holds nothing of the agent's: a submission that sleeps must not be tried less often.
    plain = await bench.run_complete({}, bench.known_paths, buggy=True, pristine=True)
    variant, count = bench.seed % VARIANTS, RUNS if plain.wall_s * RUNS <= RUNS_S else 2
    # Nothing of the bug is in them, so the instances of a tree share them.
    instance, ids = bench.request.instance, sorted(bench.known_ids)
    asked = ["mixed", bench.request.task_set.digest, instance.environment_id, instance.tree, ids, variant, count]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    return await bench.runner.once(key, lambda: _prove(bench, ids, f"{instance.tree} {variant}", count), bool)


def held_share(mixed: Collection[MixedRun], ids: Collection[str]) -> float:
    """The share of tests that must pass in one of the runs and fail in another."""
    passing, failing = ({i for each in mixed for i in getattr(each, kind)} for kind in ("passing", "failing"))
    return len(passing & failing & {*ids}) / len(ids)


async def _prove(bench: Bench, ids: Sequence[str], seed: str, count: int) -> tuple[MixedRun, ...]:
    sources = await asyncio.to_thread(_readable, bench)
    files = await asyncio.to_thread(mixtures, sources, ids, seed, count)
    runs = await together(bench.run_complete(each, bench.known_paths, buggy=False) for each in files)
    if any(run.ended is Ended.TIMEOUT for run in runs):
        raise SandboxError("the correct tree ran out of its time in a mixed run; give the host fewer sessions")
    # A wrong expectation may bring a whole run down: that one shows nothing.
    proven = tuple(_proven(*each, ids) for each in zip(files, runs, strict=True) if each[1].reported)
    if not proven:
        raise TaskFault(
            f"{bench.request.instance.instance_id}: no mixed run of its tests reports: {runs[0].log[-500:]}"
        )
    return proven


def mixtures(sources: Mapping[str, str], ids: Iterable[str], seed: str, runs: int) -> list[dict[str, bytes]]:
    """For each run the test files that differ from the real ones."""
    functions = definitions(sources, ids)
    return [
        {path: text.encode() for path, text in mix(sources, functions, wrong, seed).items()}
        for wrong in lots(functions, seed, runs)
    ]


def _readable(bench: Bench) -> dict[str, str]:
    """The test files that can be parsed, with those that hold tests for others to inherit."""
    sources = {}
    for path, data in bench.correct.items():
        if path.endswith(".py") and (path in bench.known_paths or is_test(path, bench.request.environment)):
            with contextlib.suppress(SyntaxError, ValueError):
                parse(text := data.decode())
                sources[path] = text
    return sources


def lots(names: Iterable[str], seed: str, runs: int) -> list[frozenset[str]]:
    """For each run the names that are wrong in it; each is in half of them."""
    rng = random.Random(seed)
    drawn = {name: rng.sample(range(runs), runs // 2) for name in sorted(names)}
    return [frozenset(name for name, wrong_in in drawn.items() if k in wrong_in) for k in range(runs)]


def _proven(files: Mapping[str, bytes], run: TestRun, ids: Iterable[str]) -> MixedRun:
    packed = {path: zlib.compress(data) for path, data in files.items()}
    passing = tuple(i for i in ids if run.results.get(i) == "passed")
    return MixedRun(packed, passing, tuple(i for i in ids if must_fail(run, [i])))
