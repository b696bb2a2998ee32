"""Issue reproduction: 1 when the submitted tests fail because of the bug and pass on the correct code, else 0.

The submission runs on the tree that its author saw (hidden tests stay hidden) in both versions of the files that the
gold change touches. At least one test must fail on the bug by an assertion, or by the exception that the bug is known
to raise, from the repository's code; it must pass on the correct version, where no test may fail. The verdicts must
be the same on twins of both versions (see `controls`). The component `swt_success` is SWT-Bench's own verdict, which
knows neither reasons nor twins.
"""

from collections.abc import Callable, Collection

from sandbox_service.graders.base import Grade, GradeRequest
from sandbox_service.graders.bench import ASSERTIONS, BROKEN, Bench, Files, Sentinel, together
from sandbox_service.graders.rules import Transitions, swt_success, transitions
from sandbox_service.runner import Runner, TestRun


def shows_bug(run: TestRun, symptoms: Collection[str], is_source: Callable[[str], bool]) -> frozenset[str]:
    """Ids of the tests that fail for the right reason."""

    def right(test_id: str) -> bool:
        kind, place = run.failures.get(test_id, ""), run.places[test_id]
        if kind in BROKEN or place.phase != "call":
            return False
        return kind in ASSERTIONS or (kind in symptoms and is_source(place.path))

    return frozenset(i for i, status in run.results.items() if status == "failed" and right(i))


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    bench = await Bench.make(request, runner)
    path = request.task.submission_path
    text = request.changed.get(path)
    components = {"submitted": float(text is not None)}
    components |= dict.fromkeys(("shows_bug", "passes_on_fix", "controls_hold", "swt_success"), 0.0)
    if text is None:
        return Grade(0.0, components)
    sentinel = await bench.sentinel(bench.buggy_files, bench.gold_files)
    attempt = _Attempt(bench, sentinel, path, text, await _symptoms(bench))
    on_bug, on_fix = await together([attempt.run(bench.buggy_files), attempt.run(bench.gold_files)])
    shown = attempt.shown(on_bug)
    components["shows_bug"] = float(bool(shown))
    components["passes_on_fix"] = float(attempt.clean(on_fix, shown))
    components["swt_success"] = float(attempt.succeeds(on_bug, on_fix))
    if not shown or not attempt.clean(on_fix, shown):
        return Grade(0.0, components, detail=_why(on_bug, on_fix, shown))
    holds = await attempt.holds_on_twins(shown)
    components["controls_hold"] = float(holds)
    return Grade(float(holds), components, detail="" if holds else "the verdict moved on a twin of the code")


async def _symptoms(bench: Bench) -> frozenset[str]:
    """Exception types that the bug is known to raise from the repository's code."""
    run = await bench.run_complete({}, bench.known_paths, buggy=True, pristine=True)
    ids = [i for i in bench.request.instance.fail_to_pass if i in run.places and bench.is_source(run.places[i].path)]
    return frozenset(run.failures[i] for i in ids if i in run.failures) - BROKEN


class _Attempt:
    def __init__(self, bench: Bench, sentinel: Sentinel, path: str, text: bytes, symptoms: frozenset[str]):
        self._bench, self._sentinel, self._symptoms = bench, sentinel, symptoms
        self._files = {path: text, sentinel.path: sentinel.text.encode()}
        self._paths = [path, sentinel.path]

    async def run(self, version: Files) -> TestRun:
        return await self._bench.run_visible({**version, **self._files}, self._paths)

    def shown(self, run: TestRun) -> frozenset[str]:
        if not self._sentinel.holds(run):
            return frozenset()
        return shows_bug(run, self._symptoms, self._bench.is_source) - {self._sentinel.test_id}

    def clean(self, run: TestRun, shown: frozenset[str]) -> bool:
        own = self._sentinel.without(run)
        none_fails = not any(status in ("failed", "error") for status in own.values())
        return self._sentinel.holds(run) and none_fails and all(own.get(i) == "passed" for i in shown)

    def succeeds(self, on_bug: TestRun, on_fix: TestRun) -> bool:
        """SWT-Bench's verdict. Its runs without the submission show nothing: there is no test file but the new one."""
        found = transitions(self._sentinel.without(on_bug), self._sentinel.without(on_fix))
        are_told = self._sentinel.holds(on_bug) and self._sentinel.holds(on_fix)
        return are_told and swt_success(found, Transitions())

    async def holds_on_twins(self, shown: frozenset[str]) -> bool:
        """Whether the same tests fail on twins of the bug and pass on twins of the fix."""
        bug, fix = self._bench.buggy_files, self._bench.gold_files
        bug_twin, fix_twin = await self._bench.plain_twin(bug), await self._bench.plain_twin(fix)
        on_bug, on_fix = await together([self.run(bug_twin), self.run(fix_twin)])
        if self.shown(on_bug) != shown or not self.clean(on_fix, shown):
            return False
        for thorough in (True, False):
            bug_twin = await self._bench.rewritten_twin(bug, [fix], thorough)
            fix_twin = await self._bench.rewritten_twin(fix, [bug], thorough)
            on_bug, on_fix = await together([self.run(bug_twin), self.run(fix_twin)])
            if self.shown(on_bug) == shown and self.clean(on_fix, shown):
                return True
            # Before it costs the agent its reward, a twin must show that it is one.
            sound = await self._bench.keeps_behaviour(bug_twin, buggy=True)
            if sound and await self._bench.keeps_behaviour(fix_twin, buggy=False):
                return False
        return True


def _why(on_bug: TestRun, on_fix: TestRun, shown: frozenset[str]) -> str:
    if not on_bug.reported:
        return f"the run on the bug ended without results ({on_bug.ended.value})"
    if not shown:
        return "no test fails on the bug by an assertion"
    return "a test fails on the correct code" if on_fix.reported else "the run on the correct code has no results"
