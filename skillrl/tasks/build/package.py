"""A fetched package -> a proven task set: the steps in order."""

import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sandbox_service.tasks import Candidate, Environment, Instance, TaskSetWriter, gold_overlay, read_task_set
from skillrl.tasks.build.baseline import Baseline, Suite
from skillrl.tasks.build.fetch import BuildError, Sdist, find_source_files, find_source_roots, find_test_roots
from skillrl.tasks.build.issue_text import Answer, Call, contract, instruction, issue, symptoms
from skillrl.tasks.build.observe import MAX_CALLS, Observer
from skillrl.tasks.build.plant import MIN_MUTANTS, Bug, Mutation, Planter, buggy_lines, distance, together
from skillrl.tasks.derive import UNIT_TESTS_PATH, Texts, derive
from skillrl.tasks.validate import ProvingGround
from skillrl.types import COMPOSITE_KINDS, SKILLS

# Mutations tried for a wrong review candidate.
MAX_CANDIDATES_TRIED = 12
# A diff shows changes up to this far apart in one hunk.
ONE_HUNK_LINES = 6


@dataclass(frozen=True)
class Options:
    instances: int = 8
    seed: int = 0
    split: str = "train"
    level: int = 2
    # Distributions that the tests need, as NAME==VERSION.
    packages: tuple[str, ...] = ()
    jobs: int = 2


@dataclass
class Summary:
    """What was made, and what was left out and why. Kept in set.json."""

    package: Mapping[str, str]
    stripped: Mapping[str, int]
    baseline: Mapping[str, object] = field(default_factory=dict)
    # Why a mutation was kept or not -> how many.
    mutations: Mapping[str, int] = field(default_factory=dict)
    operators: Mapping[str, int] = field(default_factory=dict)
    instances: int = 0
    tasks: Mapping[str, int] = field(default_factory=dict)
    mutants: int = 0
    # skill or "instance" -> reason -> how many.
    left_out: dict[str, Counter] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, what: str, reason: str) -> None:
        self.left_out.setdefault(what, Counter())[reason] += 1


