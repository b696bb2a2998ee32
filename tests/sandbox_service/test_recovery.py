"""Real services that are killed, drained and paused; the load test and the drill at a small size."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from processes import running_as, until
from service_support import write_task_set

from sandbox_service import sandbox_pb2
from sandbox_service.client import SandboxClient, SandboxError
from sandbox_service.embedded import EXIT_FAULT
from sandbox_service.errors import IdReused, NotFound

ROOT = Path(__file__).parents[2]
# Nothing else on this host runs this.
SLEEP = "sleep 86421.75"


@contextlib.contextmanager
def services(count, *flags, **environment):
    """Yields functions to start (again) and to look at services on unix sockets, all with the same small task set."""
    with tempfile.TemporaryDirectory() as name:
        folder, running = Path(name), {}
        digest = write_task_set(folder / "tasks")

        def start(number):
            place = [f"--bind=unix:{folder}/{number}", f"--state={folder}/state-{number}", f"--tasks={folder}/tasks"]
            with (folder / f"{number}.log").open("ab") as log:
                running[number] = subprocess.Popen(
                    [sys.executable, "-m", "sandbox_service", *place, *flags],
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=os.environ | environment,
                )
            assert any(line.startswith("serving on") for line in running[number].stdout), "it did not start"
            return running[number]

        try:
            for number in range(count):
                start(number)
            yield folder, digest, start, running
        finally:
            for process in running.values():
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
                process.stdout.close()


def addresses(folder, count):
    return ",".join(f"unix:{folder}/{number}" for number in range(count))


@pytest.mark.slow
def test_kill_9_loses_sessions_leaves_nothing_and_is_told(tmp_path):
    async def before(address, digest):
        client = SandboxClient(address, "run")
        session = await client.open(digest, "t-editing", "editing", session_id="s")
        await session.exec("echo x >> /tmp/log")
        running = asyncio.create_task(session.exec(f"(setsid {SLEEP} &); {SLEEP}", timeout_s=600, request_id="r"))
        while not running_as(SLEEP):
            await asyncio.sleep(0.05)
        return client, session, running

    async def run(folder, digest, start, processes):
        address = addresses(folder, 1)
        client, session, running = await before(address, digest)
        processes[0].kill()
        processes[0].wait()
        processes[0].stdout.close()
        assert await asyncio.to_thread(until, lambda: not running_as(SLEEP)), "a command outlived the service"
        journal = folder / "state-0" / "journal"
        assert len(list(journal.iterdir())) == 1
        await asyncio.to_thread(start, 0)
        # The client was repeating the call all the time; it hears what became of it, and nothing ran again.
        with pytest.raises(NotFound, match="was lost when the service restarted; open a new one"):
            await running
        with pytest.raises(NotFound, match="was lost when the service restarted"):
            await session.exec("true")
        with pytest.raises(IdReused, match="was lost when the service restarted"):
            await client.open(digest, "t-editing", "editing", session_id="s")
        assert not running_as(SLEEP)
        new = await client.open(digest, "t-editing", "editing")
        assert (await new.exec("cat /tmp/log")).exit_code == 1
        assert len(list(journal.iterdir())) == 1, "the dead service's journal is gone"
        await client.close()
        processes[0].send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(processes[0].wait, 60) == 0
        assert list(journal.iterdir()) == []

    with services(1) as (folder, digest, start, processes):
        asyncio.run(run(folder, digest, start, processes))


@pytest.mark.deep
def test_a_draining_service_gives_new_sessions_to_the_others(tmp_path):
    async def run(folder, digest, start, processes):
        async with SandboxClient(addresses(folder, 2), "run") as client:
            await client.wait_ready(60)
            sessions = [await client.open(digest, "t-editing", "editing") for _ in range(20)]
            by_host = {s.service.address: s for s in sessions}
            assert len(by_host) == 2
            (leaving, session), (staying, other) = by_host.items()
            running = asyncio.create_task(session.exec("sleep 2; echo finished"))
            await asyncio.sleep(0.5)
            process = processes[int(leaving[-1])]
            process.send_signal(signal.SIGTERM)
            more = [await client.open(digest, "t-editing", "editing") for _ in range(4)]
            assert {s.service.address for s in more} == {staying}
            assert (await running).output == "finished\n"
            assert (await other.exec("echo on")).output == "on\n"
            assert await asyncio.to_thread(process.wait, 60) == 0

    with services(2) as (folder, digest, start, processes):
        asyncio.run(run(folder, digest, start, processes))


@pytest.mark.deep
def test_a_pause_is_never_the_commands_timeout(tmp_path):
    """The service and all it started stand still for longer than the command's limit."""

    def family(pid):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(p for child in children for p in family(int(child)))]

    async def run(folder, digest, start, processes):
        async with SandboxClient(addresses(folder, 1), "run") as client:
            session = await client.open(digest, "t-editing", "editing")
            running = asyncio.create_task(session.exec("sleep 1; echo done", timeout_s=4.0))
            await asyncio.sleep(0.5)
            stopped = family(processes[0].pid)
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(10)
            for pid in reversed(stopped):
                os.kill(pid, signal.SIGCONT)
            try:
                reply = await running
                assert (reply.outcome, reply.output) == (sandbox_pb2.EXITED, "done\n")
            except SandboxError as e:
                assert "stood still" in str(e)
            assert (await session.exec("echo on")).output == "on\n"

    with services(1) as (folder, digest, start, processes):
        asyncio.run(run(folder, digest, start, processes))


