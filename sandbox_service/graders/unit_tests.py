"""Unit-test generation: 1 when the submitted tests pass on the correct code and fail on every mutant, else 0.

Only the one submitted file is taken, into the tree that its author saw. It must hold at least one test and pass on
the correct version and on two twins of it (see `controls`). A mutant counts as killed when, in each of its runs, a
test that passes on the correct version fails in its body or in a fixture, by an assertion or by an exception from the
repository's code. A mutant on which the run exceeds its time or memory counts as killed too: the limit is far above
what the correct version took, and a mutant that loops for ever is no less wrong. A mutant that cannot be imported is
not killed by that. Mutants run rewritten, with the correct code as a decoy, so that reading the code kills none; and
twins of the correct code run among them and after them, so that neither the time nor the load of the host tells them.
"""

import math
from collections.abc import Callable, Collection

from sandbox_service.backends.base import Ended
from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.graders.bench import ASSERTIONS, BROKEN, Bench, Files, Sentinel, together
from sandbox_service.runner import Runner, TestRun

MUTANT_MIN_LIMIT_S = 5.0
MUTANT_LIMIT_FACTOR = 10.0
# With fewer mutants each runs several times, so that tests that fail at random earn next to nothing.
MUTANT_RUNS = 4
TWINS_AMONG_MUTANTS = 2


def kills(run: TestRun, passing: Collection[str], is_source: Callable[[str], bool]) -> bool:
    """Whether a run on a mutant shows a right failure of one of the tests that pass on the correct code."""
    if run.ended in (Ended.TIMEOUT, Ended.OUT_OF_MEMORY):
        return True

    def right(test_id: str) -> bool:
        kind, place = run.failures.get(test_id, ""), run.places[test_id]
        if kind in BROKEN or place.phase not in ("setup", "call"):
            return False
        return kind in ASSERTIONS or is_source(place.path)

    return any(run.results.get(i) in ("failed", "error") and right(i) for i in passing)


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    if not request.instance.mutants:
        raise TaskFault(f"{request.instance.instance_id}: it has no mutants")
    bench = await Bench.make(request, runner)
    path = request.task.submission_path
    text = request.changed.get(path)
    components = {"submitted": float(text is not None), "passes_on_gold": 0.0, "controls_hold": 0.0, "kill_rate": 0.0}
    if text is None:
        return Grade(0.0, components)
    attempt = _Attempt(bench, await bench.sentinel({}), path, text)
    on_gold = await attempt.run(attempt.gold)
    components["passes_on_gold"] = float(attempt.passes(on_gold))
    if not attempt.passes(on_gold):
        return Grade(0.0, components, detail=f"not all tests pass on the correct code ({on_gold.ended.value})")
    passing = attempt.own(on_gold)
    components["tests"] = float(len(passing))
    thorough = await attempt.twins_pass(passing)
    if thorough is None:
        return Grade(0.0, components, detail="the tests do not pass on a twin of the correct code")
    limit_s = max(MUTANT_MIN_LIMIT_S, MUTANT_LIMIT_FACTOR * on_gold.wall_s)
    on_mutants = await attempt.run_mutants(thorough, min(limit_s, request.environment.timeout_s))
    if on_mutants is None:
        return Grade(0.0, components, detail="the tests do not pass on the correct code every time")
    components["controls_hold"] = 1.0
    killed = [all(kills(run, passing, bench.is_source) for run in runs) for runs in on_mutants]
    rate = sum(killed) / len(killed)
    components["kill_rate"] = rate
    return Grade(rate if request.shaped else float(rate == 1), components)


class _Attempt:
    def __init__(self, bench: Bench, sentinel: Sentinel, path: str, text: bytes):
        self._bench, self._sentinel = bench, sentinel
        self._files = {path: text, sentinel.path: sentinel.text.encode()}
        self._paths = [path, sentinel.path]
        touched = {p for mutant in bench.request.instance.mutants for p in mutant} | {
            bench.request.instance.target_path
        }
        # The correct version of every file that a mutant touches; written in every run, so that all runs look alike.
        self.gold: Files = {p: bench.correct.get(p) for p in sorted(touched)}

    async def run(self, version: Files, **options) -> TestRun:
        return await self._bench.run_visible({**version, **self._files}, self._paths, **options)

    def own(self, run: TestRun) -> dict[str, str]:
        return self._sentinel.without(run)

    def passes(self, run: TestRun) -> bool:
        own = self.own(run)
        return self._sentinel.holds(run) and bool(own) and all(status == "passed" for status in own.values())

    def _mutants(self) -> list[Files]:
        mutants = self._bench.request.instance.mutants
        return [{**self.gold, **{p: None if t is None else t.encode() for p, t in m.items()}} for m in mutants]

    async def twins_pass(self, passing: Collection[str]) -> bool | None:
        """None when the tests fail on a twin of the correct code; else whether thorough rewriting is sound here."""
        decoys = self._mutants()
        plain_twin = await self._bench.plain_twin(self.gold)
        twin = await self._bench.rewritten_twin(self.gold, decoys, True)
        plain, rewritten = await together([self.run(plain_twin), self.run(twin)])
        if not self.passes(plain) or self.own(plain).keys() != passing.keys():
            return None
        if self.passes(rewritten):
            return True
        # Before it costs the agent its reward, a twin must show that it is one.
        if await self._bench.keeps_behaviour(twin, buggy=False):
            return None
        twin = await self._bench.rewritten_twin(self.gold, decoys, False)
        if self.passes(await self.run(twin)):
            return False
        return None if await self._bench.keeps_behaviour(twin, buggy=False) else False

    async def run_mutants(self, thorough: bool, limit_s: float) -> list[list[TestRun]] | None:
        """The runs on each mutant; None when the tests fail on a twin of the correct code that runs among them."""
        mutants = self._mutants()
        versions = [await self._bench.rewritten_twin(m, [self.gold], thorough) for m in mutants]
        repeats = math.ceil(MUTANT_RUNS / len(versions))
        twin = await self._bench.rewritten_twin(self.gold, mutants, thorough)
        crowd = [version for version in versions for _ in range(repeats)] + [twin] * TWINS_AMONG_MUTANTS
        runs = await together(self.run(version, timeout_s=limit_s) for version in crowd)
        for index in range(len(crowd) - TWINS_AMONG_MUTANTS, len(crowd) + 1):
            # The last is begun when every mutant has been run. A host under load may stop one: once more, then.
            run = runs[index] if index < len(crowd) else await self.run(twin, timeout_s=limit_s)
            if not self.passes(run) and (run.reported or not self.passes(await self.run(twin, timeout_s=limit_s))):
                return None
        return [runs[i : i + repeats] for i in range(0, len(versions) * repeats, repeats)]
