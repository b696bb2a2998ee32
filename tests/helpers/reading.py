"""Reads rows by the command line's entrance, as a user does."""

import json
from pathlib import Path

from sandbox_service.tasks import TaskSet, read_task_set
from skillrl.tasks.readers.__main__ import main
from skillrl.tasks.source import read_tasks
from skillrl.types import Task


def written(folder: Path, *made: dict) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


def read_source(folder: Path, name: str, source, *options: str) -> tuple[int, TaskSet | None, list[Task], dict]:
    """(exit status, task set or None, public tasks, summary) of the set that is made in `folder`."""
    out = folder / "set"
    code = main([name, str(source), f"--out={out}", *options])
    if code:
        return code, None, [], {}
    return code, read_task_set(out), read_tasks(out), json.loads((out / "set.json").read_text())["summary"]


def read(folder: Path, name: str, *made: dict, options=()) -> tuple[int, TaskSet | None, list[Task], dict]:
    """The same of rows."""
    return read_source(folder, name, written(folder, *made), *options)
