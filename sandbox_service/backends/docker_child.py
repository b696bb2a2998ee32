"""What a container's process 1 forks for a request: the warden of a command, or a trusted operation on files."""

import importlib
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field

from sandbox_service.backends import cgroups, docker_trees, files, jobs
from sandbox_service.backends import namespaces as ns
from sandbox_service.backends.base import WORKSPACE

_COMMANDS = ("exec", "harness")


@dataclass(eq=False)
class Running:
    """A request that a child works on. Also what `jobs.run_command` wants to know of a command."""

    request: dict
    payload: bytes
    output_fd: int = -1
    status_fd: int = -1
    report_fd: int = -1
    python: str = sys.executable
    pid: int = 0
    started_at: float = 0.0
    deadline: float | None = None
    # The limit for which it was stopped.
    stopped: str = ""
    # Whether what the command started is gone.
    ended: bool = False
    status: bytearray = field(default_factory=bytearray)
    written: dict[str, int] = field(default_factory=dict)
    before: cgroups.Events = field(default_factory=cgroups.Events)
    # Read ends by name; the write end of what is sent to the child.
    pipes: dict[str, int] = field(default_factory=dict)
    input_fd: int = -1

    @property
    def kind(self) -> str:
        return self.request["kind"]

    @property
    def is_command(self) -> bool:
        return self.kind in _COMMANDS

    def tell(self, line: str) -> None:
        os.write(self.status_fd, line.encode(errors="replace")[:4000] + b"\n")


def run_child(running: Running, filter_program: bytes, finder) -> None:
    """In the child: the work itself. Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        jobs.reset_signals()
        fds = {running.output_fd, running.status_fd, running.report_fd}
        ns.close_all_except(fds)
        jobs.enter_workspace()
        if running.is_command:
            _be_warden(running, filter_program, finder)
        else:
            jobs.send_report(running, lambda: _operate(running))
    except BaseException as e:
        with suppress(OSError):
            running.tell(f"error {getattr(e, 'errno', None) or 0} {type(e).__name__}: {e}".replace("\n", " "))
        os._exit(1)
    os._exit(0)


def import_harness(finder) -> None:
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module("sandbox_service.harness")
    finally:
        sys.meta_path.pop(0)


def _be_warden(running: Running, filter_program: bytes, finder) -> None:
    adopt_orphans()
    if running.kind == "harness":
        import_harness(finder)
    # The image's own environment, below what was asked for.
    running.request["env"] = {**os.environ, **running.request["env"]}
    jobs.lower(resource.RLIMIT_CORE, 0)
    running.tell("start")
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        jobs.run_command(running, filter_program)
    for fd in (0, 1, 2, running.output_fd, running.report_fd):
        if fd >= 0:
            os.close(fd)
    status = jobs.wait_for(pid)
    wall_s = time.monotonic() - started
    if os.WIFSIGNALED(status):
        running.tell(f"signal {os.WTERMSIG(status)} {wall_s:.6f}")
    else:
        running.tell(f"exit {os.WEXITSTATUS(status)} {wall_s:.6f}")
    # Stays the reaper of what is left, so that process 1 can tell whose it is.
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def _operate(running: Running) -> bytes:
    request = running.request
    match running.kind:
        case "read":
            return files.read_file(request["path"], request["max_bytes"])
        case "write":
            files.write_file(request["path"], running.payload)
        case "unpack":
            docker_trees.unpack(sys.stdin.buffer, WORKSPACE)
        case "changed":
            return jobs.pack(docker_trees.changed_files(WORKSPACE, json.loads(running.payload), request["max_bytes"]))
    return b""


def adopt_orphans() -> bool:
    with suppress(OSError):
        ns.adopt_orphans()
        return True
    return False
