"""One instance -> tasks for the five skills and bug fixing. Pure but for the writer that collects the records."""

import difflib
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sandbox_service.tasks import (
    Environment,
    HiddenTask,
    Instance,
    Overlay,
    TaskSetWriter,
    apply_overlay,
    gold_overlay,
)
from skillrl.tasks.hiding import reaching_tests, split_lines, without_tests
from skillrl.types import COMPOSITE_KINDS, SKILLS

CANDIDATE_PATH = "candidate.diff"

MAX_TRUTH_FILES = 5

# Lines that say nothing about a fix, whoever writes them.
_BARE_LINES = {"return None", "return True", "return False", "continue"}


@dataclass(frozen=True)
class Texts:
    """What people wrote about an instance. None of it may quote the gold change."""

    # The symptom, never the place.
    issue: str
    # File, symbol and, in words, what must hold.
    instruction: str
    # What the target symbol promises.
    contract: str


def derive(
    writer: TaskSetWriter,
    instance: Instance,
    files: Mapping[str, bytes],
    texts: Texts,
    *,
    environment: Environment,
    repository: str,
    family: str,
    split: str,
    level: int,
    target_tests: Collection[str] = (),
    skills: Collection[str] = SKILLS + COMPOSITE_KINDS,
) -> None:
    """Adds the instance and its tasks (review twice: one correct and one wrong candidate) to `writer`.

    `files` is the correct tree with all tests. `target_tests` are ids of tests known to reach the target (those that
    kill a mutant); tests that use its name and the fail-to-pass tests are found here. `skills` leaves skills out.

    Raises ValueError when the tree is not the instance's, the review pair is incomplete, there is no mutant, or a
    text quotes the gold change.
    """
    if writer.add_tree(files) != instance.tree:
        raise ValueError(f"{instance.instance_id}: files are not the instance's tree")
    writer.environments[environment.environment_id] = environment
    writer.instances.append(instance)

    buggy = {**instance.bug, **without_tests(files, instance.fail_to_pass)}
    issue = {"issue": texts.issue}
    reproduction_path = submission_path("reproduction", environment.test_roots)
    # Per task: skill, variant, inputs, visible, the rest of the hidden half.
    rows = [
        ("localization", "", issue, buggy, {}),
        ("editing", "", {"instruction": texts.instruction}, buggy, {}),
        ("unit_tests", "", *_unit_tests(instance, files, texts, environment, target_tests)),
        (
            "reproduction",
            "",
            {**issue, "submission_path": reproduction_path},
            buggy,
            {"submission_path": reproduction_path},
        ),
        ("bug_fixing", "", issue, buggy, {}),
    ]
    if "review" in skills:
        rows += _reviews(instance, files, issue, buggy)
    if "unit_tests" in skills and not instance.mutants:
        raise ValueError(f"{instance.instance_id}: unit_tests needs a mutant; leave the skill out")
    gold_lines = changed_lines(apply_overlay(files, instance.bug), gold_overlay(instance.bug, files))
    made = []
    for skill, variant, inputs, visible, extra in rows:
        if skill not in skills:
            continue
        _check_no_leak(instance, skill, inputs, gold_lines)
        task_id = make_task_id(instance.instance_id, skill, variant)
        public = {
            "task_id": task_id,
            "skill": skill,
            "instance_id": instance.instance_id,
            "repository": repository,
            "family": family,
            "split": split,
            "level": level,
            "inputs": dict(inputs),
        }
        made.append((public, HiddenTask(task_id, skill, instance.instance_id, visible, **extra)))
    # By id, a hash: which review of a pair comes first says nothing about its label.
    for public, hidden in sorted(made, key=lambda pair: pair[0]["task_id"]):
        writer.public.append(public)
        writer.tasks.append(hidden)


def why_not_localization(truth: Collection[str], choices: Collection[str] | None) -> str:
    """Why an instance gives no localization task; empty when it does.

    `truth` are the source files that its gold change touches, `choices` the source files of its repository where these
    are known: with no other one of the kind there is nothing to find.
    """
    if not 1 <= len(truth) <= MAX_TRUTH_FILES:
        return f"no or more than {MAX_TRUTH_FILES} source files"
    kinds = {p.rpartition(".")[2] for p in truth}
    others = [p for p in choices or () if p.rpartition(".")[2] in kinds and p not in truth]
    alone = choices is not None and all(p.endswith("__init__.py") for p in others)
    return "its repository has no other source file" if alone else ""


def _unit_tests(instance, files, texts, environment, target_tests):
    named = reaching_tests(files, environment.test_roots, instance.target_symbol)
    removed = {*named, *target_tests, *instance.fail_to_pass}
    path = submission_path("unit_tests", environment.test_roots)
    inputs = {
        "target": f"{instance.target_path}::{instance.target_symbol}",
        "contract": texts.contract,
        "submission_path": path,
    }
    return inputs, without_tests(files, removed), {"submission_path": path}


def submission_path(skill: str, test_roots: Sequence[str]) -> str:
    """Where tests of `unit_tests` and `reproduction` are handed in: among the project's own, whose helpers they use."""
    folders = [root for root in test_roots if "/" not in root and not root.endswith(".py") and root != "."]
    folder = "tests" if "tests" in folders or not folders else folders[0]
    return f"{folder}/test_{'submission' if skill == 'unit_tests' else 'reproduction'}.py"


def _reviews(instance, files, issue, buggy):
    if sorted(c.correct for c in instance.candidates) != [False, True]:
        raise ValueError(f"{instance.instance_id}: review needs one correct and one wrong candidate")
    before = apply_overlay(files, instance.bug)
    for index, candidate in enumerate(instance.candidates):
        diff = unified_diff(before, candidate.overlay)
        yield (
            "review",
            str(index),
            {**issue, "diff": diff},
            {**buggy, CANDIDATE_PATH: diff},
            {"candidate": index},
        )


def make_task_id(instance_id: str, skill: str, variant: str) -> str:
    return hashlib.sha256(f"{instance_id}|{skill}|{variant}".encode()).hexdigest()[:16]


def _check_no_leak(instance: Instance, skill: str, inputs: Mapping[str, str], gold_lines: Iterable[str]) -> None:
    for name, text in inputs.items():
        if name == "diff":
            continue
        for line in gold_lines:
            if line in text:
                raise ValueError(f"{instance.instance_id}: {name} of {skill} quotes the gold change {line!r}")


def changed_lines(before: Mapping[str, bytes], overlay: Overlay) -> set[str]:
    """Stripped lines that `overlay` adds to `before`, without those that carry no content."""
    lines = set()
    for path, text in overlay.items():
        old = before.get(path, b"").decode().splitlines()
        for line in difflib.ndiff(old, (text or "").splitlines()):
            if line.startswith("+ "):
                lines.add(line[2:].strip())
    return {line for line in lines if len(line) >= 8 and line not in _BARE_LINES}


def unified_diff(before: Mapping[str, bytes], overlay: Overlay) -> str:
    """The overlay as a diff that `patch -p1` applies to `before`."""
    return "".join(_file_diff(path, before.get(path), overlay[path]) for path in sorted(overlay))


def _file_diff(path: str, old: bytes | None, new: str | None) -> str:
    lines = difflib.unified_diff(
        split_lines((old or b"").decode()),
        split_lines(new or ""),
        "/dev/null" if old is None else f"a/{path}",
        "/dev/null" if new is None else f"b/{path}",
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
