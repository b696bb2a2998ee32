"""An event loop whose clock jumps: nothing is waited for, so hours of timeouts and pauses pass in seconds.

Only for code whose waiting is all asyncio's: no threads, no sockets.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Selector(selectors.SelectSelector):
    loop: "VirtualLoop"

    def select(self, timeout: float | None = None):
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("everything waits for something that will never come")
            self.loop.now += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.now = 0.0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run(main: Coroutine) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
