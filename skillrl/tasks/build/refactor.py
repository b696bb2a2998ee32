"""Refactorings of the package's own code: a function or class to be renamed everywhere, proven by its own tests.

The package as it is is what the agent gets; the finished work, tests included, is made by `skillrl.tasks.rename`.
"""

import asyncio
import functools
import hashlib
import json
import random
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sandbox_service.graders.base import TaskFault
from sandbox_service.graders.paths import is_source
from sandbox_service.graders.refactoring import imported_path, structure
from sandbox_service.runner import Runner
from sandbox_service.tasks import (
    Environment,
    HiddenTask,
    Instance,
    TaskSetWriter,
    apply_overlay,
    read_task_set,
)
from skillrl.tasks.build.baseline import Baseline, Suite
from skillrl.tasks.build.compose import Desk
from skillrl.tasks.build.ledger import Ledger
from skillrl.tasks.build.manifest import Entry
from skillrl.tasks.build.summary import Summary
from skillrl.tasks.build.tree import Package
from skillrl.tasks.derive import make_task_id
from skillrl.tasks.rename import Symbol, Unresolved, new_name, renamed, symbols
from skillrl.tasks.suites.refactoring_names import half_renamed

KIND = "refactoring"
# Symbols tried in the sandbox for each task that is wanted.
MAX_TRIED = 4


class Unfit(Exception):
    """A renaming that gives no task; the text says why, the same for all names alike."""


@dataclass(frozen=True)
class Renaming:
    """One symbol's new name, and the repository with it."""

    symbol: Symbol
    new: str
    finished: Mapping[str, bytes]
    # The changed files as they are before: those that the agent is to change, and tests and the like.
    sources: Mapping[str, str]
    others: Mapping[str, str]


