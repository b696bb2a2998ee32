"""The service as a process: start, refusal, drain, and its end with its parent."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from processes import running_as, until
from service_support import PlainBackend, write_task_set

from sandbox_service import credentials, sandbox_pb2
from sandbox_service.__main__ import main, prove_isolation
from sandbox_service.client import SandboxClient
from sandbox_service.embedded import EmbeddedService, embedded_service
from sandbox_service.errors import IsolationError, TaskSetError
from sandbox_service.server import check_bind

ROOT = Path(__file__).parents[2]
# What the tests start must not outlive them, and its command line must be its own.
SLEEP = "sleep 98765.4321"

PARENT = """
import asyncio, os, sys, time
from sandbox_service.client import SandboxClient
from sandbox_service.embedded import EmbeddedService

async def main(tasks, digest, state, fork, command):
    service = EmbeddedService([tasks], state)
    address = service.start()
    if fork == "fork" and os.fork() == 0:  # holds the service's stdin open beyond the parent's death
        time.sleep(30)
        os._exit(0)
    client = SandboxClient(address, "run")
    session = await client.open(digest, "t-editing", "editing")
    running = asyncio.create_task(session.exec(command, timeout_s=600))
    await session.exec("sleep 0.5")
    print(service._process.pid, flush=True)
    await running

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "tasks"
    return folder, write_task_set(folder)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """One working folder for all: the packages are made once, and each start meets what a killed service left."""
    return tmp_path_factory.mktemp("state")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_an_episode_on_an_embedded_service(tasks, state):
    folder, digest = tasks

    async def run():
        async with embedded_service([folder], state) as address, SandboxClient(address, "run") as client:
            info = await client.info()
            assert (info.backend, info.unsafe, list(info.unenforced)) == ("jail", False, [])
            assert list(info.task_sets) == [digest]
            session = await client.open(digest, "t-editing", "editing")
            assert (await session.exec("pwd; ls")).output.endswith("pkg\ntests\n")
            null = await session.score(sandbox_pb2.Submission())
            assert (null.graded, null.reward) == (True, 0.0), null.detail
            edited = await session.str_replace("replace", "pkg/core.py", "2 * x", "3 * x")
            assert edited.ok, edited.output
            gold = await session.score(sandbox_pb2.Submission())
            assert (gold.graded, gold.reward) == (True, 1.0), gold.detail
            assert not gold.unsafe
            wrong = await client.open(digest, "t-localization", "localization")
            assert (await wrong.score(sandbox_pb2.Submission(files=["pkg/__init__.py"]))).reward == -1.0
            assert (await wrong.score(sandbox_pb2.Submission(files=["./pkg/core.py"]))).reward == 1.0
        return address

    address = asyncio.run(run())
    assert not Path(address.removeprefix("unix:")).parent.exists()


@pytest.mark.slow
@pytest.mark.parametrize("fork", ["alone", "fork"])
def test_kill_9_of_the_parent_leaves_no_process(tasks, state, fork):
    folder, digest = tasks
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), digest, str(state), fork, SLEEP],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        service = int(parent.stdout.readline())
        assert alive(service)
        assert running_as(SLEEP)
        parent.kill()
        parent.wait()
        assert until(lambda: not alive(service), timeout_s=15.0), "the service outlived its parent"
        assert until(lambda: not running_as(SLEEP), timeout_s=15.0), "a command outlived the service"
    finally:
        os.killpg(parent.pid, signal.SIGKILL) if fork == "fork" else parent.kill()
        parent.wait()
        parent.stdout.close()


def test_the_end_of_the_thread_that_started_it_does_not_stop_it(tasks, state):
    folder, digest = tasks
    service, address = EmbeddedService([folder], state), []
    thread = threading.Thread(target=lambda: address.append(service.start()))
    thread.start()
    thread.join()

    async def run():
        await asyncio.sleep(0.5)
        async with SandboxClient(address[0], "run") as client:
            assert (await client.info()).open_sessions == 0

    asyncio.run(run())
    service.stop()
    service.stop()


def test_a_damaged_task_set_is_one_clear_error(tasks, capsys):
    folder, _ = tasks
    (folder / "hidden/instances.jsonl").write_text('{"instance_id": 1}\n')
    assert main([f"--tasks={folder}"]) == 2
    assert "instances.jsonl:1: damaged Instance record" in capsys.readouterr().err
    with pytest.raises(TaskSetError, match="instances.jsonl:1: damaged Instance record"):
        EmbeddedService([folder]).start()
    assert main([f"--tasks={folder}/none"]) == 2
    assert "no task set at" in capsys.readouterr().err


