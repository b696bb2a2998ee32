"""The embedded jail: workspaces and commands isolated by namespaces, without a daemon.

`zygote.py` makes the sandboxes; this is the service's asynchronous side: pipes, deadlines, and what an end means.
"""

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from sandbox_service.backends import jobs
from sandbox_service.backends.base import (
    Backend,
    Ended,
    ExecResult,
    HarnessResult,
    Isolation,
    Limits,
    Workspace,
)
from sandbox_service.backends.output import DrainedPipe, HeadTail
from sandbox_service.backends.selftest import attack
from sandbox_service.backends.supervisor import Supervisor, remedy
from sandbox_service.errors import BadRequest, IsolationError, SandboxError
from sandbox_service.workspaces import hold, make_packages

_REPORT_BYTES = 8 << 20
# From a request until the command starts. More than this means a host in trouble.
_START_TIMEOUT_S = 60.0
_FILE_TIMEOUT_S = 60.0


class SetupError(SandboxError):
    """A sandbox could not be made; `errno` is the failed call's."""

    def __init__(self, text: str, number: int):
        super().__init__(text)
        self.errno = number


class JailBackend(Backend):
    """`state_dir` holds the default packages; at most `max_running` commands run at the same time."""

    name = "jail"

    def __init__(self, state_dir: Path, *, max_running: int | None = None):
        self._state_dir = Path(state_dir)
        cores = len(os.sched_getaffinity(0))
        self.commands = asyncio.Semaphore(max_running or 2 * cores)
        self.file_operations = asyncio.Semaphore(2 * cores)
        self._workspaces: set[JailWorkspace] = set()
        self._names = count(1)
        self.supervisor: Supervisor | None = None

    async def start(self) -> None:
        self._state_dir.mkdir(parents=True, exist_ok=True)
        self._packages = await asyncio.to_thread(make_packages, self._state_dir / "packages")
        supervisor = Supervisor(self._state_dir, self._packages)
        await supervisor.start()
        self.supervisor = supervisor
        try:
            await self._probe()
        except BaseException:
            await self.stop()
            raise

    async def _probe(self) -> None:
        """Proves that a sandbox can be made and that its interpreter works."""
        base = self._state_dir / "empty"
        base.mkdir(exist_ok=True)
        try:
            workspace = await self.open_workspace(base)
            result = await workspace.run(["python", "-c", "import pytest, ssl"], timeout_s=30.0)
            await workspace.close()
        except SandboxError as e:
            raise IsolationError(remedy(str(e), getattr(e, "errno", 0))) from e
        if result.exit_code:
            raise IsolationError(
                f"the interpreter does not work inside a sandbox: {result.output.decode(errors='replace').strip()}; "
                "is it readable for everybody?"
            )

    async def self_test(self) -> Isolation:
        isolation = await attack(self, self._state_dir)
        facts = self.supervisor.facts
        for limit, controller in (("memory", "memory"), ("processes", "pids")):
            if limit in isolation.enforced:
                by = f"cgroup v{facts['cgroups']}" if controller in facts["controllers"] else "rlimits and polling"
                isolation.enforced[limit] += f" (by {by})"
        return isolation

    async def open_workspace(
        self, base: Path, *, packages: Path | None = None, limits: Limits | None = None, run_id: str = ""
    ) -> "JailWorkspace":
        if self.supervisor is None:
            raise SandboxError("the jail is not running; await start() first")
        limits = limits or Limits()
        workspace = JailWorkspace(self, str(next(self._names)), Path(base), limits)
        self._workspaces.add(workspace)
        try:
            await workspace.open(packages or self._packages)
        except BaseException:
            await workspace.close()
            raise
        return workspace

    def forget(self, workspace: "JailWorkspace") -> None:
        self._workspaces.discard(workspace)

    async def stop(self) -> None:
        supervisor, self.supervisor = self.supervisor, None
        if supervisor is not None:
            await supervisor.stop()
        await asyncio.gather(*(workspace.close() for workspace in list(self._workspaces)))


