"""Runs the programs as a user does: as processes, from the command line."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str
    wall_s: float


class Program:
    """`python -m MODULE FLAGS` with one CPU device, and one cache of compiled functions for all of them."""

    def __init__(self, cache: Path):
        # What the test process set for its own jax must not reach the program.
        inherited = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
        self.environment = inherited | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(ROOT),
        }

    def start(self, module: str, *flags: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, module: str, *flags: str, timeout_s: float = 600.0) -> Done:
        started = time.monotonic()
        process = self.start(module, *flags)
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return Done(process.returncode, stdout, stderr, time.monotonic() - started)

    def complete(self, module: str, *flags: str, timeout_s: float = 600.0) -> Done:
        """`run` of what must succeed."""
        done = self.run(module, *flags, timeout_s=timeout_s)
        assert done.code == 0, f"exit code {done.code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done


def _parents() -> dict[int, tuple[int, str]]:
    """pid -> (parent, start time) of every process that is not a zombie."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            state, parent, *rest = (entry / "stat").read_text().rpartition(")")[2].split()
            if state != "Z":
                found[int(entry.name)] = (int(parent), rest[17])
    return found


class Family:
    """A process and all its descendants, orphans included where they were seen before."""

    def __init__(self, pid: int):
        self._known = {(pid, _parents()[pid][1])}

    def alive(self) -> set[int]:
        processes = _parents()
        self._known = {(p, start) for p, start in self._known if p in processes and processes[p][1] == start}
        while True:
            pids = {p for p, _ in self._known}
            new = {(p, start) for p, (parent, start) in processes.items() if parent in pids} - self._known
            if not new:
                return pids
            self._known |= new

    def kill_9(self, process: subprocess.Popen, patience_s: float = 30.0) -> set[int]:
        """Kills the first of them; returns who is still there when patience ends."""
        self.alive()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        deadline = time.monotonic() + patience_s
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left
