"""Commands of one workspace share a sandbox as long as nothing but files passes from one to the next."""

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest
from bench import SMALL, make_bench

from sandbox_service.backends.base import Ended, Limits
from sandbox_service.backends.jail import JailBackend

DESCRIPTORS = """
import os
for n in sorted(os.listdir("/proc/self/fd")):
    if os.path.lexists("/proc/self/fd/" + n):
        print(n, os.readlink("/proc/self/fd/" + n).split(":")[0])
"""
WHICH = ["readlink", "/proc/self/ns/pid"]


def which(jail, workspace, **options) -> bytes:
    """The sandbox that a command gets."""
    result = jail.do(workspace.run(WHICH, timeout_s=30.0, **options))
    assert result.ended is Ended.EXITED and result.output.startswith(b"pid:["), result
    return result.output


def test_one_command_after_the_other_in_one_sandbox(jail, workspace):
    other = jail.workspace()
    first = which(jail, workspace)
    assert which(jail, workspace) == first
    assert which(jail, other) != first
    assert jail.sh(workspace, "exit 3").exit_code == 3
    assert jail.do(workspace.run(["no-such-program"], timeout_s=20.0)).exit_code == 127
    assert jail.sh(workspace, "kill -9 $$").ended is Ended.SIGNALED
    assert which(jail, workspace) == first
    jail.do(other.close())


def test_overlapping_commands_have_their_own(jail, workspace):
    first = which(jail, workspace)

    async def both():
        script = "readlink /proc/self/ns/pid; until [ -e go ]; do sleep 0.02; done"
        waiting = asyncio.create_task(workspace.run(["bash", "-c", script], timeout_s=60.0))
        beside = await workspace.run(["bash", "-c", "readlink /proc/self/ns/pid; touch go"], timeout_s=60.0)
        return (await waiting).output, beside.output

    waited, beside = jail.do(both())
    assert waited != beside and first in (waited, beside)
    assert which(jail, workspace) in (waited, beside)


def test_other_limits_mean_another_sandbox(jail, workspace):
    first = which(jail, workspace)
    assert which(jail, workspace, limits=Limits(memory_mib=96, processes=24, disk_mib=16)) != first
    # What is kept of the output is no limit of the sandbox.
    first = which(jail, workspace)
    assert (
        which(jail, workspace, limits=Limits(memory_mib=64, processes=24, disk_mib=16, output_kept_bytes=99)) == first
    )


@pytest.mark.parametrize(
    ("script", "ended"),
    [("sleep 30", Ended.TIMEOUT), ("yes", Ended.OUTPUT_LIMIT), ("kill -STOP $$", Ended.TIMEOUT)],
)
def test_what_was_stopped_takes_its_sandbox_with_it(jail, workspace, script, ended):
    limits = Limits(memory_mib=64, processes=24, disk_mib=16, output_stop_bytes=1 << 20)
    first = which(jail, workspace, limits=limits)
    timeout_s = 0.5 if ended is Ended.TIMEOUT else 30.0
    assert jail.sh(workspace, script, timeout_s=timeout_s, limits=limits).ended is ended
    assert which(jail, workspace, limits=limits) != first


@pytest.mark.parametrize(
    "program",
    [
        "import os; os.setpriority(os.PRIO_PROCESS, 1, 19)",
        "import os; os.sched_setscheduler(1, os.SCHED_BATCH, os.sched_param(0))",
        "import ctypes; assert ctypes.CDLL(None).msgget(7, 0o1666) >= 0",
        "import ctypes; assert ctypes.CDLL(None).mq_open(b'/q', 0o102, 0o666, None) >= 0",
        "import socket\ns = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname())\n"
        "a = s.accept()[0]; a.close(); c.close()",
    ],
)
def test_what_outlives_a_command_ends_with_the_sandbox(jail, workspace, program):
    first = which(jail, workspace)
    result = jail.python(workspace, program)
    assert (result.ended, result.output) == (Ended.EXITED, b"")
    assert which(jail, workspace) != first


