"""A package -> a proven task set: the steps in order."""

import asyncio
import contextlib
import functools
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from sandbox_service.tasks import Environment, TaskSetWriter, read_task_set
from skillrl.tasks.build.baseline import Baseline, Suite
from skillrl.tasks.build.compose import Composer, Desk
from skillrl.tasks.build.diagnose import UnbuiltError
from skillrl.tasks.build.ledger import Ledger
from skillrl.tasks.build.manifest import Entry, built_from
from skillrl.tasks.build.observe import Observer
from skillrl.tasks.build.plant import Bug, Planter
from skillrl.tasks.build.refactor import Refactorer
from skillrl.tasks.build.requirements import Declared, declared
from skillrl.tasks.build.resolve import Pins, pinned
from skillrl.tasks.build.summary import Summary
from skillrl.tasks.build.tree import BuildError, Package, find_source_files, find_source_roots, find_test_roots
from skillrl.tasks.build.wheel import build_wheel, made_by_build
from skillrl.tasks.copies import copies
from skillrl.tasks.derive import submission_path
from skillrl.tasks.hiding import reaching_tests
from skillrl.tasks.proving import ProvingGround


class Builder:
    """Builds the tasks of one package into a writer."""

    def __init__(self, package: Package, ground: ProvingGround, entry: Entry, *, seed: int = 0, jobs: int = 2):
        self._package, self._ground, self._entry, self._seed, self._jobs = package, ground, entry, seed, jobs
        self._writer = TaskSetWriter(f"{package.origin}-{package.name}-{package.version}")
        # Files of the tree that are not the repository's own.
        self._made: dict[str, bytes] = {}
        about = {"name": package.name, "version": package.version, "sha256": package.sha256, "licence": package.licence}
        self.summary = Summary(about, package.stripped)

    async def build(
        self, out: Path, ledger: Path, progress: Callable[[str, int], None] = lambda step, done: None
    ) -> None:
        """Writes the task set to `out`. `progress` gets the step and the instances made.

        What is proven goes to the file `ledger`; a build with the same file does not prove it again.
        """
        environment = self._environment()
        wanted = declared(self._package) if self._entry.packages is None else Declared()
        subject = [TaskSetWriter("draft").add_tree(self._package.files), asdict(environment), asdict(wanted)]
        with tempfile.TemporaryDirectory() as folder, contextlib.closing(Ledger(ledger, subject)) as proven:
            progress("finding what it needs", 0)
            with self.summary.timed("requirements"):
                pins = await self._pins(wanted, proven)
            environment = replace(environment, packages=pins.packages)
            await self._check_packages(environment)
            progress("running the suite on the correct tree", 0)
            with self.summary.timed("baseline"), _telling(pins):
                suite, baseline = await self._baseline(environment, Path(folder), proven)
            task_set, tree = suite.task_set, suite.tree
            observer = Observer(self._ground.backend, self._ground.trees, task_set, tree, environment)
            # Whole minutes: a loaded host needs them, and the same package gives the same bytes on any host.
            environment = replace(environment, timeout_s=60.0 * math.ceil(8 * baseline.wall_s / 60))
            self._note_baseline(baseline)
            tests_of = functools.partial(self._tests_of, baseline, environment)
            self._planter = Planter(suite, baseline, self._sources(), tests_of, self._seed, jobs=self._jobs)
            progress("recording calls", 0)
            with self.summary.timed("calls"):
                calls = await observer.calls()
            self._composer = Composer(
                self._package, self._entry, self._seed, environment, self._planter, observer, calls, self.summary,
                Desk(self._ground.runner, task_set, tree, proven),
            )  # fmt: skip
            await self._fill(progress)
            progress("refactorings", self.summary.instances)
            with self.summary.timed("refactorings"):
                refactorer = Refactorer(self._package, self._entry, self._seed, suite, baseline, environment)
                await refactorer.fill(self._writer, self._sources(), self._ground.runner, proven, self.summary)
        self._note_result(suite)
        self._writer.write(out, summary=vars(self.summary), built_from=built_from(self._entry, self._seed))

    async def _pins(self, wanted: Declared, proven: Ledger) -> Pins:
        """What the entry names, else what its files declare."""
        pins = Pins(self._entry.packages or (), {})
        if self._entry.packages is None:
            pins = await pinned(wanted, self._package.name, proven)
        self.summary.requirements = {"packages": pins.packages, "unmet": pins.unmet, "no_use": wanted.no_use}
        return pins

    async def _baseline(self, environment: Environment, folder: Path, proven: Ledger) -> tuple[Suite, Baseline]:
        """The suite, and what it does on the correct tree; what only a build makes is added where it must be."""
        if made := proven.get("made"):
            self._take_in(made)
        suite = self._suite(environment, folder / "first", proven)
        try:
            return suite, await suite.baseline()
        except UnbuiltError as fault:
            if made:
                raise
            made = await asyncio.to_thread(self._build, fault)
        proven.put("made", made)
        self._take_in(made)
        suite = self._suite(environment, folder / "second", proven)
        return suite, await suite.baseline()

    def _build(self, fault: UnbuiltError) -> dict[str, str]:
        try:
            wheel = build_wheel(self._package, Path(self._entry.repo) if self._entry.repo else None)
            return made_by_build(wheel, self._package.files)
        except BuildError as e:
            raise BuildError(f"{fault}\n{e}") from e

    def _take_in(self, made: Mapping[str, str]) -> None:
        self._made = {path: text.encode() for path, text in made.items()}
        self._package = replace(self._package, files={**self._package.files, **self._made})
        self.summary.notes.append(f"made by a build of the package: {', '.join(sorted(made))}")

    def _suite(self, environment: Environment, folder: Path, proven: Ledger) -> Suite:
        draft = TaskSetWriter("draft", environments={environment.environment_id: environment})
        tree = draft.add_tree(self._package.files)
        draft.write(folder)
        return Suite(self._ground.runner, read_task_set(folder), tree, environment, proven, self._package.name)

    async def _fill(self, progress: Callable[[str, int], None]) -> None:
        made = 0
        progress("planting bugs", made)
        bugs = self._planter.bugs()
        while made < self._entry.instances:
            with self.summary.timed("bugs"):
                bug = await anext(bugs, None)
            if bug is None:
                break
            if reason := await self._add(bug):
                self.summary.leave_out("instance", reason)
                continue
            self.summary.operators[bug.operator] += 1
            made += 1
            progress("planting bugs", made)
        if not made:
            raise BuildError(
                f"{self._package.requirement}: no usable bug among {sum(self._planter.tally.values())} mutations "
                f"({dict(self._planter.tally)}); take a package with a stricter suite"
            )
        self.summary.instances = made

    async def _add(self, bug: Bug) -> str:
        """Writes the tasks of one bug. Returns why not; empty when it worked."""
        composed = await self._composer.compose(bug)
        before = len(self._writer.instances), len(self._writer.public)
        try:
            with self.summary.timed("records"):
                self._composer.derive(self._writer, composed)
        except ValueError as e:
            del self._writer.instances[before[0] :], self._writer.public[before[1] :], self._writer.tasks[before[1] :]
            return "a text quotes the gold change" if "quotes" in str(e) else str(e)
        self._composer.note(composed)
        return ""

    def _tests_of(self, baseline: Baseline, environment: Environment, symbol: str) -> list[str]:
        """The files whose tests use the symbol; none where a class of another file runs such a test."""
        reaching = reaching_tests(self._package.files, environment.test_roots, symbol)
        paths = {test_id.partition("::")[0] for test_id in reaching}
        return sorted(paths) if paths <= {i.partition("::")[0] for i in baseline.stable} else []

    def _environment(self) -> Environment:
        tests = find_test_roots(self._package.files)
        if not tests:
            raise BuildError(f"{self._package.requirement} ships no tests; take another package or another version")
        # Submitted test files lie there, and are tests too.
        submitted = submission_path("unit_tests", tests).rpartition("/")[0]
        return Environment(
            environment_id=f"{self._package.origin}:{self._package.requirement}",
            packages=self._entry.packages or (),
            source_roots=find_source_roots(self._package.files),
            test_roots=tests if submitted in tests else (*tests, submitted),
            timeout_s=300.0,
            licence=self._package.licence,
        )

    async def _check_packages(self, environment: Environment) -> None:
        """Raises BuildError when what the tests need brings the package itself, where the agent could read it."""
        packages = await self._ground.trees.packages_dir(environment.packages)
        if found := copies(packages, self._package.files, environment):
            named = ", ".join(environment.packages) or "the test runner"
            raise BuildError(
                f"{self._package.requirement}: beside the agent, in what is installed for its tests ({named}), stand "
                f"{len(found)} files of its own code, first {found[0]}; take the requirement that brings it out, or "
                "take another package"
            )

    def _sources(self) -> dict[str, str]:
        paths = find_source_files(self._package.files, self._environment().test_roots)
        paths = [path for path in paths if path not in self._made]
        if not paths:
            raise BuildError(f"{self._package.requirement}: no Python package found in it; take another one")
        return {path: self._package.files[path].decode() for path in paths}

    def _note_baseline(self, baseline: Baseline) -> None:
        self.summary.operators = Counter()
        self.summary.baseline = {
            "tests": len(baseline.stable),
            "dropped": dict(baseline.dropped),
            "suite_s": round(baseline.wall_s, 2),
        }

    def _note_result(self, suite: Suite) -> None:
        self.summary.suite_runs = suite.runs
        self.summary.mutations = dict(self._planter.tally)
        self.summary.tasks = dict(sorted(Counter(row["skill"] for row in self._writer.public).items()))


@contextlib.contextmanager
def _telling(pins: Pins):
    """Adds to a BuildError what was installed and what could not be."""
    try:
        yield
    except BuildError as fault:
        told = [f"{requirement} was not installed: {reason}" for requirement, reason in pins.unmet.items()]
        told += [f"installed were --packages={','.join(pins.packages)}"] if pins.packages else []
        raise BuildError("\n- ".join([str(fault).rstrip("\n"), *told])) from fault
