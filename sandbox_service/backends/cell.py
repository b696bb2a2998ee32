"""One forked child of the zygote as the service sees it, and one request to it from start to end."""

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sandbox_service.backends import jobs
from sandbox_service.backends.base import Ended, ExecResult, Limits
from sandbox_service.backends.output import DrainedPipe, HeadTail
from sandbox_service.backends.supervisor import Supervisor
from sandbox_service.errors import SandboxError

# From a request until the command starts. More than this means a host in trouble.
_START_TIMEOUT_S = 60.0
_MAX_MESSAGE = 1 << 13
_COUNTED = ("out_of_memory", "out_of_processes")


class SetupError(SandboxError):
    """A sandbox could not be made; `errno` is the failed call's."""

    def __init__(self, text: str, number: int):
        super().__init__(text)
        self.errno = number


class Cell:
    """A sandbox for one command after the other, or the child that does one file operation.

    It ends for good when it is killed, when it finds that it cannot be used again, and when `dismiss` is called.
    """

    def __init__(self, supervisor: Supervisor, request: dict, payload: bytes = b"", fds: Sequence[int] = ()):
        """Takes the descriptors over. Raises SandboxError."""
        self.limits = request.get("limits")
        self._supervisor, self._loop = supervisor, asyncio.get_running_loop()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        # Whether another command may be sent.
        self.is_usable = True
        self.has_served = False
        self._hear: Callable[[str], None] = _ignore
        self._end: asyncio.Future[dict] | None = None
        self._before = dict.fromkeys((*_COUNTED, "held_bytes"), 0)
        try:
            self._job_id = supervisor.post(
                "job",
                [memory_file(request, payload), theirs.detach(), *fds],
                workspace=request["workspace"],
                is_command=request["kind"] == "cell",
            )
        except SandboxError:
            self._channel.close()
            raise
        self._loop.add_reader(self._channel, self._receive)
        # Done when the kernel has nothing of it any more.
        self.gone = asyncio.ensure_future(supervisor.answer(self._job_id))
        self.gone.add_done_callback(self._bury)

    def begin(self, hear: Callable[[str], None]) -> asyncio.Future[dict]:
        """Its lines go to `hear` from now on; the result is how the one request ended, with what was counted of it."""
        self._hear, self._end = hear, self._loop.create_future()
        if self.gone.done():
            self._bury(self.gone)
        return self._end

    def send(self, request: dict, payload: bytes, fds: Sequence[int]) -> None:
        """Takes the descriptors over."""
        fds = [memory_file(request, payload), *fds]
        try:
            socket.send_fds(self._channel, [b"run"], fds)
        except OSError:
            # It is dying: `gone` will tell.
            self.is_usable = False
        finally:
            for fd in fds:
                os.close(fd)

    def kill(self) -> None:
        self.is_usable = False
        if not self.gone.done():
            with suppress(SandboxError):
                self._supervisor.post("kill", job=self._job_id)

    async def dismiss(self) -> None:
        """Kills it and waits until it is gone."""
        self.kill()
        await asyncio.wait([self.gone])

    def _receive(self) -> None:
        while self._channel.fileno() >= 0:
            try:
                message = self._channel.recv(_MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._close()
                return
            for line in message.decode(errors="replace").splitlines():
                if line.startswith("end ") and self._end is not None:
                    self._finish(json.loads(line[4:]))
                else:
                    self._hear(line)

    def _finish(self, end: dict) -> None:
        """Its counters run on from command to command."""
        self.has_served = True
        self.is_usable &= end.get("is_reusable", False)
        counted = {name: end[name] - self._before[name] for name in _COUNTED}
        counted["file_bytes"] = end["file_bytes"] - self._before["held_bytes"]
        self._before.update({name: end[name] for name in self._before if name in end})
        self._hear = _ignore
        if self._end is not None and not self._end.done():
            self._end.set_result({**end, **counted})

    def _bury(self, gone: asyncio.Future[dict]) -> None:
        """What it said last is heard first."""
        self.is_usable = False
        self._receive()
        self._close()
        fault = SandboxError("the jail was stopped") if gone.cancelled() else gone.exception()
        if fault is None:
            self._finish(gone.result())
        elif self._end is not None and not self._end.done():
            self._end.set_exception(fault)

    def _close(self) -> None:
        self.is_usable = False
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel)
            self._channel.close()


def _ignore(line: str) -> None:
    """What is said while there is no command."""


def memory_file(request: dict, payload: bytes) -> int:
    fd = os.memfd_create("request")
    with os.fdopen(os.dup(fd), "wb") as f:
        f.write(json.dumps(request).encode() + b"\n" + payload)
    return fd