def test_a_bind_beyond_loopback_is_refused(tasks, capsys):
    assert main([f"--tasks={tasks[0]}", "--bind=0.0.0.0:0"]) == 2
    assert "are served without --credentials" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["jail", "unsafe"])
def test_credentials_do_not_take_unsafe_beyond_loopback(tmp_path, capsys, backend):
    """Credentials open every address to a service that isolates, and none to one that need not.

    The task set is missing, so that a service that wrongly takes the address still does not serve.
    """
    folder = tmp_path / "credentials"
    assert credentials.main([f"--out={folder}", "--host=127.0.0.1", "--run=run"]) == 0
    check_bind("0.0.0.0:0", secured=True)
    secured = [f"--tasks={tmp_path / 'none'}", f"--credentials={folder / 'service'}"]
    unsafe = [*secured, f"--backend={backend}", "--allow-unsafe"]
    for bind in ("0.0.0.0:0", "[::]:0", "host.example:50051"):
        assert main([*unsafe, f"--bind={bind}"]) == 2
        assert f"--bind={bind}: with --allow-unsafe only loopback" in capsys.readouterr().err
    check_bind("127.0.0.1:0", secured=True, unsafe=True)


def test_the_unsafe_backend_needs_its_flag(tasks, capsys):
    with pytest.raises(SystemExit) as caught:
        main([f"--tasks={tasks[0]}", "--backend=unsafe"])
    assert caught.value.code == 2
    assert "--allow-unsafe" in capsys.readouterr().err


def test_isolation_that_does_not_hold_is_refused(tmp_path):
    backend = PlainBackend(tmp_path)
    with pytest.raises(IsolationError, match="everything: a backend for tests\n.*--allow-unsafe"):
        asyncio.run(prove_isolation(backend, allow_unsafe=False))
    assert asyncio.run(prove_isolation(backend, allow_unsafe=True)).unenforced


@contextlib.contextmanager
def command_line(*arguments):
    """Yields the process and its address once it serves."""
    with tempfile.TemporaryDirectory() as private:
        address = f"unix:{private}/s"
        process = subprocess.Popen(
            [sys.executable, "-m", "sandbox_service", f"--bind={address}", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert any(line == f"serving on {address}\n" for line in process.stdout), process.stderr.read()
            yield process, address
        finally:
            process.kill()
            process.communicate()


def test_a_host_without_namespaces_is_refused(tasks):
    """In a user namespace where no further one may be made, as in many containers."""
    service = f"{sys.executable} -m sandbox_service --tasks={tasks[0]} --bind=127.0.0.1:0"
    script = f"echo 0 > /proc/sys/user/max_user_namespaces && exec {service}"
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script]
    if subprocess.run([*command[:-1], "true"], capture_output=True).returncode:
        pytest.skip("this host cannot make a user namespace")
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 3, refused.stderr
    assert "error: no jail on this host: " in refused.stderr
    assert "--allow-unsafe" in refused.stderr
    assert "serving" not in refused.stdout


@pytest.mark.slow
def test_sigterm_lets_a_running_command_finish(tasks, state):
    folder, digest = tasks

    async def run(process, address):
        async with SandboxClient(address, "run") as client:
            session = await client.open(digest, "t-editing", "editing")
            running = asyncio.create_task(session.exec("sleep 1; echo done"))
            await asyncio.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            assert (await running).output == "done\n"

    with command_line(f"--tasks={folder}", f"--state={state}") as (process, address):
        asyncio.run(run(process, address))
        assert process.wait(20) == 0
        assert not Path(address.removeprefix("unix:")).exists()


def test_unsafe_is_said_and_stamped(tasks, state):
    folder, digest = tasks

    async def run(address):
        async with SandboxClient(address, "run") as client:
            info = await client.info()
            assert (info.backend, info.unsafe, list(info.enforced)) == ("unsafe", True, [])
            session = await client.open(digest, "t-localization", "localization")
            assert (await session.score(sandbox_pb2.Submission(files=["pkg/core.py"]))).unsafe

    with command_line(f"--tasks={folder}", f"--state={state}", "--backend=unsafe", "--allow-unsafe") as (
        process,
        address,
    ):
        asyncio.run(run(address))
        process.send_signal(signal.SIGTERM)
        assert "NOT fully isolated" in process.communicate(timeout=20)[1]
        assert process.returncode == 0
