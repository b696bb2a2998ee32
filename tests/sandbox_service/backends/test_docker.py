"""The docker backend against a real engine: what containers are, whose they are, and that none is left over."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from bench import SMALL, make_bench, write_tree
from engine import IMAGE

from sandbox_service.backends.base import Ended, Limits
from sandbox_service.backends.docker import DockerBackend
from sandbox_service.backends.docker_engine import LABEL, RUN_LABEL, Kind
from sandbox_service.errors import IsolationError, SandboxError

pytestmark = pytest.mark.deep


@pytest.fixture(scope="module", autouse=True)
def alone(engine):
    """What tests of other files have left on the shared engine is not looked at here."""
    client = engine.client()
    for container in engine.containers():
        client.remove_container(container["Id"], force=True)
    client.close()


SERVICE = """
import asyncio, sys
from pathlib import Path
from sandbox_service.backends.docker import DockerBackend

async def main():
    folder, image, socket, marker = sys.argv[1:]
    backend = DockerBackend(Path(folder) / "state", image, socket_path=socket, pool=1)
    await backend.start()
    workspaces = [await backend.open_workspace(Path(folder) / "base", run_id="doomed") for _ in range(2)]
    script = f"setsid sleep {marker} & sleep {marker}"
    await asyncio.gather(*(w.run(["bash", "-c", script], timeout_s=600) for w in workspaces))

asyncio.run(main())
"""


def wait_for(condition, patience_s: float = 120.0) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def docker(engine, tmp_path_factory):
    """Without a pool, so that every container is somebody's."""
    with asyncio.Runner() as loop:
        folder = tmp_path_factory.mktemp("docker")
        bench = make_bench(loop, lambda state: DockerBackend(state, IMAGE, socket_path=engine.socket, pool=0), folder)
        yield bench
        loop.run(bench.backend.stop())


def running(engine) -> set[str]:
    return {c["Id"] for c in engine.containers()}


def test_a_run_can_be_destroyed_by_its_label(engine, docker):
    mine = docker.do(docker.backend.open_workspace(docker.base, limits=SMALL, run_id="run-a"))
    other = docker.do(docker.backend.open_workspace(docker.base, limits=SMALL, run_id="run-b"))
    (container,) = engine.containers(label=f"{RUN_LABEL}=run-a")
    client = engine.client()
    facts = client.inspect_container(container["Id"])
    client.remove_container(container["Id"], force=True)
    client.close()
    host = facts["HostConfig"]
    assert host["ReadonlyRootfs"] and host["NetworkMode"] == "none" and not host["CapAdd"]
    assert docker.sh(other, "grep CapBnd /proc/self/status").output.split() == [b"CapBnd:", b"0" * 16]
    assert facts["Config"]["User"] == "1000:1000"
    assert facts["Image"] == docker.backend.engine.image_id and facts["Image"].startswith("sha256:")
    with pytest.raises(SandboxError, match="container ended"):
        docker.sh(mine, "true")
    assert docker.sh(other, "echo alive").output == b"alive\n"
    for workspace in (mine, other):
        docker.do(workspace.close())
    assert running(engine) == set()


def test_a_waiting_container_that_died_is_not_handed_out(engine, tmp_path):
    with asyncio.Runner() as loop:
        bench = make_bench(loop, lambda s: DockerBackend(s, IMAGE, socket_path=engine.socket, pool=1), tmp_path)
        first = bench.workspace()
        used = running(engine)

        async def filled():
            """The container that waits for the next small workspace; the self-test's kind has its own."""
            while True:
                for kind, ready in bench.backend.pool._ready.items():
                    if kind.limits.memory_mib == SMALL.memory_mib and ready:
                        return ready[0]
                await asyncio.sleep(0.05)

        waiting = loop.run(asyncio.wait_for(filled(), 120.0))
        client = engine.client()
        client.kill(waiting.container_id)
        client.close()
        second = bench.workspace()
        assert bench.sh(second, "cat a.txt").output == b"alpha\n"
        assert second._container.container_id not in {*used, waiting.container_id}
        bench.sh(first, "echo used > /tmp/mark")
        bench.do(first.close())
        third = bench.workspace()
        assert bench.sh(third, "ls /tmp").output == b"", "a container was used again"
        loop.run(bench.backend.stop())
    assert running(engine) == set()


