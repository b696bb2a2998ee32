"""Linux system calls of the jail through ctypes: mounts, namespaces, capabilities. Nothing here keeps state.

Every function raises OSError that names the call and its target.
"""

import ctypes
import fcntl
import os
import platform
import socket
import struct
from contextlib import suppress

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

_MNT_DETACH = 2
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_IDMAP = 1, 2, 4, 0x100000
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR, _SYS_CLOSE_RANGE = 428, 429, 442, 436
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSCONFIG_CMD_CREATE, _CLOSE_RANGE_CLOEXEC = 6, 4
_SYS_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
_SYS_IOPRIO_GET = {"x86_64": 252, "aarch64": 31}
_SCHED_ATTR_BYTES, _IOPRIO_WHO_PROCESS = 56, 1
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 24, 38, 47
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT_CLEAR_ALL, _SECCOMP_MODE_FILTER = 4, 2
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41

MACHINE = platform.machine()
MACHINES = tuple(_SYS_PIVOT_ROOT)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(number: int, *args) -> int:
    return _libc.syscall(ctypes.c_long(number), *args)


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    encoded = [None if s is None else os.fsencode(s) for s in (source, target, kind, data)]
    _check(_libc.mount(*encoded[:3], flags, encoded[3]), f"mount {kind or 'bind'} {source} on {target}")


def bind(source: str, target: str) -> None:
    """A recursive bind mount; it keeps the flags of its source (so a copy of a read-only mount is read-only)."""
    mount(source, target, flags=MS_BIND | MS_REC)


def make_private() -> None:
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def set_read_only(target: str, *, devices: bool = False) -> None:
    """Makes a mount and all below it read-only, nosuid and (unless `devices`) nodev. Needs Linux 5.12."""
    flags = _ATTR_RDONLY | _ATTR_NOSUID | (0 if devices else _ATTR_NODEV)
    _mount_setattr(-100, os.fsencode(target), _AT_RECURSIVE, flags, 0)


def _mount_setattr(fd: int, path: bytes, at_flags: int, attributes: int, userns_fd: int) -> None:
    attr = struct.pack("=QQQQ", attributes, 0, 0, userns_fd)
    where = ctypes.c_int(fd), path, ctypes.c_uint(at_flags)
    result = _syscall(_SYS_MOUNT_SETATTR, *where, attr, ctypes.c_size_t(len(attr)))
    _check(result, f"mount_setattr {os.fsdecode(path)}")


def bind_as(source: str, target: str, userns_fd: int) -> None:
    """A bind mount whose files appear to be owned as `userns_fd` maps their owners (an idmapped mount)."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    fd = _check(
        _syscall(_SYS_OPEN_TREE, ctypes.c_int(-100), os.fsencode(source), ctypes.c_uint(flags)), f"open_tree {source}"
    )
    try:
        _mount_setattr(fd, b"", _AT_EMPTY_PATH, _ATTR_IDMAP, userns_fd)
        moved = _syscall(
            _SYS_MOVE_MOUNT, ctypes.c_int(fd), b"", ctypes.c_int(-100), os.fsencode(target),
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
        )  # fmt: skip
        _check(moved, f"move_mount {target}")
    finally:
        os.close(fd)


def unmount(target: str) -> None:
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    number = _SYS_PIVOT_ROOT[MACHINE]
    _check(_syscall(number, os.fsencode(new_root), os.fsencode(put_old)), f"pivot_root {new_root}")


def enter_root(new_root: str) -> None:
    """Makes `new_root` (a mount point) the root and lets go of the old one."""
    os.chdir(new_root)
    pivot_root(".", ".")
    unmount(".")
    os.chdir("/")


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare" + (" user namespace" if flags & CLONE_NEWUSER else ""))


def set_namespace(fd: int, kind: int) -> None:
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def map_user(inside_uid: int, inside_gid: int, outside_uid: int, outside_gid: int, pid: str = "self") -> None:
    """Maps one user and one group into the user namespace of `pid`."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inside_uid} {outside_uid} 1"),
        ("gid_map", f"{inside_gid} {outside_gid} 1"),
    ):
        with open(f"/proc/{pid}/{name}", "w") as f:
            f.write(text)


def set_hostname(name: str) -> None:
    socket.sethostname(name)


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP_RUNNING))


def open_message_queues() -> int:
    """The directory of the POSIX message queues of this ipc namespace, mounted nowhere."""
    context = _check(_syscall(_SYS_FSOPEN, b"mqueue", ctypes.c_uint(1)), "fsopen mqueue")
    try:
        create = ctypes.c_int(context), ctypes.c_uint(_FSCONFIG_CMD_CREATE), None, None, ctypes.c_int(0)
        _check(_syscall(_SYS_FSCONFIG, *create), "fsconfig mqueue")
        arguments = ctypes.c_int(context), ctypes.c_uint(1), ctypes.c_uint(0)
        mount_fd = _check(_syscall(_SYS_FSMOUNT, *arguments), "fsmount mqueue")
    finally:
        os.close(context)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount_fd)
    finally:
        os.close(mount_fd)


def scheduling() -> tuple[bytes, int, frozenset[int]]:
    """All that decides when and where this process runs: policy, niceness, clamps; class of its I/O; processors."""
    attributes = ctypes.create_string_buffer(_SCHED_ATTR_BYTES)
    _check(_syscall(_SYS_SCHED_GETATTR[MACHINE], 0, attributes, _SCHED_ATTR_BYTES, 0), "sched_getattr")
    io = _check(_syscall(_SYS_IOPRIO_GET[MACHINE], _IOPRIO_WHO_PROCESS, 0), "ioprio_get")
    return attributes.raw, io, frozenset(os.sched_getaffinity(0))


def die_with_parent(signal_number: int) -> None:
    """The parent is a thread; and any change of credentials clears this."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl PDEATHSIG")


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent dies."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl CHILD_SUBREAPER")


def set_dumpable(dumpable: bool) -> None:
    _check(_libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0), "prctl DUMPABLE")


def drop_capabilities() -> None:
    """No new privileges ever, an empty bounding set, no capabilities."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl NO_NEW_PRIVS")
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    capability = 0
    while _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    _check(_syscall(_SYS_CAPSET[MACHINE], header, bytes(24)), "capset")


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install_filter(program: bytes) -> None:
    """Installs a seccomp filter (struct sock_filter[]) on this thread. Needs no_new_privs."""
    fprog = _FilterProgram(len(program) // 8, program)
    _check(
        _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(fprog), 0, 0), "prctl SECCOMP_MODE_FILTER"
    )


def close_on_execute() -> None:
    """No descriptor from 3 on outlives the execution of a program."""
    arguments = ctypes.c_uint(3), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(_CLOSE_RANGE_CLOEXEC)
    _check(_syscall(_SYS_CLOSE_RANGE, *arguments), "close_range")


def close_all_except(keep: set[int]) -> None:
    """Closes every descriptor from 3 on that is not in `keep`."""
    try:
        _close_ranges(keep)
    except OSError:  # older kernels, and gVisor
        for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
            if fd >= 3 and fd not in keep:
                with suppress(OSError):
                    os.close(fd)


def _close_ranges(keep: set[int]) -> None:
    low = 3
    for fd in (*sorted(fd for fd in keep if fd >= 3), None):
        high = 0xFFFFFFFF if fd is None else fd - 1
        if low <= high:
            _check(_syscall(_SYS_CLOSE_RANGE, ctypes.c_uint(low), ctypes.c_uint(high), ctypes.c_uint(0)), "close_range")
        if fd is not None:
            low = fd + 1