class Refactorer:
    """Makes and proves the refactorings of one package."""

    def __init__(
        self, package: Package, entry: Entry, seed: int, suite: Suite, baseline: Baseline, environment: Environment
    ):
        self._package, self._entry, self._seed = package, entry, seed
        self._suite, self._baseline, self._environment = suite, baseline, environment

    async def fill(
        self, writer: TaskSetWriter, sources: Mapping[str, str], runner: Runner, ledger: Ledger, summary: Summary
    ) -> None:
        """Adds up to `entry.refactorings` tasks, and counts why others are left out. `sources` are the modules."""
        made, tried = 0, 0
        found = symbols(sources)
        random.Random(f"{self._seed}|{KIND}").shuffle(found)
        for symbol in found:
            if made == self._entry.refactorings or tried == MAX_TRIED * self._entry.refactorings:
                break
            try:
                renaming = await asyncio.to_thread(self._written, symbol)
                tried += 1
                await self._add(renaming, writer, runner, ledger)
                made += 1
            except (Unresolved, Unfit) as e:
                summary.leave_out(KIND, str(e))

    @functools.cached_property
    def _texts(self) -> dict[str, str]:
        """Of the files that are text."""
        found = {}
        for path, data in self._package.files.items():
            try:
                found[path] = data.decode()
            except UnicodeDecodeError:
                continue
        return found

    def _written(self, symbol: Symbol) -> Renaming:
        """The finished work, of which the structure's rule holds. Raises Unresolved or Unfit."""
        new = new_name(symbol, self._texts, self._environment.source_roots)
        changes = renamed(self._texts, symbol, new, self._environment.source_roots)
        before = {path: self._texts[path] for path in changes}
        sources = {path: text for path, text in before.items() if is_source(path, self._environment)}
        others = {path: text for path, text in before.items() if path not in sources}
        if not others:
            raise Unfit("no test has the name")
        renaming = Renaming(symbol, new, apply_overlay(self._package.files, changes), sources, others)
        self._check_structure(renaming)
        return renaming

    def _check_structure(self, renaming: Renaming) -> None:
        """Raises Unfit unless the rule holds of gold alone."""
        instance = self._instance(renaming)
        gold = {path: renaming.finished[path].decode() for path in renaming.sources}
        names = renaming.symbol.path, renaming.symbol.name, renaming.new
        held = []
        for overlay in (gold, {}, *half_renamed(gold, renaming.sources, *names).values()):
            changed = {path: text.encode() for path, text in overlay.items()}
            try:
                found = structure(instance, self._environment, changed, renaming.finished)
            except TaskFault as e:
                raise Unfit(f"the structure cannot be read: {e.__cause__}") from e
            held.append(not any(found.values()))
        if not held[0]:
            raise Unfit("the rule does not hold of the finished work")
        if any(held[1:]):
            raise Unfit("the rule holds of unfinished work")

    async def _add(self, renaming: Renaming, writer: TaskSetWriter, runner: Runner, ledger: Ledger) -> None:
        """Proves the renaming by the suite, then its task by its grader. Raises Unfit."""
        # Cases of a parametrized test may be called by the name.
        stable = frozenset(renamed_id(i, renaming.symbol.name, renaming.new) for i in self._baseline.stable)
        tests = {path: renaming.finished[path].decode() for path in renaming.others}
        done = tests | {path: renaming.finished[path].decode() for path in renaming.sources}
        if await self._suite.passing(done, stable) != stable:
            raise Unfit("a test fails with the new name")
        passing = await self._suite.passing(tests, stable)
        if passing == stable:
            raise Unfit("no test fails with the old name")
        instance = self._instance(renaming, tuple(sorted(stable - passing)), tuple(sorted(passing)))
        draft = TaskSetWriter("draft")
        self._write(draft, renaming, instance)
        with tempfile.TemporaryDirectory() as folder:
            draft.write(Path(folder))
            desk = Desk(runner, read_task_set(Path(folder)), draft.instances[0].tree, ledger)
            if not await desk.gold_is_best(draft):
                raise Unfit("the finished work does not score")
        self._write(writer, renaming, instance)

    def _write(self, writer: TaskSetWriter, renaming: Renaming, instance: Instance) -> None:
        symbol, visible = renaming.symbol, {**renaming.sources, **renaming.others}
        kind = "class" if symbol.name[0].isupper() else "function"
        instruction = (
            f"Rename the {kind} {symbol.name} of {symbol.path} to {renaming.new} in all Python files of the source: "
            "where it is defined, imported, exported, used and mentioned, documentation in them included. Change "
            "nothing else; the old name must be gone from the source. Hidden tests use the new name in place of the "
            "old one. Write plain imports and definitions: nothing may make or look up names while the program runs."
        )
        task_id = make_task_id(instance.instance_id, KIND, "")
        writer.environments[self._environment.environment_id] = self._environment
        writer.instances.append(replace(instance, tree=writer.add_tree(renaming.finished)))
        writer.tasks.append(HiddenTask(task_id, KIND, instance.instance_id, visible))
        writer.public.append(
            {
                "task_id": task_id,
                "skill": KIND,
                "instance_id": instance.instance_id,
                "repository": self._package.repository,
                "family": self._package.name,
                "split": self._entry.split,
                "level": self._entry.level,
                "inputs": {"instruction": instruction},
            }
        )

    def _instance(self, renaming: Renaming, failing: tuple[str, ...] = (), passing: tuple[str, ...] = ()) -> Instance:
        old, path = renaming.symbol.name, renaming.symbol.path
        rule = {"old": old, "new": renaming.new, "path": imported_path(path, self._environment)}
        key = hashlib.sha256(f"{path}|{old}".encode()).hexdigest()[:8]
        return Instance(
            instance_id=f"{self._package.origin}__{self._package.name}-{self._package.version}.rename_symbol.{key}",
            environment_id=self._environment.environment_id,
            tree="",
            bug=renaming.sources,
            fail_to_pass=failing,
            pass_to_pass=passing,
            target_path="",
            target_symbol="",
            expected={"renamed": json.dumps(rule, sort_keys=True)},
        )


def renamed_id(test_id: str, old: str, new: str) -> str:
    """The id of the same test after the renaming."""
    path, joint, name = test_id.partition("::")
    return path + joint + re.sub(rf"\b{re.escape(old)}\b", new, name)
