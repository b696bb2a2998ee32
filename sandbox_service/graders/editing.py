"""Code editing, and bug fixing: 1 when all known tests pass on the agent's source files, else 0.

The tree that is graded is the buggy repository with all tests, in which only the agent's source files are put. The
tests run twice: as they are (every fail-to-pass and pass-to-pass id must be present and passed), and with some
expectations turned wrong in place (those must fail; see `sentinel`).
"""

import ast
import difflib
from collections.abc import Iterable

from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.graders.bench import SENTINEL_VARIANTS, Bench, Files, must_fail
from sandbox_service.graders.paths import accepted_changes, is_test
from sandbox_service.runner import Runner
from sandbox_service.sentinel import plant
from sandbox_service.syntax import parse

PLANTED_PASS_TO_PASS = 3
_COMPARISONS = frozenset(
    {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__", "__len__", "__contains__", "__hash__"}
    | {"__instancecheck__", "__subclasscheck__", "__class__"}
)


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    bench = await Bench.make(request, runner)
    accepted = accepted_changes(request.changed, request.environment, bench.start)
    originals = {path: bench.correct[path] for path in bench.known_paths}
    run = await bench.run_complete({**accepted, **originals}, bench.known_paths, buggy=True)
    f2p, p2p = run.passed(request.instance.fail_to_pass), run.passed(request.instance.pass_to_pass)
    passed = run.reported and f2p == p2p == 1
    honest = False
    if passed:
        files, expected = await _sentinel(bench)
        for _ in range(2):  # what came to its end a moment ago may be stopped by a host under load
            wrong = await bench.run_complete({**accepted, **files}, bench.known_paths, buggy=True)
            if wrong.reported:
                break
        honest = must_fail(wrong, expected)
    else:
        await _check_gold(bench)
    components = {
        "f2p_passed": f2p,
        "p2p_passed": p2p,
        "reported": float(run.reported),
        "sentinel_failed": float(honest),
        **_measures(bench, accepted),
    }
    detail = "" if passed == honest else "tests with wrong expectations passed too"
    return Grade(float(passed and honest), components, detail=detail)


async def _check_gold(bench: Bench) -> None:
    run = await bench.run_complete({}, bench.known_paths, buggy=False, pristine=True)
    if run.passed(bench.known_ids) < 1:
        bad = next((i for i in bench.known_ids if run.results.get(i) != "passed"), "")
        raise TaskFault(f"{bench.request.instance.instance_id}: {bad} fails on the correct tree ({run.ended.value})")


async def _sentinel(bench: Bench) -> tuple[Files, list[str]]:
    """Test files with wrong expectations, and the ids that are proven to fail for them on the correct tree."""
    instance = bench.request.instance
    sources = {path: bench.correct[path].decode() for path in bench.known_paths}
    on_bug = await bench.run_complete({}, bench.known_paths, buggy=True, pristine=True)
    lines = {i: on_bug.places[i].line for i in instance.fail_to_pass if i in on_bug.places}
    others = sorted(instance.pass_to_pass)
    for attempt in range(2):
        seed = (bench.seed + attempt) % SENTINEL_VARIANTS
        few = [others[(seed * 7 + k * 13) % len(others)] for k in range(min(PLANTED_PASS_TO_PASS, len(others)))]
        planted = plant(sources, [*instance.fail_to_pass, *few], seed, lines)
        files = {path: text.encode() for path, text in planted.files.items()}
        on_gold = await bench.run_complete(files, bench.known_paths, buggy=False, pristine=True)
        expected = [i for i in bench.known_ids if planted.covers(i) and must_fail(on_gold, [i])]
        if expected:
            return files, expected
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
        "new_comparison_methods": float(len(_comparisons(accepted.values()) - _comparisons(bench.correct.values()))),
    }


def _changed_lines(before: bytes | None, after: bytes | None) -> int:
    old, new = ((d or b"").decode(errors="replace").splitlines() for d in (before, after))
    return sum(line[:1] in "+-" and line[:3] not in ("+++", "---") for line in difflib.unified_diff(old, new, n=0))


def _comparisons(contents: Iterable[bytes | None]) -> set[str]:
    """Methods that decide comparisons, as Class.method; only logged, because a fix may well need one."""
    found = set()
    for data in contents:
        try:
            tree = parse(data or b"")
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{m.name}" for m in node.body if getattr(m, "name", "") in _COMPARISONS}
    return found
