"""What a program in the jail cannot do. Each test is an attack with its evidence.

`test_jail_as_user.py` runs this module again as a plain user.
"""

import os
import random
import socket
from pathlib import Path

import pytest
from bench import SMALL

import sandbox_service
from sandbox_service.backends import rootfs
from sandbox_service.backends.base import Ended, Limits

CALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
result = {call}
print(result, os.strerror(ctypes.get_errno()))
"""
DENIED = b"-1 Operation not permitted\n"


def test_the_self_test_finds_everything_enforced(jail):
    isolation = jail.do(jail.backend.self_test())
    assert isolation.unenforced == {}
    assert isolation.enforced.keys() >= {"network", "memory", "processes", "disk", "survivors", "read_host_files"}


def test_user_and_privileges(jail, workspace):
    script = "id -u; cat /proc/self/uid_map; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"
    uid, uid_map, *status = jail.sh(workspace, script).output.decode().splitlines()
    inside, outside, count = map(int, uid_map.split())
    assert (int(uid), inside, count) == (1000, 1000, 1)
    assert outside == rootfs.sandbox_owner()[0] != 0
    values = dict(line.split(":\t") for line in status)
    assert {v for k, v in values.items() if k.startswith("Cap")} == {"0" * 16}
    assert (values["NoNewPrivs"], values["Seccomp"]) == ("1", "2")


def test_only_its_own_tree_can_be_written(jail, workspace):
    result = jail.python(
        workspace,
        "import os\n"
        "for d, ds, fs in os.walk('/'):\n"
        "    ds[:] = [n for n in ds if os.path.join(d, n) not in ('/proc', '/workspace', '/tmp', '/dev/shm')]\n"
        "    if os.access(d, os.W_OK): print(d)\n"
        "    for n in fs:\n"
        "        p = os.path.join(d, n)\n"
        "        if os.access(p, os.W_OK) and not os.path.islink(p) and not p.startswith('/dev/'): print(p)\n",
        timeout_s=60.0,
    )
    assert (result.ended, result.output) == (Ended.EXITED, b"")


def test_the_hosts_files_are_not_there(jail, workspace, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    for path in ("/etc/shadow", "/home", "/sys/kernel", "/run", sandbox_service.__file__, secret, jail.base, __file__):
        assert jail.do(workspace.run(["test", "-e", str(path)], timeout_s=20.0)).exit_code == 1, path


def test_no_installed_library_of_the_host_can_be_imported(jail, workspace):
    """Only the standard library and /packages; in particular not the service and what stands beside it."""
    code = (
        "import importlib.util as u, sys\n"
        "print([n for n in ('sandbox_service', 'skillrl', 'grpc', 'numpy', 'pip') if u.find_spec(n)])\n"
        "import pytest, ssl, sqlite3, ctypes\nprint(pytest.__file__)\n"
    )
    assert jail.python(workspace, code).output == b"[]\n/packages/pytest/__init__.py\n"


def test_the_command_line_of_the_supervisor_tells_nothing(jail, workspace):
    line = jail.sh(workspace, "cat /proc/1/cmdline; cat /proc/1/environ /proc/1/maps; ls /proc/1/fd").output.decode()
    assert str(Path(sandbox_service.__file__).parent) not in line and str(jail.base) not in line


def test_no_host_process_is_visible(jail, workspace):
    result = jail.python(workspace, "import os; print([p for p in os.listdir('/proc') if p.isdigit()])")
    assert result.output == b"['1', '2']\n"


def test_the_supervisor_cannot_be_reached(jail, workspace):
    script = (
        "kill -9 1; kill -STOP 1; kill -INT 1; kill -TERM 1;"
        "python3 -c 'import resource as r; r.prlimit(1, r.RLIMIT_CPU, (1, 1))';"
        'python3 -c \'open("/proc/1/mem", "rb")\'; sleep 0.3; echo alive'
    )
    result = jail.sh(workspace, script)
    assert (result.ended, result.exit_code) == (Ended.EXITED, 0)
    assert result.output.count(b"PermissionError") == 2 and result.output.endswith(b"alive\n")


def test_no_network(jail, workspace):
    """Neither the host's loopback, nor another address, nor its abstract unix sockets."""
    name = f"\0jail-{random.random()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(name)
        unix.listen()
        port = server.getsockname()[1]
        places = [(2, ("127.0.0.1", port)), (2, ("192.0.2.1", 80)), (10, ("::1", port)), (1, name)]
        code = f"""
import socket
for family, place in {places!r}:
    s = socket.socket(family)
    s.settimeout(2)
    try:
        s.connect(place)
        print("connected", place)
    except OSError:
        print("refused")
"""
        assert jail.python(workspace, code).output == b"refused\n" * 4
    code = "print(*(line.split(':')[0].strip() for line in open('/proc/net/dev').readlines()[2:]))"
    interfaces = jail.python(workspace, code)
    assert interfaces.output == b"lo\n"


