"""A proven bug -> an instance with its texts: what surrounds the bug, each part of it proven too."""

import hashlib
import json
import random
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace

from sandbox_service.runner import Runner
from sandbox_service.tasks import Candidate, Environment, Instance, TaskSet, TaskSetWriter, gold_overlay
from skillrl.tasks.build.issue_text import Answer, Call, contract, instruction, issue
from skillrl.tasks.build.ledger import Ledger
from skillrl.tasks.build.manifest import Entry
from skillrl.tasks.build.observe import MAX_CALLS, Observer
from skillrl.tasks.build.plant import MIN_MUTANTS, Bug, Mutation, Planter, buggy_lines, distance, together
from skillrl.tasks.build.summary import Summary
from skillrl.tasks.build.tree import Package
from skillrl.tasks.derive import Texts, derive, why_not_localization
from skillrl.tasks.proving import grade_submission
from skillrl.tasks.submissions import gold
from skillrl.types import COMPOSITE_KINDS, SKILLS

# Mutations tried for a wrong review candidate, and functions for unit_tests.
MAX_CANDIDATES_TRIED = 12
MAX_TARGETS_TRIED = 4
# A diff shows changes up to this far apart in one hunk.
ONE_HUNK_LINES = 6


@dataclass(frozen=True)
class Composed:
    """An instance, its texts, and which skills it gives."""

    instance: Instance
    texts: Texts
    # Tests that kill a mutant.
    killers: frozenset[str]
    skills: frozenset[str]


@dataclass(frozen=True)
class Desk:
    """Where a submission is graded before its task set exists."""

    runner: Runner
    # Holds the package's tree.
    draft: TaskSet
    tree: str
    ledger: Ledger

    async def gold_is_best(self, writer: TaskSetWriter) -> bool:
        """Whether the gold submission of the writer's only task gets the full reward."""
        (task,), (instance,) = writer.tasks, writer.instances
        key = hashlib.sha256(json.dumps([asdict(task), asdict(instance)], sort_keys=True).encode()).hexdigest()
        if (kept := self.ledger.get(key)) is None:
            task_set = replace(
                self.draft,
                environments=writer.environments,
                instances={instance.instance_id: instance},
                tasks={task.task_id: task},
            )
            handed = gold(task, instance, await self.runner.tree_files(task_set, self.tree))
            kept = (await grade_submission(task_set, task, handed, self.runner)).reward == 1.0
            self.ledger.put(key, kept)
        return kept


