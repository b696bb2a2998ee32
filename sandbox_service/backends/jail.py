"""The embedded jail: workspaces and commands isolated by namespaces, without a daemon.

`zygote.py` makes the sandboxes, `init.py` runs commands in them; this is the service's asynchronous side: which sandbox
a command gets. `cell.py` has its pipes, its deadline, and what its end means.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from sandbox_service.backends import jobs
from sandbox_service.backends.base import (
    Backend,
    ExecResult,
    HarnessResult,
    Isolation,
    Limits,
    Workspace,
)
from sandbox_service.backends.cell import Cell, Command
from sandbox_service.backends.output import HeadTail
from sandbox_service.backends.selftest import attack
from sandbox_service.backends.supervisor import Supervisor, remedy
from sandbox_service.errors import BadRequest, IsolationError, SandboxError
from sandbox_service.workspaces import hold, make_packages

_REPORT_BYTES = 8 << 20
_FILE_TIMEOUT_S = 60.0


class JailBackend(Backend):
    """`state_dir` holds the default packages; at most `max_running` commands run at the same time.

    `max_kept` sandboxes, of some 4 MiB each, wait for the next command of their workspace; who has waited longest goes.
    """

    name = "jail"

    def __init__(self, state_dir: Path, *, max_running: int | None = None, max_kept: int | None = None):
        self._state_dir = Path(state_dir)
        cores = len(os.sched_getaffinity(0))
        self.commands = asyncio.Semaphore(max_running or 2 * cores)
        self.file_operations = asyncio.Semaphore(2 * cores)
        self._workspaces: set[JailWorkspace] = set()
        self._max_kept = 16 * cores if max_kept is None else max_kept
        # Those that keep a cell; the one that has been idle longest comes first.
        self._keeping: dict[JailWorkspace, None] = {}
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

    async def check(self) -> None:
        self.supervisor.check()

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

    def keeps(self, workspace: "JailWorkspace") -> None:
        """Called when the workspace has begun to keep a cell."""
        self._keeping.pop(workspace, None)
        self._keeping[workspace] = None
        while len(self._keeping) > self._max_kept:
            next(iter(self._keeping)).release()

    def keeps_none(self, workspace: "JailWorkspace") -> None:
        self._keeping.pop(workspace, None)

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
        self._commands: dict[Command, asyncio.Task] = {}
        self._closing: asyncio.Task | None = None
        # Whatever is alive of this workspace, and the one that waits for a command.
        self._cells: set[Cell] = set()
        self._kept: Cell | None = None

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
        self._backend.keeps_none(self)
        await asyncio.gather(*(cell.dismiss() for cell in list(self._cells)))
        with suppress(SandboxError):
            await self._supervisor.answer(self._supervisor.post("close", name=self._name))
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
        self._backend.forget(self)

    def _command(self, request: dict, payload: bytes, timeout_s: float, limits: Limits | None) -> Command:
        return Command(self._take, request, payload, timeout_s, limits or self._limits, _REPORT_BYTES)

    def _take(self, command: Command, write_ends: list[int]) -> Cell:
        """The kept cell, or a new one: when there is none, when its limits are others, and for the harness."""
        limits = {
            "memory_bytes": command.limits.memory_mib << 20,
            "processes": command.limits.processes,
            "open_files": command.limits.open_files,
            "disk_bytes": self._limits.disk_mib << 20,
        }
        kept = self._kept
        if kept and kept.is_usable and kept.limits == limits and command.request["kind"] == "exec":
            self._kept = None
            self._backend.keeps_none(self)
            return kept
        try:
            return self._make_cell({"kind": "cell", "limits": limits})
        except SandboxError:
            for fd in write_ends:
                os.close(fd)
            raise

    def _give_back(self, cell: Cell) -> None:
        """After a command. One is kept."""
        if self._kept and not self._kept.is_usable:
            self._kept = None
        if cell.is_usable and self._kept is None and self._closing is None:
            self._kept = cell
            self._backend.keeps(self)
        else:
            cell.kill()

    def release(self) -> None:
        """Lets the kept cell go."""
        kept, self._kept = self._kept, None
        self._backend.keeps_none(self)
        if kept:
            kept.kill()

    def _make_cell(self, request: dict, payload: bytes = b"", fds: Sequence[int] = ()) -> Cell:
        cell = Cell(self._supervisor, {**request, "workspace": self._name}, payload, fds)
        self._cells.add(cell)
        cell.gone.add_done_callback(lambda _: self._cells.discard(cell))
        return cell

    async def _file_operation(self, request: dict, max_bytes: int, payload: bytes = b"") -> bytes:
        """Raises what the operation raised inside: OSError by its number, or ValueError."""

        def find_cell(command: Command, write_ends: list[int]) -> Cell:
            return self._make_cell(request, payload, write_ends)

        command = Command(find_cell, request, payload, _FILE_TIMEOUT_S, self._limits, max_bytes + 65536)
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

    async def _drive(self, command: "Command") -> None:
        """Runs a command to its end; when the caller is cancelled, the command is killed and cleans up by itself."""
        if self._closing is not None:
            raise SandboxError("the workspace is closed")
        slots = self._backend.commands if command.is_command else self._backend.file_operations
        task = self._commands[command] = asyncio.create_task(command.run(slots))
        task.add_done_callback(lambda t: self._forget(command, t))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise SandboxError("the workspace was closed while a command waited for its turn") from None
            self._abandon(command)
            raise

    def _abandon(self, command: "Command") -> None:
        if command.is_waiting:
            self._commands[command].cancel()
        else:
            command.abandon()

    def _forget(self, command: "Command", task: asyncio.Task) -> None:
        self._commands.pop(command, None)
        if command.cell is not None and command.is_command:
            self._give_back(command.cell)
        if not task.cancelled():
            # Looked at, so that an abandoned command's error is not reported as never retrieved.
            task.exception()
