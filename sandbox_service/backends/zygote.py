"""The process that makes sandboxes: one thread, warm imports, a fork for each sandbox and each file operation.

The service starts it and speaks to it over a socket (`SOCK_SEQPACKET`, JSON, descriptors beside it). It holds no task
data: what a command gets travels in a memory file that only the forked child reads, by a channel that the zygote
only hands on.

It is pid 1 of a pid namespace that contains every sandbox's own, and all mounts live in its private mount namespace:
the kernel leaves nothing over when it dies. It dies when the service's end of the socket closes, even by `kill -9` of
the service. (A parent-death signal would belong to the *thread* that spawned.)
"""

import errno
import gc
import importlib
import json
import os
import selectors
import signal
import site
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from sandbox_service.backends import cgroups, init, jobs, rootfs
from sandbox_service.backends import namespaces as ns
from sandbox_service.backends.seccomp import build_filter

_MAX_MESSAGE = 1 << 16
# Children that are prepared for a command before there is one.
SPARES = min(8, max(2, len(os.sched_getaffinity(0))))


@dataclass
class _Running:
    job_id: int
    workspace: str
    group: str


@dataclass
class _Spare:
    pid: int
    group: str
    # Where it waits for its job.
    channel: socket.socket


def main(fd: int) -> None:
    """Serves until the other end of the socket `fd` closes."""
    channel = socket.socket(fileno=fd)
    settings = json.loads(channel.recv(_MAX_MESSAGE))
    host = settings["host"]
    host = rootfs.Host(**{**host, "prefixes": tuple(host["prefixes"]), "hidden": tuple(host["hidden"])})
    try:
        if ns.MACHINE not in ns.MACHINES:
            raise OSError(errno.ENOSYS, f"the jail knows {', '.join(ns.MACHINES)}, not {ns.MACHINE}")
        if host.uid == 0:
            text = "root of a container that maps few users: run the service as another user, or map all of them"
            raise OSError(errno.ENOTSUP, text)
        groups = cgroups.find()
        if not host.as_root:
            ns.unshare(ns.CLONE_NEWUSER)
            ns.map_user(host.uid, host.gid, host.uid, host.gid)
        ns.unshare(ns.CLONE_NEWNS | ns.CLONE_NEWPID)
        _continue_as_pid_1(channel)
        zygote = Zygote(channel, settings, host, groups)
    except OSError as e:
        _send(channel, {"error": str(e), "errno": e.errno})
        return
    zygote.serve()


def _continue_as_pid_1(channel: socket.socket) -> None:
    """Returns in a child, which dies with this process; this process waits for it and exits."""
    alive = os.pipe()
    pid = os.fork()
    if pid:
        channel.close()
        os.close(alive[0])
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    os.close(alive[1])
    ns.die_with_parent(signal.SIGKILL)
    # The parent may have died before that: then its end of the pipe is closed.
    os.set_blocking(alive[0], False)
    with suppress(BlockingIOError):
        os.read(alive[0], 1)
        os._exit(1)


def _send(channel: socket.socket, message: dict) -> None:
    channel.send(json.dumps(message).encode())


