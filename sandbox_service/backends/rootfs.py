"""What a sandboxed command sees as its file tree, and the workspaces. Runs inside the zygote only.

The zygote lives in a root of its own, so that nothing has to be made on the host:

    /@host      the host's whole tree
    /@jail      the root of every sandbox, read-only; each command mounts its workspace, /tmp and /proc on its own copy
    /@ws/ID     one workspace: data (a tmpfs of limited size: upper, work, tmp, shm), lower, merged (overlay), packages
    /NAME       links to /@host/NAME, so that host paths keep their meaning
"""

import errno
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass

from sandbox_service.backends import namespaces as ns
from sandbox_service.backends.base import PACKAGES, WORKSPACE

HOST, JAIL, WORKSPACES = "/@host", "/@jail", "/@ws"
# A directory of links to the service's interpreter, first on PATH.
PYTHON = "/python"
# User and group inside; and outside when the service is root, a number that nobody else should have.
SANDBOX_ID, HOST_ID = 1000, 64537

_DEVICES = ("null", "zero", "full", "random", "urandom")
_HIDDEN_PROC = ("kcore", "keys", "key-users", "timer_list", "sched_debug", "sysrq-trigger", "latency_stats", "kallsyms")
_ETC = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nagent:x:{SANDBOX_ID}:{SANDBOX_ID}:agent:/tmp:/bin/bash\n",
    "group": f"root:x:0:\nagent:x:{SANDBOX_ID}:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "resolv.conf": "",
}
_ETC_OF_HOST = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "mime.types", "services", "protocols")
_COVERED = (WORKSPACE, PACKAGES, PYTHON, "/tmp", "/proc", "/dev", "/etc")


def sandbox_owner() -> tuple[int, int]:
    """User and group, as the host numbers them, of sandboxes that this process makes.

    Root only when there is no other user to be (in a container that maps few); the jail refuses that.
    """
    with open("/proc/self/uid_map") as f:
        mapped = [range(int(start), int(start) + int(count)) for start, _, count in map(str.split, f)]
    is_root = os.geteuid() == 0 and any(HOST_ID in users for users in mapped)
    return (HOST_ID, HOST_ID) if is_root else (os.geteuid(), os.getegid())


@dataclass(frozen=True)
class Host:
    """What the service tells the zygote about itself."""

    # Directories (real paths) that the interpreter needs at their own place, and what must not be seen below them.
    prefixes: tuple[str, ...]
    hidden: tuple[str, ...]
    executable: str
    # Owner of everything in a sandbox, as the host numbers it.
    uid: int
    gid: int
    as_root: bool


def enter_own_root(mount_point: str) -> None:
    """Moves the process into a fresh root over `mount_point`, in a mount namespace that must already be private."""
    ns.mount("tmpfs", mount_point, "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=0755,size=16m")
    for place in (HOST, JAIL, WORKSPACES):
        os.mkdir(mount_point + place)
    os.chdir(mount_point)
    ns.pivot_root(".", HOST[1:])
    os.chdir("/")
    for name in os.listdir(HOST):
        if not os.path.lexists("/" + name):
            os.symlink(HOST[1:] + "/" + name, "/" + name)


