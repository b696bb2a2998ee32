"""Composite suites of the generated world, one file a kind: what is asked, and what must fail."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox_service.tasks import HiddenTask, Instance, TaskSetWriter
from skillrl.tasks.suites import ml_engineering, refactoring, security, terminal
from skillrl.tasks.suites.case import Case, add


@dataclass(frozen=True)
class Kind:
    # Seed -> the cases of one instance number; the same seed gives the same bytes.
    cases: Callable[[int], list[Case]]
    # (task, instance, finished tree) -> (name, changed files) of submissions that must score the minimum: cheap
    # policies, and attacks on the grader.
    wrong: Callable[[HiddenTask, Instance, Mapping[str, bytes]], Iterator[tuple[str, Mapping[str, bytes | None]]]]


KINDS = {
    "refactoring": Kind(refactoring.cases, refactoring.wrong),
    "security": Kind(security.cases, security.wrong),
    "ml_engineering": Kind(ml_engineering.cases, ml_engineering.wrong),
    "terminal": Kind(terminal.cases, terminal.wrong),
}


def write_suites(path: Path, kinds: Mapping[str, int], seed: int, split: str) -> str:
    """Writes a task set with this many seeds of each kind, and returns its digest."""
    writer = TaskSetWriter("suites-" + "-".join(kinds))
    for kind, count in kinds.items():
        for number in range(seed, seed + count):
            for case in KINDS[kind].cases(number):
                add(writer, case, kind=kind, seed=number, split=split)
    return writer.write(path)
