"""Process 1 of a sandbox's container: the trusted half inside, which starts commands and ends all that they started.

It reads requests from stdin and writes answers to stdout, both as frames (`docker_channel.py` has the other end). It
runs as the same unprivileged user as the commands, and they cannot harm it: the kernel keeps every signal of its own
namespace from process 1, it is not dumpable, and the commands' filter denies them to trace it or to change its limits.
At the end of its stdin it ends, and the container with it: nothing outlives a service that was killed.

Each command has a *warden*: its parent, and the reaper of all its orphans. Whatever a command leaves behind is thus a
descendant of its warden, in whatever session it is. Orphans without a warden (it was killed, or the kernel, as an old
gVisor, knows no such reapers) come to process 1 and end with the next command that ends.
"""

import gc
import importlib
import json
import os
import resource
import selectors
import signal
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sandbox_service.backends import cgroups, docker_trees, files, jobs
from sandbox_service.backends import namespaces as ns
from sandbox_service.backends.base import WORKSPACE
from sandbox_service.backends.seccomp import build_filter

_CHUNK = 1 << 16
# Until then one command's processes are ended alone; after it, everything in the container.
_SWEEP_S, _HAMMER_S = 10.0, 10.0
_POLL_S, _QUIET_S = 0.1, 0.05
# What wardens and trusted operations use for a moment, beside what this process has from the start.
_SPARE_BYTES = 16 << 20
_DISKS = (WORKSPACE, "/tmp", "/dev/shm")
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


