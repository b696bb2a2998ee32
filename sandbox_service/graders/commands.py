"""Editing and bug fixing in records that bring their own test command: 1 when the record's rule holds, else 0.

The command runs in a fresh workspace over the buggy repository with all of its tests, in which only the agent's source
files are put; the tests' own files are written last. Its output is parsed (`parsers`) and judged (`rules`) with the
exit status. Then it runs a few times more, in an order that nobody can know: as it is, and with expectations turned
wrong in what the agent has not seen of the test files, where the tests that are proven to fail by that on the correct
tree must be reported as failed here too. Else the results were made up; one that guesses each time is right in one of
2 ** ROUNDS submissions. Among these runs are others with all tests mixed, right and wrong (see `mixed`).
"""

import asyncio
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sandbox_service.backends.base import Ended, Limits, Workspace
from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.graders.bench import SENTINEL_VARIANTS, Bench, Files, together
from sandbox_service.graders.mixed import RUNS, VARIANTS
from sandbox_service.graders.parsers import PARSERS
from sandbox_service.graders.paths import accepted_changes, is_test
from sandbox_service.graders.rules import BAD, PASSED, RULES, Verdict, judge, status_of
from sandbox_service.graders.spoiling import mixtures, spoil
from sandbox_service.runner import LOG_KEPT_CHARACTERS, Runner

# The log of a large suite; what is longer cannot be judged.
LOG_BYTES = 32 << 20
# Half of them with right expectations, half with wrong ones.
ROUNDS = 6
# Where so many would take longer than this, one after the other, there are only two: some suites run for half an hour.
ROUNDS_S = 900.0
# Files that are not Python's are mixed at most so often, each time more like the real ones.
MIXTURES = 3


@dataclass(frozen=True)
class CommandRun:
    """What one run of the test command showed."""

    ended: Ended
    # True when it came to its own end and its whole output is known.
    complete: bool
    exit_code: int
    results: Mapping[str, str]
    log: str
    wall_s: float = 0.0

    def shows(self, passing: Collection[str], failing: Collection[str]) -> bool:
        good, bad = (
            all(self.results.get(i) in wanted for i in ids) for ids, wanted in ((passing, PASSED), (failing, BAD))
        )
        return self.complete and good and bad


@dataclass(frozen=True)
class Mixture:
    """Test files, and what is proven to come of them on the correct tree."""

    files: Files
    passing: frozenset[str]
    failing: frozenset[str]


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    attempt = await _Attempt.make(request, runner)
    accepted = accepted_changes(request.changed, request.environment, attempt.bench.start)
    run = await attempt.run(accepted, attempt.tests)
    verdict = attempt.judge(run)
    confirmed = 0.0
    if verdict.solved:
        # Of the correct tree: a submission that sleeps must not be tried less often.
        run_s = (await attempt.gold(attempt.tests)).wall_s
        confirmed = await attempt.confirm(accepted, ROUNDS if run_s * ROUNDS <= ROUNDS_S else 2)
    else:
        await attempt.check_gold()
    components = {
        "f2p_passed": verdict.fail_to_pass,
        "p2p_passed": verdict.pass_to_pass,
        "reported": float(run.complete),
        "confirmed": confirmed,
        "touched_tests": float(sum(is_test(path, request.environment) for path in request.changed)),
        "filtered_files": float(len(request.changed.keys() - accepted.keys())),
    }
    right = verdict.solved and confirmed == 1
    detail = "" if verdict.solved == right else "it does not tell right expectations from wrong ones"
    return Grade(float(right), components, detail=detail)


