"""Process 1 of a sandbox: runs one command after the other, each to the end of all that it started.

A child of the zygote that stays trusted. Commands run as the same user and cannot harm it: the kernel keeps the signals
of its own namespace from process 1, it is not dumpable, and the filter denies them to trace it or to change its limits.
When it dies, the kernel kills everything in the namespace.

What a command may leave to the next one of its workspace is files, and nothing else. A sandbox in which anything else
is found at a command's end is given up. Over the channel come requests: a memory file, and where to write the output.
Of each it tells, in lines of a message:

    start               the command is about to run
    processes           it had as many processes as it may; memory: it used too much and is stopped (only told on hosts
                        without control groups)
    exit CODE WALL_S    it exited; signal NUMBER WALL_S when a signal ended it
    end JSON            nothing that it started is left; what was counted, and whether another command may follow
    error ERRNO TEXT    the sandbox could not be made: never the command's fault
"""

import errno
import json
import os
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sandbox_service.backends import cgroups, jobs, rootfs
from sandbox_service.backends import namespaces as ns

_POLL_S = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")
# What process 1 itself needs, however few files a command may open.
_OWN_FILES = 32


@dataclass(frozen=True)
class Prepared:
    """What takes longest and needs no job; held open beyond the loss of all rights."""

    group: cgroups.Group
    # Directory of the namespace's message queues; -1 when it cannot be had, and then commands can have no queues.
    queues_fd: int

    @property
    def fds(self) -> set[int]:
        return self.group.fds | ({self.queues_fd} if self.queues_fd >= 0 else set())


def prepare(groups: cgroups.Hierarchy, group: str) -> Prepared:
    """Control group, and namespaces that hold nothing of a workspace."""
    if groups.parents:
        groups.join(group)
    ns.unshare(ns.CLONE_NEWNET | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS | ns.CLONE_NEWCGROUP)
    ns.loopback_up()
    ns.set_hostname("sandbox")
    queues_fd = -1
    with suppress(OSError):
        queues_fd = ns.open_message_queues()
    return Prepared(cgroups.Group(groups, group), queues_fd)


def main(
    job: jobs.Job, host: rootfs.Host, filter_program: bytes, groups: cgroups.Hierarchy, group: str, prepared: Prepared
) -> None:
    """In the forked child: enters the workspace, and serves until the service lets go of it."""
    limits = job.request["limits"]
    # One more than a command may have: this process.
    groups.limit(group, limits["memory_bytes"], limits["processes"] + 1)
    eagerness = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    jobs.enter(job.request["workspace"], host)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    jobs.lower(resource.RLIMIT_FSIZE, limits["disk_bytes"])
    # Counted in this user namespace alone, so other sandboxes of the same user do not matter.
    jobs.lower(resource.RLIMIT_NPROC, limits["processes"] + (16 if "pids" in groups.parents else 1))
    jobs.lower(resource.RLIMIT_NOFILE, max(limits["open_files"], _OWN_FILES))
    if prepared.queues_fd < 0:
        jobs.lower(resource.RLIMIT_MSGQUEUE, 0)
    if "memory" not in groups.parents:
        jobs.lower(resource.RLIMIT_AS, 2 * limits["memory_bytes"] + (256 << 20))
    # Every command has them until it gets its own.
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
        null = os.open("/dev/null", flags)
        os.dup2(null, fd)
        os.close(null)
    ns.install_filter(filter_program)
    Init(job.channel, limits, prepared, eagerness, is_limited={"memory", "pids"} <= groups.parents.keys()).serve()