class Init:
    def __init__(self, finder) -> None:
        self._finder, self._is_warm = finder, False
        self._wardens_adopt = _adopt_orphans()
        self._filter = build_filter(ns.MACHINE)
        self._groups = _own_group()
        self._selector = selectors.DefaultSelector()
        self._running: dict[int, Running] = {}
        self._own_bytes = _anonymous_bytes(self._groups) + _SPARE_BYTES
        self._received = bytearray()

    def serve(self) -> None:
        """Until the end of stdin."""
        wake = os.pipe()
        for fd in wake:
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake[1])
        os.set_blocking(0, False)
        self._selector.register(0, selectors.EVENT_READ, self._receive)
        self._selector.register(wake[0], selectors.EVENT_READ, lambda: _read_all(wake[0]))
        _send({"ready": True, "python": list(sys.version_info[:3]), "cgroups": self._groups.version})
        while True:
            events = self._selector.select(self._patience())
            for key, _ in events:
                key.data()
            self._check_limits()
            self._reap()
            if not events and not self._running and not self._is_warm:
                self._warm_up()

    def _warm_up(self) -> None:
        """In a quiet moment: what each run of the harness would import for itself."""
        self._is_warm = True
        # Packages without pytest are for commands alone.
        with suppress(ImportError):
            _import_harness(self._finder)
        gc.collect()
        gc.freeze()
        self._own_bytes = _anonymous_bytes(self._groups) + _SPARE_BYTES

    def _patience(self) -> float | None:
        waits = [max(0.0, r.deadline - time.monotonic()) for r in self._running.values() if r.deadline is not None]
        if self._memory_limits():
            waits.append(_POLL_S)
        if not self._is_warm and not self._running:
            waits.append(_QUIET_S)
        return min(waits, default=None)

    # Requests.

    def _receive(self) -> None:
        try:
            data = os.read(0, 1 << 20)
        except BlockingIOError:
            return
        if not data:
            os._exit(0)
        self._received += data
        while len(self._received) >= 8:
            head, body = struct.unpack_from(">II", self._received)
            if len(self._received) < 8 + head + body:
                return
            request = json.loads(self._received[8 : 8 + head])
            payload = bytes(self._received[8 + head : 8 + head + body])
            del self._received[: 8 + head + body]
            self._handle(request, payload)

    def _handle(self, request: dict, payload: bytes) -> None:
        running = self._running.get(request["id"])
        match request["op"]:
            case "ping":
                _send({"id": request["id"]})
            case "job":
                self._start(Running(request, payload))
            case "data" if running:
                _feed(running, payload)
            case "kill" if running:
                self._stop(running, "killed")

    def _start(self, running: Running) -> None:
        names = ("output", "status", "report") if running.kind != "exec" else ("output", "status")
        ends = {name: os.pipe() for name in names}
        feed = os.pipe() if running.kind == "unpack" else (-1, -1)
        running.pipes = {name: read for name, (read, _) in ends.items()}
        running.output_fd, running.status_fd = ends["output"][1], ends["status"][1]
        running.report_fd = ends["report"][1] if "report" in ends else -1
        running.before = self._groups.events(".")
        try:
            pid = os.fork()
        except OSError as e:
            running.status += f"error {e.errno} {e}\n".encode()
            pid = 0
        else:
            if pid == 0:
                if feed[0] >= 0:
                    os.dup2(feed[0], 0)
                _child(running, self._filter, self._finder)
        for fd in (*(write for _, write in ends.values()), feed[0]):
            if fd >= 0:
                os.close(fd)
        running.pid, running.input_fd = pid, feed[1]
        self._running[running.request["id"]] = running
        for name, fd in running.pipes.items():
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_READ, lambda n=name: self._drain(running, n))
        running.started_at = time.monotonic()
        if running.kind != "unpack":
            running.deadline = running.started_at + running.request["timeout_s"]
        if not pid:
            self._finish(running)

    # What comes out of children.

    def _drain(self, running: Running, name: str) -> bool:
        """Takes one piece; False when there is none now, or no more at all."""
        fd = running.pipes.get(name)
        if fd is None:
            return False
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._close_pipe(running, name)
            return False
        if name == "status":
            running.status += data
            if not running.ended and (b"\nexit " in running.status or b"\nsignal " in running.status):
                self._end_processes(running)
            return True
        limit = running.request[f"{name}_bytes"]
        running.written[name] = written = running.written.get(name, 0) + len(data)
        if written <= limit + _CHUNK:
            _send({"id": running.request["id"], "of": name}, data)
        if written > limit:
            self._stop(running, "output")
        return True

    def _close_pipe(self, running: Running, name: str) -> None:
        fd = running.pipes.pop(name)
        self._selector.unregister(fd)
        os.close(fd)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for running in list(self._running.values()):
                if running.pid == pid:
                    # A warden leaves of itself only when it has no descendant any more.
                    running.ended |= status == 0 and self._wardens_adopt
                    if not running.is_command and os.WIFSIGNALED(status):
                        running.status += f"error 0 killed by signal {os.WTERMSIG(status)}\n".encode()
                    self._finish(running)

    def _finish(self, running: Running) -> None:
        """The child is gone. A warden that was killed leaves its command's processes to us."""
        if running.is_command and running.pid and not running.ended:
            self._end_processes(running)
        del self._running[running.request["id"]]
        for name in list(running.pipes):
            while self._drain(running, name):
                pass
            if name in running.pipes:
                self._close_pipe(running, name)
        if running.input_fd >= 0:
            os.close(running.input_fd)
        _send({"id": running.request["id"], "end": self._describe(running)})

    def _describe(self, running: Running) -> dict:
        events = self._groups.events(".")
        return {
            "lines": running.status.decode(errors="replace").splitlines(),
            "stopped": running.stopped,
            "wall_s": time.monotonic() - running.started_at,
            "out_of_memory": events.out_of_memory - running.before.out_of_memory,
            "out_of_processes": events.out_of_processes - running.before.out_of_processes,
            "file_bytes": sum(map(_used, _DISKS)),
            "disk_full": any(map(_is_full, _DISKS)),
        }

    # Limits and ends.

    def _memory_limits(self) -> int:
        """What all commands that run may use together; 0 when none runs."""
        return sum(r.request["limits"]["memory_bytes"] for r in self._running.values() if r.is_command)

    def _check_limits(self) -> None:
        now = time.monotonic()
        for running in list(self._running.values()):
            if running.deadline is not None and running.deadline <= now:
                self._stop(running, "timeout")
        limit = self._memory_limits()
        if limit and self._groups.parents and _anonymous_bytes(self._groups) > limit + self._own_bytes:
            for running in [r for r in self._running.values() if r.is_command]:
                self._stop(running, "memory")

    def _stop(self, running: Running, why: str) -> None:
        if running.stopped or running.request["id"] not in self._running:
            return
        running.stopped, running.deadline = why, None
        if running.is_command:
            self._end_processes(running)
        with suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGKILL)

    def _end_processes(self, running: Running) -> None:
        """Kills what the command started; all of it is dead, or dying, at the return."""
        running.ended = True
        others = {r.pid for r in self._running.values()} - {running.pid}
        if not others or not _sweep(running.pid, others):
            _hammer()


