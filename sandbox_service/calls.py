"""Calls that run once: the answer to a request id is the answer of its first run, however often it is asked for."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sandbox_service import checks
from sandbox_service.errors import IdReused, NotFound, Overloaded


@dataclass
class _Call:
    fingerprint: str
    # None when the answer is no longer kept.
    run: asyncio.Task | None


class Calls:
    """The calls of one session. The last `kept` answers are kept; older requests are refused, never run again."""

    def __init__(self, session_id: str, kept: int):
        self._session_id, self._kept = session_id, kept
        self._calls: OrderedDict[str, _Call] = OrderedDict()

    async def once(self, request_id: str, contents: str, run: Callable[[], Awaitable]) -> Any:
        """Starts `run` the first time, joins it every other time. `contents` is the request's fingerprint."""
        checks.ids(request_id=request_id)
        call = self._calls.get(request_id)
        if call is None:
            call = self._calls[request_id] = _Call(contents, asyncio.create_task(run()))
            call.run.add_done_callback(lambda done: self._finished(request_id, done))
        elif call.fingerprint != contents:
            raise IdReused(f"request {request_id!r} came before with other contents; make a new id for each request")
        elif call.run is None:
            raise IdReused(f"request {request_id!r} was answered long ago; only {self._kept} answers are kept")
        return await join(call.run, self._session_id)

    def find(self, request_id: str) -> asyncio.Task:
        """The run of a request that came before. Raises NotFound."""
        call = self._calls.get(request_id)
        if call is None or call.run is None:
            raise NotFound(f"request {request_id!r} is unknown here, or its answer is no longer kept")
        return call.run

    async def cancel(self) -> None:
        """Ends what still runs, and returns when it has ended."""
        runs = [c.run for c in self._calls.values() if c.run is not None and not c.run.done()]
        for run in runs:
            run.cancel()
        if runs:
            await asyncio.wait(runs)

    def _finished(self, request_id: str, done: asyncio.Task) -> None:
        if isinstance(retrieve(done), Overloaded):
            self._calls.pop(request_id, None)  # it never ran, so the same id may try again
        answered = [c for c in self._calls.values() if c.run is not None and c.run.done()]
        for call in answered[: -self._kept]:
            call.run = None


async def join(run: asyncio.Task, session_id: str) -> Any:
    """The task's result. A caller that goes away does not cancel the task."""
    await asyncio.wait({run})
    if run.cancelled():
        raise NotFound(f"session {session_id!r} was closed during the call; open a new one")
    return run.result()


def retrieve(done: asyncio.Task) -> BaseException | None:
    """The task's exception; reading it keeps asyncio quiet when the client has gone away."""
    return None if done.cancelled() else done.exception()


def fingerprint(*contents: Any) -> str:
    """Equal for equal requests; keeps no copy of their texts."""
    return hashlib.sha256(repr(contents).encode()).hexdigest()
