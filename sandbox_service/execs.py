"""Commands in sessions: run once, read while they run, killed."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from sandbox_service.backends.base import Ended, ExecResult, Limits
from sandbox_service.backends.output import HeadTail, read_kept
from sandbox_service.calls import join
from sandbox_service.errors import BadRequest
from sandbox_service.leases import Session
from sandbox_service.pauses import PauseWatch
from sandbox_service.policy import Slots

# How often a reader of a running command's output looks for more.
OUTPUT_POLL_S = 0.05


class Execs:
    """At most as many commands at a time as `slots` has."""

    def __init__(self, slots: Slots, pauses: PauseWatch, clock: Callable[[], float] = time.monotonic):
        self._slots, self._pauses, self._clock = slots, pauses, clock

    async def run(self, session: Session, request_id: str, command: str, timeout_s: float) -> ExecResult:
        """Runs a bash command. Raises HostPaused when it ran out of time while the host stood still."""
        started, kept, paused_s = self._clock(), HeadTail(Limits().output_kept_bytes), self._pauses.paused_s
        session.outputs[request_id] = kept
        try:
            async with self._slots.take():
                workspace = await join(session.opening, session.session_id)
                result = await workspace.run(["bash", "-c", command], timeout_s=timeout_s, output=kept)
        except asyncio.CancelledError:
            if request_id not in session.killed:
                raise
            # What was killed has ended: its own cancellation is not to go on from here.
            asyncio.current_task().uncancel()
            result = ExecResult(Ended.CANCELLED, -1, *kept.result(), self._clock() - started)
        finally:
            session.outputs.pop(request_id, None)
            session.killed.discard(request_id)
        if result.ended is Ended.TIMEOUT:
            self._pauses.check(paused_s, "a timeout")
        return result

    async def read(self, session: Session, request_id: str, offset: int) -> AsyncIterator[tuple[int, bytes]]:
        """Yields (offset, bytes) of a command's output as it comes; empty bytes say that nothing came for a while.

        Ends when the command has ended. What was left out between head and tail is skipped.
        """
        call = session.calls.find(request_id)
        while not call.done():
            kept = session.outputs.get(request_id)
            data = b""
            if kept is not None:
                offset, data = kept.read(offset)
            if data:
                yield offset, data
                offset += len(data)
            elif not (await asyncio.wait({call}, timeout=OUTPUT_POLL_S))[0]:
                yield offset, b""
        result = await join(call, session.session_id)
        if not isinstance(result, ExecResult):
            raise BadRequest(f"request {request_id!r} is no Exec")
        while data := (piece := read_kept(result.output, result.omitted_bytes, offset))[1]:
            yield piece
            offset = piece[0] + len(data)

    async def kill(self, session: Session, request_id: str) -> bool:
        """Ends a command; False when it has ended before or never came."""
        await asyncio.sleep(0)  # the call may have come a moment ago and not have taken its first step
        if request_id not in session.outputs:
            return False
        session.killed.add(request_id)
        call = session.calls.find(request_id)
        call.cancel()
        await asyncio.wait({call})
        return True
