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
import json
import os
import selectors
import signal
import struct
import sys
import time
from contextlib import suppress

from sandbox_service.backends import jobs
from sandbox_service.backends import namespaces as ns
from sandbox_service.backends.base import WORKSPACE
from sandbox_service.backends.docker_child import Running, adopt_orphans, import_harness, run_child
from sandbox_service.backends.docker_processes import hammer, sweep
from sandbox_service.backends.docker_usage import anonymous_bytes, is_full, own_group, used_bytes
from sandbox_service.backends.seccomp import build_filter

_CHUNK = 1 << 16
_POLL_S, _QUIET_S = 0.1, 0.05
# What wardens and trusted operations use for a moment, beside what this process has from the start.
_SPARE_BYTES = 16 << 20
_DISKS = (WORKSPACE, "/tmp", "/dev/shm")


class Init:
    def __init__(self, finder) -> None:
        self._finder, self._is_warm = finder, False
        self._wardens_adopt = adopt_orphans()
        self._filter = build_filter(ns.MACHINE)
        self._groups = own_group()
        self._selector = selectors.DefaultSelector()
        self._running: dict[int, Running] = {}
        self._own_bytes = anonymous_bytes(self._groups) + _SPARE_BYTES
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
            import_harness(self._finder)
        gc.collect()
        gc.freeze()
        self._own_bytes = anonymous_bytes(self._groups) + _SPARE_BYTES

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
                run_child(running, self._filter, self._finder)
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
            "file_bytes": sum(map(used_bytes, _DISKS)),
            "disk_full": any(map(is_full, _DISKS)),
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
        if limit and self._groups.parents and anonymous_bytes(self._groups) > limit + self._own_bytes:
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
        if not others or not sweep(running.pid, others):
            hammer()


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