class _Attempt:
    """Runs of one record's test command."""

    def __init__(self, bench: Bench, runner: Runner):
        request = bench.request
        self.bench, self._runner, self._request = bench, runner, request
        self._instance, self._environment = request.instance, request.environment
        if self._environment.parser not in PARSERS or self._environment.rule not in RULES:
            raise TaskFault(
                f"{self._instance.instance_id}: parser {self._environment.parser!r} with rule "
                f"{self._environment.rule!r} is not wired; leave these tasks out of the set"
            )
        missing = [path for path in self._instance.test_files if path not in bench.correct]
        if missing or not self._instance.test_command:
            what = f"test file {missing[0]}" if missing else "test command"
            raise TaskFault(f"{self._instance.instance_id}: its {what} is missing; read the dataset again")
        # The harness's own: every run starts from them, whatever the agent's files are.
        self.tests: Files = {path: bench.correct[path] for path in self._instance.test_files}

    @classmethod
    async def make(cls, request: GradeRequest, runner: Runner) -> "_Attempt":
        return cls(await Bench.make(request, runner), runner)

    async def run(self, source: Files, tests: Files) -> CommandRun:
        """The command on the buggy tree with these source files, then these test files, in it."""
        environment = self._environment
        overlays = (self._instance.bug,)
        async with self._runner.workspace(
            self._request.task_set, self._instance.tree, overlays, environment
        ) as workspace:
            try:
                await _write(workspace, {**source, **tests})
            except (OSError, ValueError) as e:
                # A file where the repository has a folder, say: the agent's doing, for the tests' files fit the tree.
                return CommandRun(Ended.EXITED, False, -1, {}, f"the change does not fit the tree: {e}")
            done = await workspace.run(
                ["bash", "-c", _script(environment.setup, self._instance.test_command)],
                timeout_s=environment.timeout_s,
                limits=replace(Limits(), output_kept_bytes=LOG_BYTES),
            )
        log = done.output.decode(errors="replace")
        complete = done.ended is Ended.EXITED and not done.omitted_bytes
        results = PARSERS[environment.parser](log) if complete else {}
        return CommandRun(done.ended, complete, done.exit_code, results, log[-LOG_KEPT_CHARACTERS:], done.wall_s)

    async def confirm(self, accepted: Files, rounds: int) -> float:
        """The share of runs that ended as they must."""
        planted, expected = await self.sentinel()
        mixed = await self.mixed(min(rounds, RUNS))

        async def run(tests: Files) -> CommandRun:
            for _ in range(2):  # what came to its end a moment ago may be stopped by a host under load
                done = await self.run(accepted, tests)
                if done.complete:
                    break
            return done

        half = rounds // 2
        runs = await together(map(run, (*[self.tests] * half, *[planted] * half, *(m.files for m in mixed))))
        right = [self.judge(done).solved for done in runs[:half]]
        wrong = [done.shows((), expected) for done in runs[half:rounds]]
        kept = [done.shows(m.passing, m.failing) for done, m in zip(runs[rounds:], mixed, strict=True)]
        return sum([*right, *wrong, *kept]) / len(runs)

    async def gold(self, tests: Files) -> CommandRun:
        """The command on the correct tree; nothing of an agent is in it, so it is made once."""
        files = {p: None if d is None else hashlib.sha256(d).hexdigest() for p, d in tests.items()}
        key = json.dumps([self._request.task_set.digest, self._instance.instance_id, "command", files], sort_keys=True)
        return await self._runner.once(key, lambda: self.run(self.bench.gold_files, tests), lambda r: r.complete)

    def judge(self, run: CommandRun) -> Verdict:
        instance = self._instance
        if not run.complete:
            return Verdict(0.0, 0.0, False)
        f2p, p2p = instance.fail_to_pass, instance.pass_to_pass
        return judge(self._environment.rule, run.results, run.exit_code, f2p, p2p, instance.expected)

    async def check_gold(self) -> None:
        run = await self.gold(self.tests)
        if not self.judge(run).solved:
            ids = (*self._instance.fail_to_pass, *self._instance.pass_to_pass)
            bad = next((i for i in ids if status_of(i, run.results) not in PASSED), "its rule")
            raise TaskFault(
                f"{self._instance.instance_id}: {bad} fails on the correct tree ({run.ended.value}, exit status "
                f"{run.exit_code}): {run.log[-500:]}"
            )

    async def _known(self) -> frozenset[str]:
        results = (await self.gold(self.tests)).results
        return frozenset(results) & {*self._instance.fail_to_pass, *self._instance.pass_to_pass}

    async def sentinel(self) -> tuple[Files, list[str]]:
        """Test files with wrong expectations, and the ids that are proven to fail for them on the correct tree.

        Only in what the agent has not seen, where that can be: elsewhere it could see which are wrong.
        """
        known = await self._known()
        for visible in (self.bench.start, None):
            for attempt in range(SENTINEL_VARIANTS):
                seed = (self.bench.seed + attempt) % SENTINEL_VARIANTS
                planted = {**self.tests, **spoil(self.tests, known, seed, attempt, visible)}
                results = (await self.gold(planted)).results
                # Reported as failed, not absent: the files must still compile and be collected.
                failing = sorted(i for i in known if results.get(i) in BAD)
                # Without one of these, a cheat that turns just the tests of the bug green would not be seen.
                if set(failing) & set(self._instance.fail_to_pass):
                    return planted, failing
        raise TaskFault(f"{self._instance.instance_id}: its tests do not fail when their expectations are wrong")

    async def mixed(self, count: int) -> list[Mixture]:
        """The mixtures of the first attempt that shows each test both right and wrong, or of that which shows most."""
        known, best, most = await self._known(), [], -1
        seed = f"{self._instance.tree} {self.bench.seed % VARIANTS}"
        for attempt in range(MIXTURES):
            files = await asyncio.to_thread(mixtures, self.tests, known, seed, attempt, count)
            runs = [await self.gold(f) for f in files]
            made = [
                Mixture(f, *(frozenset(i for i in known if run.results.get(i) in s) for s in (PASSED, BAD)))
                for f, run in zip(files, runs, strict=True)
            ]
            passing, failing = (frozenset().union(*(getattr(m, k) for m in made)) for k in ("passing", "failing"))
            if len(passing & failing) > most:
                best, most = made, len(passing & failing)
            if passing & failing == known:
                break
        return [m for m in best if m.passing or m.failing]


async def _write(workspace: Workspace, files: Files) -> None:
    gone = sorted(path for path, data in files.items() if data is None)
    for start in range(0, len(gone), 200):
        await workspace.run(["rm", "-f", "--", *gone[start : start + 200]], timeout_s=60.0)
    for path, data in files.items():
        if data is not None:
            await workspace.write_file(path, data)


def _script(setup: str, command: str) -> str:
    """The setup with its output unread, then the command; the exit status is the command's."""
    return f"exec 3>&1 4>&2 >/dev/null 2>&1\n{setup}\nexec >&3 2>&4 3>&- 4>&-\n{command}\n"
