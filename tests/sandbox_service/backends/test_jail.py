"""The jail as a host of many commands: queueing, faults of our own, and that nothing is left over."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import pytest
from bench import SMALL, make_bench, write_tree

from sandbox_service.backends import supervisor
from sandbox_service.backends.base import Ended, Limits
from sandbox_service.backends.jail import JailBackend
from sandbox_service.backends.zygote import SPARES
from sandbox_service.errors import IsolationError, SandboxError

SERVICE = """
import asyncio, sys
from pathlib import Path
from sandbox_service.backends.jail import JailBackend

async def main():
    backend = JailBackend(Path(sys.argv[1]) / "state")
    await backend.start()
    workspaces = [await backend.open_workspace(Path(sys.argv[1]) / "base") for _ in range(8)]
    script = f"setsid sleep {sys.argv[2]} & sleep {sys.argv[2]}"
    await asyncio.gather(*(w.run(["bash", "-c", script], timeout_s=600) for w in workspaces))

asyncio.run(main())
"""


def groups(pid: int) -> set[Path]:
    """Directories of control groups of the jail with this zygote; what vanishes meanwhile is none."""
    found = os.walk("/sys/fs/cgroup")
    return {Path(folder, name) for folder, names, _ in found for name in names if fnmatch(name, f"skillrl-*-{pid}-*")}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, patience_s: float = 20.0) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def own_jail(tmp_path):
    with asyncio.Runner() as loop:
        bench = make_bench(loop, JailBackend, tmp_path)
        yield bench
        loop.run(bench.backend.stop())


def test_more_commands_than_slots_all_finish(jail):
    async def many():
        workspaces = await asyncio.gather(*(jail.backend.open_workspace(jail.base, limits=SMALL) for _ in range(64)))
        results = await asyncio.gather(*(w.run(["cat", "a.txt"], timeout_s=30.0) for w in workspaces))
        await asyncio.gather(*(w.close() for w in workspaces))
        return results

    results = jail.do(many())
    assert [(r.ended, r.output) for r in results] == [(Ended.EXITED, b"alpha\n")] * 64


def test_waiting_in_the_queue_does_not_count_as_time(tmp_path):
    with asyncio.Runner() as loop:
        bench = make_bench(loop, lambda folder: JailBackend(folder, max_running=1), tmp_path)
        workspace = bench.workspace()

        async def both():
            return await asyncio.gather(*(workspace.run(["sleep", "0.6"], timeout_s=0.9) for _ in range(3)))

        results = bench.do(both())
        loop.run(bench.backend.stop())
    assert [r.ended for r in results] == [Ended.EXITED] * 3


def test_a_queued_command_can_be_cancelled(own_jail):
    own_jail.backend.commands = asyncio.Semaphore(1)
    workspace = own_jail.workspace()

    async def cancel():
        first = asyncio.create_task(workspace.run(["sleep", "1"], timeout_s=20.0))
        await asyncio.sleep(0.1)
        queued = asyncio.create_task(workspace.run(["touch", "ran"], timeout_s=20.0))
        await asyncio.sleep(0.1)
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued
        assert (await first).ended is Ended.EXITED
        with pytest.raises(FileNotFoundError):
            await workspace.read_file("ran")

    own_jail.do(cancel())


def test_nothing_leaks(own_jail):
    """Descriptors, mounts and control groups are as many after as before, whatever way the commands ended."""
    starter = own_jail.backend.supervisor.pid
    (zygote,) = children(starter)

    def census() -> tuple[int, int, int]:
        live = [group for parent in groups(starter) for group in parent.iterdir() if group.is_dir()]
        mounts = Path(f"/proc/{zygote}/mounts").read_text().count("\n")
        return len(os.listdir("/proc/self/fd")) + len(os.listdir(f"/proc/{zygote}/fd")), mounts, len(live)

    def is_at_rest() -> bool:
        """As many children as are kept ready, each in its groups, and none of them nor the zygote at work."""
        ready, states = children(zygote), set()
        # One that is gone by now was no spare.
        with suppress(OSError):
            states = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in (zygote, *ready)}
        return len(ready) == SPARES and states == {"S"} and census()[2] == SPARES * len(groups(starter))

    async def churn():
        workspace = await own_jail.backend.open_workspace(own_jail.base, limits=SMALL)
        await workspace.run(["true"], timeout_s=20.0)
        await workspace.run(["sleep", "9"], timeout_s=0.05)
        task = asyncio.create_task(workspace.run(["sleep", "9"], timeout_s=20.0))
        await asyncio.sleep(random.random() / 20)
        task.cancel()
        await asyncio.wait([task])
        with pytest.raises(FileNotFoundError):
            await workspace.read_file("missing")
        await workspace.changed_files()
        await workspace.close()

    own_jail.do(churn())
    wait_for(is_at_rest)
    before = census()
    for _ in range(5):
        own_jail.do(churn())
    wait_for(lambda: census() == before)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killing_the_service_leaves_nothing(tmp_path, how, command_lines):
    write_tree(tmp_path / "base", {"a": "a"})
    marker = f"{86400 + random.random():.9f}"
    service = subprocess.Popen([sys.executable, "-c", SERVICE, str(tmp_path), marker])
    try:
        wait_for(lambda: len(command_lines(marker)) >= 4)
        assert str(tmp_path) not in Path("/proc/mounts").read_text(), "no mount may be visible on the host"
        (zygote,) = map(int, Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split())
        had_groups = bool(groups(zygote))
        service.send_signal(how)
        service.wait()
        wait_for(lambda: not command_lines(marker))
        wait_for(lambda: not groups(zygote))
        assert had_groups or os.geteuid() != 0
    finally:
        service.kill()
        service.wait()
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_a_dead_zygote_is_our_fault_and_says_so(own_jail):
    workspace = own_jail.workspace()
    zygote = own_jail.backend.supervisor.pid

    async def die():
        task = asyncio.create_task(workspace.run(["sleep", "30"], timeout_s=60.0))
        await asyncio.sleep(0.3)
        os.kill(zygote, signal.SIGKILL)
        with pytest.raises(SandboxError, match=f"zygote .pid {zygote}. died"):
            await task

    own_jail.do(asyncio.wait_for(die(), 20.0))
    for call in (workspace.read_file("a.txt"), own_jail.backend.open_workspace(own_jail.base)):
        with pytest.raises(SandboxError, match="died"):
            own_jail.do(call)
    own_jail.do(workspace.close())


def test_stopping_ends_what_runs_and_may_be_repeated(tmp_path, command_lines):
    marker = f"{86400 + random.random():.9f}"
    with asyncio.Runner() as loop:
        bench = make_bench(loop, JailBackend, tmp_path)
        workspace = bench.workspace()

        async def stop():
            task = asyncio.create_task(workspace.run(["sleep", marker], timeout_s=60.0))
            while not command_lines(marker):
                await asyncio.sleep(0.02)
            await asyncio.gather(bench.backend.stop(), bench.backend.stop())
            with pytest.raises(SandboxError):
                await task

        bench.do(stop())
        bench.do(bench.backend.stop())
        with pytest.raises(SandboxError, match="not running"):
            bench.workspace()
    assert command_lines(marker) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of other users to offer")
def test_a_base_of_any_owner_can_be_edited(jail, tmp_path):
    """Files that belong to root or another user on the host belong to the sandbox's user inside."""
    for owner in (0, 4242):
        base = write_tree(tmp_path / str(owner), {"d/f": "f\n"})
        for path in (base, base / "d", base / "d/f"):
            os.chown(path, owner, owner)
        workspace = jail.workspace(base=base)
        result = jail.sh(workspace, "stat -c %U d/f; echo more >> d/f; chmod 700 d; mv d/f d/g; cat d/g")
        assert result.output == b"agent\nf\nmore\n"
        jail.do(workspace.close())
        assert (base / "d/f").read_text() == "f\n" and (base / "d/f").stat().st_uid == owner


