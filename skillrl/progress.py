"""How far long work has come: bars on a terminal, elsewhere plain lines now and then, for the log of a pod or a pipe.

Both on standard error, so that figures on standard output can be piped.
"""

import contextlib
import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# Between two plain lines.
EVERY_S = 30.0


class Bars(Protocol):
    """The part of rich.progress.Progress that is used here; to be entered as a context."""

    def add_task(self, description: str, *, total: float | None, completed: int = 0) -> int: ...

    def update(
        self,
        task_id: int,
        *,
        total: float | None = None,
        completed: float | None = None,
        advance: float | None = None,
        description: str | None = None,
    ) -> None: ...

    def advance(self, task_id: int, advance: float = 1) -> None: ...


def progress() -> contextlib.AbstractContextManager[Bars]:
    """Bars with rate and time left on a terminal, `Lines` elsewhere."""
    if not sys.stderr.isatty():
        return Lines(sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RateColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=_screen())


@functools.cache
def _screen() -> Console:
    """One for all, so that the bars of an evaluation stand below those of the training around it."""
    return Console(stderr=True)


def show_rate(per_s: float | None) -> str:
    """How fast, in steps a second or seconds a step, whichever is above 1."""
    if not per_s:
        return "-"
    return f"{per_s:.1f}/s" if per_s >= 1 else f"{1 / per_s:.1f} s each"


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(show_rate(task.finished_speed or task.speed))


@dataclass
class _Work:
    description: str
    total: float | None
    completed: float
    # When it began, and what had been done by then.
    started_s: float
    done_before: float

    def line(self, now_s: float) -> str:
        """E.g. "training: 30/100, 2.0 s each, 140 s left"."""
        text = f"{self.description}: {self.completed:g}/{'?' if self.total is None else f'{self.total:g}'}"
        done, passed_s = self.completed - self.done_before, now_s - self.started_s
        if done <= 0 or passed_s <= 0:
            return text
        text = f"{text}, {show_rate(done / passed_s)}"
        if self.total is None or self.completed >= self.total:
            return text
        return f"{text}, {(self.total - self.completed) * passed_s / done:.0f} s left"


class Lines(contextlib.AbstractContextManager):
    """One line about the work that came on, at most every EVERY_S seconds, and a last one when all went well."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic):
        self._out, self._clock = out, clock
        self._works: list[_Work] = []
        self._said_s = clock()
        self._unsaid: _Work | None = None

    def add_task(self, description: str, *, total: float | None, completed: int = 0) -> int:
        self._works.append(_Work(description, total, completed, self._clock(), completed))
        return len(self._works) - 1

    def update(
        self,
        task_id: int,
        *,
        total: float | None = None,
        completed: float | None = None,
        advance: float | None = None,
        description: str | None = None,
    ) -> None:
        work = self._works[task_id]
        work.total = work.total if total is None else total
        work.completed = (work.completed if completed is None else completed) + (advance or 0)
        work.description = work.description if description is None else description
        self._unsaid = work
        if self._clock() - self._said_s >= EVERY_S:
            self._say()

    def advance(self, task_id: int, advance: float = 1) -> None:
        self.update(task_id, advance=advance)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a failure its message is what is to be read.
        if self._unsaid and kind is None:
            self._say()

    def _say(self) -> None:
        print(self._unsaid.line(self._clock()), file=self._out, flush=True)
        self._said_s, self._unsaid = self._clock(), None
