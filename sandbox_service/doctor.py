"""python -m sandbox_service doctor: what works on this host, and the remedy for what does not.

Every probe runs in a child of its own and undoes what it did; none attacks anything. Exit status 0 when a backend that
isolates can be used here, else 3.
"""

import argparse
import asyncio
import ctypes
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sandbox_service.backends import cgroups
from sandbox_service.backends import namespaces as ns
from sandbox_service.backends.docker import default_socket
from sandbox_service.backends.jail import JailBackend
from sandbox_service.backends.seccomp import build_filter
from sandbox_service.backends.supervisor import remedy
from sandbox_service.errors import IsolationError

OK, WARNING, MISSING = "ok", "warning", "missing"
EXIT_NONE_USABLE = 3
_PROBE_TIMEOUT_S = 120.0
_KINDS = {
    "mount": ns.CLONE_NEWNS, "pid": ns.CLONE_NEWPID, "net": ns.CLONE_NEWNET, "ipc": ns.CLONE_NEWIPC,
    "uts": ns.CLONE_NEWUTS, "cgroup": ns.CLONE_NEWCGROUP,
}  # fmt: skip
_SYSCTLS = (
    "user/max_user_namespaces",
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
)
_MIN_KERNEL, _MIN_DISK_GIB, _MIN_MEMORY_GIB = (5, 12), 5, 2


@dataclass(frozen=True)
class Finding:
    """One line of the report. `remedy` is empty when there is nothing to do."""

    name: str
    state: str
    found: str
    remedy: str = ""


# Probes: what a child does. They return what they found and raise OSError or IsolationError.


def _into_namespaces() -> None:
    """As the jail enters them: by root's right, or behind a user namespace of one's own."""
    if os.geteuid() != 0:
        uid, gid = os.geteuid(), os.getegid()
        ns.unshare(ns.CLONE_NEWUSER)
        ns.map_user(uid, gid, uid, gid)


def probe_user_namespace() -> str:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    ns.unshare(ns.CLONE_NEWUSER)
    return "a plain user can make one"


def probe_namespaces() -> str:
    _into_namespaces()
    for name, flag in _KINDS.items():
        try:
            ns.unshare(flag)
        except OSError as e:
            raise OSError(e.errno, f"{name}: {os.strerror(e.errno)}") from e
    return ", ".join(_KINDS)


def probe_overlay() -> str:
    _into_namespaces()
    ns.unshare(ns.CLONE_NEWNS)
    ns.make_private()
    with tempfile.TemporaryDirectory() as place:
        ns.mount("tmpfs", place, "tmpfs", 0, "mode=0755,size=1m")
        try:
            for part in ("lower", "upper", "work", "merged"):
                os.mkdir(f"{place}/{part}")
            Path(place, "lower/file").write_text("old")
            os.chdir(place)
            options = "lowerdir=lower,upperdir=upper,workdir=work"
            options += "" if os.geteuid() == 0 else ",userxattr"
            ns.mount("overlay", "merged", "overlay", 0, options)
            Path("merged/file").write_text("new")
            ns.unmount("merged")
            works = Path("lower/file").read_text() == "old"
        finally:
            os.chdir("/")
            ns.unmount(place)
    if not works:
        raise OSError(5, "a write to the overlay reached its lower layer")
    return "copy on write works on tmpfs"


def probe_cgroups() -> str:
    groups = cgroups.find()
    groups.close()
    if not groups.parents:
        raise OSError(1, "no control group can be made")
    return f"version {groups.version}: {', '.join(sorted(groups.parents))}"


def probe_seccomp() -> str:
    ns.drop_capabilities()
    ns.install_filter(build_filter(ns.MACHINE))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0) == 0 or ctypes.get_errno() != 1:
        raise OSError(1, "the filter was installed and does not hold")
    return "a filter can be installed, and holds"


def probe_jail() -> str:
    """Starts the jail and runs `import pytest, ssl` in it; nothing else."""

    async def work(folder: Path) -> str:
        backend = JailBackend(folder)
        await backend.start()
        facts = backend.supervisor.facts
        await backend.stop()
        return f"a sandbox was made and its interpreter works (control groups: version {facts['cgroups']})"

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(work(Path(folder)))


