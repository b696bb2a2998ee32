"""Code editing, and bug fixing: 1 when all known tests pass on the agent's source files, else 0.

The tree that is graded is the buggy repository with all tests, in which only the agent's source files are put. All
tests run as they are: every fail-to-pass and pass-to-pass id must be present and passed. Then the tests that the agent
has not seen run a few times more, in an order that nobody can know: as they are, and with expectations turned wrong in
place (see `sentinel`), where they must fail. Code that makes tests pass would have to know which is which; one that
guesses each time is right in one of 2 ** ROUNDS submissions. Among these runs are others of all tests, written anew and
mixed (see `mixed`): they are apart, since code could tell from a seen test that has changed which run it is in.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sandbox_service.backends.base import Ended
from sandbox_service.errors import SandboxError
from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.graders.bench import SENTINEL_VARIANTS, Bench, Files, must_fail, together
from sandbox_service.graders.mixed import MixedRun, held_share, mixed_runs
from sandbox_service.graders.paths import accepted_changes, is_test
from sandbox_service.runner import Runner, TestRun
from sandbox_service.sentinel import plant, seen

PLANTED_PASS_TO_PASS = 3
# Half of them with right expectations, half with wrong ones.
ROUNDS = 6
_COMPARISON = re.compile(
    rb"^\s+(?:def\s+)?__(?:eq|ne|lt|le|gt|ge|bool|len|contains|hash|instancecheck|subclasscheck|class)__\s*[(=]", re.M
)


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    bench = await Bench.make(request, runner)
    accepted = await asyncio.to_thread(accepted_changes, request.changed, request.environment, bench.start)
    originals = {path: bench.correct[path] for path in bench.known_paths}
    run = await bench.run_complete({**accepted, **originals}, bench.known_paths, buggy=True)
    f2p, p2p = run.passed(request.instance.fail_to_pass), run.passed(request.instance.pass_to_pass)
    passed = run.reported and f2p == p2p == 1
    confirmed, held = 0.0, 0.0
    if passed:
        mixed = await mixed_runs(bench)
        confirmed = await _confirm(bench, accepted, originals, mixed)
        held = held_share(mixed, bench.known_ids)
    else:
        await _check_gold(bench, again=run.ended is Ended.TIMEOUT)
    components = {
        "f2p_passed": f2p,
        "p2p_passed": p2p,
        "reported": float(run.reported),
        "confirmed": confirmed,
        "held_both_ways": held,
        **await asyncio.to_thread(_measures, bench, accepted),
    }
    right = passed and confirmed == 1
    detail = "" if passed == right else "it does not tell right expectations from wrong ones"
    return Grade(float(right), components, detail=detail)


async def _confirm(bench: Bench, accepted: Files, originals: Files, mixed: Sequence[MixedRun]) -> float:
    """The share of runs that ended as they must."""
    planted, expected = await _sentinel(bench)
    names = {i.partition("[")[0] for i in expected}
    ids = [i for i in bench.known_ids if i.partition("[")[0] in names]
    paths = sorted({i.partition("::")[0] for i in ids})

    async def run(files: Files, paths: Sequence[str], test_ids: Sequence[str] = ()) -> TestRun:
        for _ in range(2):  # what came to its end a moment ago may be stopped by a host under load
            done = await bench.run_complete({**accepted, **files}, paths, buggy=True, test_ids=test_ids)
            if done.reported:
                break
        return done

    half = ROUNDS // 2
    rounds = [run(files, paths, ids) for files in (*[originals] * half, *[planted] * half)]
    runs = await together([*rounds, *(run(each.files, bench.known_paths) for each in mixed)])
    passed = [run.reported and run.passed(ids) == 1 for run in runs[:half]]
    failed = [must_fail(run, expected) for run in runs[half:ROUNDS]]
    kept = [each.holds(run) for each, run in zip(mixed, runs[ROUNDS:], strict=True)]
    return sum([*passed, *failed, *kept]) / len(runs)


async def _check_gold(bench: Bench, *, again: bool) -> None:
    """Raises TaskFault where the correct tree fails; with `again` it is run now, and a timeout is the host's fault."""
    run = await bench.run_complete({}, bench.known_paths, buggy=False, pristine=not again)
    if again and run.ended is Ended.TIMEOUT:
        raise SandboxError("the correct tree ran out of its time too; give the host fewer sessions")
    if run.passed(bench.known_ids) < 1:
        bad = next((i for i in bench.known_ids if run.results.get(i) != "passed"), "")
        raise TaskFault(f"{bench.request.instance.instance_id}: {bad} fails on the correct tree ({run.ended.value})")


async def _sentinel(bench: Bench) -> tuple[Files, list[str]]:
    """Test files with wrong expectations, and the ids that are proven to fail for them on the correct tree.

    Only in tests that the agent has not seen, where there are any: in others it could see which are wrong.
    """
    instance = bench.request.instance
    sources = {path: bench.correct[path].decode() for path in bench.known_paths}
    visible = {path: bench.start[path].decode() for path in bench.known_paths if path in bench.start}
    known = seen(sources, visible)
    hidden = [i for i in instance.fail_to_pass if i.partition("[")[0] not in known] or list(instance.fail_to_pass)
    on_bug = await bench.run_complete({}, bench.known_paths, buggy=True, pristine=True)
    lines = {i: on_bug.places[i].line for i in instance.fail_to_pass if i in on_bug.places}
    others = sorted(instance.pass_to_pass)
    for attempt in range(3):
        seed = (bench.seed + attempt) % SENTINEL_VARIANTS
        few = [others[(seed * 7 + k * 13) % len(others)] for k in range(min(PLANTED_PASS_TO_PASS, len(others)))]
        # The last resort, for tests in which nothing can be turned wrong.
        planted = plant(sources, hidden if attempt < 2 else [*hidden, *few], seed, lines)
        files = {path: text.encode() for path, text in planted.files.items()}
        covered = [i for i in bench.known_ids if planted.covers(i)]
        on_gold = await bench.run_complete(files, sorted(files), buggy=False, pristine=True, test_ids=covered)
        expected = [i for i in covered if must_fail(on_gold, [i])]
        if expected:
            return {**{p: bench.correct[p] for p in bench.known_paths}, **files}, expected
    raise TaskFault(f"{instance.instance_id}: its tests do not fail when their expectations are wrong")


def _measures(bench: Bench, accepted: Files) -> dict[str, float]:
    changed = bench.request.changed
    gold = bench.gold_files
    gold_lines = sum(_changed_lines(bench.start.get(p), d) for p, d in gold.items() if bench.is_source(p))
    lines = sum(_changed_lines(bench.start.get(p), d) for p, d in accepted.items())
    return {
        "touched_tests": float(sum(is_test(path, bench.request.environment) for path in changed)),
        "filtered_files": float(len(changed.keys() - accepted.keys())),
        "changed_lines_ratio": lines / max(gold_lines, 1),
        # Only logged, because a fix may well need one.
        "new_comparison_methods": float(max(0, _comparisons(accepted, accepted) - _comparisons(bench.start, accepted))),
    }


def _changed_lines(before: bytes | None, after: bytes | None) -> int:
    """Lines that only one version has; in whatever order, since an agent's file may make any real comparison slow."""
    old, new = (Counter((data or b"").splitlines()) for data in (before, after))
    return (old - new).total() + (new - old).total()


def _comparisons(files: Mapping[str, bytes | None], paths: Iterable[str]) -> int:
    """How many methods decide comparisons. By the text alone: an agent's source may be made to break a parser."""
    return sum(len(_COMPARISON.findall(files.get(path) or b"")) for path in paths)