class Init:
    def __init__(self, channel: socket.socket, limits: dict, prepared: Prepared, eagerness: int, *, is_limited: bool):
        self._channel, self._limits, self._is_limited = channel, limits, is_limited
        self._group, self._queues_fd = prepared.group, prepared.queues_fd
        self._eagerness = eagerness
        self._tables = [os.open(f"/proc/sysvipc/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("shm", "sem", "msg")]
        self._sockets = os.open("/proc/net/sockstat", os.O_RDONLY | os.O_CLOEXEC)
        self._used_bytes = self._held_bytes = 0
        self._settle()
        self._untouched = self._traces()

    def serve(self) -> None:
        while True:
            message, fds = jobs.receive(self._channel)
            if not message:
                return
            request, payload = jobs.read_request(fds[0])
            request["limits"] = self._limits
            job = jobs.Job(request, payload, self._channel, output_fd=fds[1], report_fd=fds[2] if fds[2:] else -1)
            if not self._run(job):
                return

    def _run(self, job: jobs.Job) -> bool:
        """Whether another command may follow."""
        jobs.enter_workspace()
        job.tell("start")
        started = time.monotonic()
        pid, code = self._start(job)
        for fd in (job.output_fd, job.report_fd):
            if fd >= 0:
                os.close(fd)
        lines = []
        if pid:
            status = jobs.wait_for(pid) if self._is_limited else _wait_and_poll(pid, self._limits, job.tell)
            if status is not None:
                code = os.waitstatus_to_exitcode(status)
        if not pid or status is not None:
            wall_s = time.monotonic() - started
            lines.append(f"exit {code} {wall_s:.6f}" if code >= 0 else f"signal {-code} {wall_s:.6f}")
        end_all()
        end = self._end(is_last=job.kind != "exec")
        job.tell("\n".join([*lines, f"end {json.dumps(end)}"]))
        return end["is_reusable"]

    def _start(self, job: jobs.Job) -> tuple[int, int]:
        """Process number of the command; or 0 and the exit status when there is nothing to run."""
        if job.kind == "harness":
            pid = os.fork()
            if pid == 0:
                jobs.run_command(job, b"")
            return pid, 0
        argv = job.request["argv"]
        ns.close_on_execute()
        # Inherited. When memory runs out, what belongs to the command goes before this process.
        os.pwrite(self._eagerness, b"1000", 0)
        try:
            return spawn(argv, {**jobs.ENVIRONMENT, **job.request["env"]}, job.output_fd), 0
        except (OSError, ValueError) as e:
            if getattr(e, "errno", None) == errno.EAGAIN:
                raise
            with suppress(OSError):
                os.write(job.output_fd, f"{argv[0]}: {getattr(e, 'strerror', e)}\n".encode(errors="replace"))
            return 0, 127 if isinstance(e, FileNotFoundError) else 126
        finally:
            os.pwrite(self._eagerness, b"500", 0)

    def _end(self, *, is_last: bool) -> dict:
        is_full = self._settle()
        events = self._group.events()
        return {
            "out_of_memory": events.out_of_memory,
            "out_of_processes": events.out_of_processes,
            "file_bytes": events.file_bytes,
            "held_bytes": self._held_bytes,
            "disk_full": is_full,
            "is_reusable": not is_last and self._traces() == self._untouched,
        }

    def _settle(self) -> bool:
        """The files that are left are not the next command's use of memory. Returns whether the disk is full."""
        usage = os.statvfs("/tmp")
        used_bytes = (usage.f_blocks - usage.f_bfree) * usage.f_frsize
        if used_bytes != self._used_bytes:
            self._used_bytes = used_bytes
            self._held_bytes = min(self._group.held_bytes(), used_bytes)
            self._group.raise_memory(self._limits["memory_bytes"] + self._held_bytes)
        return rootfs.is_full(usage)

    def _traces(self) -> tuple:
        """All that a command can leave beside files: in the ipc and network namespaces, and about this process."""
        tables = [os.pread(fd, 4096, 0) for fd in self._tables]
        queues = os.listdir(self._queues_fd) if self._queues_fd >= 0 else []
        # Sockets that live on without a process: on their way to one, or waiting for late packets.
        sockets = re.findall(rb"(?:used|tw) (\d+)", os.pread(self._sockets, 4096, 0))
        return tables, queues, sockets, ns.scheduling()


def spawn(argv: Sequence[str], environment: Mapping[str, str], output_fd: int) -> int:
    """Executes a program of the sandbox in a session of its own. Raises OSError or ValueError, as os.execvpe does."""
    actions = [(os.POSIX_SPAWN_DUP2, output_fd, fd) for fd in (1, 2)]
    options = {"file_actions": actions, "setsid": True, "setsigmask": []}
    if os.path.dirname(argv[0]):
        return os.posix_spawn(argv[0], argv, environment, **options)
    fault: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in os.get_exec_path(environment):
        path = os.path.join(folder, argv[0])
        if not os.path.lexists(path):
            continue
        try:
            return os.posix_spawn(path, argv, environment, **options)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as e:
            fault = e
    raise fault


def end_all() -> None:
    """Kills and reaps every other process of the namespace; returns when there is none.

    One call reaches them all: whoever is forked meanwhile is either seen, or its parent has been killed before it was
    born. A process that loses its parent becomes a child of process 1, so who has no children is alone.
    """
    while True:
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _wait_and_poll(pid: int, limits: dict, tell: Callable[[str], None]) -> int | None:
    """As `jobs.wait_for` on a host without control groups; None when the command has to go for its use of memory."""
    was_full = False
    # Between two polls a burst of memory goes unseen; what each process held at its peak, the kernel tells when it is
    # reaped. A forked child starts with the pages of this process, which the peak counts too.
    peak_kib = limits["memory_bytes"] // 1024 + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    while True:
        ended, status, usage = os.wait4(-1, os.WNOHANG)
        if ended and usage.ru_maxrss > peak_kib:
            tell("memory")
            return None
        if ended and ended != pid:
            continue
        memory, processes = _usage()
        # The limit itself is RLIMIT_NPROC; this only sees that it was met.
        if not was_full and processes + (ended == pid) >= limits["processes"]:
            was_full = True
            tell("processes")
        if memory > limits["memory_bytes"]:
            tell("memory")
            return None
        if ended == pid:
            return status
        signal.sigtimedwait([signal.SIGCHLD], _POLL_S)


def _usage() -> tuple[int, int]:
    """Private resident bytes and number of threads of all processes of this namespace but the supervisor."""
    pages = threads = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == "1":
            continue
        with suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{name}/statm") as f:
                resident, shared = map(int, f.read().split()[1:3])
            pages += resident - shared
            threads += len(os.listdir(f"/proc/{name}/task"))
    return pages * _PAGE, threads