def test_no_datagram_leaves(jail, workspace):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.2)
        code = f"import socket; socket.socket(socket.AF_INET, 2).sendto(b'x', {receiver.getsockname()!r})"
        assert jail.python(workspace, code).exit_code == 0
        with pytest.raises(TimeoutError):
            receiver.recv(1)


def test_its_own_loopback_works(jail, workspace):
    code = (
        "import socket\ns = socket.create_server(('127.0.0.1', 8080))\n"
        "c = socket.create_connection(('localhost', 8080)); c.send(b'hello')\nprint(s.accept()[0].recv(5))"
    )
    assert jail.python(workspace, code).output == b"b'hello'\n"


@pytest.mark.parametrize(
    "call",
    [
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.umount2(b'/proc', 2)",
        "libc.unshare(0x10000000)",
        "libc.unshare(0x20000)",
        "libc.setns(os.open('/proc/self/ns/net', 0), 0)",
        "libc.chroot(b'/tmp')",
        "libc.ptrace(0, 0, 0, 0)",
        "libc.syscall(321, 0, None, 0)",
        "libc.syscall(425, 8, None)",
        "libc.syscall(250, 0, 0)",
        "libc.syscall(323, 0)",
        "libc.syscall(298, None, 0, -1, -1, 0)",
        "libc.syscall(310, 1, None, 0, None, 0, 0)",
    ],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="call numbers of x86_64")
def test_denied_calls(jail, workspace, call):
    assert jail.python(workspace, CALL.format(call=call)).output == DENIED


def test_other_socket_families_are_unknown(jail, workspace):
    code = (
        "import socket\n"
        "for family in (socket.AF_NETLINK, socket.AF_PACKET, socket.AF_ALG, socket.AF_VSOCK):\n"
        "    try:\n        socket.socket(family, socket.SOCK_RAW)\n    except OSError as e:\n        print(e.errno)\n"
    )
    assert jail.python(workspace, code).output == b"97\n" * 4


def test_nested_namespaces_stay_off_without_the_filter_too(jail, workspace):
    assert jail.sh(
        workspace, "cat /proc/sys/user/max_user_namespaces; echo 9 > /proc/sys/user/max_user_namespaces"
    ).output.startswith(b"0\n")
    knob = "/proc/sys/user/max_user_namespaces"
    assert jail.sh(workspace, f"cat {knob}; echo 9 > {knob}").output.startswith(b"0\n")
    assert jail.sh(workspace, f"cat {knob}").output == b"0\n"
    assert jail.sh(workspace, "unshare -Ur true").exit_code != 0


def test_a_set_user_id_program_gives_nothing(jail, workspace):
    assert jail.sh(
        workspace, "cp /bin/bash /tmp/sh; chmod 6755 /tmp/sh; /tmp/sh -p -c 'id -u'; su -c id root < /dev/null"
    ).output.startswith(b"1000\n")
    assert jail.python(workspace, "import os\nos.setuid(0)").exit_code == 1


def test_device_files_cannot_be_made(jail, workspace):
    assert jail.sh(workspace, "mknod /tmp/disk b 8 0").exit_code != 0
    assert jail.sh(workspace, "mknod /workspace/kmem c 1 2").exit_code != 0


def test_memory(jail, workspace):
    code = "x = bytearray(128 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"
    result = jail.python(workspace, code)
    assert (result.ended, result.exit_code) == (Ended.OUT_OF_MEMORY, -1)
    assert jail.python(workspace, code, limits=Limits(memory_mib=256)).ended is Ended.EXITED


def test_memory_of_a_child_counts(jail, workspace):
    # Over in a moment: without control groups, polling alone misses it.
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'x = bytes(1) * (128 << 20)'], check=True)"
    assert jail.python(workspace, code).ended is Ended.OUT_OF_MEMORY


def test_processes(jail, workspace):
    code = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(60)"
    result = jail.python(workspace, code)
    assert (result.ended, result.exit_code) == (Ended.OUT_OF_PROCESSES, -1)
    popen = f"[subprocess.Popen(['sleep', '0.3']) for _ in range({SMALL.processes - 4})]"
    enough = f"import subprocess\nfor p in {popen}: p.wait()"
    assert jail.python(workspace, enough).ended is Ended.EXITED


