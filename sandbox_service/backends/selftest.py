"""Attacks on a throwaway workspace: which properties of the isolation hold on this very host.

Every attack is a small program in the sandbox that says what it managed to do. A property is enforced when the attack
ended in exactly the way that it must, unenforced otherwise; an attack that could not run proves nothing and so counts
as unenforced. All are bounded, so that a host on which one gets through survives it; still they are only for backends
that mean to contain them (one mounts over /tmp, another changes the limits of process 1).
"""

import asyncio
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from sandbox_service.backends.base import Backend, Ended, ExecResult, Isolation, Limits, Workspace
from sandbox_service.errors import SandboxError

# Generous: on a loaded host an attack may take long to start, and one that could not run counts as unenforced.
_TIMEOUT_S = 60.0
_LIMITS = Limits(
    memory_mib=64, processes=24, disk_mib=16, output_kept_bytes=4096, output_stop_bytes=1 << 20, open_files=256
)
Attack = Callable[["Target"], Awaitable[str]]

_SEE_PROCESSES = """
import os
pids = sorted(int(p) for p in os.listdir("/proc") if p.isdigit())
try:
    os.kill(PID, 0)
    reached = True
except ProcessLookupError:
    reached = False
except OSError:
    reached = True
print("sees", pids) if len(pids) > 4 or reached else print("refused: sees only", pids)
"""
_CONNECT = """
import socket
reached = []
for kind, place in [(1, ("127.0.0.1", TCP)), (1, ("1.1.1.1", 53)), (2, ("1.1.1.1", 53))]:
    s = socket.socket(socket.AF_INET, kind)
    s.settimeout(0.5)
    try:
        s.connect(place)
        s.send(b"x")
        reached.append((kind, place))
    except OSError as e:
        why = e
socket.socket(socket.AF_INET, 2).sendto(b"x", ("127.0.0.1", UDP))
print("reached", reached) if reached else print("refused:", why)
"""


class Held(Exception):
    """Raised by a helper when the attack got through; its text is the evidence."""


class Target:
    """A throwaway workspace, and another one that holds a secret."""

    def __init__(self, workspace: Workspace, scratch: Path):
        self.workspace, self.scratch = workspace, scratch

    async def python(self, code: str, **options) -> ExecResult:
        options.setdefault("timeout_s", _TIMEOUT_S)
        return await self.workspace.run(["python3", "-c", code], **options)

    async def refuses(self, code: str) -> str:
        """The program must print `refused: WHY` and exit 0; the reason is the evidence."""
        result = await self.python(code)
        text = result.output.decode(errors="replace").strip()
        if result.ended is not Ended.EXITED or result.exit_code or not text.startswith("refused: "):
            raise Held(f"{result.ended.value} {result.exit_code}: {text[-200:]}")
        return text.removeprefix("refused: ")

    async def ends(self, result: ExecResult, *wanted: Ended) -> str:
        if result.ended not in wanted:
            text = result.output[-200:].decode(errors="replace")
            raise Held(f"ended as {result.ended.value} {result.exit_code}: {text}")
        return f"ended as {result.ended.value} after {result.wall_s:.2f} s"


def _try(body: str, success: str) -> str:
    """A program that runs `body`; an OSError is a refusal, success a message."""
    indented = body.replace("\n", "\n    ")
    return (
        f"import ctypes, os, socket, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"def check(r):\n    if r < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\n"
        f"try:\n    {indented}\nexcept OSError as e:\n    print('refused:', e)\nelse:\n    print({success!r})\n"
    )


async def _write_outside(t: Target) -> str:
    places = [str(t.scratch), "/", "/usr", "/etc", "/packages", "/root", os.path.dirname(__file__)]
    body = (
        f"import os\ndone = []\nfor p in {places!r}:\n    try:\n        open(p + '/attack', 'w').close()\n"
        "        done.append(p)\n    except OSError:\n        pass\n"
        f"print('wrote to', done) if done else print('refused: {len(places)} places')\n"
    )
    evidence = await t.refuses(body)
    if (t.scratch / "attack").exists():
        raise Held(f"a file appeared in {t.scratch}")
    return evidence


async def _read_host(t: Target) -> str:
    secret = t.scratch / "secret"
    secret.write_text("secret")
    places = ["/etc/shadow", "/etc/machine-id", __file__, str(secret), "/proc/1/root/etc/shadow", "/proc/1/mem"]
    body = (
        f"done = []\nfor p in {places!r}:\n    try:\n        open(p).read(1); done.append(p)\n    except OSError:\n"
        f"        pass\nprint('read', done) if done else print('refused: {len(places)} files')\n"
    )
    return await t.refuses(body)


async def _see_processes(t: Target) -> str:
    code = _SEE_PROCESSES.replace("PID", str(os.getpid()))
    return await t.refuses(code)


async def _connect(t: Target) -> str:
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp.setblocking(False)
        code = _CONNECT.replace("TCP", str(tcp.getsockname()[1])).replace("UDP", str(udp.getsockname()[1]))
        evidence = await t.refuses(code)
        try:
            udp.recv(1)
        except BlockingIOError:
            return evidence
        raise Held("a datagram reached the host")