PROBES: dict[str, Callable[[], str]] = {
    "user_namespace": probe_user_namespace,
    "namespaces": probe_namespaces,
    "overlay": probe_overlay,
    "cgroups": probe_cgroups,
    "seccomp": probe_seccomp,
    "jail": probe_jail,
}
_IN_CHILD = "import sys; from sandbox_service.doctor import in_child; in_child(sys.argv[1])"


def in_child(name: str) -> None:
    """Runs a probe and prints its answer as a line of JSON."""
    try:
        answer = {"found": PROBES[name]()}
    except OSError as e:
        answer = {"error": str(e), "errno": e.errno}
    except IsolationError as e:
        answer = {"error": str(e), "errno": None}
    print(json.dumps(answer))


def ask(name: str) -> dict:
    """A probe's answer from its child: `found`, or `error` and `errno`."""
    command = [sys.executable, "-c", _IN_CHILD, name]
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, env=environment)
        return json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {_PROBE_TIMEOUT_S:.0f} s", "errno": None}
    except (IndexError, ValueError):
        words = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return {"error": f"the probe died: {words[-1]}", "errno": None}


def examine(folder: Path, socket_path: str) -> list[Finding]:
    """`folder` is where the service would keep its state."""
    findings = [_kernel(), _user(), _memory(), _disk(folder)]
    findings += [
        _probed("user_namespace", "unprivileged user namespaces", WARNING),
        _probed("namespaces", "namespaces", MISSING),
        _probed("overlay", "overlay file system", MISSING),
        _probed("seccomp", "seccomp", MISSING),
        _probed("cgroups", "control groups", WARNING),
    ]
    findings += _engine(socket_path)
    findings += [_jail(), _docker(findings)]
    return findings


def usable(findings: Sequence[Finding]) -> list[str]:
    """Backends that can be used here."""
    return [f.name.removeprefix("backend ") for f in findings if f.name.startswith("backend ") and f.state == OK]


def _kernel() -> Finding:
    release, machine = platform.release(), platform.machine()
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    found = f"Linux {release} on {machine}"
    if machine not in ns.MACHINES:
        return Finding("kernel", MISSING, found, f"the filters know {' and '.join(ns.MACHINES)} alone")
    if version < _MIN_KERNEL:
        return Finding("kernel", MISSING, found, "the jail needs Linux 5.12 or later; upgrade, or use --backend=docker")
    return Finding("kernel", OK, found)


def _user() -> Finding:
    if os.geteuid() == 0:
        return Finding("user", OK, "root: sandboxes get a user of their own")
    return Finding("user", OK, f"user {os.geteuid()}: sandboxes run as it, behind a user namespace")


def _memory() -> Finding:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = f"{gib:.1f} GiB, {len(os.sched_getaffinity(0))} cores"
    if gib < _MIN_MEMORY_GIB:
        return Finding("memory", WARNING, found, "a command may use 1 GiB: lower --max-execs, or take a larger host")
    return Finding("memory", OK, found)


def _disk(folder: Path) -> Finding:
    free_gib = shutil.disk_usage(folder).free / 2**30
    found = f"{free_gib:.1f} GiB free in {folder}"
    if free_gib < _MIN_DISK_GIB:
        return Finding("disk", WARNING, found, f"trees and packages need room: choose --state with {_MIN_DISK_GIB} GiB")
    return Finding("disk", OK, found)


def _probed(name: str, title: str, otherwise: str) -> Finding:
    answer = ask(name)
    if "found" in answer:
        return Finding(title, OK, answer["found"])
    advice = remedy(answer["error"], answer["errno"] or 0).rpartition("; ")[2]
    if name == "cgroups":
        advice = (
            "limits then come from rlimits and polling. Run as root, or let systemd delegate a group: "
            "Delegate=yes in the service's unit (launch/sandbox-service.service)"
        )
    if name == "user_namespace" and os.geteuid() == 0:
        advice = f"not needed while the service is root; for another user: {advice}"
    return Finding(title, otherwise, answer["error"], advice)


