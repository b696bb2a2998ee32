"""Plain subprocesses in a temporary directory: NOT an isolation boundary. For hosts where the operator allows it.

Limits are rlimits of each process, and the end of a command kills its process group: a program that wants to get
around either can.
"""

import asyncio
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sandbox_service.backends import files
from sandbox_service.backends.base import (
    WORKSPACE,
    Backend,
    Ended,
    ExecResult,
    HarnessResult,
    Isolation,
    Limits,
    Workspace,
)
from sandbox_service.backends.jobs import ENVIRONMENT
from sandbox_service.backends.output import DrainedPipe, HeadTail
from sandbox_service.backends.selftest import ATTACKS
from sandbox_service.errors import BadRequest, SandboxError
from sandbox_service.workspaces import make_packages

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_REPORT_BYTES = 8 << 20
_HARNESS = "import sys; from sandbox_service import harness; sys.exit(harness.main(open({spec!r}, 'rb').read(), {fd}))"


class UnsafeBackend(Backend):
    name = "unsafe"

    def __init__(self, state_dir: Path):
        self._state_dir = Path(state_dir).absolute()
        self.commands = asyncio.Semaphore(2 * (os.cpu_count() or 1))
        self._workspaces: set[UnsafeWorkspace] = set()

    async def start(self) -> None:
        self._state_dir.mkdir(parents=True, exist_ok=True)
        self._packages = await asyncio.to_thread(make_packages, self._state_dir / "packages")
        self._bin = self._state_dir / "python"
        self._bin.mkdir(exist_ok=True)
        for name in ("python", "python3"):
            with suppress(FileExistsError):
                (self._bin / name).symlink_to(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))

    async def self_test(self) -> Isolation:
        """Nothing is enforced but limits; the attacks are not run, since here they would hit the host."""
        return Isolation({}, dict.fromkeys(sorted(ATTACKS), "not attacked: the unsafe backend isolates nothing"))

    async def check(self) -> None:
        """Plain processes: nothing of it can be gone."""

    async def open_workspace(
        self, base: Path, *, packages: Path | None = None, limits: Limits | None = None, run_id: str = ""
    ) -> "UnsafeWorkspace":
        if not Path(base).is_dir():
            raise BadRequest(f"no directory to open a workspace over: {base}")
        root = Path(tempfile.mkdtemp(prefix="workspace-", dir=self._state_dir))
        try:
            await asyncio.to_thread(shutil.copytree, base, root / "work", symlinks=True)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, root, True)
            raise
        (root / "tmp").mkdir()
        workspace = UnsafeWorkspace(self, root, Path(base), packages or self._packages, self._bin, limits or Limits())
        self._workspaces.add(workspace)
        return workspace

    def forget(self, workspace: "UnsafeWorkspace") -> None:
        self._workspaces.discard(workspace)

    async def stop(self) -> None:
        await asyncio.gather(*(workspace.close() for workspace in list(self._workspaces)))


