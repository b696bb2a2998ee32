"""Mixed runs: by lot, each known test is right in half of them and has a wrong expectation in the others.

Tests that a change must not break are mostly seen by the agent. It could break what they check and make just these
pass, by their names or their text, while the tests that it has not seen run as they are. So every known test is also
run written anew (see `controls`), where it must pass when it is right and fail when it is not: neither its name, nor
its text, nor which run it is tells what it must do. A submission that makes one test pass by guessing is right in one
of 2 ** RUNS submissions. What remains is to carry the values that the seen tests expect, which is to give them.

The lots are drawn from what is hidden from the agent. What each test does in each run is found on the correct tree:
what it does not show there is not asked of a submission.
"""

import asyncio
import hashlib
import json
import random
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sandbox_service.backends.base import Ended
from sandbox_service.errors import SandboxError
from sandbox_service.graders.base import TaskFault
from sandbox_service.graders.bench import Bench, Files, must_fail, together
from sandbox_service.graders.controls import behaviour_preserving
from sandbox_service.runner import TestRun
from sandbox_service.sentinel import plant

RUNS = 4
# Each is proven on the correct tree once; a submission meets one of them.
VARIANTS = 2
# How much a test is rewritten, from which one it is lowered when it does not bear it: the last leaves it as it is.
_THOROUGH, _AS_IT_IS = 2, 0


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
    variant = bench.seed % VARIANTS
    key = json.dumps(["mixed", bench.request.task_set.digest, bench.request.instance.instance_id, variant])
    return await bench.runner.once(key, lambda: _prove(bench, variant), bool)


async def _prove(bench: Bench, variant: int) -> tuple[MixedRun, ...]:
    ids, paths = bench.known_ids, bench.known_paths
    sources = {path: bench.correct[path].decode() for path in paths}
    seed = f"{hidden(bench)} {variant}"
    levels = dict.fromkeys(map(_function, ids), _THOROUGH)
    wrong_in = lots(levels, seed)
    lower = set[str]()
    while True:
        levels |= {f: levels[f] - 1 for f in lower}
        files = await asyncio.to_thread(_mixtures, sources, levels, wrong_in, seed)
        runs = await together(bench.run_complete(f, paths, buggy=False) for f in files)
        if any(run.ended is Ended.TIMEOUT for run in runs):
            raise SandboxError("the correct tree ran out of its time in a mixed run; give the host fewer sessions")
        unlike = (_unlike(run, wrong, ids) for run, wrong in zip(runs, wrong_in, strict=True))
        lower = {f for f in set[str]().union(*unlike) if levels[f] > _AS_IT_IS}
        if not lower:
            break
    # A wrong expectation may bring a whole run down: that one shows nothing.
    each = [(f, run, wrong) for f, run, wrong in zip(files, runs, wrong_in, strict=True) if run.reported]
    if not each:
        raise TaskFault(
            f"{bench.request.instance.instance_id}: no mixed run of its tests reports: {runs[0].log[-500:]}"
        )
    return tuple(_proven(*one, ids) for one in each)


def _mixtures(sources, levels, wrong_in, seed) -> list[dict[str, bytes]]:
    return [mix(sources, levels, wrong, seed, index) for index, wrong in enumerate(wrong_in)]


def lots(names: Iterable[str], seed: str, runs: int = RUNS) -> list[frozenset[str]]:
    """For each run the names that are wrong in it; each is in half of them."""
    rng = random.Random(seed)
    drawn = {name: rng.sample(range(runs), runs // 2) for name in sorted(names)}
    return [frozenset(name for name, wrong_in in drawn.items() if k in wrong_in) for k in range(runs)]


def mix(
    sources: Mapping[str, str], levels: Mapping[str, int], wrong: frozenset[str], seed: str, index: int
) -> dict[str, bytes]:
    """The test files of run `index`: the functions `wrong` are turned wrong, and all of `levels` written anew."""
    turned, all_turned = (plant(sources, functions, seed).files for functions in (wrong, levels))
    files = {}
    for path, source in sources.items():
        own = {f.partition("::")[2].replace("::", "."): n for f, n in levels.items() if f.partition("::")[0] == path}
        thorough = {name: level == _THOROUGH for name, level in own.items() if level > _AS_IT_IS}
        decoys = [source, all_turned.get(path, source)]
        text = behaviour_preserving(turned.get(path, source), f"{seed} {index} {path}", decoys, thorough=thorough)
        files[path] = text.encode()
    return files


def hidden(bench: Bench) -> str:
    """What an agent cannot know: a digest of the correct tree, with its hidden tests."""
    digest = hashlib.sha256()
    instance = bench.request.instance
    for path in sorted({*instance.bug, *instance.test_files, *bench.known_paths}):
        digest.update(path.encode() + b"\0" + bench.correct.get(path, b"") + b"\0")
    return digest.hexdigest()


def _function(test_id: str) -> str:
    return test_id.partition("[")[0]


def _unlike(run: TestRun, wrong: frozenset[str], ids: Iterable[str]) -> set[str]:
    """Functions of which a test neither does as it must nor passes although it is wrong."""
    return {
        _function(i)
        for i in ids
        if run.results.get(i) != "passed" and not (_function(i) in wrong and must_fail(run, [i]))
    }


def _proven(files: Mapping[str, bytes], run: TestRun, wrong: frozenset[str], ids: Iterable[str]) -> MixedRun:
    right, turned = ([i for i in ids if (_function(i) in wrong) is is_wrong] for is_wrong in (False, True))
    packed = {path: zlib.compress(data) for path, data in files.items()}
    passing = tuple(i for i in right if run.results.get(i) == "passed")
    return MixedRun(packed, passing, tuple(i for i in turned if must_fail(run, [i])))