async def _loopback(t: Target) -> str:
    body = (
        "import socket\ns = socket.create_server(('127.0.0.1', 0))\nc = socket.create_connection(s.getsockname())\n"
        "print('refused: not at all, a connection to itself works')"
    )
    return (await t.refuses(body)).removeprefix("not at all, ")


async def _become_root(t: Target) -> str:
    return await t.refuses(_try("os.setuid(0)", "became user 0"))


async def _mount(t: Target) -> str:
    return await t.refuses(_try("check(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))", "mounted"))


async def _nest(t: Target) -> str:
    return await t.refuses(_try("check(libc.unshare(0x10000000))", "made a user namespace"))


async def _trace(t: Target) -> str:
    fork = "pid = os.fork()\nif not pid:\n    import time; time.sleep(0.2); os._exit(0)\n"
    return await t.refuses(_try(fork + "check(libc.ptrace(16, pid, 0, 0))", "attached to a process"))


async def _supervisor(t: Target) -> str:
    body = "import resource, signal\nos.kill(1, signal.SIGINT)\nresource.prlimit(1, resource.RLIMIT_CPU, (1, 1))"
    return await t.refuses(_try(body, "changed the limits of pid 1"))


async def _memory(t: Target) -> str:
    code = f"x = bytearray({2 * _LIMITS.memory_mib} << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"
    return await t.ends(await t.python(code), Ended.OUT_OF_MEMORY)


async def _fork_bomb(t: Target) -> str:
    loop = f"for _ in range({4 * _LIMITS.processes}):\n    if os.fork() == 0: time.sleep(2); os._exit(0)"
    return await t.ends(await t.python("import os, time\n" + loop), Ended.OUT_OF_PROCESSES)


async def _fill_disk(t: Target) -> str:
    code = f"f = open('big', 'wb')\nfor _ in range({4 * _LIMITS.disk_mib}): f.write(bytes(1 << 20)); f.flush()"
    result = await t.python(code)
    await t.workspace.run(["rm", "-f", "big"], timeout_s=_TIMEOUT_S)
    return await t.ends(result, Ended.OUT_OF_DISK)


async def _flood(t: Target) -> str:
    result = await t.workspace.run(["yes"], timeout_s=_TIMEOUT_S)
    if len(result.output) > _LIMITS.output_kept_bytes:
        raise Held(f"{len(result.output)} bytes were kept")
    return await t.ends(result, Ended.OUTPUT_LIMIT)


async def _survive(t: Target) -> str:
    """A program in a session of its own must die with the command; it would go on touching a file."""
    code = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
        "    for _ in range(500): open('alive', 'a').write('x'); time.sleep(0.01)\ntime.sleep(60)"
    )
    for timeout_s in (0.5, 2.0, 8.0, 30.0):
        ended = await t.ends(await t.python(code, timeout_s=timeout_s), Ended.TIMEOUT)
        try:
            before = len(await t.workspace.read_file("alive"))
            break
        except FileNotFoundError:  # the host was too busy to start it in time
            continue
    else:
        raise Held("it never started")
    await asyncio.sleep(0.1)
    after = len(await t.workspace.read_file("alive"))
    if after != before:
        raise Held("it lived on after the command's end")
    return f"{ended}; nothing lived on"


async def _reach_other_workspace(t: Target) -> str:
    code = "import os\nopen('/tmp/mark', 'w').close()\nprint('refused: only', os.listdir('/tmp'), 'in /tmp')"
    evidence = await t.refuses(code)
    if "own-mark" in evidence:
        raise Held(evidence)
    return evidence


ATTACKS: dict[str, Attack] = {
    "write_outside": _write_outside,
    "read_host_files": _read_host,
    "other_workspaces": _reach_other_workspace,
    "host_processes": _see_processes,
    "network": _connect,
    "loopback": _loopback,
    "setuid": _become_root,
    "mount": _mount,
    "nested_namespaces": _nest,
    "ptrace": _trace,
    "supervisor": _supervisor,
    "memory": _memory,
    "processes": _fork_bomb,
    "disk": _fill_disk,
    "output": _flood,
    "survivors": _survive,
}


async def attack(backend: Backend, scratch_parent: Path) -> Isolation:
    """Runs every attack, each in a workspace of its own, all at the same time."""
    enforced: dict[str, str] = {}
    unenforced: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=scratch_parent) as scratch:
        base = Path(scratch, "base")
        base.mkdir()
        # World-writable, so that only the isolation stands between the attack and it.
        Path(scratch).chmod(0o777)

        async def one(name: str, method: Attack) -> None:
            try:
                workspace = await backend.open_workspace(base, limits=_LIMITS)
                try:
                    enforced[name] = await method(Target(workspace, Path(scratch)))
                finally:
                    await workspace.close()
            except (Held, SandboxError, OSError) as e:
                unenforced[name] = str(e) or type(e).__name__

        marked = await backend.open_workspace(base, limits=_LIMITS)
        try:
            await marked.run(["touch", "/tmp/own-mark"], timeout_s=_TIMEOUT_S)
            await asyncio.gather(*(one(name, method) for name, method in ATTACKS.items()))
        finally:
            await marked.close()
    return Isolation(dict(sorted(enforced.items())), dict(sorted(unenforced.items())))