class Zygote:
    def __init__(self, channel: socket.socket, settings: dict, host: rootfs.Host, groups: cgroups.Hierarchy):
        self._channel, self._host = channel, host
        self._running: dict[int, _Running] = {}
        self._spares: list[_Spare] = []
        self._names = count(1)
        self._unremoved: list[str] = []
        self._filter = build_filter(ns.MACHINE, memory_is_counted="memory" in groups.parents)
        ns.make_private()
        rootfs.enter_own_root(settings["mount_point"])
        rootfs.build_jail(self._host)
        self._groups = cgroups.Hierarchy(
            groups.version, {c: Path(f"{rootfs.HOST}{path}") for c, path in groups.parents.items()}
        )
        self._workspaces = rootfs.Workspaces(self._host)
        # Of this process, not of the one that /proc numbers: /proc is the host's.
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._prepare_interpreter(settings["packages"])
        _send(channel, {"ready": True, "cgroups": groups.version, "controllers": sorted(groups.parents)})

    def _prepare_interpreter(self, packages: str) -> None:
        """Imports the harness from where the sandbox will see it, and freezes what the forks share."""
        os.symlink(rootfs.HOST + packages, jobs.PACKAGES)
        # The service's own folder comes first in the script; it goes when the harness is imported.
        own = sys.path.pop(0)
        site.setquit()
        site.setcopyright()
        site.sethelper()
        sys.path.append(jobs.PACKAGES)
        sys.path.append(own)
        importlib.import_module("sandbox_service.harness")
        sys.path.remove(own)
        gc.collect()
        gc.freeze()

    def serve(self) -> None:
        wake = os.pipe()
        for fd in wake:
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake[1])
        selector = selectors.DefaultSelector()
        selector.register(self._channel, selectors.EVENT_READ)
        selector.register(wake[0], selectors.EVENT_READ)
        try:
            while True:
                lacks = len(self._spares) < SPARES
                ready = selector.select(0 if lacks else 0.02 if self._unremoved else None)
                if lacks and not ready:
                    self._spares.append(self._fork(is_command=True))
                for key, _ in ready:
                    if key.fd == wake[0]:
                        with suppress(BlockingIOError):
                            os.read(wake[0], 4096)
                    elif not self._receive():
                        return
                self._reap()
                self._unremoved = [group for group in self._unremoved if not self._groups.remove(group)]
        except BrokenPipeError:
            return
        finally:
            self._shut_down()

    def _receive(self) -> bool:
        """Handles one request; False at the end of the connection."""
        message, fds = jobs.receive(self._channel)
        if not message:
            return False
        request = json.loads(message)
        try:
            self._handle(request, fds)
        except OSError as e:
            _send(self._channel, {"id": request["id"], "error": str(e)})
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _handle(self, request: dict, fds: list[int]) -> None:
        match request["op"]:
            case "job":
                self._start(request["id"], request["workspace"], request["is_command"], fds)
            case "kill":
                for pid, running in self._running.items():
                    if running.job_id == request["job"]:
                        os.kill(pid, signal.SIGKILL)
            case "open":
                arguments = ("name", "base", "packages", "disk_bytes", "max_files")
                self._workspaces.open(*(request[a] for a in arguments))
                _send(self._channel, {"id": request["id"]})
            case "close":
                self._workspaces.close(request["name"])
                _send(self._channel, {"id": request["id"]})

    def _start(self, job_id: int, workspace: str, is_command: bool, fds: list[int]) -> None:
        spare = self._spares.pop(0) if is_command and self._spares else self._fork(is_command)
        self._running[spare.pid] = _Running(job_id, workspace, spare.group)
        # A child that died while it waited is reaped as a job that never began.
        with spare.channel, suppress(ConnectionError):
            socket.send_fds(spare.channel, [workspace.encode()], fds)

    def _fork(self, is_command: bool) -> _Spare:
        """A child in a process namespace of its own, which waits for a job."""
        group = str(next(self._names))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Only the next child is born into the new pid namespace; this process stays in its own.
        ns.unshare(ns.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    self._serve_one(theirs, group, is_command)
                finally:
                    os._exit(1)
        finally:
            ns.set_namespace(self._own_pids, ns.CLONE_NEWPID)
            theirs.close()
        return _Spare(pid, group, ours)

    def _serve_one(self, channel: socket.socket, group: str, is_command: bool) -> None:
        """In the child."""
        ns.close_all_except({channel.fileno()})
        jobs.reset_signals()
        # Under memory pressure of the host a sandbox goes before the service.
        jobs.write_if_possible("/proc/self/oom_score_adj", "500")
        fault = prepared = None
        if is_command:
            try:
                prepared = init.prepare(self._groups, group)
            except OSError as e:
                fault = e
        workspace, fds = jobs.receive(channel)
        if not workspace:
            return
        request, payload = jobs.read_request(fds[0])
        request["workspace"] = workspace.decode()
        job = jobs.Job(request, payload, socket.socket(fileno=fds[1]), report_fd=fds[2] if fds[2:] else -1)
        ns.close_all_except({*fds[1:], *(prepared.fds if prepared else ())})
        try:
            if fault is not None:
                raise fault
            if is_command:
                init.main(job, self._host, self._filter, self._groups, group, prepared)
            else:
                jobs.operate(job, self._host, self._workspaces.layers(request["workspace"]))
        except BaseException as e:
            jobs.tell_fault(job, e)

    def _reap(self) -> None:
        while self._running or self._spares:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            running = self._running.pop(pid, None)
            if running is None:
                self._forget_spare(pid)
                continue
            events = self._groups.events(running.group)
            if self._groups.parents and not self._groups.remove(running.group):
                self._unremoved.append(running.group)
            _send(
                self._channel,
                {
                    "id": running.job_id,
                    "status": status,
                    "out_of_memory": events.out_of_memory,
                    "out_of_processes": events.out_of_processes,
                    "file_bytes": events.file_bytes,
                    "disk_full": self._workspaces.is_full(running.workspace),
                },
            )

    def _forget_spare(self, pid: int) -> None:
        """One that died before it had a job, by the host's lack of memory."""
        for spare in [spare for spare in self._spares if spare.pid == pid]:
            self._spares.remove(spare)
            spare.channel.close()
            self._unremoved.append(spare.group)

    def _shut_down(self) -> None:
        children = [*self._running, *(spare.pid for spare in self._spares)]
        for pid in children:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with suppress(OSError):
                os.waitpid(pid, 0)
        deadline = time.monotonic() + 1.0
        groups = [child.group for child in (*self._running.values(), *self._spares)] + self._unremoved
        while groups and time.monotonic() < deadline:
            groups = [group for group in groups if not self._groups.remove(group)]
            time.sleep(0.005 if groups else 0)
        self._groups.close()
