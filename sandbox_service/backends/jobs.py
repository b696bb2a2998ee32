"""What a child of the zygote does: enter the jail, give up every privilege, and do one trusted operation there.

`init.py` has what it does to run commands. Over its channel to the service the child sends lines:

    exit 0 0            the operation is done
    error ERRNO TEXT    the sandbox could not be made: never the fault of what is in it
"""

import array
import errno
import io
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable
from contextlib import suppress

from sandbox_service.backends import files, rootfs
from sandbox_service.backends import namespaces as ns
from sandbox_service.backends.base import PACKAGES, WORKSPACE

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
_MAX_MESSAGE, _MAX_FDS = 1 << 16, 8


class Job:
    """One request as a child sees it. Only a command has an output; a plain one has no report."""

    def __init__(self, request: dict, payload: bytes, channel: socket.socket, *, output_fd: int = -1, report_fd: int):
        self.kind = request["kind"]
        self.request, self.payload, self.channel = request, payload, channel
        self.output_fd, self.report_fd = output_fd, report_fd
        self.python = f"{rootfs.PYTHON}/python3"

    def tell(self, line: str) -> None:
        self.channel.send(line.encode(errors="replace")[:4000])


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """One message and the descriptors that came with it; empty at the end of the connection.

    Not socket.recv_fds, which ignores its flags: what it receives, every program that is executed inherits.
    """
    fds = array.array("i")
    room = socket.CMSG_SPACE(_MAX_FDS * fds.itemsize)
    message, ancillary, _, _ = channel.recvmsg(_MAX_MESSAGE, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return message, list(fds)


def read_request(fd: int) -> tuple[dict, bytes]:
    """A request and its payload lie in a memory file."""
    with open(fd, "rb") as f:
        f.seek(0)
        return json.loads(f.readline()), f.read()


def operate(job: Job, host: rootfs.Host, layers: tuple[str, str]) -> None:
    """A file operation, in the forked child."""
    if job.kind == "changed":
        send_report(job, lambda: pack(files.changed_files(*layers, job.request["max_bytes"])))
    else:
        enter(job.request["workspace"], host)
        send_report(job, lambda: _file_operation(job))


def tell_fault(job: Job, fault: BaseException) -> None:
    with suppress(OSError):
        where = traceback.extract_tb(fault.__traceback__)[-1]
        number = getattr(fault, "errno", None) or 0
        text = f"error {number} {fault} ({type(fault).__name__} in {where.name}, line {where.lineno})"
        job.tell(text.replace("\n", " "))


def reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    # By default, and only so, pid 1 ignores what the processes in its namespace send it.
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def enter(workspace: str, host: rootfs.Host) -> None:
    """Root of the file system, then an unprivileged user for good."""
    ns.unshare(ns.CLONE_NEWNS)
    rootfs.mount_workspace(workspace)
    if host.as_root:
        os.setgroups([])
        os.setresgid(host.gid, host.gid, host.gid)
        os.setresuid(host.uid, host.uid, host.uid)
    # A change of user makes the process undumpable, and then it may not write its own maps.
    ns.set_dumpable(True)
    ns.unshare(ns.CLONE_NEWUSER)
    ns.map_user(rootfs.SANDBOX_ID, rootfs.SANDBOX_ID, host.uid, host.gid)
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


def wait_for(pid: int) -> int:
    """Reaps what is adopted until the command ends."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return status


def run_command(job: Job, filter_program: bytes) -> None:
    """In the command's own process. Never returns. An empty filter: it has been inherited."""
    code = 70
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(job.output_fd, 1)
        os.dup2(job.output_fd, 2)
        ns.close_all_except({job.report_fd} if job.kind == "harness" else set())
        lower(resource.RLIMIT_NOFILE, job.request["limits"]["open_files"])
        if filter_program:
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
