"""What a child of the zygote does: enter the jail, give up every privilege, run one command or one trusted operation.

The child is pid 1 of its own pid namespace. It stays trusted and starts the command as its child, so that the command
has ordinary signals; when it ends, the kernel kills everything in the namespace. Over the status pipe it sends lines:

    start               the command is about to run
    exit CODE WALL_S    it exited; signal NUMBER WALL_S when a signal ended it
    processes           it had as many processes as it may; memory: it used too much and is stopped (only told on hosts
                        without control groups)
    error ERRNO TEXT    the sandbox could not be made: never the command's fault
"""

import errno
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable
from contextlib import suppress

from sandbox_service.backends import files, rootfs
from sandbox_service.backends import namespaces as ns
from sandbox_service.backends.base import PACKAGES, WORKSPACE
from sandbox_service.backends.cgroups import Hierarchy

ENVIRONMENT = {
    "PATH": f"{rootfs.PYTHON}:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "USER": "agent",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": PACKAGES,
}
# Kinds of requests that run code of the sandbox.
COMMANDS = ("exec", "harness")
_POLL_S = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Job:
    """One request as the child sees it. `fds` are output, status and (unless a plain command) report."""

    def __init__(self, request: dict, payload: bytes, fds: list[int], host: rootfs.Host, groups: Hierarchy):
        self.kind, self.workspace = request["kind"], request["workspace"]
        self.request, self.payload = request, payload
        self.output_fd, self.status_fd, self.report_fd = fds
        self.host, self.groups = host, groups
        self.python = f"{rootfs.PYTHON}/python3"
        self.is_command = self.kind in COMMANDS

    def tell(self, line: str) -> None:
        os.write(self.status_fd, line.encode(errors="replace")[:4000] + b"\n")


def prepare(groups: Hierarchy, group: str) -> None:
    """What takes longest and needs no job: control group, and namespaces that hold nothing of a workspace."""
    if groups.parents:
        groups.join(group)
    ns.unshare(ns.CLONE_NEWNET | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS | ns.CLONE_NEWCGROUP)
    ns.loopback_up()
    ns.set_hostname("sandbox")


def main(job: Job, filter_program: bytes, layers: tuple[str, str], fault: OSError | None) -> None:
    """Runs in the forked child and never returns. `fault`: why the child could not be prepared for a command."""
    code = 1
    try:
        ns.close_all_except({job.output_fd, job.status_fd, job.report_fd})
        reset_signals()
        # Under memory pressure of the host a sandbox goes before the service.
        write_if_possible("/proc/self/oom_score_adj", "500")
        if job.is_command:
            if fault is not None:
                raise fault
            limits = job.request["limits"]
            # One more than the command may have: the supervisor.
            job.groups.limit(job.request["group"], limits["memory_bytes"], limits["processes"] + 1)
            _enter(job)
            _supervise(job, filter_program)
        elif job.kind == "changed":
            send_report(job, lambda: pack(files.changed_files(*layers, job.request["max_bytes"])))
        else:
            _enter(job)
            send_report(job, lambda: _file_operation(job))
        code = 0
    except BaseException as e:
        with suppress(OSError):
            where = traceback.extract_tb(e.__traceback__)[-1]
            number = getattr(e, "errno", None) or 0
            job.tell(f"error {number} {e} ({type(e).__name__} in {where.name}, line {where.lineno})".replace("\n", " "))
    finally:
        os._exit(code)


def reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    # By default, and only so, pid 1 ignores what the processes in its namespace send it.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _enter(job: Job) -> None:
    """Root of the file system, then an unprivileged user for good."""
    ns.unshare(ns.CLONE_NEWNS)
    rootfs.mount_workspace(job.workspace)
    if job.host.as_root:
        os.setgroups([])
        os.setresgid(job.host.gid, job.host.gid, job.host.gid)
        os.setresuid(job.host.uid, job.host.uid, job.host.uid)
    # A change of user makes the process undumpable, and then it may not write its own maps.
    ns.set_dumpable(True)
    ns.unshare(ns.CLONE_NEWUSER)
    ns.map_user(rootfs.SANDBOX_ID, rootfs.SANDBOX_ID, job.host.uid, job.host.gid)
    with open("/proc/sys/user/max_user_namespaces", "w") as f:
        f.write("0")
    ns.drop_capabilities()
    # The command runs as the same user: it must not reach into this process through /proc/1.
    ns.set_dumpable(False)
    enter_workspace()


