"""The filter against an interpreter of classic BPF, for both machines; and its numbers against the C headers."""

import errno
import re
import struct
from pathlib import Path

import pytest

from sandbox_service.backends.seccomp import build_filter, denied_calls

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE, SOCKET, SOCKETPAIR, PRLIMIT, READ = (
    {"x86_64": x, "aarch64": a} for x, a in ((56, 220), (41, 198), (53, 199), (302, 261), (0, 63))
)
MACHINES = pytest.mark.parametrize("machine", ARCH)


def verdict(machine: str, number: int, arg0: int = 0, arch: int | None = None) -> int:
    """0 for allowed, else the errno, by running the program on a struct seccomp_data."""
    data = struct.pack("=IIQ6Q", number, ARCH[machine] if arch is None else arch, 0, arg0, 0, 0, 0, 0, 0)
    program = list(struct.iter_unpack("=HBBI", build_filter(machine)))
    accumulator = at = 0
    while True:
        op, if_true, if_false, value = program[at]
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif op == 0x06:
            return 0 if value == ALLOW else value - ERRNO
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[op]
            at += if_true if holds else if_false


@MACHINES
def test_every_number_has_its_verdict(machine):
    denied = set(denied_calls(machine).values())
    for number in range(600):
        expected = errno.EPERM if number in denied else errno.ENOSYS if number == 435 else 0
        if number not in (SOCKET[machine], SOCKETPAIR[machine]):
            assert verdict(machine, number) == expected, number


@MACHINES
def test_clone_may_not_make_namespaces(machine):
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(machine, CLONE[machine], flag | 17) == errno.EPERM
    thread = 0x3D0F00
    assert verdict(machine, CLONE[machine], 17) == verdict(machine, CLONE[machine], thread) == 0


@MACHINES
def test_socket_families(machine):
    for number in (SOCKET[machine], SOCKETPAIR[machine]):
        allowed = [family for family in range(64) if verdict(machine, number, family) == 0]
        assert allowed == [1, 2, 10]
        assert verdict(machine, number, 16) == errno.EAFNOSUPPORT


@MACHINES
def test_limits_of_other_processes(machine):
    assert verdict(machine, PRLIMIT[machine], 0) == 0
    assert verdict(machine, PRLIMIT[machine], 1) == errno.EPERM


@MACHINES
def test_other_abis_do_not_slip_past(machine):
    assert verdict(machine, READ[machine] | 0x40000000) == errno.ENOSYS
    assert verdict(machine, READ[machine], arch=0x40000003) == errno.ENOSYS


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_numbers_are_those_of_the_headers(machine, header):
    if not Path(header).exists():
        pytest.skip(f"no {header} here")
    pairs = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())
    numbers = {name: int(number) for name, number in pairs}
    known = {name: number for name, number in denied_calls(machine).items() if name in numbers}
    assert len(known) > 40
    assert known == {name: numbers[name] for name in known}