@dataclass(eq=False)
class Command:
    """One request from start to end: its pipes, its deadline, and what came out."""

    # Gives the cell that it is for; a file operation makes its own of its request.
    find_cell: Callable[["Command", list[int]], Cell]
    request: dict
    payload: bytes
    timeout_s: float
    limits: Limits
    report_bytes: int
    report: bytearray = field(default_factory=bytearray)
    # The limit for which we stopped it.
    stopped: Ended | None = None

    def __post_init__(self) -> None:
        self._cell: Cell | None = None
        self._abandoned = False
        self._told: list[str] = []
        self._started_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.output = HeadTail(self.limits.output_kept_bytes)
        self._end: dict = {}

    @property
    def is_command(self) -> bool:
        return self.request["kind"] in jobs.COMMANDS

    async def run(self, slots: asyncio.Semaphore) -> None:
        """Waits for a slot, runs, and returns when all that it started is gone and its pipes are drained."""
        async with slots:
            while await self._try():
                pass

    async def _try(self) -> bool:
        """Whether to try again, because a kept cell died before it began."""
        loop = asyncio.get_running_loop()
        sinks = [self._add_output] if self.is_command else []
        sinks += [self._add_report] if self.request["kind"] != "exec" else []
        pipes = [DrainedPipe(loop, sink) for sink in sinks]
        try:
            write_ends = [pipe.take_write_end() for pipe in pipes]
            self._cell = cell = self.find_cell(self, write_ends)
            was_kept = cell.has_served
            end = cell.begin(self._hear)
            if self.is_command:
                cell.send(self.request, self.payload, write_ends)
            self._timer = loop.call_later(_START_TIMEOUT_S, self.kill)
            self._end = await end
            if was_kept and self._started_at is None and not self._abandoned and not self._told:
                return True
            # All who could write are dead, so the ends of the pipes come.
            await asyncio.gather(*(pipe.closed for pipe in pipes))
            return False
        finally:
            if self._timer:
                self._timer.cancel()
            for pipe in pipes:
                pipe.close()

    @property
    def is_waiting(self) -> bool:
        """Whether nothing of it has been started yet."""
        return self._cell is None

    @property
    def cell(self) -> Cell | None:
        return self._cell

    def abandon(self) -> None:
        self._abandoned = True
        self.kill()

    def kill(self) -> None:
        if self._cell is not None:
            self._cell.kill()

    def _stop(self, why: Ended) -> None:
        if self.stopped is None:
            self.stopped = why
            self.kill()

    def _add_output(self, data: bytes) -> None:
        self.output.add(data)
        if self.output.total_bytes > self.limits.output_stop_bytes:
            self._stop(Ended.OUTPUT_LIMIT)

    def _add_report(self, data: bytes) -> None:
        if len(self.report) + len(data) > self.report_bytes:
            self.report.clear()
            self.report_bytes = 0
            self._stop(Ended.OUTPUT_LIMIT)
        else:
            self.report += data

    def _hear(self, line: str) -> None:
        self._told.append(line)
        if line == "start" and self._started_at is None:
            self._started_at = time.monotonic()
            if self._timer:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(self.timeout_s, self._stop, Ended.TIMEOUT)

    def raise_faults(self) -> None:
        for line in self._told:
            if line.startswith("error "):
                _, number, text = line.split(" ", 2)
                raise SetupError(f"the sandbox could not be made: {text}", int(number))

    def result(self) -> ExecResult:
        """Raises SandboxError when the command never ran."""
        self.raise_faults()
        if self._abandoned:
            raise SandboxError("the workspace was closed while a command ran")
        if self._started_at is None:
            raise SandboxError(f"the command did not start within {_START_TIMEOUT_S:.0f} s; the host is overloaded")
        output, omitted = self.output.result()
        last = self._told[-1].split()
        measured = float(last[2]) if len(last) == 3 else time.monotonic() - self._started_at
        ended, code = self._classify(last, "processes" in self._told)
        return ExecResult(ended, code, output, omitted, measured)

    def _classify(self, last: list[str], was_full: bool) -> tuple[Ended, int]:
        """The most telling cause. A command that succeeded has succeeded, whatever limits it met on its way."""
        if last[:2] == ["exit", "0"]:
            return Ended.EXITED, 0
        if self._end["out_of_memory"] or last[0] == "memory":
            # The workspace's files are memory too: when they took most of it, the disk was what was filled.
            by_files = self._end["file_bytes"] * 2 > self.limits.memory_mib << 20
            return (Ended.OUT_OF_DISK if by_files else Ended.OUT_OF_MEMORY), -1
        if self._end["out_of_processes"] or was_full:
            return Ended.OUT_OF_PROCESSES, -1
        if self.stopped:
            return self.stopped, -1
        if self._end["disk_full"]:
            return Ended.OUT_OF_DISK, -1
        if last[0] == "exit":
            return Ended.EXITED, int(last[1])
        # Without a last line the whole namespace was killed from outside; SIGKILL is what the command saw.
        return Ended.SIGNALED, int(last[1]) if last[0] == "signal" else 9