def _child(running: Running, filter_program: bytes, finder) -> None:
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


def _import_harness(finder) -> None:
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module("sandbox_service.harness")
    finally:
        sys.meta_path.pop(0)


def _be_warden(running: Running, filter_program: bytes, finder) -> None:
    _adopt_orphans()
    if running.kind == "harness":
        _import_harness(finder)
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


def _adopt_orphans() -> bool:
    with suppress(OSError):
        ns.adopt_orphans()
        return True
    return False


def _sweep(warden: int, others: set[int]) -> bool:
    """Stops, then kills, every descendant of a warden and every orphan; False when that does not succeed in time.

    `others` are the children of process 1 that have to live on, and what is below them.

    Stopped first: what is stopped holds its place among the limited number of processes, so that a fork bomb runs out
    of places, where killing would give them back to it.
    """
    deadline = time.monotonic() + _SWEEP_S
    for number in (signal.SIGSTOP, signal.SIGKILL):
        while time.monotonic() < deadline:
            found = _descendants(warden, others)
            moving = [pid for pid, state in found.items() if state not in ("TZ" if number == signal.SIGSTOP else "Z")]
            if not moving:
                break
            for pid in moving:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.001)
        else:
            return False
    return True


def _hammer() -> None:
    """Kills every process but this one: a single call, which nothing that forks can outrun."""
    deadline = time.monotonic() + _HAMMER_S
    while time.monotonic() < deadline:
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        if all(state == "Z" for state in _descendants(1, set()).values()):
            return
        time.sleep(0.002)


def _descendants(warden: int, others: set[int]) -> dict[int, str]:
    """Process -> state of all processes but process 1, the warden, and those at or below `others`."""
    children: dict[int, list[tuple[int, str]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
                children.setdefault(int(parent), []).append((int(name), state))
    found: dict[int, str] = {}
    waiting = [1]
    while waiting:
        for pid, state in children.get(waiting.pop(), ()):
            if pid in others:
                continue
            waiting.append(pid)
            if pid != warden:
                found[pid] = state
    return found


def _own_group() -> cgroups.Hierarchy:
    """The container's own control group, as far as it can be seen from inside."""
    root = Path("/sys/fs/cgroup")
    if (root / "memory.events").exists():
        return cgroups.Hierarchy(2, {"memory": root, "pids": root})
    parents = {c: root / c for c, f in (("memory", "memory.oom_control"), ("pids", "pids.max"))}
    return cgroups.Hierarchy(1, {c: p for c, p in parents.items() if p.is_dir()})


def _anonymous_bytes(groups: cgroups.Hierarchy) -> int:
    if "memory" not in groups.parents:
        return 0
    with suppress(OSError), open(groups.parents["memory"] / "memory.stat") as f:
        for line in f:
            name, _, value = line.partition(" ")
            if name == ("anon" if groups.version == 2 else "rss"):
                return int(value)
    return 0


def _used(path: str) -> int:
    usage = os.statvfs(path)
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize


def _is_full(path: str) -> bool:
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize < 16 * 1024 or usage.f_favail < 2


def _feed(running: Running, data: bytes) -> None:
    """An empty piece is the end."""
    view = memoryview(data)
    with suppress(BrokenPipeError):
        while view and running.input_fd >= 0:
            view = view[os.write(running.input_fd, view) :]
    if not data and running.input_fd >= 0:
        os.close(running.input_fd)
        running.input_fd = -1


def _send(message: dict, payload: bytes = b"") -> None:
    head = json.dumps(message).encode()
    view = memoryview(struct.pack(">II", len(head), len(payload)) + head + payload)
    while view:
        view = view[os.write(1, view) :]


def _read_all(fd: int) -> None:
    with suppress(BlockingIOError):
        os.read(fd, 4096)


def main() -> None:
    """Never returns."""
    ns.set_dumpable(False)
    os.environ.pop("HOSTNAME", None)
    jobs.reset_signals()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # From here on nothing finds this program's modules but who holds this.
    finder = sys.meta_path.pop(0)
    gc.collect()
    gc.freeze()
    Init(finder).serve()
