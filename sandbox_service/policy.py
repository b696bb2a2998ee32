"""Limits of the service, and slots that keep what runs at the same time within them."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sandbox_service.errors import Overloaded


@dataclass(frozen=True)
class Policy:
    """Limits of the service; times in seconds."""

    max_sessions: int = 512
    # Share of the memory below which no session is opened: idle ones hold files, which are memory.
    least_memory_left: float = 0.1
    # Sessions that are being opened at the same time.
    max_opens: int = 4 * (os.cpu_count() or 1)
    max_execs: int = 4 * (os.cpu_count() or 1)
    max_test_runs: int = max(2, os.cpu_count() or 1)
    # Gradings at the same time; they share the few test runs.
    max_scores: int = 64
    max_waiting: int = 4096
    max_rpcs: int = 8192
    # How long a call waits for its turn before it is told Overloaded. The client's deadlines leave room for it.
    open_wait_s: float = 60.0
    exec_wait_s: float = 10.0
    score_wait_s: float = 600.0
    exec_default_s: float = 30.0
    exec_max_s: float = 600.0
    lease_default_s: float = 600.0
    lease_max_s: float = 3600.0
    lifetime_s: float = 4 * 3600.0
    # Per session; a repeat of an older request is refused, never run again.
    answers_kept: int = 64


class Slots:
    """At most `limit` holders at a time; the rest wait in order, `max_waiting` of them for at most `wait_s`."""

    def __init__(self, what: str, limit: int, max_waiting: int, wait_s: float):
        self.what, self.limit, self.max_waiting, self.wait_s = what, limit, max_waiting, wait_s
        self._turn = asyncio.Semaphore(limit)
        self.waiting = self.taken = 0

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        if self.waiting >= self.max_waiting:
            raise self._overloaded()
        self.waiting += 1
        try:
            async with asyncio.timeout(self.wait_s):
                await self._turn.acquire()
        except TimeoutError:
            raise self._overloaded() from None
        finally:
            self.waiting -= 1
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._turn.release()

    def _overloaded(self) -> Overloaded:
        return Overloaded(f"all {self.limit} {self.what} are busy; retry later, or run fewer episodes at once")
