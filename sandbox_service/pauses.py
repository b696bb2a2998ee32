"""Whether this host stood still: a paused process or machine, or one so loaded that its clock means nothing.

Time limits go on while a host stands still, so what ran out of time then says nothing about the command: it is a fault
of ours, never the agent's.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sandbox_service.errors import SandboxError

# The event loop was late by more than this: a pause.
PAUSE_S = 5.0
T = TypeVar("T")


class HostPaused(SandboxError):
    """The work's result is void; do it again."""


class PauseWatch:
    """To be ticked every `interval_s` by a task of the event loop, `keep_ticking`; it sees nothing before the first.

    `clock` gives monotonic seconds.
    """

    def __init__(self, interval_s: float = 1.0, clock: Callable[[], float] = time.monotonic):
        self.interval_s, self._clock = interval_s, clock
        self._last: float | None = None
        self.paused_s = 0.0

    def tick(self) -> None:
        if self._late_s() > PAUSE_S:
            self.paused_s += self._late_s()
        self._last = self._clock()

    async def keep_ticking(self) -> None:
        while True:
            self.tick()
            await asyncio.sleep(self.interval_s)

    def _late_s(self) -> float:
        return 0.0 if self._last is None else self._clock() - self._last - self.interval_s

    def check(self, before_s: float, what: str) -> None:
        """Raises HostPaused when there was a pause since `paused_s` was `before_s`."""
        # The task that ticks may not have had its turn since the pause.
        if self._late_s() > PAUSE_S:
            self.tick()
        if self.paused_s > before_s:
            raise HostPaused(
                f"{what} is void: this host stood still for {self.paused_s - before_s:.0f} s meanwhile; do it again, "
                "and give the host fewer sessions if it was overload"
            )

    def guard(self, work: Callable[..., Awaitable[T]], what: str) -> Callable[..., Awaitable[T]]:
        """`work`, whose result is refused when the host stood still meanwhile."""

        @functools.wraps(work)
        async def guarded(*args) -> T:
            before_s = self.paused_s
            result = await work(*args)
            self.check(before_s, what)
            return result

        return guarded
