"""A generated repository with its bug, and the proof of everything it claims."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sandbox_service.tasks import (
    Candidate,
    Environment,
    Instance,
    Overlay,
    TaskSetWriter,
    apply_overlay,
    gold_overlay,
    pack_tree,
)
from skillrl.tasks.derive import Texts, changed_lines, derive
from skillrl.tasks.world.prove import Failure, Suite

ENVIRONMENT = Environment(environment_id="world", packages=(), source_roots=(".",), test_roots=("tests",))
MAX_MUTANTS = 16


class Unproven(Exception):
    """A draft whose claims do not hold; the generator draws another."""


@dataclass(frozen=True)
class Call:
    """A call of a public function, as Python source, and the value it must give."""

    source: str
    value: str
    # Lines that make the objects it needs.
    setup: tuple[str, ...] = ()

    @property
    def check(self) -> str:
        return f"assert {self.source} == {self.value}"

    @property
    def lines(self) -> tuple[str, ...]:
        return (*self.setup, self.check)


@dataclass(frozen=True)
class Edit:
    """Replaces text that occurs exactly once in a file."""

    path: str
    old: str
    new: str


def edit_between(path: str, before: str, after: str) -> Edit:
    """The smallest block of whole lines that turns one text into the other and occurs once in `before`."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    while True:
        block = "".join(old[head : len(old) - tail])
        if block and before.count(block) == 1 and before.startswith(block, len("".join(old[:head]))):
            return Edit(path, block, "".join(new[head : len(new) - tail]))
        if head:
            head -= 1
        else:
            tail -= 1


@dataclass(frozen=True)
class Solution:
    """What solves the tasks of an instance. For scripted agents and warm starts; never part of a task set."""

    # On the buggy tree: the fix, whole lines each.
    edits: tuple[Edit, ...]
    # The calls that the issue names: the last is right on the buggy tree, the others are wrong.
    issue_calls: tuple[Call, ...]
    # Calls of the target that together kill every mutant.
    target_calls: tuple[Call, ...]
    # The two submitted files.
    unit_tests: str
    reproduction: str


@dataclass(frozen=True)
class GeneratedInstance:
    instance: Instance
    # The correct tree, all tests included.
    files: Mapping[str, bytes]
    texts: Texts
    repository: str
    family: str
    split: str
    level: int
    # Tests that fail on at least one mutant.
    target_tests: tuple[str, ...]
    solution: Solution

    def add_to(self, writer: TaskSetWriter) -> None:
        derive(
            writer,
            self.instance,
            self.files,
            self.texts,
            environment=ENVIRONMENT,
            repository=self.repository,
            family=self.family,
            split=self.split,
            level=self.level,
            target_tests=self.target_tests,
        )


@dataclass(frozen=True)
class Draft:
    """What a level's generator claims; `prove` makes an instance of it or raises Unproven."""

    repository: str
    family: str
    files: Mapping[str, bytes]
    # On the correct tree: plants the bug.
    bug: Overlay
    # On the correct tree, one each.
    mutants: Sequence[Overlay]
    # On the buggy tree: a plausible change that does not solve the issue.
    wrong_fix: Overlay
    target_path: str
    target_symbol: str
    texts: Texts
    issue_calls: tuple[Call, ...]
    target_calls: tuple[Call, ...]
    # Import lines for the issue's and the target's calls.
    issue_import: str
    target_import: str


