"""The trainer's client against real servers."""

import asyncio
import tempfile
import time

import pytest
from service_support import PlainBackend, served

from sandbox_service import sandbox_pb2
from sandbox_service.backends.base import Isolation
from sandbox_service.client import MessageTooLarge, Patience, SandboxClient, ServiceUnreachable
from sandbox_service.errors import IdReused, NotFound, Overloaded
from sandbox_service.policy import Policy
from sandbox_service.server import Identity, Server

IMPATIENT = Patience(unreachable_s=0.3, busy_s=0.5)


def on_service(tmp_path, test, patience=None, lease_ttl_s=600.0, **options):
    """Runs the coroutine function `test(client, sessions, backend, digest)`."""

    async def run():
        async with served(tmp_path, **options) as (address, sessions, backend, digest, _):
            client = SandboxClient(address, "run", lease_ttl_s=lease_ttl_s, patience=patience)
            async with client:
                await client.wait_ready(5)
                await test(client, sessions, backend, digest)

    asyncio.run(run())


def test_a_whole_session(tmp_path):
    async def test(client, sessions, backend, digest):
        async with await client.open(digest, "t-editing", "editing") as session:
            assert session.workspace == "/workspace"
            assert (await session.exec("cat pkg/core.py")).output == "def double(x):\n    return 3 * x\n"
            edited = await session.str_replace("replace", "pkg/core.py", "2 * x", "3 * x")
            assert (edited.ok, edited.output) == (True, "edited pkg/core.py:2")
            assert not (await session.str_replace("view", "nope.py")).ok
            reply = await session.exec("sleep 9", timeout_s=0.2)
            assert reply.outcome == sandbox_pb2.TIMEOUT
            outcome = await session.score(sandbox_pb2.Submission(), "shaped")
            assert (outcome.graded, outcome.reward, outcome.detail) == (True, 1.0, "pkg/core.py")
            assert (await client.info()).open_sessions == 1
        assert (await client.info()).open_sessions == 0
        await session.close()
        with pytest.raises(NotFound, match="was closed; open a new one"):
            await session.exec("true")

    on_service(tmp_path, test)


def test_a_repeated_request_id_runs_once(tmp_path):
    async def test(client, sessions, backend, digest):
        session = await client.open(digest, "t-editing", "editing", session_id="s")
        assert (await client.open(digest, "t-editing", "editing", session_id="s")).session_id == "s"
        assert len(backend.workspaces) == 1
        outputs = [(await session.exec("echo x >> log; cat log", request_id="r")).output for _ in range(3)]
        assert outputs == ["x\n"] * 3
        with pytest.raises(IdReused):
            await session.exec("true", request_id="r")

    on_service(tmp_path, test)


def test_64_concurrent_execs(tmp_path):
    async def test(client, sessions, backend, digest):
        opened = await asyncio.gather(*[client.open(digest, "t-editing", "editing") for _ in range(16)])
        replies = await asyncio.gather(*[opened[i % 16].exec(f"echo {i}") for i in range(64)])
        assert [r.output for r in replies] == [f"{i}\n" for i in range(64)]

    on_service(tmp_path, test)


def test_a_busy_service_is_waited_for(tmp_path):
    async def test(client, sessions, backend, digest):
        session = await client.open(digest, "t-editing", "editing")
        replies = await asyncio.gather(*[session.exec(f"sleep 0.1; echo {i}") for i in range(6)])
        assert [r.output for r in replies] == [f"{i}\n" for i in range(6)]

    on_service(tmp_path, test, policy=Policy(max_execs=1, exec_wait_s=0.15))


def test_patience_with_a_busy_service_ends(tmp_path):
    async def test(client, sessions, backend, digest):
        await client.open(digest, "t-editing", "editing")
        with pytest.raises(Overloaded, match="all 1 sessions are open"):
            await client.open(digest, "t-editing", "editing")

    on_service(tmp_path, test, patience=IMPATIENT, policy=Policy(max_sessions=1))