@pytest.mark.deep
def test_a_drain_is_no_pause(tmp_path):
    """A command that comes to its limit while the service drains is the agent's, however long ago the drain began."""

    async def run(folder, digest, start, processes):
        async with SandboxClient(addresses(folder, 1), "run") as client:
            session = await client.open(digest, "t-editing", "editing")
            running = asyncio.create_task(session.exec("sleep 60", timeout_s=9.0))
            await asyncio.sleep(0.5)
            processes[0].send_signal(signal.SIGTERM)
            assert (await running).outcome == sandbox_pb2.TIMEOUT

    with services(1) as (folder, digest, start, processes):
        asyncio.run(run(folder, digest, start, processes))


@pytest.mark.deep
def test_a_service_whose_jail_has_died_ends(tmp_path):
    """So that whoever looks after it starts it again; alive, it would get all the sessions that it cannot open."""

    with services(1) as (folder, digest, start, processes):
        pid = processes[0].pid
        (zygote,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        os.kill(zygote, signal.SIGKILL)
        assert processes[0].wait(90) == EXIT_FAULT
        assert f"zygote (pid {zygote}) died; restart the service" in (folder / "0.log").read_text()


@pytest.mark.deep
def test_no_secret_of_the_service_is_inside_a_sandbox(tmp_path):
    async def run(folder, digest, start, processes):
        async with SandboxClient(addresses(folder, 1), "run") as client:
            session = await client.open(digest, "t-editing", "editing")
            look = "env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n'; ls /proc/*/fd -l; cat /proc/net/unix"
            reply = await session.exec(look)
            assert "PATH=" in reply.output
            for secret in ("hunter2", str(folder), "GRPC", "sandbox_service --", "--state"):
                assert secret not in reply.output

    with services(1, SERVICE_PASSWORD="hunter2", GRPC_VERBOSITY="ERROR") as (folder, digest, start, processes):
        asyncio.run(run(folder, digest, start, processes))


def last_object(command, timeout_s, environment=None):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=os.environ | (environment or {}),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.deep
def test_the_load_test_at_a_small_size():
    command = ["sandbox_service.loadtest", "--minutes=0.33", "--sessions=64", "--clients=16", "--rate=20"]
    figures = last_object([*command, "--kill-every-s=3"], 600)
    assert figures["passed"]
    assert figures["lost"] == figures["doubled"] == figures["wrong"] == 0
    assert figures["client_kills"] >= 2 and figures["service_kills"] == 1
    assert figures["execs"] > 20 and figures["lost_to_restart"] > 0


@pytest.mark.deep
def test_a_training_run_survives_the_drill(tmp_path):
    command = ["skillrl.drill", "--config=configs/tiny.py:smoke", f"--workdir={tmp_path / 'run'}"]
    figures = last_object([*command, "--pause_s=8"], 1200, {"JAX_PLATFORMS": "cpu"})
    assert figures["faults"] == ["kill", "pause", "kill"]
    assert figures["wrong"] == 0 and figures["same"] > 40
    assert figures["all_counted"] and figures["passed"]
