"""A sandbox service of one's own, as a child process on a private unix socket.

    async with embedded_service(["tasks"]) as address:
        async with SandboxClient(address, run_id="run-1") as client: ...

The child ends with its parent, even by kill -9: it watches its stdin for the end of file, and asks the kernel for a
signal at the parent's death, since a fork of the parent may hold the pipe open.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from sandbox_service import scratch
from sandbox_service.errors import IsolationError, SandboxError, TaskSetError

READY = "serving on "
EXIT_FAULT = 1
EXIT_BAD_INPUT = 2
EXIT_NO_ISOLATION = 3
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
LOG_TAIL_CHARS = 4000


class EmbeddedService:
    """Starts with `start`, which gives the address; ends with `stop` or with this process."""

    def __init__(
        self, task_dirs: Sequence[Path | str], state_dir: Path | str | None = None, allow_unsafe: bool = False
    ):
        self._arguments = [f"--tasks={Path(d).absolute()}" for d in task_dirs]
        if state_dir is not None:
            self._arguments.append(f"--state={Path(state_dir).absolute()}")
        if allow_unsafe:
            self._arguments.append("--allow-unsafe")
        self._folder: Path | None = None
        self._process: subprocess.Popen | None = None

    def start(self) -> str:
        """Starts the child and waits until it serves; returns its address.

        Raises IsolationError, TaskSetError or SandboxError with what the child said when it refuses.
        """
        self._folder = scratch.make("embedded")
        address = f"unix:{self._folder}/socket"
        package_root = str(Path(__file__).resolve().parents[1])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
        }
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sandbox_service", f"--bind={address}", "--exit-with-parent", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the trainer, which still has sessions to close
            )
        watchdog = threading.Timer(START_TIMEOUT_S, self._process.kill)
        watchdog.start()
        try:
            for line in self._process.stdout:
                if line.startswith(READY):
                    return address
        finally:
            watchdog.cancel()
        code, said = self._process.wait(), self.log().removeprefix("error: ")
        self.stop()
        error = {EXIT_BAD_INPUT: TaskSetError, EXIT_NO_ISOLATION: IsolationError}.get(code, SandboxError)
        raise error(f"the sandbox service did not start (exit code {code}):\n{said}")

    def stop(self) -> None:
        """Ends the child: calls that still run are given a moment, then everything is closed. Safe to repeat."""
        process, folder = self._process, self._folder
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdin.close()
            process.stdout.close()
        if folder is not None:
            scratch.remove(folder)
        self._process = self._folder = None

    def log(self) -> str:
        """The end of what the child wrote to stderr."""
        return (self._folder / "log").read_text(errors="replace")[-LOG_TAIL_CHARS:].strip() if self._folder else ""


@contextlib.asynccontextmanager
async def embedded_service(
    task_dirs: Sequence[Path | str], state_dir: Path | str | None = None, allow_unsafe: bool = False
) -> AsyncIterator[str]:
    """The address of a service that lives as long as the block."""
    service = EmbeddedService(task_dirs, state_dir, allow_unsafe)
    try:
        yield await asyncio.to_thread(service.start)
    finally:
        await asyncio.to_thread(service.stop)