@dataclass
class Composer:
    """Finds the parts of one package's instances."""

    package: Package
    entry: Entry
    seed: int
    environment: Environment
    planter: Planter
    observer: Observer
    calls: list[Call]
    summary: Summary
    desk: Desk
    _used_targets: set[tuple[str, str]] = field(default_factory=set)

    async def compose(self, bug: Bug) -> Composed:
        package = self.package
        seed = random.Random(f"{self.seed}|{bug.key}").randrange(1 << 30)
        with self.summary.timed("wrong candidates"):
            candidates = await self._candidates(bug, seed)
        instance = Instance(
            instance_id=f"{package.origin}__{package.name}-{package.version}.{bug.operator}.{bug.key}",
            environment_id=self.environment.environment_id,
            tree=self.desk.tree,
            bug=bug.overlay,
            fail_to_pass=tuple(sorted(bug.failing)),
            pass_to_pass=tuple(sorted(bug.passing)),
            target_path=bug.mutations[0].path,
            target_symbol=bug.mutations[0].site.symbol,
            candidates=candidates,
        )
        told = "\n".join(map(self._instruction, bug.mutations))
        with self.summary.timed("texts"):
            texts = Texts(await self._issue(bug, seed), told, contract="")
        skills = {*SKILLS, *COMPOSITE_KINDS} - {"unit_tests"}
        if self._why_not_localization(instance):
            skills.discard("localization")
        if not instance.candidates:
            skills.discard("review")
        composed = Composed(instance, texts, frozenset(), frozenset(skills))
        if not await self._proves(composed, "reproduction"):
            composed = replace(composed, skills=composed.skills - {"reproduction"})
        return await self._with_target(composed, bug)

    def derive(self, writer: TaskSetWriter, composed: Composed, skills: Collection[str] | None = None) -> None:
        """Adds the tasks. Raises ValueError when a text quotes the gold change."""
        derive(
            writer,
            composed.instance,
            self.package.files,
            composed.texts,
            environment=self.environment,
            repository=self.package.repository,
            family=self.package.name,
            split=self.entry.split,
            level=self.entry.level,
            target_tests=composed.killers,
            skills=composed.skills if skills is None else skills,
        )

    def note(self, composed: Composed) -> None:
        """Counts what became of an instance that was kept."""
        if "unit_tests" in composed.skills:
            self._used_targets.add((composed.instance.target_path, composed.instance.target_symbol))
            self.summary.mutants += len(composed.instance.mutants)
        reasons = {
            "localization": self._why_not_localization(composed.instance),
            "review": "no proven wrong candidate",
            "unit_tests": "no unused function whose gold tests score",
            "reproduction": "gold tests do not score",
        }
        for skill, reason in reasons.items():
            if skill not in composed.skills:
                self.summary.leave_out(skill, reason)

    def _why_not_localization(self, instance: Instance) -> str:
        # Where no bug can be planted there is nothing to suspect: a version file, a list of imports.
        return why_not_localization(instance.bug, self.planter.mutable)

    async def _proves(self, composed: Composed, skill: str) -> bool:
        """Whether the skill's gold submission scores; where a text quotes the gold change, that is told later."""
        writer = TaskSetWriter("draft")
        try:
            self.derive(writer, composed, {skill})
        except ValueError:
            return True
        with self.summary.timed("gold submissions"):
            return await self.desk.gold_is_best(writer)

    async def _with_target(self, composed: Composed, bug: Bug) -> Composed:
        """Adds a function to write tests for: the bug's own if no instance has it yet, and its gold tests score."""
        tried = 0
        for function in [bug.mutations[0].function, *self.planter.functions()]:
            if function in self._used_targets or tried == MAX_TARGETS_TRIED:
                continue
            with self.summary.timed("mutants"):
                killed = await self.planter.killed(function, besides=bug)
            if len(killed) < MIN_MUTANTS:
                continue
            tried += 1
            path, symbol = function
            instance = replace(
                composed.instance,
                target_path=path,
                target_symbol=symbol,
                mutants=tuple(m.overlay for m, _ in killed),
            )
            with self.summary.timed("texts"):
                texts = replace(composed.texts, contract=await self._contract(path, symbol))
            with_target = Composed(
                instance,
                texts,
                frozenset().union(*(tests for _, tests in killed)),
                composed.skills | {"unit_tests"},
            )
            if await self._proves(with_target, "unit_tests"):
                return with_target
            # It would fail again.
            self._used_targets.add(function)
        return composed

    def _instruction(self, mutation: Mutation) -> str:
        path, site = mutation.path, mutation.site
        return instruction(path, site.symbol, buggy_lines(site), site.intent, self.planter.sources[path])

    async def _candidates(self, bug: Bug, seed: int) -> tuple[Candidate, ...]:
        """The gold change, and a wrong one of the same files and size and, where possible, at the same place."""
        *_, last = bug.mutations
        original = self.planter.sources[last.path]
        for other in self.planter.near(last)[:MAX_CANDIDATES_TRIED]:
            if distance(other.site, last.site) <= ONE_HUNK_LINES:
                text, verdict = other.text, await self.planter.prove(other)
            else:
                # A repair of the wrong place. Together with gold it would be two hunks against gold's one.
                text = together(original, last.site, other.site)
                verdict = await self.planter.try_text(last.path, text)
            if verdict.failing and text != last.text:
                gold = gold_overlay(bug.overlay, self.package.files)
                pair = [Candidate(gold, True), Candidate({**gold, last.path: text}, False)]
                random.Random(seed).shuffle(pair)
                return tuple(pair)
        return ()

    async def _issue(self, bug: Bug, seed: int) -> str:
        """One report for each mutation."""
        reports = []
        for mutation, failing in zip(bug.mutations, bug.failing_alone, strict=True):
            calls = [c for c in self.calls if c.tests & failing][:MAX_CALLS]
            found, said = await self.observer.symptoms(mutation.overlay, calls, failing)
            if not found:
                self.summary.leave_out("example in the issue", "neither a call nor an assertion can be quoted")
            name = mutation.site.symbol.rpartition(".")[2]
            reports.append(issue(self.package.name, name, found, dict.fromkeys(failing, "") | said, seed))
        return "\n\nAnd a second report:\n\n".join(reports)

    async def _contract(self, path: str, symbol: str) -> str:
        calls = [c for c in self.calls if c.symbol == symbol][:20]
        examples: list[tuple[Call, Answer]] = []
        if calls:
            examples = list(zip(calls, await self.observer.answers({}, calls), strict=True))
        return contract(self.planter.sources[path], symbol, examples)
