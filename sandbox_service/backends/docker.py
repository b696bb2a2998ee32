"""Workspaces in containers of Docker or Podman: one container each, never used again.

The trusted half runs inside as process 1 (`docker_init.py`); this side sends it requests and tells what an end means.
All commands of a workspace share its container, and so its limits of memory and processes.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from sandbox_service.backends import jobs
from sandbox_service.backends.base import Backend, Ended, ExecResult, HarnessResult, Isolation, Limits, Workspace
from sandbox_service.backends.docker_channel import ContainerGone
from sandbox_service.backends.docker_engine import Container, Engine, Kind
from sandbox_service.backends.docker_pool import Pool
from sandbox_service.backends.docker_trees import Archive, Archives
from sandbox_service.backends.output import HeadTail
from sandbox_service.backends.selftest import attack
from sandbox_service.errors import BadRequest, IsolationError, SandboxError
from sandbox_service.workspaces import FOR_ONE, hold, make_packages

SOCKETS = ("/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock")
_REPORT_BYTES = 8 << 20
_FILE_TIMEOUT_S = 60.0
# Beyond a command's own limit; more means a host in trouble.
_PATIENCE_S = 60.0
_STOPPED = {"timeout": Ended.TIMEOUT, "output": Ended.OUTPUT_LIMIT, "memory": Ended.OUT_OF_MEMORY}
_USED_UP = "the workspace is gone: its commands used up the memory of the whole container"


def default_socket() -> str:
    """DOCKER_HOST, or the first socket that exists."""
    named = os.environ.get("DOCKER_HOST", "")
    if named:
        if not named.startswith("unix://"):
            raise IsolationError(f"DOCKER_HOST={named}: only unix sockets are spoken to; give unix:///PATH")
        return named.removeprefix("unix://")
    return next((path for path in SOCKETS if os.path.exists(path)), SOCKETS[0])


class DockerBackend(Backend):
    """`image` is a name with digest, or one that the engine resolves once, at the start.

    The engine must see this host's files: packages are shown to containers by bind mounts below `state_dir`.
    `pool` containers of each kind in use are kept ready; `cpus` is the share of each container.
    """

    name = "docker"

    def __init__(
        self,
        state_dir: Path,
        image: str,
        *,
        socket_path: str | None = None,
        runtime: str | None = None,
        max_running: int | None = None,
        pool: int = 2,
        cpus: float = 1.0,
    ):
        self._state_dir = Path(state_dir).absolute()
        cores = len(os.sched_getaffinity(0))
        self.commands = asyncio.Semaphore(max_running or 2 * cores)
        self.engine = Engine(socket_path or default_socket(), image, self._state_dir, runtime, min(cpus, cores))
        self.pool = Pool(self.engine, pool, 2 * cores)
        self._archives = Archives()
        self._workspaces: set[DockerWorkspace] = set()
        self._packages: Path | None = None

    async def start(self) -> None:
        self._state_dir.mkdir(parents=True, exist_ok=True)
        packages = await asyncio.to_thread(make_packages, self._state_dir / "packages")
        await self.engine.start()
        self._packages = packages
        try:
            await self._probe()
        except BaseException:
            await self.stop()
            raise

    async def _probe(self) -> None:
        base = self._state_dir / "empty"
        base.mkdir(exist_ok=True)
        try:
            workspace = await self.open_workspace(base)
            result = await workspace.run(["bash", "-c", "python -c 'import pytest, ssl'"], timeout_s=60.0)
            await workspace.close()
        except SandboxError as e:
            raise IsolationError(f"cannot make a container here: {e}") from e
        if result.exit_code:
            raise IsolationError(
                f"the image does not serve: {result.output.decode(errors='replace').strip()}; "
                "it needs bash, python and python3 (3.10 or later) on PATH"
            )

    async def self_test(self) -> Isolation:
        isolation = await attack(self, self._state_dir)
        for limit in ("memory", "processes"):
            if limit in isolation.enforced:
                isolation.enforced[limit] += " (by the container's control group)"
        return isolation

    async def check(self) -> None:
        await self.engine.call(lambda client: client.ping())

    async def open_workspace(
        self, base: Path, *, packages: Path | None = None, limits: Limits | None = None, run_id: str = ""
    ) -> "DockerWorkspace":
        if self._packages is None:
            raise SandboxError("the docker backend is not running; await start() first")
        limits = limits or Limits()
        try:
            held = hold(base)
        except OSError as e:
            raise BadRequest(f"no directory to open a workspace over: {e}") from e
        try:
            archive = await asyncio.to_thread(self._archives.of, base)
        finally:
            os.close(held)
        shared = replace(Limits(), **_of_container(limits))
        kind = Kind(packages or self._packages, shared, _room_mib(archive), run_id)
        # Nobody else can use a container with these packages: no others are kept ready.
        is_for_one = packages is not None and (packages / FOR_ONE).exists()
        container = await (self.engine.make(kind) if is_for_one else self.pool.take(kind))
        workspace = DockerWorkspace(self, container, archive, limits)
        self._workspaces.add(workspace)
        try:
            await workspace.fill()
        except BaseException:
            await asyncio.shield(workspace.close())
            raise
        return workspace

    def forget(self, workspace: "DockerWorkspace") -> None:
        self._workspaces.discard(workspace)

    async def stop(self) -> None:
        self._packages = None
        await asyncio.gather(*(workspace.close() for workspace in list(self._workspaces)))
        await self.pool.close()
        await self.engine.stop()


def _of_container(limits: Limits) -> dict[str, int]:
    return {"memory_mib": limits.memory_mib, "processes": limits.processes, "disk_mib": limits.disk_mib}


def _room_mib(archive: Archive) -> int:
    """A power of two, so that trees of about one size share containers."""
    return 1 << max(0, (archive.size_bytes - 1) >> 20).bit_length()


class DockerWorkspace(Workspace):
    def __init__(self, backend: DockerBackend, container: Container, archive: Archive, limits: Limits):
        self._backend, self._container, self._channel = backend, container, container.channel
        self._archive, self._limits = archive, limits
        self._closing: asyncio.Task | None = None
        self._used_up = False

    async def fill(self) -> None:
        """Brings the tree into the container."""
        request = _Request({"kind": "unpack", "output_bytes": 4096, "report_bytes": 4096}, b"")
        number = self._send(request)
        try:
            await self._channel.send_data(number, self._archive.data)
        except ContainerGone:
            request.lose()
        await self._finish(request, number, _FILE_TIMEOUT_S)
        _answer(request, "")

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
        return (await self._command(request, b"", timeout_s, limits or self._limits, output)).exec

    async def run_harness(self, spec: bytes, *, timeout_s: float, limits: Limits | None = None) -> HarnessResult:
        return await self._command({"kind": "harness", "env": {}}, spec, timeout_s, limits or self._limits, None)

    async def read_file(self, path: str, *, max_bytes: int = 8 << 20) -> bytes:
        return await self._file_operation({"kind": "read", "path": path, "max_bytes": max_bytes}, max_bytes)

    async def write_file(self, path: str, data: bytes) -> None:
        await self._file_operation({"kind": "write", "path": path}, 0, data)

    async def changed_files(self, *, max_bytes: int = 32 << 20) -> dict[str, bytes | None]:
        index = json.dumps(self._archive.index).encode()
        # Names are escaped in the answer and may grow by a factor of six.
        answer = await self._file_operation({"kind": "changed", "max_bytes": max_bytes}, 7 * max_bytes, index)
        return jobs.unpack(answer)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        with suppress(SandboxError):
            await self._backend.engine.destroy(self._container)
        self._backend.forget(self)

    async def _command(
        self, request: dict, payload: bytes, timeout_s: float, limits: Limits, output: HeadTail | None
    ) -> HarnessResult:
        self._check_open()
        request |= {
            "timeout_s": timeout_s,
            "limits": {
                "memory_bytes": limits.memory_mib << 20,
                "open_files": limits.open_files,
            },
            "output_bytes": limits.output_stop_bytes,
            "report_bytes": _REPORT_BYTES,
        }
        job = _Request(request, payload, output or HeadTail(limits.output_kept_bytes))
        async with self._backend.commands:
            self._check_open()
            if not self._used_up:
                await self._drive(job, timeout_s)
        if self._used_up and (job.end is None):
            job.output.add(_USED_UP.encode())
            return HarnessResult(ExecResult(Ended.OUT_OF_MEMORY, -1, *job.output.result(), 0.0), None)
        result = job.result(limits.memory_mib, self._archive.size_bytes)
        is_whole = len(job.report) <= _REPORT_BYTES
        return HarnessResult(result, bytes(job.report) or None if is_whole else None)

    async def _file_operation(self, request: dict, max_bytes: int, payload: bytes = b"") -> bytes:
        """Raises what the operation raised inside: OSError by its number, or ValueError."""
        request |= {"timeout_s": _FILE_TIMEOUT_S, "output_bytes": 4096, "report_bytes": max_bytes + 65536}
        job = _Request(request, payload)
        self._check_open()
        if not self._used_up:
            await self._drive(job, _FILE_TIMEOUT_S)
        if self._used_up and job.end is None:
            raise ValueError(_USED_UP)
        return _answer(job, request.get("path", ""))

    def _check_open(self) -> None:
        if self._closing is not None:
            raise SandboxError("the workspace is closed")

    async def _drive(self, request: "_Request", timeout_s: float) -> None:
        try:
            number = self._send(request)
        except ContainerGone:
            request.lose()
            number = 0
        await self._finish(request, number, timeout_s)

    def _send(self, request: "_Request") -> int:
        number = self._channel.open(request.take)
        self._channel.send(number, "job", request.payload, **request.fields)
        return number

    async def _finish(self, request: "_Request", number: int, timeout_s: float) -> None:
        """Waits for the end; a caller that is cancelled kills what it asked for."""
        try:
            await asyncio.wait_for(asyncio.shield(request.done), timeout_s + _PATIENCE_S)
        except TimeoutError:
            raise SandboxError("a container does not answer; the host is overloaded") from None
        except asyncio.CancelledError:
            with suppress(SandboxError):
                self._channel.send(number, "kill")
            raise
        finally:
            self._channel.forget(number)
        if request.end is not None:
            return
        if self._closing is not None:
            raise SandboxError("the workspace was closed while a command ran")
        if not await self._backend.engine.died_of_memory(self._container):
            raise SandboxError("the container ended; was it removed, or the engine restarted?")
        self._used_up = True


@dataclass(eq=False)
class _Request:
    """One request from its sending to its end: what came out."""

    fields: dict
    payload: bytes
    output: HeadTail = field(default_factory=lambda: HeadTail(4096))
    report: bytearray = field(default_factory=bytearray)
    # None until the end, and for good when the container was lost.
    end: dict | None = None

    def __post_init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, message: dict, data: bytes) -> None:
        if message.get("of") == "output":
            self.output.add(data)
        elif message.get("of") == "report":
            self.report += data
        elif "end" in message:
            self.end = message["end"]
            self.lose()
        else:
            self.lose()

    def lose(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def result(self, memory_mib: int, tree_bytes: int) -> ExecResult:
        """Raises SandboxError when the command never ran."""
        output, omitted = self.output.result()
        lines = self.end["lines"]
        last = lines[-1].split() if lines else [""]
        if last[0] == "error" and "start" not in lines and int(last[1]) != _EAGAIN:
            raise SandboxError(f"the command could not be started: {lines[-1]}")
        wall_s = float(last[2]) if len(last) == 3 and not self.end["stopped"] else self.end["wall_s"]
        ended, code = self._classify(last, memory_mib, tree_bytes)
        return ExecResult(ended, code, output, omitted, wall_s)

    def _classify(self, last: list[str], memory_mib: int, tree_bytes: int) -> tuple[Ended, int]:
        """The most telling cause. A command that succeeded has succeeded, whatever limits it met on its way."""
        end = self.end
        if last[:2] == ["exit", "0"]:
            return Ended.EXITED, 0
        if end["out_of_memory"] or end["stopped"] == "memory":
            # The workspace's files are memory too: when they took most of it, the disk was what was filled.
            by_files = (end["file_bytes"] - tree_bytes) * 2 > memory_mib << 20
            return (Ended.OUT_OF_DISK if by_files else Ended.OUT_OF_MEMORY), -1
        if end["out_of_processes"] or last[0] == "error":
            return Ended.OUT_OF_PROCESSES, -1
        if end["stopped"] in _STOPPED:
            return _STOPPED[end["stopped"]], -1
        if end["disk_full"]:
            return Ended.OUT_OF_DISK, -1
        if last[0] == "exit":
            return Ended.EXITED, int(last[1])
        # Without a last line the command was killed together with its parent; SIGKILL is what it saw.
        return Ended.SIGNALED, int(last[1]) if last[0] == "signal" else 9


_EAGAIN = 11


def _answer(request: _Request, path: str) -> bytes:
    head, _, data = bytes(request.report).partition(b"\n")
    if not head or request.end["stopped"]:
        why = "; ".join(request.end["lines"]) or request.end["stopped"]
        raise SandboxError(f"a file operation ({request.fields['kind']}) did not answer: {why}")
    error = json.loads(head)
    if error is None:
        return data
    if error["errno"] is None:
        raise ValueError(error["text"])
    raise OSError(error["errno"], error["text"], path)
