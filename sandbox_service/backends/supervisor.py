"""The service's end of the zygote: starts it, sends requests without blocking, and gives answers to who waits."""

import array
import asyncio
import errno
import glob
import json
import os
import site
import socket
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from sandbox_service.backends.rootfs import Host, sandbox_owner
from sandbox_service.errors import IsolationError, SandboxError

_START_TIMEOUT_S, _STOP_TIMEOUT_S = 30.0, 10.0
_MAX_MESSAGE = 1 << 16
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_COLLECTIONS = ("/usr/share/python-wheels", "/usr/lib/google-cloud-sdk")
# Read from stdin, since a sandbox can see the command line that it was forked from.
_ZYGOTE = "import sys\nsys.path[0] = {root!r}\nfrom sandbox_service.backends.zygote import main\nmain({fd})\n"


class Supervisor:
    """One zygote. Not reusable: when it has died every call raises SandboxError."""

    def __init__(self, state_dir: Path, packages: Path):
        self._state_dir, self._packages = state_dir, packages
        self._waiting: dict[int, asyncio.Future[dict]] = {}
        self._outbox: deque[tuple[bytes, list[int]]] = deque()
        self._next_id = 0
        self._failure: str | None = "the jail has not been started"
        self.facts: dict = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> None:
        """Raises IsolationError with the remedy when this host cannot run the jail."""
        self._loop = asyncio.get_running_loop()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A memory file and no pipe: nobody has to drain it.
        self._errors = os.memfd_create("zygote-errors")
        mount_point = self._state_dir / "root"
        mount_point.mkdir(exist_ok=True)
        with os.fdopen(os.memfd_create("zygote"), "w+") as script:
            script.write(_ZYGOTE.format(root=_PACKAGE_ROOT, fd=theirs.fileno()))
            script.seek(0)
            self._process = subprocess.Popen(
                # No site module: only the standard library and what the zygote adds itself.
                [_base_executable(), "-s", "-S", "-B", "-"],
                stdin=script,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                cwd="/",
                env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "TZ": "UTC", "PATH": "/usr/bin:/bin"},
            )
        theirs.close()
        settings = {
            "host": asdict(_describe_host(self._state_dir)),
            "mount_point": os.path.realpath(mount_point),
            "packages": os.path.realpath(self._packages),
        }
        self._socket.setblocking(False)
        try:
            await self._loop.sock_sendall(self._socket, json.dumps(settings).encode())
            answer = await asyncio.wait_for(self._loop.sock_recv(self._socket, _MAX_MESSAGE), _START_TIMEOUT_S)
            self.facts = json.loads(answer) if answer else {"error": self._last_words()}
        except (TimeoutError, ConnectionError):
            self.facts = {"error": f"no sign of life from the zygote; {self._last_words()}"}
        if "error" in self.facts:
            await self.stop()
            raise IsolationError(remedy(self.facts["error"], self.facts.get("errno", 0)))
        self._failure = None
        self._loop.add_reader(self._socket, self._receive)

    def check(self) -> None:
        """Raises SandboxError when the zygote is gone."""
        if self._failure:
            raise SandboxError(self._failure)

    async def stop(self) -> None:
        """Ends the zygote, and with it every sandbox. Safe to repeat."""
        self._fail("the jail was stopped")
        if not hasattr(self, "_process"):
            return
        try:
            await asyncio.to_thread(self._process.wait, _STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1

    def post(self, op: str, fds: Sequence[int] = (), **fields) -> int:
        """Sends a request without waiting and returns its id. Takes the descriptors over. Raises SandboxError.

        All but "kill" are answered; the answer may come before anybody awaits it.
        """
        try:
            self.check()
        except SandboxError:
            _close_all(fds)
            raise
        self._next_id += 1
        if op != "kill":
            self._waiting[self._next_id] = self._loop.create_future()
        self._outbox.append((json.dumps({"op": op, "id": self._next_id, **fields}).encode(), list(fds)))
        self._flush()
        return self._next_id

    async def answer(self, request_id: int) -> dict:
        """The answer to a posted request; to be awaited once. Raises SandboxError."""
        try:
            answer = await self._waiting[request_id]
        finally:
            self._waiting.pop(request_id, None)
        if "error" in answer:
            raise SandboxError(answer["error"])
        return answer

    def _flush(self) -> None:
        while self._outbox:
            message, fds = self._outbox[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._socket.sendmsg([message], rights)
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._flush)
                return
            except OSError:
                self._fail(self._obituary())
                return
            self._outbox.popleft()
            _close_all(fds)
        self._loop.remove_writer(self._socket)

    def _receive(self) -> None:
        while not self._failure:
            try:
                message = self._socket.recv(_MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._fail(self._obituary())
                return
            answer = json.loads(message)
            future = self._waiting.get(answer["id"])
            if future is not None and not future.done():
                future.set_result(answer)

    def _fail(self, why: str) -> None:
        """Everything waiting, and everything asked for later, ends with this error."""
        if not self._failure:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._failure = why
        if hasattr(self, "_socket"):
            self._socket.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(SandboxError(why))
        while self._outbox:
            _close_all(self._outbox.popleft()[1])

    def _obituary(self) -> str:
        return f"the jail's zygote (pid {self._process.pid}) died; restart the service; {self._last_words()}"

    def _last_words(self) -> str:
        size = os.fstat(self._errors).st_size
        text = os.pread(self._errors, 2000, max(0, size - 2000)).decode(errors="replace").strip()
        return f"it said: {text}" if text else "it left no message"


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)


def _base_executable() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _describe_host(state_dir: Path) -> Host:
    base_prefixes = [sys.base_prefix, sys.base_exec_prefix]
    prefixes = [os.path.abspath(p) for p in base_prefixes] + [os.path.realpath(p) for p in base_prefixes]
    roots = [{"base": prefix, "platbase": prefix} for prefix in prefixes]
    libraries = [sysconfig.get_path(kind, "posix_prefix", root) for kind in ("purelib", "platlib") for root in roots]
    hidden = [*libraries, *site.getsitepackages(prefixes), os.path.dirname(os.path.dirname(__file__)), str(state_dir)]
    hidden += _installed_elsewhere(prefixes)
    if sys.prefix != sys.base_prefix:
        hidden.append(sys.prefix)
    uid, gid = sandbox_owner()
    return Host(
        prefixes=tuple(dict.fromkeys(prefixes)),
        hidden=tuple(dict.fromkeys(os.path.realpath(place) for place in hidden)),
        executable=_base_executable(),
        uid=uid,
        gid=gid,
        as_root=os.geteuid() == 0,
    )


def _installed_elsewhere(prefixes: Sequence[str]) -> list[str]:
    """Distributions that are on no search path of ours: a task may have been made of any of them."""
    libraries = [sysconfig.get_path("stdlib", "posix_prefix", {"installed_base": p}) for p in prefixes]
    # From 3.12 on Python's own tests bring wheels.
    bundled = [f"{place}/{name}" for place in libraries for name in ("ensurepip/_bundled", "test/wheeldata")]
    bundled += [wheel for place in libraries for wheel in glob.glob(f"{place}/test/*.whl")]
    installed = [place for root in ("/usr/lib", "/usr/local/lib") for place in glob.glob(f"{root}/python3*/*-packages")]
    return [*bundled, *installed, *glob.glob("/usr/lib/python3*/ensurepip/_bundled"), *_COLLECTIONS]


def remedy(error: str, number: int) -> str:
    """What went wrong on this host, and what to do about it."""
    advice: Callable[[], str] = {
        errno.EPERM: _advice_on_permission,
        errno.EACCES: _advice_on_permission,
        errno.ENOSPC: _advice_on_quota,
        errno.ENOTSUP: lambda: "see `python -m sandbox_service --help` for other backends",
    }.get(number, lambda: "the jail needs Linux 5.12 or later with overlayfs and user namespaces")
    return f"cannot make sandboxes here: {error}; {advice()}"


def _advice_on_permission() -> str:
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor forbids user namespaces: run `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or load "
            f"an AppArmor profile with `userns,` for {_base_executable()}, or run the service as root"
        )
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return "run `sysctl -w kernel.unprivileged_userns_clone=1`, or run the service as root"
    if os.geteuid() == 0:
        return (
            "the service is root without CAP_SYS_ADMIN, as in a default container: start the container with "
            "--privileged, or run the service on the host"
        )
    return "run the service as root, or outside of a container that forbids user namespaces"


def _advice_on_quota() -> str:
    name, limit = "user.max_user_namespaces", _sysctl("user/max_user_namespaces")
    return f"{name} is {limit}: run `sysctl -w {name}=15000`, or run the service as root"


def _sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None