def test_a_command_inherits_three_descriptors(jail, workspace):
    for _ in range(2):
        assert jail.python(workspace, DESCRIPTORS).output == b"0 /dev/null\n1 pipe\n2 pipe\n"
        assert jail.sh(workspace, "echo x >&0").exit_code == 1


def test_nobody_is_there_but_the_command(jail, workspace):
    for _ in range(3):
        jail.sh(workspace, "for i in 1 2 3 4; do (setsid setsid sleep 60 &) ; done; sleep 60 & kill -STOP $!")
        alone = jail.python(workspace, "import os; print(len([p for p in os.listdir('/proc') if p.isdigit()]))")
        assert alone.output == b"2\n"


def test_limits_count_anew_for_each_command(jail, workspace):
    """Also when an earlier one met them, and when it left files: these are memory too, but not the next one's."""
    take = "x = bytearray({0} << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"
    for _ in range(2):
        assert jail.python(workspace, take.format(128)).ended is Ended.OUT_OF_MEMORY
        assert jail.python(workspace, take.format(30)).ended is Ended.EXITED
        fork = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(60)"
        assert jail.python(workspace, fork).ended is Ended.OUT_OF_PROCESSES
        assert jail.sh(workspace, "exit 1").ended is Ended.EXITED
    assert jail.sh(workspace, "head -c 14M /dev/zero > big").ended is Ended.EXITED
    assert jail.python(workspace, take.format(42)).ended is Ended.EXITED
    assert jail.python(workspace, take.format(128)).ended is Ended.OUT_OF_MEMORY
    assert jail.sh(workspace, "head -c 14M /dev/zero > more").ended is Ended.OUT_OF_DISK
    assert jail.sh(workspace, "rm big more; exit 2").exit_code == 2
    # Without control groups the measure is coarser than the size of these files.
    if "memory" in jail.backend.supervisor.facts["controllers"]:
        assert jail.python(workspace, take.format(62)).ended is Ended.OUT_OF_MEMORY


def test_a_sandbox_that_died_while_it_waited_is_replaced(jail, workspace, command_lines):
    marker = f"{86400 + random.random():.9f}"

    async def guard() -> int:
        """The host's number of process 1 of the sandbox."""
        task = asyncio.create_task(workspace.run(["sleep", marker], timeout_s=60.0))
        while not command_lines(marker):
            await asyncio.sleep(0.01)
        status = Path(f"/proc/{command_lines(marker)[0]}/status").read_text()
        os.kill(command_lines(marker)[0], signal.SIGKILL)
        assert (await task).ended is Ended.SIGNALED
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))

    async def kill_and_run():
        os.kill(await guard(), signal.SIGKILL)
        # No pause: whether the service has heard of it or not.
        return [await workspace.run(["echo", "fresh"], timeout_s=60.0) for _ in range(2)]

    for _ in range(5):
        results = jail.do(asyncio.wait_for(kill_and_run(), 120.0))
        assert [(r.ended, r.output) for r in results] == [(Ended.EXITED, b"fresh\n")] * 2


def test_only_so_many_are_kept_and_none_after_the_end(tmp_path):
    with asyncio.Runner() as loop:
        bench = make_bench(loop, lambda folder: JailBackend(folder, max_kept=2), tmp_path)
        workspaces = [bench.workspace(SMALL) for _ in range(3)]
        first = [which(bench, workspace) for workspace in workspaces]
        again = [which(bench, workspace) for workspace in reversed(workspaces)][::-1]
        assert again[0] != first[0] and again[1:] == first[1:]
        zygote = bench.backend.supervisor.pid
        (child,) = Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
        children = Path(f"/proc/{child}/task/{child}/children")
        for workspace in workspaces:
            bench.do(workspace.close())
        alive = set(children.read_text().split())
        workspace = bench.workspace(SMALL)
        which(bench, workspace)
        bench.do(workspace.close())
        deadline = time.monotonic() + 20.0
        while len(children.read_text().split()) > len(alive):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        loop.run(bench.backend.stop())