def test_unreachable_names_address_and_remedy():
    async def run():
        async with SandboxClient("127.0.0.1:1", "run", patience=IMPATIENT) as client:
            with pytest.raises(ServiceUnreachable, match=r"127\.0\.0\.1:1 .*python -m sandbox_service --tasks=DIR"):
                await client.open("d", "t", "editing")
            with pytest.raises(ServiceUnreachable, match="no sandbox service at"):
                await client.wait_ready(0.3)

    asyncio.run(run())


def test_a_service_that_comes_late_is_found(tmp_path):
    async def run():
        async with served(tmp_path) as (first, sessions, *_):
            with tempfile.TemporaryDirectory() as folder:
                late = Server(sessions, f"unix:{folder}/late")
                async with SandboxClient(f"unix:{folder}/late", "run") as client:
                    info = asyncio.create_task(client.info())
                    await asyncio.sleep(0.3)
                    await late.start()
                    await late.serving(Identity("plain", Isolation({}, {})))
                    assert (await asyncio.wait_for(info, 10)).backend == "plain"
                await late.stop()

    asyncio.run(run())


def test_oversized_messages(tmp_path):
    async def test(client, sessions, backend, digest):
        session = await client.open(digest, "t-editing", "editing")
        with pytest.raises(MessageTooLarge, match="the limit is 16777216"):
            await session.str_replace("create", "big", "x" * (17 << 20))
        flood = await session.exec("head -c 20000000 /dev/zero")
        assert len(flood.output) + flood.omitted_bytes == 20_000_000 and len(flood.output) == 1 << 16
        assert (await session.exec("echo still here")).output == "still here\n"

    on_service(tmp_path, test)


def test_heartbeat_keeps_leases_and_their_loss_is_told(tmp_path):
    async def test(client, sessions, backend, digest):
        session = await client.open(digest, "t-editing", "editing")
        await sessions.open("unrenewed", "other", digest, "t-editing", "editing", 1.5)
        expiring = asyncio.create_task(sessions.keep_expiring(0.05))
        await asyncio.sleep(3)
        assert (await client.info()).open_sessions == 1
        assert (await session.exec("echo alive")).output == "alive\n"
        expiring.cancel()
        session.service.heartbeat.cancel()
        await asyncio.sleep(1.6)
        with pytest.raises(NotFound, match="expired; open a new one"):
            await session.exec("true")

    on_service(tmp_path, test, lease_ttl_s=1.5)


class SlowBackend(PlainBackend):
    async def open_workspace(self, base, **options):
        await asyncio.sleep(0.3)
        return await super().open_workspace(base, **options)


def test_an_open_given_up_is_closed(tmp_path):
    async def test(client, sessions, backend, digest):
        sessions._backend = SlowBackend(tmp_path / "slow")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.open(digest, "t-editing", "editing"), 0.1)
        assert len(sessions) == 0
        assert [w.closed for w in sessions._backend.workspaces] == [True]

    on_service(tmp_path, test)


def test_closing_the_client_closes_its_sessions_alone(tmp_path):
    async def run():
        async with served(tmp_path) as (address, sessions, _, digest, _):
            async with SandboxClient(address, "run") as one, SandboxClient(address, "run") as two:
                await two.open(digest, "t-editing", "editing")
                await one.open(digest, "t-editing", "editing")
                await one.open(digest, "t-editing", "editing")
                await one.close()
                assert len(sessions) == 1
            assert len(sessions) == 0

    asyncio.run(run())


def test_closing_when_the_service_is_gone_is_quick(tmp_path):
    async def run():
        async with served(tmp_path) as (address, _, _, digest, server):
            client = SandboxClient(address, "run")
            session = await client.open(digest, "t-editing", "editing")
            await server.stop()
            started = time.monotonic()
            await session.close()
            await client.close()
            assert time.monotonic() - started < 8

    asyncio.run(run())