def test_killing_the_service_leaves_nothing_that_runs(engine, tmp_path, command_lines):
    write_tree(tmp_path / "base", {"a": "a"})
    marker = f"{86400 + random.random():.9f}"
    arguments = [sys.executable, "-c", SERVICE, str(tmp_path), IMAGE, engine.socket, marker]
    service = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": os.getcwd()})
    try:
        wait_for(lambda: len(command_lines(marker)) >= 4 or service.poll() is not None)
        assert len(engine.containers(label=f"{RUN_LABEL}=doomed")) >= 2
        service.send_signal(signal.SIGKILL)
        service.wait()
        wait_for(lambda: not command_lines(marker))
        wait_for(lambda: not [c for c in engine.containers() if c["State"] == "running"])
    finally:
        service.kill()
        service.wait()
    # What is left are names of dead containers, and the next start removes them.
    assert engine.containers(label=LABEL)
    with asyncio.Runner() as loop:
        backend = DockerBackend(tmp_path / "state", IMAGE, socket_path=engine.socket, pool=0)
        loop.run(backend.start())
        loop.run(backend.stop())
    assert running(engine) == set()


def test_a_living_owners_containers_survive_the_start_of_another(engine, docker, tmp_path):
    workspace = docker.workspace()
    with asyncio.Runner() as loop:
        other = DockerBackend(tmp_path / "state", IMAGE, socket_path=engine.socket, pool=0)
        loop.run(other.start())
        loop.run(other.stop())
    assert docker.sh(workspace, "echo alive").output == b"alive\n"
    docker.do(workspace.close())


def test_using_up_the_containers_memory_is_the_commands_own_doing(docker):
    """Many processes, each smaller than process 1, which the kernel may then choose: graded, not excused."""
    workspace = docker.workspace(Limits(memory_mib=64, processes=120, disk_mib=16))
    hog = "import os, time\nfor _ in range(100):\n    if not os.fork(): break\nx = bytes(1) * (6 << 20)\ntime.sleep(20)"
    script = f"echo 500 > /proc/self/oom_score_adj; exec python3 -S -c '{hog}'"
    result = docker.sh(workspace, script, timeout_s=60.0)
    assert result.ended in (Ended.OUT_OF_MEMORY, Ended.OUT_OF_PROCESSES)
    after = docker.sh(workspace, "echo usable")
    if after.ended is Ended.OUT_OF_MEMORY:
        with pytest.raises(ValueError, match="used up the memory"):
            docker.do(workspace.changed_files())
    else:
        assert after.output == b"usable\n" and docker.do(workspace.changed_files()) == {}
    docker.do(workspace.close())


def test_what_is_no_image_is_refused(engine, tmp_path):
    async def start(image: str):
        backend = DockerBackend(tmp_path / "state", image, socket_path=engine.socket)
        try:
            await backend.start()
        finally:
            await backend.stop()

    with pytest.raises(IsolationError, match="doctor"):
        asyncio.run(start("localhost:1/no/such-image:1"))
    import_image(engine, "local/empty")
    with pytest.raises(IsolationError, match="python3"):
        asyncio.run(start("local/empty:latest"))
    import_image(engine, "local/volume", changes=["VOLUME /data"])
    with pytest.raises(IsolationError, match="without VOLUME"):
        asyncio.run(start("local/volume:latest"))
    assert running(engine) == set()


def import_image(engine, repository: str, **options) -> None:
    """An image of nothing."""
    client = engine.client()
    assert "sha256" in client.import_image_from_data(bytes(10240), repository=repository, tag="latest", **options)
    client.close()


def test_many_at_the_same_time_and_nothing_is_left(engine, docker):
    async def episode(number: int) -> bytes:
        workspace = await docker.backend.open_workspace(docker.base, limits=SMALL)
        await workspace.run(["bash", "-c", f"echo {number} > own; setsid sleep 900 &"], timeout_s=60.0)
        result = await workspace.run(["cat", "own"], timeout_s=60.0)
        if number % 2:
            await workspace.close()
        return result.output

    async def all_of_them():
        return await asyncio.gather(*(episode(i) for i in range(12)))

    assert docker.do(all_of_them()) == [f"{i}\n".encode() for i in range(12)]
    for workspace in list(docker.backend._workspaces):
        docker.do(workspace.close())
    assert running(engine) == set()


def test_a_cancelled_start_leaves_no_container(engine, docker):
    async def give_up():
        kind = Kind(docker.backend._packages, SMALL, 1)
        for delay_s in (0.0, 0.02, 0.1, 0.3):
            task = asyncio.create_task(docker.backend.engine.make(kind))
            await asyncio.sleep(delay_s)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is None:
                await docker.backend.engine.destroy(task.result())

    docker.do(give_up())
    wait_for(lambda: running(engine) == set())