class JailWorkspace(Workspace):
    def __init__(self, backend: JailBackend, name: str, base: Path, limits: Limits):
        self._backend, self._supervisor = backend, backend.supervisor
        self._name, self._base, self._limits = name, base, limits
        self._held = -1
        self._commands: dict[_Command, asyncio.Task] = {}
        self._closing: asyncio.Task | None = None

    async def open(self, packages: Path) -> None:
        try:
            self._held = hold(self._base)
        except OSError as e:
            raise BadRequest(f"no directory to open a workspace over: {e}") from e
        disk_bytes = self._limits.disk_mib << 20
        opening = self._supervisor.post(
            "open",
            name=self._name,
            base=os.path.realpath(self._base),
            packages=os.path.realpath(packages),
            disk_bytes=disk_bytes,
            max_files=max(4096, disk_bytes // 4096),
        )
        await asyncio.shield(asyncio.ensure_future(self._supervisor.answer(opening)))

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        output: HeadTail | None = None,
    ) -> ExecResult:
        request = {"kind": "exec", "argv": list(argv), "env": dict(env or {})}
        command = self._command(request, b"", timeout_s, limits)
        command.output = output or command.output
        await self._drive(command)
        return command.result()

    async def run_harness(self, spec: bytes, *, timeout_s: float, limits: Limits | None = None) -> HarnessResult:
        command = self._command({"kind": "harness", "env": {}}, spec, timeout_s, limits)
        await self._drive(command)
        return HarnessResult(command.result(), bytes(command.report) or None)

    async def read_file(self, path: str, *, max_bytes: int = 8 << 20) -> bytes:
        return await self._file_operation({"kind": "read", "path": path, "max_bytes": max_bytes}, max_bytes)

    async def write_file(self, path: str, data: bytes) -> None:
        await self._file_operation({"kind": "write", "path": path}, 0, data)

    async def changed_files(self, *, max_bytes: int = 32 << 20) -> dict[str, bytes | None]:
        # Names are escaped in the index and may grow by a factor of six.
        return jobs.unpack(await self._file_operation({"kind": "changed", "max_bytes": max_bytes}, 7 * max_bytes))

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for command in list(self._commands):
            self._abandon(command)
        await asyncio.gather(*self._commands.values(), return_exceptions=True)
        with suppress(SandboxError):
            await self._supervisor.answer(self._supervisor.post("close", name=self._name))
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
        self._backend.forget(self)

    def _command(self, request: dict, payload: bytes, timeout_s: float, limits: Limits | None) -> "_Command":
        limits = limits or self._limits
        request["limits"] = {
            "memory_bytes": limits.memory_mib << 20,
            "processes": limits.processes,
            "open_files": limits.open_files,
            "disk_bytes": self._limits.disk_mib << 20,
        }
        request["workspace"] = self._name
        return _Command(self._supervisor, request, payload, timeout_s, limits, _REPORT_BYTES)

    async def _file_operation(self, request: dict, max_bytes: int, payload: bytes = b"") -> bytes:
        """Raises what the operation raised inside: OSError by its number, or ValueError."""
        request = {**request, "workspace": self._name}
        command = _Command(self._supervisor, request, payload, _FILE_TIMEOUT_S, self._limits, max_bytes + 65536)
        await self._drive(command)
        command.raise_faults()
        head, _, data = bytes(command.report).partition(b"\n")
        if not head or command.stopped:
            raise SandboxError(f"a file operation ({request['kind']}) did not answer; the host is overloaded")
        error = json.loads(head)
        if error is None:
            return data
        if error["errno"] is None:
            raise ValueError(error["text"])
        raise OSError(error["errno"], error["text"], request.get("path"))

    async def _drive(self, command: "_Command") -> None:
        """Runs a command to its end; when the caller is cancelled, the command is killed and cleans up by itself."""
        if self._closing is not None:
            raise SandboxError("the workspace is closed")
        is_file = command.request["kind"] in ("read", "write", "changed")
        slots = self._backend.file_operations if is_file else self._backend.commands
        task = self._commands[command] = asyncio.create_task(command.run(slots))
        task.add_done_callback(lambda t: self._forget(command, t))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise SandboxError("the workspace was closed while a command waited for its turn") from None
            self._abandon(command)
            raise

    def _abandon(self, command: "_Command") -> None:
        if command.is_waiting:
            self._commands[command].cancel()
        else:
            command.abandon()

    def _forget(self, command: "_Command", task: asyncio.Task) -> None:
        self._commands.pop(command, None)
        if not task.cancelled():
            # Looked at, so that an abandoned command's error is not reported as never retrieved.
            task.exception()


@dataclass(eq=False)
class _Command:
    """One forked child from request to end: its pipes, its deadline, and what came out."""

    supervisor: Supervisor
    request: dict
    payload: bytes
    timeout_s: float
    limits: Limits
    report_bytes: int
    report: bytearray = field(default_factory=bytearray)
    # The limit for which we stopped it.
    stopped: Ended | None = None

    def __post_init__(self) -> None:
        self._job_id: int | None = None
        self._abandoned = False
        self._status = bytearray()
        self._started_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.output = HeadTail(self.limits.output_kept_bytes)
        self._end: dict = {}

    async def run(self, slots: asyncio.Semaphore) -> None:
        """Waits for a slot, runs, and returns when the child is reaped and its pipes are drained."""
        async with slots:
            loop = asyncio.get_running_loop()
            sinks = (self._add_output, self._add_status, self._add_report)
            if self.request["kind"] == "exec":
                sinks = sinks[:2]
            pipes = [DrainedPipe(loop, sink) for sink in sinks]
            try:
                self._job_id = self.supervisor.post(
                    "job",
                    [self._memory_file(), *(pipe.take_write_end() for pipe in pipes)],
                    workspace=self.request["workspace"],
                    is_command=self.request["kind"] in jobs.COMMANDS,
                )
                self._timer = loop.call_later(_START_TIMEOUT_S, self.kill)
                self._end = await self.supervisor.answer(self._job_id)
                # All who could write are dead, so the ends of the pipes come.
                await asyncio.gather(*(pipe.closed for pipe in pipes))
            finally:
                if self._timer:
                    self._timer.cancel()
                for pipe in pipes:
                    pipe.close()

    @property
    def is_waiting(self) -> bool:
        """Whether nothing of it has been started yet."""
        return self._job_id is None

    def abandon(self) -> None:
        self._abandoned = True
        self.kill()

    def kill(self) -> None:
        if self._job_id is not None:
            with suppress(SandboxError):
                self.supervisor.post("kill", job=self._job_id)

    def _stop(self, why: Ended) -> None:
        if self.stopped is None:
            self.stopped = why
            self.kill()

    def _memory_file(self) -> int:
        fd = os.memfd_create("request")
        with os.fdopen(os.dup(fd), "wb") as f:
            f.write(json.dumps(self.request).encode() + b"\n" + self.payload)
        return fd

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

    def _add_status(self, data: bytes) -> None:
        self._status += data
        if self._started_at is None and self._status.startswith(b"start\n"):
            self._started_at = time.monotonic()
            if self._timer:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(self.timeout_s, self._stop, Ended.TIMEOUT)

    def raise_faults(self) -> None:
        for line in self._status.decode(errors="replace").splitlines():
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
        told = self._status.decode().splitlines()
        last = told[-1].split()
        measured = float(last[2]) if len(last) == 3 else time.monotonic() - self._started_at
        ended, code = self._classify(last, "processes" in told)
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