def build_jail(host: Host) -> None:
    """Fills the read-only root that all sandboxes share."""
    ns.mount("tmpfs", JAIL, "tmpfs", ns.MS_NOSUID, "mode=0755,size=8m")
    for place in (*_COVERED, "/usr", "/var", "/dev/shm"):
        os.mkdir(JAIL + place)
    os.symlink("/tmp", JAIL + "/var/tmp")
    _show("/usr")
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"{HOST}/{name}"):
            os.symlink(os.readlink(f"{HOST}/{name}"), f"{JAIL}/{name}")
        elif os.path.isdir(f"{HOST}/{name}"):
            os.mkdir(f"{JAIL}/{name}")
            _show("/" + name)
    for prefix in host.prefixes:
        if any(prefix == c or prefix.startswith(c + "/") for c in _COVERED):
            text = f"the interpreter lies in {prefix}, which every sandbox covers: use one that is installed elsewhere"
            raise OSError(errno.ENOTSUP, text)
        if not os.path.exists(JAIL + prefix):
            os.makedirs(JAIL + prefix)
            _show(prefix)
    nothing = f"{JAIL}/.nothing"
    os.close(os.open(nothing, os.O_CREAT | os.O_EXCL, 0o000))
    for place in host.hidden:
        if os.path.isdir(JAIL + place):
            ns.mount("tmpfs", JAIL + place, "tmpfs", ns.MS_RDONLY | ns.MS_NOSUID | ns.MS_NODEV, "mode=0755,size=4k")
        elif os.path.isfile(JAIL + place):
            ns.bind(nothing, JAIL + place)
            ns.set_read_only(JAIL + place)
    os.unlink(nothing)
    _fill_etc()
    _fill_dev()
    _fill_python(host.executable)
    ns.set_read_only(JAIL, devices=True)


def _show(path: str) -> None:
    ns.bind(HOST + path, JAIL + path)
    ns.set_read_only(JAIL + path)


def _fill_etc() -> None:
    for name, text in _ETC.items():
        with open(f"{JAIL}/etc/{name}", "w") as f:
            f.write(text)
    for name in _ETC_OF_HOST:
        source = f"{HOST}/etc/{name}"
        with suppress(OSError):
            if os.path.isdir(source):
                shutil.copytree(source, f"{JAIL}/etc/{name}", symlinks=True)
            else:
                shutil.copyfile(source, f"{JAIL}/etc/{name}")


def _fill_dev() -> None:
    for name in _DEVICES:
        with open(f"{JAIL}/dev/{name}", "w"):
            pass
        ns.bind(f"{HOST}/dev/{name}", f"{JAIL}/dev/{name}")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{JAIL}/dev/{name}")