def enter_workspace() -> None:
    """Also when an earlier command has taken the rights to it away."""
    os.umask(0o022)
    try:
        os.chdir(WORKSPACE)
    except PermissionError:
        os.chmod(WORKSPACE, 0o755)
        os.chdir(WORKSPACE)


def _supervise(job: Job, filter_program: bytes) -> None:
    limits, by_group = job.request["limits"], job.groups.parents
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    lower(resource.RLIMIT_FSIZE, limits["disk_bytes"])
    # Counted in this user namespace alone, so other sandboxes of the same user do not matter.
    lower(resource.RLIMIT_NPROC, limits["processes"] + (16 if "pids" in by_group else 1))
    if "memory" not in by_group:
        lower(resource.RLIMIT_AS, 2 * limits["memory_bytes"] + (256 << 20))
    job.tell("start")
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        run_command(job, filter_program)
    for fd in (job.output_fd, job.report_fd):
        if fd >= 0:
            os.close(fd)
    is_limited = {"memory", "pids"} <= by_group.keys()
    status = wait_for(pid) if is_limited else _wait_and_poll(pid, limits, job.tell)
    wall_s = time.monotonic() - started
    if status is None:
        return
    if os.WIFSIGNALED(status):
        job.tell(f"signal {os.WTERMSIG(status)} {wall_s:.6f}")
    else:
        job.tell(f"exit {os.WEXITSTATUS(status)} {wall_s:.6f}")


def wait_for(pid: int) -> int:
    """Reaps what is adopted until the command ends."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return status


def _wait_and_poll(pid: int, limits: dict, tell: Callable[[str], None]) -> int | None:
    """As `_wait` on a host without control groups; None when the command has to go for its use of memory."""
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


def run_command(job: Job, filter_program: bytes) -> None:
    """In the command's own process. Never returns."""
    code = 70
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(job.output_fd, 1)
        os.dup2(job.output_fd, 2)
        ns.close_all_except({job.report_fd} if job.kind == "harness" else set())
        lower(resource.RLIMIT_NOFILE, job.request["limits"]["open_files"])
        ns.install_filter(filter_program)
        ns.set_dumpable(True)
        write_if_possible("/proc/self/oom_score_adj", "1000")
        environment = {**ENVIRONMENT, **job.request["env"]}
        code = _call_harness(job, environment) if job.kind == "harness" else _execute(job.request["argv"], environment)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


def _execute(argv: list[str], environment: dict[str, str]) -> int:
    """Statuses as a shell has them."""
    try:
        os.execvpe(argv[0], argv, environment)
    except OSError as e:
        os.write(2, f"{argv[0]}: {e.strerror}\n".encode(errors="replace"))
        return 127 if e.errno == errno.ENOENT else 126


def _call_harness(job: Job, environment: dict[str, str]) -> int:
    """Calls the harness that the zygote imported, in a process that looks like a fresh interpreter."""
    from sandbox_service import harness

    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGPIPE, signal.SIG_IGN),
        (signal.SIGXFSZ, signal.SIG_IGN),
    ):
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    raw = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.executable = job.python
    sys.argv = ["harness"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    payload, report_fd = job.payload, job.report_fd
    return harness.main(payload, report_fd)


def _file_operation(job: Job) -> bytes:
    path = job.request["path"]
    if job.kind == "read":
        return files.read_file(path, job.request["max_bytes"])
    files.write_file(path, job.payload)
    return b""


def send_report(job: Job, operation: Callable[[], bytes]) -> None:
    """Sends one line of JSON (an error, or null) and the result."""
    data, error = b"", None
    try:
        data = operation()
    except OSError as e:
        error = {"errno": e.errno, "text": e.strerror}
    except ValueError as e:
        error = {"errno": None, "text": str(e)}
    with os.fdopen(job.report_fd, "wb") as f:
        f.write(json.dumps(error).encode() + b"\n" + data)
    job.tell("exit 0 0")


def pack(changes: dict[str, bytes | None]) -> bytes:
    """A line of JSON with names and lengths, then the contents."""
    index = [[path, None if data is None else len(data)] for path, data in changes.items()]
    return json.dumps(index).encode() + b"\n" + b"".join(data for data in changes.values() if data)


def unpack(packed: bytes) -> dict[str, bytes | None]:
    head, _, rest = packed.partition(b"\n")
    changes, start = {}, 0
    for path, length in json.loads(head):
        changes[path] = None if length is None else rest[start : start + length]
        start += length or 0
    return changes


def lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def write_if_possible(path: str, text: str) -> None:
    with suppress(OSError), open(path, "w") as f:
        f.write(text)