class Builder:
    """Builds the tasks of one package into a writer."""

    def __init__(self, sdist: Sdist, ground: ProvingGround, options: Options):
        self._sdist, self._ground, self._options = sdist, ground, options
        self._writer = TaskSetWriter(f"pypi-{sdist.name}-{sdist.version}")
        self._used_targets: set[tuple[str, str]] = set()
        origin = {"name": sdist.name, "version": sdist.version, "sha256": sdist.sha256, "licence": sdist.licence}
        self.summary = Summary(origin, sdist.stripped)

    async def build(self, out: Path, progress: Callable[[str, int], None] = lambda step, done: None) -> str:
        """Writes the task set to `out` and returns its digest. `progress` gets the step and the instances made."""
        environment = self._environment()
        with tempfile.TemporaryDirectory() as folder:
            draft = TaskSetWriter("draft", environments={environment.environment_id: environment})
            self._tree = draft.add_tree(self._sdist.files)
            draft.write(Path(folder))
            task_set = read_task_set(Path(folder))
            suite = Suite(self._ground.runner, task_set, self._tree, environment)
            self._observer = Observer(self._ground.backend, self._ground.trees, task_set, self._tree, environment)
            progress("running the suite on the correct tree", 0)
            baseline = await suite.baseline()
            # Whole minutes: a loaded host needs them, and the same package gives the same bytes on any host.
            self._environment_kept = replace(environment, timeout_s=60.0 * math.ceil(8 * baseline.wall_s / 60))
            self._note_baseline(baseline)
            self._planter = Planter(suite, baseline, self._sources(), self._options.seed, jobs=self._options.jobs)
            progress("recording calls", 0)
            self._calls = await self._observer.calls()
            await self._fill(progress)
        self._note_result()
        return self._writer.write(out, summary=vars(self.summary))

    async def _fill(self, progress: Callable[[str, int], None]) -> None:
        made = 0
        progress("planting bugs", made)
        async for bug in self._planter.bugs():
            reason = await self._add(bug)
            if reason:
                self.summary.leave_out("instance", reason)
                continue
            self.summary.operators[bug.mutation.site.operator] += 1
            made += 1
            progress("planting bugs", made)
            if made == self._options.instances:
                break
        if not made:
            raise BuildError(
                f"{self._sdist.requirement}: no usable bug among {sum(self._planter.tally.values())} mutations "
                f"({dict(self._planter.tally)}); take a package with a stricter suite"
            )
        self.summary.instances = made

    async def _add(self, bug: Bug) -> str:
        """Derives the tasks of one bug. Returns why not; empty when it worked."""
        path, site = bug.mutation.path, bug.mutation.site
        original = self._planter.sources[path]
        seed = random.Random(f"{self._options.seed}|{bug.mutation.key}").randrange(1 << 30)
        skills = {*SKILLS, *COMPOSITE_KINDS}
        candidates = await self._candidates(bug, seed)
        if not candidates:
            skills.discard("review")
        target, mutants, killers = await self._target(bug)
        if not mutants:
            skills.discard("unit_tests")
        instance = Instance(
            instance_id=f"pypi__{self._sdist.name}-{self._sdist.version}.{site.operator}.{bug.mutation.key}",
            environment_id=self._environment_kept.environment_id,
            tree=self._tree,
            bug=bug.mutation.overlay,
            fail_to_pass=tuple(sorted(bug.failing)),
            pass_to_pass=tuple(sorted(bug.passing)),
            target_path=target[0],
            target_symbol=target[1],
            mutants=tuple(m.overlay for m in mutants),
            candidates=candidates,
        )
        texts = Texts(
            issue=await self._issue(bug, seed),
            instruction=instruction(path, site.symbol, buggy_lines(bug), site.intent, original),
            contract=await self._contract(*target),
        )
        before = len(self._writer.instances), len(self._writer.public)
        try:
            derive(
                self._writer,
                instance,
                self._sdist.files,
                texts,
                environment=self._environment_kept,
                repository=f"pypi:{self._sdist.name}",
                family=self._sdist.name,
                split=self._options.split,
                level=self._options.level,
                target_tests=killers,
                skills=skills,
            )
        except ValueError as e:
            del self._writer.instances[before[0] :], self._writer.public[before[1] :], self._writer.tasks[before[1] :]
            return "a text quotes the gold change" if "quotes" in str(e) else str(e)
        if mutants:
            self._used_targets.add(target)
            self.summary.mutants += len(mutants)
        for skill, reason in (("review", "no proven wrong candidate"), ("unit_tests", "no unused function to test")):
            if skill not in skills:
                self.summary.leave_out(skill, reason)
        return ""

    async def _candidates(self, bug: Bug, seed: int) -> tuple[Candidate, ...]:
        """The gold change, and a wrong one of the same size and, where possible, at the same place."""
        path = bug.mutation.path
        original = self._planter.sources[path]
        for other in self._planter.near(bug.mutation)[:MAX_CANDIDATES_TRIED]:
            if distance(other.site, bug.mutation.site) <= ONE_HUNK_LINES:
                text, verdict = other.text, await self._planter.prove(other)
            else:
                # A repair of the wrong place. Together with gold it would be two hunks against gold's one.
                text = together(original, bug.mutation.site, other.site)
                verdict = await self._planter.try_text(path, text)
            if verdict.failing and text != bug.mutation.text:
                gold = gold_overlay(bug.mutation.overlay, self._sdist.files)
                pair = [Candidate(gold, True), Candidate({path: text}, False)]
                random.Random(seed).shuffle(pair)
                return tuple(pair)
        return ()

    async def _target(self, bug: Bug) -> tuple[tuple[str, str], list[Mutation], frozenset[str]]:
        """A function to write tests for (the bug's own, if no instance has it yet), its mutants, and who kills them."""
        for function in [bug.mutation.function, *self._planter.functions()]:
            if function in self._used_targets:
                continue
            killed = await self._planter.killed(function, besides=bug.mutation)
            if len(killed) >= MIN_MUTANTS:
                return function, [m for m, _ in killed], frozenset().union(*(tests for _, tests in killed))
        return bug.mutation.function, [], frozenset()

    async def _issue(self, bug: Bug, seed: int) -> str:
        calls = [c for c in self._calls if c.tests & bug.failing][:MAX_CALLS]
        found = []
        if calls:
            correct = await self._observer.answers({}, calls)
            buggy = await self._observer.answers(bug.mutation.overlay, calls)
            found = symptoms(calls, correct, buggy)
        if not found:
            self.summary.leave_out("quoted call in the issue", "no literal call shows the bug")
        return issue(self._sdist.name, bug.mutation.site.symbol.rpartition(".")[2], found, bug.failing, seed)

    async def _contract(self, path: str, symbol: str) -> str:
        calls = [c for c in self._calls if c.function == symbol][:20]
        examples: list[tuple[Call, Answer]] = []
        if calls:
            examples = list(zip(calls, await self._observer.answers({}, calls), strict=True))
        return contract(self._planter.sources[path], symbol, examples)

    def _environment(self) -> Environment:
        tests = find_test_roots(self._sdist.files)
        if not tests:
            raise BuildError(f"{self._sdist.requirement} ships no tests; take another package or another version")
        # Submitted test files lie there, and are tests too.
        submitted = UNIT_TESTS_PATH.rpartition("/")[0]
        return Environment(
            environment_id=f"sdist:{self._sdist.requirement}",
            packages=self._options.packages,
            source_roots=find_source_roots(self._sdist.files),
            test_roots=tests if submitted in tests else (*tests, submitted),
            timeout_s=300.0,
        )

    def _sources(self) -> dict[str, str]:
        paths = find_source_files(self._sdist.files, self._environment().test_roots)
        if not paths:
            raise BuildError(f"{self._sdist.requirement}: no Python package found in the archive; take another package")
        if len(paths) == 1:
            self.summary.notes.append(
                "localization: the package is one source file, so the task is to tell it from the archive's other files"
            )
        return {path: self._sdist.files[path].decode() for path in paths}

    def _note_baseline(self, baseline: Baseline) -> None:
        self.summary.operators = Counter()
        self.summary.baseline = {
            "tests": len(baseline.stable),
            "dropped": dict(baseline.dropped),
            "suite_s": round(baseline.wall_s, 2),
        }

    def _note_result(self) -> None:
        self.summary.mutations = dict(self._planter.tally)
        self.summary.tasks = dict(sorted(Counter(row["skill"] for row in self._writer.public).items()))