def test_a_path_with_the_separators_of_mount_options(jail, tmp_path):
    base = write_tree(tmp_path / "a:b,c\\d e", {"f": "f\n"})
    workspace = jail.workspace(base=base)
    assert jail.sh(workspace, "cat f").output == b"f\n"
    jail.do(workspace.close())


def test_own_packages_replace_the_default(jail, tmp_path):
    packages = write_tree(tmp_path / "packages", {"only.py": "X = 42\n"})
    workspace = jail.do(jail.backend.open_workspace(jail.base, packages=packages, limits=SMALL))
    assert jail.python(workspace, "import only; print(only.X)").output == b"42\n"
    assert jail.python(workspace, "import pytest").exit_code == 1
    assert jail.sh(workspace, "touch /packages/x").exit_code == 1
    jail.do(workspace.close())


def test_large_requests_and_output(jail):
    workspace = jail.workspace(Limits(memory_mib=256, disk_mib=64))
    data = random.Random(0).randbytes(6 << 20)
    jail.do(workspace.write_file("big", data))
    assert jail.do(workspace.read_file("big")) == data
    assert jail.do(workspace.changed_files()) == {"big": data}
    long = "x" * 100_000
    assert (
        jail.do(workspace.run(["echo", "-n", long], timeout_s=20.0, limits=Limits(output_kept_bytes=1 << 20))).output
        == long.encode()
    )
    assert jail.do(workspace.run(["true", "x" * 200_000], timeout_s=20.0)).exit_code == 126
    result = jail.sh(workspace, "head -c 50M /dev/zero", timeout_s=60.0)
    assert (result.ended, len(result.output) + result.omitted_bytes) == (Ended.EXITED, 50 << 20)
    jail.do(workspace.close())


@pytest.mark.parametrize(
    ("error", "remedy"),
    [(1, "root"), (28, "sysctl -w user.max_user_namespaces"), (38, "Linux 5.12")],
)
def test_refusals_name_the_remedy(error, remedy):
    text = supervisor.remedy(os.strerror(error), error)
    assert os.strerror(error) in text and remedy in text


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a container's root with the help of the real one")
def test_root_of_a_user_namespace_is_refused(tmp_path):
    """As in a rootless container: it must neither map the host's root nor die without a word."""
    code = (
        "import asyncio, sys; from pathlib import Path; from sandbox_service.backends.jail import JailBackend\n"
        "asyncio.run(JailBackend(Path(sys.argv[1])).start())"
    )
    command = ["unshare", "-Ur", sys.executable, "-c", code, str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.returncode == 1
    assert "IsolationError" in done.stderr and "root of a container that maps few users" in done.stderr


def test_closing_does_not_wait_for_a_turn(own_jail):
    own_jail.backend.commands = asyncio.Semaphore(0)
    workspace = own_jail.workspace()

    async def close():
        task = asyncio.create_task(workspace.run(["true"], timeout_s=20.0))
        await asyncio.sleep(0.05)
        await workspace.close()
        with pytest.raises(SandboxError, match="closed"):
            await task

    own_jail.do(asyncio.wait_for(close(), 10.0))


def test_an_interpreter_that_cannot_start_is_a_refusal(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "_base_executable", "/bin/false")
    with asyncio.Runner() as loop, pytest.raises(IsolationError):
        loop.run(JailBackend(tmp_path / "state").start())