class UnsafeWorkspace(Workspace):
    def __init__(self, backend: UnsafeBackend, root: Path, base: Path, packages: Path, bin_dir: Path, limits: Limits):
        self._backend, self._root, self._base, self._limits = backend, root, base, limits
        self._packages, self._bin = packages, bin_dir
        self._work = os.path.realpath(root / "work")
        self._running: set[asyncio.Task] = set()
        self._closed = False

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        output: HeadTail | None = None,
    ) -> ExecResult:
        return await self._track(self._run(argv, timeout_s, env or {}, limits or self._limits, output=output))

    async def run_harness(self, spec: bytes, *, timeout_s: float, limits: Limits | None = None) -> HarnessResult:
        """The spec's root must be WORKSPACE, which stands for the directory of this workspace."""
        report = HeadTail(2 * _REPORT_BYTES)
        with tempfile.NamedTemporaryFile(dir=self._root) as f:
            f.write(spec.replace(f'"{WORKSPACE}"'.encode(), f'"{self._work}"'.encode()))
            f.flush()
            pipe = DrainedPipe(asyncio.get_running_loop(), report.add)
            write_end = pipe.take_write_end()
            argv = [str(self._bin / "python3"), "-c", _HARNESS.format(spec=f.name, fd=write_end)]
            env = {"PYTHONPATH": f"{self._packages}:{_PACKAGE_ROOT}"}
            try:
                result = await self._track(self._run(argv, timeout_s, env, limits or self._limits, write_end))
                pipe.drain_rest()
            finally:
                pipe.close()
                os.close(write_end)
        data, omitted = report.result()
        return HarnessResult(result, None if omitted or len(data) > _REPORT_BYTES else data or None)

    async def read_file(self, path: str, *, max_bytes: int = 8 << 20) -> bytes:
        return await asyncio.to_thread(files.read_file, self._host_path(path), max_bytes, roots=(self._work,))

    async def write_file(self, path: str, data: bytes) -> None:
        await asyncio.to_thread(files.write_file, self._host_path(path), data, roots=(self._work,))

    async def changed_files(self, *, max_bytes: int = 32 << 20) -> dict[str, bytes | None]:
        return await asyncio.to_thread(files.changed_files, self._work, str(self._base), max_bytes, is_whole=True)

    async def close(self) -> None:
        self._closed = True
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.to_thread(shutil.rmtree, self._root, True)
        self._backend.forget(self)

    def _host_path(self, path: str) -> str:
        if self._closed:
            raise SandboxError("the workspace is closed")
        if path == WORKSPACE or path.startswith(WORKSPACE + "/"):
            path = path[len(WORKSPACE) + 1 :] or "."
        return os.path.join(self._work, path)

    async def _track(self, run) -> ExecResult:
        if self._closed:
            run.close()
            raise SandboxError("the workspace is closed")
        task = asyncio.ensure_future(run)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await task
        except asyncio.CancelledError:
            if self._closed and not asyncio.current_task().cancelling():
                raise SandboxError("the workspace was closed while a command ran") from None
            raise

    async def _run(
        self,
        argv: Sequence[str],
        timeout_s: float,
        env: Mapping[str, str],
        limits: Limits,
        report_fd: int = -1,
        output: HeadTail | None = None,
    ) -> ExecResult:
        loop = asyncio.get_running_loop()
        output, too_much = output or HeadTail(limits.output_kept_bytes), loop.create_future()

        def add(data: bytes) -> None:
            output.add(data)
            if output.total_bytes > limits.output_stop_bytes and not too_much.done():
                too_much.set_result(None)

        async with self._backend.commands:
            pipe = DrainedPipe(loop, add)
            started = time.monotonic()
            try:
                process = await self._spawn(argv, env, pipe, report_fd)
            except OSError as e:
                pipe.close()
                return ExecResult(Ended.EXITED, 127, f"{argv[0]}: {e.strerror}\n".encode(), 0, 0.0)
            ending = asyncio.create_task(process.wait())
            try:
                _limit(process.pid, limits, self._limits.disk_mib)
                await asyncio.wait({ending, too_much}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                stopped = None if ending.done() else Ended.OUTPUT_LIMIT if too_much.done() else Ended.TIMEOUT
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await ending
                pipe.drain_rest()
                pipe.close()
        kept, omitted = output.result()
        wall_s, code = time.monotonic() - started, process.returncode
        if stopped:
            return ExecResult(stopped, -1, kept, omitted, wall_s)
        return ExecResult(Ended.SIGNALED if code < 0 else Ended.EXITED, abs(code), kept, omitted, wall_s)

    async def _spawn(
        self, argv: Sequence[str], env: Mapping[str, str], pipe: DrainedPipe, report_fd: int
    ) -> asyncio.subprocess.Process:
        tmp = str(self._root / "tmp")
        own = {"PATH": f"{self._bin}:/usr/local/bin:/usr/bin:/bin", "HOME": tmp, "TMPDIR": tmp}
        write_end = pipe.take_write_end()
        try:
            return await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                cwd=self._work,
                env={**ENVIRONMENT, **own, "PYTHONPATH": str(self._packages), **env},
                start_new_session=True,
                pass_fds=(report_fd,) if report_fd >= 0 else (),
            )
        finally:
            os.close(write_end)


def _limit(pid: int, limits: Limits, disk_mib: int) -> None:
    """Of each process alone, a moment after its start: a hook before it would not be safe beside gRPC's threads."""
    values = {
        resource.RLIMIT_AS: limits.memory_mib << 20,
        resource.RLIMIT_FSIZE: disk_mib << 20,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 0,
    }
    with suppress(ProcessLookupError):
        for kind, value in values.items():
            resource.prlimit(pid, kind, (value, value))
