"""The system-call filter of a sandboxed command, as classic BPF made by hand (no library).

Denied: everything that makes or enters namespaces or mounts, reaches into other processes, loads code into the kernel
or opens files by handle; and every socket family except UNIX, INET and INET6, which reach the own loopback alone.
"""

import errno
import struct

# (x86_64, aarch64); None where the machine lacks the call.
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "create_module": (174, None),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
}
# Memory that no process shows as its own: without control groups nobody would count it.
_UNCOUNTED: dict[str, tuple[int | None, int | None]] = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
}
_CLONE, _SOCKET, _SOCKETPAIR, _CLONE3 = (56, 220), (41, 198), (53, 199), (435, 435)
_PRLIMIT = (302, 261)
_COLUMN = {"x86_64": 0, "aarch64": 1}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# System calls of the x32 ABI carry this bit and would slip past a list of plain numbers.
_X32_BIT = 0x40000000
# NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NAMESPACE_FLAGS = 0x7E020000
_FAMILIES = (1, 2, 10)

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
# Offsets in struct seccomp_data: number, architecture, low word of the first argument.
_NR, _ARCH, _ARG0 = 0, 4, 16


def denied_calls(machine: str, *, memory_is_counted: bool = True) -> dict[str, int]:
    """Name -> number of the calls that always fail with EPERM."""
    column = _COLUMN[machine]
    calls = _CALLS if memory_is_counted else _CALLS | _UNCOUNTED
    return {name: numbers[column] for name, numbers in calls.items() if numbers[column] is not None}


def build_filter(machine: str, *, memory_is_counted: bool = True) -> bytes:
    """An array of struct sock_filter for `machine` (platform.machine()). Raises KeyError for other machines.

    `memory_is_counted`: a control group counts whatever a command holds.
    """
    column = _COLUMN[machine]
    code: list[tuple[int, int, int, int]] = []

    def emit(op: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        code.append((op, if_true, if_false, value))

    def fail(error: int) -> None:
        emit(_RETURN, _ERRNO | error)

    emit(_LOAD, _ARCH)
    emit(_JUMP_EQ, _AUDIT_ARCH[machine], 1, 0)
    fail(errno.ENOSYS)
    emit(_LOAD, _NR)
    emit(_JUMP_GE, _X32_BIT, 0, 1)
    fail(errno.ENOSYS)
    # clone3 hides its flags in memory that a filter cannot read; libc falls back to clone.
    emit(_JUMP_EQ, _CLONE3[column], 0, 1)
    fail(errno.ENOSYS)
    for number in sorted(denied_calls(machine, memory_is_counted=memory_is_counted).values()):
        emit(_JUMP_EQ, number, 0, 1)
        fail(errno.EPERM)
    emit(_JUMP_EQ, _CLONE[column], 0, 4)
    emit(_LOAD, _ARG0)
    emit(_JUMP_SET, _NAMESPACE_FLAGS, 0, 1)
    fail(errno.EPERM)
    emit(_RETURN, _ALLOW)
    # Limits of another process: a command could set them for its own supervisor.
    emit(_JUMP_EQ, _PRLIMIT[column], 0, 4)
    emit(_LOAD, _ARG0)
    emit(_JUMP_EQ, 0, 1, 0)
    fail(errno.EPERM)
    emit(_RETURN, _ALLOW)
    emit(_JUMP_EQ, _SOCKET[column], 1, 0)
    emit(_JUMP_EQ, _SOCKETPAIR[column], 0, len(_FAMILIES) + 2)
    emit(_LOAD, _ARG0)
    for i, family in enumerate(_FAMILIES):
        emit(_JUMP_EQ, family, len(_FAMILIES) - i, 0)
    fail(errno.EAFNOSUPPORT)
    emit(_RETURN, _ALLOW)
    return b"".join(struct.pack("=HBBI", op, t, f, value) for op, t, f, value in code)
