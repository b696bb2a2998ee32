"""Which skills a record gives, what each of them shows, and what it asks for. Pure functions."""

import ast
from collections.abc import Collection, Mapping

from sandbox_service.graders.paths import is_source
from sandbox_service.syntax import parse
from sandbox_service.tasks import Environment, Overlay
from skillrl.tasks.derive import submission_path, why_not_localization
from skillrl.tasks.hiding import reaching_tests, without_tests
from skillrl.tasks.readers.diffs import changed_lines, is_test_path
from skillrl.tasks.readers.record import Parts, Record, Trees

REPAIR = "Find the flaw and repair it in the source. The program must still do all else that it does."
# A shorter line may stand anywhere by chance.
MIN_LEAK_CHARACTERS = 20


def gold_lines(record: Record, parts: Parts) -> set[str]:
    """Lines that the gold change adds and does not only move."""
    added, removed = ("-", "+") if record.base_is_correct else ("+", "-")
    lines = {line for line in changed_lines(parts.source, added) if len(line) >= MIN_LEAK_CHARACTERS}
    return lines - set(changed_lines(parts.source, removed))


Found = tuple[Mapping[str, str], Overlay, str]


def skills_of(record: Record, parts: Parts, environment: Environment, trees: Trees | None) -> dict[str, Found | str]:
    """Skill -> inputs, what the agent sees and the submission's path; or why the record does not give it."""
    issue, visible = {"issue": record.issue}, dict(trees.visible) if trees else {}
    found: dict[str, Found | str] = {}
    paths = [d.path for d in parts.source if is_source(d.path, environment)]
    choices = [p for p in trees.correct if is_source(p, environment)] if trees else None
    found["localization"] = why_not_localization(paths, choices) or (issue, visible, "")
    if record.kind == "security":
        found["security"] = ({"instruction": f"{record.issue}\n{REPAIR}"}, visible, "")
    if not record.fail_to_pass:
        return found | dict.fromkeys(("editing", "bug_fixing", "reproduction"), "no fail-to-pass tests")
    found["editing"] = ({"instruction": instruction(record, parts)}, visible, "")
    found["bug_fixing"] = (issue, visible, "")
    is_python = record.language == "python"
    path = submission_path("reproduction", environment.test_roots)
    reproduction = ({**issue, "submission_path": path}, visible, path)
    found["reproduction"] = reproduction if is_python else "not Python"
    found["unit_tests"] = _unit_tests(record, environment, trees) if is_python else "not Python"
    found["review"] = "no wrong candidate that execution has proven"
    return found


def instruction(record: Record, parts: Parts) -> str:
    """The issue, and the places that must change: files, lines of the agent's tree and the names git gives there."""
    places, gold = [], gold_lines(record, parts)
    for diff in parts.source:
        if diff.old is None and not record.base_is_correct:
            places.append(f"- {diff.new} (a new file)")
        for hunk in diff.hunks if diff.old is not None else ():
            before = hunk.side("+" if record.base_is_correct else "-")
            start = hunk.new_start if record.base_is_correct else hunk.old_start
            # Git prints a line of the file before the diff: in a bug's diff, of the correct one.
            is_gold = any(line in hunk.section for line in gold)
            name = f", at `{hunk.section}`" if hunk.section and not is_gold else ""
            places.append(f"- {diff.old}, lines {start} to {start + max(len(before), 1) - 1}{name}")
    return f"{record.issue}\n\nThe change belongs here:\n" + "\n".join(places)


def _unit_tests(record: Record, environment: Environment, trees: Trees | None) -> Found | str:
    """The function that the bug is in, when there is one with a docstring; the bug is the proven mutant."""
    if trees is None:
        return "its tree is in the image alone"
    target = target_of(trees)
    if target is None:
        return "no single documented function holds the bug"
    path, symbol, contract = target
    try:
        reaching = reaching_tests(trees.correct, environment.test_roots, symbol)
        known = [i for i in record.fail_to_pass if i.partition("::")[0] in trees.correct]
        hidden = {path: text for path, text in without_tests(trees.correct, {*reaching, *known}).items()}
    except (SyntaxError, ValueError, UnicodeDecodeError):
        return "its tests cannot be hidden"
    removed = {p: None for p in trees.visible if p not in trees.bug and p not in hidden and is_test_path(p)}
    submitted = submission_path("unit_tests", environment.test_roots)
    inputs = {"target": f"{path}::{symbol}", "contract": contract, "submission_path": submitted}
    return inputs, {**removed, **hidden}, submitted


def target_of(trees: Trees) -> tuple[str, str, str] | None:
    """(path, qualified name, docstring) of the one function that differs between the correct tree and the bug."""
    differing = []
    for path, text in trees.bug.items():
        if text is None or path not in trees.correct or not path.endswith(".py"):
            return None
        try:
            correct, buggy = (_functions(t) for t in (trees.correct[path].decode(), text))
        except (SyntaxError, ValueError):
            return None
        for name in correct.keys() | buggy.keys():
            own, other = correct.get(name), buggy.get(name)
            if own is None or other is None or ast.dump(own) != ast.dump(other):
                differing.append((path, name, ast.get_docstring(own) if own else None))
    return differing[0] if len(differing) == 1 and differing[0][2] else None


def _functions(text: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    found = {}

    def walk(body: Collection[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[prefix + node.name] = node
            elif isinstance(node, ast.ClassDef):
                walk(node.body, f"{prefix}{node.name}.")

    walk(parse(text).body, "")
    return found
