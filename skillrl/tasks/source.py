"""Reads the public half of a task set. Never opens hidden/: what the trainer must not see, it cannot read here."""

import json
from dataclasses import MISSING, fields
from pathlib import Path

from skillrl.types import COMPOSITE_KINDS, SKILLS, Task

# The version of sandbox_service/tasks.py.
SCHEMA_VERSION = 1
SPLITS = ("train", "heldout_repositories", "heldout_families")

# What each skill's prompt is made of.
INPUTS = {
    "localization": {"issue"},
    "editing": {"instruction"},
    "unit_tests": {"target", "contract", "submission_path"},
    "reproduction": {"issue", "submission_path"},
    "review": {"issue", "diff"},
    "bug_fixing": {"issue"},
    "refactoring": {"instruction"},
    "security": {"instruction"},
    "ml_engineering": {"instruction"},
    "terminal": {"instruction"},
}
_FIELDS = {f.name: f for f in fields(Task) if f.name != "task_set"}


class TaskSetError(ValueError):
    """A task set is missing or damaged; the message names file, line and remedy."""


def read_tasks(path: str | Path) -> list[Task]:
    """The tasks of the set at `path`, in file order.

    Raises TaskSetError naming file, line and remedy when the set is missing, of another version, or damaged.
    """
    path = Path(path)
    head = _read_head(path)
    file = path / "tasks.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise TaskSetError(f"{file}: {e}; rebuild the task set") from e
    tasks, first_line = [], {}
    for number, line in enumerate(lines, 1):
        try:
            task = _task(json.loads(line), head["digest"])
            if task.task_id in first_line:
                raise ValueError(f"task_id {task.task_id!r} is already on line {first_line[task.task_id]}")
        except ValueError as e:
            raise TaskSetError(f"{file}:{number}: damaged task record: {e}; rebuild the task set") from e
        first_line[task.task_id] = number
        tasks.append(task)
    if len(tasks) != head["tasks"]:
        raise TaskSetError(f"{file}: {len(tasks)} tasks, set.json says {head['tasks']}; rebuild the task set")
    return tasks


def _read_head(path: Path) -> dict:
    file = path / "set.json"
    try:
        head = json.loads(file.read_text(encoding="utf-8"))
    except OSError as e:
        raise TaskSetError(f"no task set at {path} ({e.strerror}); build one with python -m skillrl.tasks.world") from e
    except ValueError as e:
        raise TaskSetError(f"{file}: {e}; rebuild the task set") from e
    if not isinstance(head, dict) or head.get("schema_version") != SCHEMA_VERSION:
        version = head.get("schema_version") if isinstance(head, dict) else None
        raise TaskSetError(f"{file}: schema version {version!r}, this release reads {SCHEMA_VERSION}; rebuild the set")
    for key, kind in (("digest", str), ("tasks", int)):
        if not isinstance(head.get(key), kind):
            raise TaskSetError(f"{file}: {key!r} is missing or no {kind.__name__}; rebuild the task set")
    return head


def _task(row: object, digest: str) -> Task:
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if unknown := sorted(row.keys() - _FIELDS.keys()):
        raise ValueError(f"unknown field {unknown[0]!r}")
    if missing := sorted(n for n, f in _FIELDS.items() if n not in row and f.default is MISSING):
        raise ValueError(f"missing field {missing[0]!r}")
    for name, value in row.items():
        kind = {"level": int, "inputs": dict}.get(name, str)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"field {name!r} must be {kind.__name__}, not {type(value).__name__}")
    if not all(isinstance(v, str) for v in row["inputs"].values()):
        raise ValueError("every value of 'inputs' must be str")
    if row["skill"] not in SKILLS + COMPOSITE_KINDS:
        raise ValueError(f"unknown skill {row['skill']!r}; one of {SKILLS + COMPOSITE_KINDS}")
    if row["split"] not in SPLITS:
        raise ValueError(f"unknown split {row['split']!r}; one of {SPLITS}")
    if row["inputs"].keys() != INPUTS[row["skill"]]:
        raise ValueError(
            f"inputs of {row['skill']} must be {sorted(INPUTS[row['skill']])}, not {sorted(row['inputs'])}"
        )
    return Task(**row, task_set=digest)