def test_a_fork_bomb_ends_and_leaves_the_workspace_usable(jail, workspace):
    jail.sh(workspace, ":(){ :|:& };:; sleep 1", timeout_s=5.0)
    assert jail.sh(workspace, "echo usable").output == b"usable\n"


@pytest.mark.parametrize("place", ["/workspace/big", "/tmp/big", "/dev/shm/big"])
def test_disk(jail, workspace, place):
    result = jail.sh(workspace, f"head -c 40M /dev/zero > {place}")
    assert (result.ended, result.exit_code) == (Ended.OUT_OF_DISK, -1)
    assert jail.sh(workspace, f"rm {place}; head -c 8M /dev/zero > {place}").ended is Ended.EXITED


def test_many_small_files_fill_the_disk_too(jail, workspace):
    result = jail.python(workspace, "for i in range(100000): open(f'/tmp/{i}', 'w').close()", timeout_s=60.0)
    assert result.ended is Ended.OUT_OF_DISK


def test_filling_a_disk_larger_than_the_memory_is_told_from_using_memory(jail):
    workspace = jail.workspace(Limits(memory_mib=64, disk_mib=256))
    assert jail.sh(workspace, "head -c 200M /dev/zero > big").ended in (Ended.OUT_OF_DISK, Ended.EXITED)
    jail.do(workspace.close())


def test_open_files(jail, workspace):
    result = jail.python(workspace, "x = [open('a.txt') for _ in range(2000)]")
    assert result.exit_code == 1 and b"Too many open files" in result.output


def test_no_core_dump(jail, workspace):
    result = jail.sh(workspace, "ulimit -c; kill -ABRT $$")
    assert (result.ended, result.exit_code, result.output) == (Ended.SIGNALED, 6, b"0\n")


def test_a_program_in_its_own_session_dies_with_the_command(jail, workspace, command_lines):
    marker = f"{86400 + random.random():.9f}"
    result = jail.sh(workspace, f"setsid setsid sleep {marker} & trap '' TERM; sleep 30", timeout_s=0.5)
    assert result.ended is Ended.TIMEOUT
    assert command_lines(marker) == []
    jail.sh(workspace, f"setsid sleep {marker} & sleep 0.1")
    assert command_lines(marker) == []


def test_workspaces_do_not_see_each_other(jail, workspace):
    other = jail.workspace()
    jail.sh(other, "touch /tmp/mine /dev/shm/mine /workspace/mine")
    assert jail.sh(workspace, "ls /tmp /dev/shm /workspace | grep mine; ls /@ws /@host").exit_code == 2
    mounts = jail.sh(workspace, "cat /proc/mounts").output.decode()
    assert mounts.count(" /workspace ") == 1 and "@" not in mounts
    jail.do(other.close())


def test_tmp_lasts_as_long_as_the_workspace(jail, workspace):
    jail.sh(workspace, "echo kept > /tmp/f; echo kept > $HOME/g")
    assert jail.sh(workspace, "cat /tmp/f /tmp/g").output == b"kept\nkept\n"
    assert jail.do(workspace.read_file("/tmp/f")) == b"kept\n"


def test_the_host_name_is_its_own(jail, workspace):
    assert jail.sh(workspace, "uname -n").output == b"sandbox\n"


def test_an_evil_program_on_the_path_is_run_without_privileges(jail, workspace):
    """Nothing is looked up in the sandbox before all privileges are gone."""
    script = "#!/bin/sh\nid -u > /tmp/who\ngrep CapEff /proc/self/status >> /tmp/who\n"
    for name in ("sh", "bash", "python3", "setpriv", "newuidmap"):
        jail.do(workspace.write_file(f"bin/{name}", script.encode()))
    jail.sh(workspace, "chmod +x bin/*")
    jail.do(workspace.run(["python3"], timeout_s=20.0, env={"PATH": "/workspace/bin:/usr/bin:/bin"}))
    assert jail.do(workspace.read_file("/tmp/who")) == b"1000\nCapEff:\t0000000000000000\n"


def test_tested_code_finds_no_channel_to_the_service(jail, workspace):
    """A test in the harness, which is forked and not executed anew, holds its own report's descriptor alone."""
    test = b"""
import os

def test_it():
    for n in os.listdir("/proc/self/fd"):
        if os.path.lexists(f"/proc/self/fd/{n}"):
            print("open:", os.readlink(f"/proc/self/fd/{n}").split(":")[0])
    assert 0
"""
    jail.do(workspace.write_file("test_it.py", test))
    output = jail.harness(workspace, ["test_it.py"]).exec.output.decode()
    assert "open: pipe" in output and "socket" not in output and "memfd" not in output and "@host" not in output
