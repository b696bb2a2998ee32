"""Submissions that no agent makes: gold, null and those of policies that know nothing; and the search for leaks.

Pure functions of the full records, hidden half included.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sandbox_service.graders.base import Submission
from sandbox_service.tasks import Environment, HiddenTask, Instance, apply_overlay, gold_overlay
from skillrl.tasks.derive import CANDIDATE_PATH, changed_lines
from skillrl.tasks.hiding import definitions, names_of_tests, without_tests
from skillrl.tasks.joining import joined
from skillrl.tasks.suites import KINDS
from skillrl.tasks.suites.case import GOLD_SUBMISSION
from skillrl.types import COMPOSITE_KINDS, Task

# Their instruction states the result; what is asked for is no secret.
_OPEN_KINDS = ("refactoring", "terminal")
# Bash that makes the state that must score the maximum.
GOLD_SCRIPT = "gold_script"
# A shorter line may turn up anywhere by chance.
MIN_LEAK_CHARACTERS = 20


@dataclass(frozen=True)
class Handed:
    """What the service has in hand when it grades."""

    submission: Submission = Submission()
    # The agent's workspace against its start; None marks a deletion.
    changed: Mapping[str, bytes | None] = field(default_factory=dict)
    # Where the state of the container is the submission: bash that an agent would have run, in place of `changed`.
    script: str = ""
    # Whether that script sees the task's own solution.
    sees_solution: bool = False


def gold(task: HiddenTask, instance: Instance, files: Mapping[str, bytes]) -> Handed:
    """The submission that must score the maximum. `files` is the correct tree with all tests."""
    if task.skill == "localization":
        return Handed(Submission(files=tuple(sorted(instance.bug))))
    if GOLD_SCRIPT in instance.expected:
        return Handed(script=instance.expected[GOLD_SCRIPT], sees_solution=True)
    if GOLD_SUBMISSION in instance.expected:
        return Handed(changed={task.submission_path: instance.expected[GOLD_SUBMISSION].encode()})
    if task.skill == "editing" or task.skill in COMPOSITE_KINDS:
        overlay = gold_overlay(instance.bug, files)
        return Handed(changed={path: None if text is None else text.encode() for path, text in overlay.items()})
    if task.skill == "unit_tests":
        return Handed(changed={task.submission_path: removed_tests(task, instance, files).encode()})
    if task.skill == "reproduction":
        return Handed(changed={task.submission_path: failing_tests(instance, files).encode()})
    if task.skill == "review":
        correct = instance.candidates[task.candidate].correct
        return Handed(Submission(judgment="YES" if correct else "NO", review="as executed"))
    raise ValueError(f"no gold submission is defined for skill {task.skill!r}")


def null(task: HiddenTask) -> Handed:
    """Nothing was done and nothing was said."""
    return Handed(Submission(missing=task.skill in ("localization", "review")))


def trivial(
    task: HiddenTask, instance: Instance, files: Mapping[str, bytes], environment: Environment
) -> Iterator[tuple[str, Handed, bool]]:
    """(policy, submission, whether it must score the minimum). The others may be right by luck."""
    if task.skill == "localization":
        sources = sorted(p for p in files if p.endswith(".py") and not _is_test(p, environment))
        yield "first file", Handed(Submission(files=(sources[0],))), False
        yield "all files", Handed(Submission(files=tuple(sources))), len(sources) > len(instance.bug)
    elif task.skill == "unit_tests":
        yield "empty file", _file(task, ""), True
        yield "assert True", _file(task, "def test_nothing():\n    assert True\n"), True
    elif task.skill == "reproduction":
        yield "assert False", _file(task, "def test_bug():\n    assert False\n"), True
        yield "import missing", _file(task, "import missing_name\n\n\ndef test_bug():\n    pass\n"), True
    elif task.skill == "review":
        yield "always YES", Handed(Submission(judgment="YES", review="fine")), False
        yield "always NO", Handed(Submission(judgment="NO", review="wrong")), False
    elif task.skill in KINDS and not environment.rule:
        for policy, changed in KINDS[task.skill].wrong(task, instance, files):
            yield policy, Handed(changed=changed), True


def removed_tests(task: HiddenTask, instance: Instance, files: Mapping[str, bytes]) -> str:
    """One test file of all tests that the task's agent does not see, without those that nobody relies on."""
    known = definitions(files, (*instance.fail_to_pass, *instance.pass_to_pass))
    texts = []
    for path in sorted(task.visible):
        if path in files and task.visible[path] != files[path].decode():
            left = names_of_tests(task.visible[path] or "")
            # Of a file that no id names, as with ids of other runners, all are taken.
            unknown = names_of_tests(files[path]) - known[path] if path in known else set()
            texts.append(_without(files, path, left | unknown))
    return joined(filter(None, texts))


def failing_tests(instance: Instance, files: Mapping[str, bytes]) -> str:
    """The test file that holds most of the fail-to-pass tests, with those alone."""
    by_path: dict[str, set[str]] = {}
    for test_id in instance.fail_to_pass:
        for path, name in _functions_of(test_id, instance, files):
            by_path.setdefault(path, set()).add(name)
    if not by_path:
        raise ValueError(f"{instance.instance_id}: its fail-to-pass tests are not found in its files")
    path = max(sorted(by_path), key=lambda p: len(by_path[p]))
    return _without(files, path, names_of_tests(files[path]) - by_path[path])


def _functions_of(test_id: str, instance: Instance, files: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """(file, test function) of a pytest id; for ids of other runners, functions of the test files that it names."""
    if test_id.partition("::")[0] in files:
        return [(path, name) for path, names in definitions(files, [test_id]).items() for name in names]
    words = set(re.findall(r"\w+", test_id))
    sources = [p for p in instance.test_files if p.endswith(".py")]
    return [(p, n) for p in sources for n in sorted(names_of_tests(files[p])) if words >= set(n.split("::"))]


def leaks(public: Task, task: HiddenTask, instance: Instance, files: Mapping[str, bytes]) -> list[str]:
    """Where the agent could read lines of the gold change: inputs of the prompt, and files of its tree.

    The correct tree is what unit_tests shows, and a candidate diff is what review shows: neither is a leak.
    """
    if task.skill in _OPEN_KINDS:
        return []
    gold_change = gold_overlay(instance.bug, files)
    lines = {
        line
        for line in changed_lines(apply_overlay(files, instance.bug), gold_change)
        if len(line) >= MIN_LEAK_CHARACTERS and _occurrences(files, line) == 1
    }
    shown = {f"input {name}": text for name, text in public.inputs.items() if name != "diff"}
    if task.skill != "unit_tests":
        tree = apply_overlay(files, task.visible)
        tree.pop(CANDIDATE_PATH, None)
        shown |= {f"file {path}": data.decode("utf-8", "replace") for path, data in tree.items()}
    return [f"{where} holds {line!r}" for where, text in shown.items() for line in sorted(lines) if line in text]


def _file(task: HiddenTask, text: str) -> Handed:
    return Handed(changed={task.submission_path: text.encode()})


def _is_test(path: str, environment: Environment) -> bool:
    return any(path == r or path.startswith(r.rstrip("/") + "/") for r in environment.test_roots)


def _occurrences(files: Mapping[str, bytes], line: str) -> int:
    return sum(data.decode("utf-8", "replace").count(line) for data in files.values())


def _without(files: Mapping[str, bytes], path: str, names: set[str]) -> str:
    """A test file without these test functions."""
    if not names:
        return files[path].decode()
    return without_tests(files, [f"{path}::{name}" for name in names])[path] or ""