def _fill_python(executable: str) -> None:
    for name in ("python", "python3", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        os.symlink(executable, f"{JAIL}{PYTHON}/{name}")
    script = f"{JAIL}{PYTHON}/pytest"
    with open(script, "w") as f:
        f.write(f"#!{PYTHON}/python\nimport sys\nimport pytest\nsys.exit(pytest.console_main())\n")
    os.chmod(script, 0o755)


def mount_workspace(workspace: str) -> None:
    """Mounts a workspace and /proc on this process's own copy of the jail and makes that the root.

    Needs new mount and pid namespaces.
    """
    place = f"{WORKSPACES}/{workspace}"
    ns.bind(f"{place}/merged", JAIL + WORKSPACE)
    ns.bind(f"{place}/data/tmp", JAIL + "/tmp")
    ns.bind(f"{place}/data/shm", JAIL + "/dev/shm")
    ns.bind(f"{place}/packages", JAIL + PACKAGES)
    ns.mount("proc", JAIL + "/proc", "proc", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC)
    for name in _HIDDEN_PROC:
        if os.path.exists(f"{JAIL}/proc/{name}"):
            ns.bind(JAIL + "/dev/null", f"{JAIL}/proc/{name}")
    ns.enter_root(JAIL)


class Workspaces:
    """Makes and removes workspaces in the zygote's mount namespace."""

    def __init__(self, host: Host):
        self._host = host
        # Owner on disk -> user namespace that shows its files as the sandbox's.
        self._owner_maps: dict[tuple[int, int], int] = {}

    def open(self, name: str, base: str, packages: str, disk_bytes: int, max_files: int) -> None:
        """`base` and `packages` are real paths on the host. Raises OSError and leaves nothing behind."""
        place = f"{WORKSPACES}/{name}"
        for part in ("", "/lower", "/data", "/merged", "/packages"):
            os.mkdir(place + part)
        try:
            options = f"size={disk_bytes},nr_inodes={max_files},mode=0755"
            ns.mount("tmpfs", f"{place}/data", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, options)
            for part, mode in (("upper", 0o755), ("work", 0o755), ("tmp", 0o1777), ("shm", 0o1777)):
                path = f"{place}/data/{part}"
                os.mkdir(path)
                os.chmod(path, mode)
                os.chown(path, self._host.uid, self._host.gid)
            self._mount_lower(HOST + base, place)
            # Relative paths: options are limited to a page, and a base's path may hold their separators.
            os.chdir(place)
            options = "lowerdir=lower,upperdir=data/upper,workdir=data/work,"
            options += "redirect_dir=off,metacopy=off,index=off" if self._host.as_root else "userxattr"
            ns.mount("overlay", "merged", "overlay", ns.MS_NOSUID | ns.MS_NODEV, options)
            ns.bind(HOST + packages, f"{place}/packages")
            ns.set_read_only(f"{place}/packages")
        except BaseException:
            self.close(name)
            raise
        finally:
            os.chdir("/")

    def _mount_lower(self, base: str, place: str) -> None:
        owner = os.stat(base)
        if owner.st_uid == self._host.uid:
            ns.bind(base, f"{place}/lower")
            return
        if self._host.as_root:
            with suppress(OSError):
                ns.bind_as(base, f"{place}/lower", self._owner_map(owner.st_uid, owner.st_gid))
                return
        # No idmapped mounts here (old kernel, or a file system without them): a copy that belongs to the sandbox.
        ns.mount("tmpfs", f"{place}/lower", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=0755")
        shutil.copytree(base, f"{place}/lower", symlinks=True, dirs_exist_ok=True)
        for directory, _, files in os.walk(f"{place}/lower"):
            for path in (directory, *(f"{directory}/{f}" for f in files)):
                os.chown(path, self._host.uid, self._host.gid, follow_symlinks=False)

    def _owner_map(self, uid: int, gid: int) -> int:
        if (uid, gid) not in self._owner_maps:
            self._owner_maps[uid, gid] = _make_owner_map(uid, gid, self._host.uid, self._host.gid)
        return self._owner_maps[uid, gid]

    def close(self, name: str) -> None:
        place = f"{WORKSPACES}/{name}"
        for part in ("merged", "packages", "lower", "data"):
            with suppress(OSError):
                ns.unmount(f"{place}/{part}")
            with suppress(OSError):
                os.rmdir(f"{place}/{part}")
        with suppress(OSError):
            os.rmdir(place)

    def is_full(self, name: str) -> bool:
        try:
            return is_full(os.statvfs(f"{WORKSPACES}/{name}/data"))
        except OSError:
            return False

    def layers(self, name: str) -> tuple[str, str]:
        """Upper and lower directory of a workspace."""
        return f"{WORKSPACES}/{name}/data/upper", f"{WORKSPACES}/{name}/lower"


def is_full(usage: os.statvfs_result) -> bool:
    return usage.f_bavail * usage.f_frsize < 16 * 1024 or usage.f_favail < 2


def _make_owner_map(uid: int, gid: int, shown_uid: int, shown_gid: int) -> int:
    """A descriptor of a user namespace that maps one owner on disk to the owner to be shown."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            ns.unshare(ns.CLONE_NEWUSER)
            os.close(go[1])
            # Its number in /proc, which is not the one that fork gave.
            os.write(ready[1], os.fsencode(os.readlink("/proc/self")))
            os.read(go[0], 1)
        finally:
            os._exit(0)
    try:
        os.close(ready[1])
        number = os.read(ready[0], 32).decode()
        if not number:
            raise OSError(1, "cannot make a user namespace for an idmapped mount")
        ns.map_user(uid, gid, shown_uid, shown_gid, number)
        return os.open(f"/proc/{number}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (ready[0], *go):
            os.close(fd)
        os.waitpid(pid, 0)