def _engine(socket_path: str) -> list[Finding]:
    """The container engine behind the socket, and its runtimes."""
    start = "start Docker (`systemctl start docker`) or `podman system service`, or set DOCKER_HOST=unix:///PATH"
    try:
        info = _get(socket_path, "/info")
    except PermissionError:
        advice = f"no right to use it: add this user to the group that owns {socket_path}"
        return [Finding("container engine", MISSING, socket_path, advice)]
    except (OSError, ValueError) as e:
        install = "" if shutil.which("dockerd") or shutil.which("podman") else "`apt-get install docker.io`, then "
        return [Finding("container engine", MISSING, f"{socket_path}: {e}", install + start)]
    found = (
        f"{socket_path}: {info.get('ServerVersion')}, {info.get('Driver')}, cgroup v{info.get('CgroupVersion', '?')}"
    )
    options = " ".join(map(str, info.get("SecurityOptions") or ()))
    unlimited = [name for name in ("MemoryLimit", "PidsLimit") if not info.get(name, True)]
    findings = [Finding("container engine", OK, found)]
    if "seccomp" not in options:
        findings[0] = Finding(
            "container engine", WARNING, found, "it runs without seccomp: start it without that option"
        )
    if unlimited:
        advice = "the engine cannot enforce them here: give it control groups (rootless Podman needs version 2)"
        findings.append(Finding("limits of containers", MISSING, f"no {' and '.join(unlimited)}", advice))
    runtimes = sorted(info.get("Runtimes") or ())
    if "runsc" in runtimes:
        findings.append(Finding("gVisor", OK, "runtime runsc is registered: --runtime=runsc"))
    else:
        where = shutil.which("runsc")
        advice = "optional, a second kernel between sandbox and host: "
        advice += "" if where else "install runsc from gvisor.dev, then "
        advice += 'add {"runtimes": {"runsc": {"path": "' + (where or "/usr/local/bin/runsc") + '"}}} to daemon.json'
        findings.append(Finding("gVisor", WARNING, f"runtimes: {', '.join(runtimes)}", advice))
    return findings


def _get(socket_path: str, path: str) -> dict:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20.0)
        connection.connect(socket_path)
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0] + b" ":
        raise ValueError(f"answered {head.splitlines()[0].decode(errors='replace') if head else 'nothing'}")
    return json.loads(body)


def _jail() -> Finding:
    answer = ask("jail")
    if "found" in answer:
        return Finding("backend jail", OK, answer["found"])
    what, _, advice = answer["error"].rpartition("; ")
    return Finding("backend jail", MISSING, what or answer["error"], advice if what else "")


def _docker(findings: Sequence[Finding]) -> Finding:
    states = {f.name: f for f in findings}
    engine, limits = states["container engine"], states.get("limits of containers")
    if engine.state == MISSING:
        return Finding("backend docker", MISSING, "no container engine answers", engine.remedy)
    if limits:
        return Finding("backend docker", MISSING, limits.found, limits.remedy)
    if find_spec("docker") is None:
        return Finding("backend docker", MISSING, "the Docker SDK is not installed", "pip install 'docker>=7.1'")
    return Finding("backend docker", OK, "the engine answers; --backend=docker --image=NAME")


def render(findings: Sequence[Finding]) -> str:
    width = max(len(f.name) for f in findings)
    lines = []
    for f in findings:
        lines.append(f"{f.state:>7}  {f.name:<{width}}  {f.found}")
        if f.remedy:
            lines.append(f"{'':>7}  {'':<{width}}  -> {f.remedy}")
    names = usable(findings)
    lines.append("")
    lines.append(f"usable here: {', '.join(names)}" if names else "usable here: nothing that isolates")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox_service doctor", description=__doc__.partition("\n")[0])
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()), help="the service's working folder")
    options = parser.parse_args(argv)
    try:
        socket_path = default_socket()
    except IsolationError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    findings = examine(options.state if options.state.is_dir() else Path(tempfile.gettempdir()), socket_path)
    print(render(findings))
    return 0 if usable(findings) else EXIT_NONE_USABLE