def prove(draft: Draft, instance_id: str, *, split: str, level: int) -> GeneratedInstance:
    """Runs the suite on the correct tree, the bug, every mutant and the wrong fix. Raises Unproven.

    Mutants that the suite does not kill are left out.
    """
    files = draft.files
    # Bodies without loops cannot run away; tracing costs an order of magnitude.
    limited = level > 0
    gold = Suite(files, limited=limited).results()
    if not all(gold.values()):
        raise Unproven(f"fails on the correct tree: {[t for t, ok in gold.items() if not ok]}")
    bug = draft.bug
    buggy_files = apply_overlay(files, bug)
    fixed = gold_overlay(bug, files)
    buggy = Suite(files, bug, limited=limited)
    failing = {t: why for t, why in buggy.outcomes().items() if why}
    if any(why.runaway for why in failing.values()):
        raise Unproven("a test runs away on the bug")
    symptoms = {why.kind for why in failing.values() if why.right}
    if not symptoms or len(failing) * 2 > len(gold):
        raise Unproven(f"{len(failing)} of {len(gold)} tests fail on the bug")
    killed, target_tests = _killed(draft, limited)
    if len(killed) < (3 if level < 2 else 2):
        raise Unproven(f"{len(killed)} mutants are killed")
    wrong = draft.wrong_fix
    wrong_files = apply_overlay(buggy_files, wrong)
    if all(Suite(wrong_files, limited=limited).results().values()):
        raise Unproven("the wrong fix passes the suite")
    _check_texts(draft, buggy_files, fixed)
    _check_issue(draft, symptoms, buggy, Suite(files, limited=limited))
    # Which candidate comes first must not depend on its label.
    candidates = [Candidate(fixed, True), Candidate(wrong, False)]
    if hashlib.sha256(instance_id.encode()).digest()[0] % 2:
        candidates.reverse()
    instance = Instance(
        instance_id=instance_id,
        environment_id=ENVIRONMENT.environment_id,
        tree=hashlib.sha256(pack_tree(files)).hexdigest(),
        bug=bug,
        fail_to_pass=tuple(sorted(failing)),
        pass_to_pass=tuple(sorted(gold.keys() - failing)),
        target_path=draft.target_path,
        target_symbol=draft.target_symbol,
        mutants=tuple(killed),
        candidates=tuple(candidates),
    )
    return GeneratedInstance(
        instance=instance,
        files=files,
        texts=draft.texts,
        repository=draft.repository,
        family=draft.family,
        split=split,
        level=level,
        target_tests=tuple(sorted(target_tests)),
        solution=Solution(
            edits=tuple(edit_between(path, bug[path], text) for path, text in sorted(fixed.items())),
            issue_calls=draft.issue_calls,
            target_calls=draft.target_calls,
            unit_tests=submission(draft.target_import, draft.target_symbol, draft.target_calls),
            reproduction=submission(draft.issue_import, "reproduction", draft.issue_calls),
        ),
    )


def _killed(draft: Draft, limited: bool) -> tuple[list[Overlay], set[str]]:
    """The mutants that both the suite and the target's calls kill, and the tests that fail on one of them."""
    killed, tests = [], set()
    for overlay in draft.mutants[:MAX_MUTANTS]:
        suite = Suite(draft.files, overlay, limited=limited)
        failing = {t: why for t, why in suite.outcomes().items() if why}
        told = _failure(suite, draft.target_import, draft.target_calls)
        runaway = any(why.runaway for why in failing.values())
        if told and told.right and any(why.right for why in failing.values()) and not runaway:
            killed.append(overlay)
            tests |= failing.keys()
    return killed, tests


def _check_texts(draft: Draft, buggy_files: Mapping[str, bytes], fixed: Overlay) -> None:
    for line in changed_lines(buggy_files, fixed):
        if any(line in text for text in (draft.texts.issue, draft.texts.instruction, draft.texts.contract)):
            raise Unproven(f"a text quotes the gold change {line!r}")


def _check_issue(draft: Draft, symptoms: set[str], buggy: Suite, correct: Suite) -> None:
    """All calls hold on the correct tree; on the buggy one all but the last fail, as the suite's tests do."""
    if _failure(correct, draft.issue_import, draft.issue_calls):
        raise Unproven("a call of the issue is wrong on the correct tree")
    *wrong, right = draft.issue_calls
    for call in wrong:
        failure = _failure(buggy, draft.issue_import, [call])
        if not failure or not failure.right or failure.kind not in symptoms | {AssertionError.__name__}:
            raise Unproven(f"{call.source} does not show the bug")
    if _failure(buggy, draft.issue_import, [right]):
        raise Unproven(f"{right.source} should be right on the bug")


def _failure(suite: Suite, import_line: str, calls: Sequence[Call]) -> Failure | None:
    return suite.failure([import_line, *(line for call in calls for line in call.lines)])


def submission(import_line: str, name: str, calls: Sequence[Call]) -> str:
    """A test file with one test of these calls."""
    lines = [
        import_line,
        "",
        "",
        f"def test_{name.replace('.', '_').lower()}():",
        *(f"    {x}" for c in calls for x in c.lines),
    ]
    return "\n".join(lines) + "\n"
