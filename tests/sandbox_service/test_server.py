"""The gRPC edge on real sockets."""

import asyncio
import contextlib
import stat

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from service_support import served, sessions_on

from sandbox_service import client, sandbox_pb2, sandbox_pb2_grpc, servicer
from sandbox_service.backends.base import Ended, Isolation
from sandbox_service.errors import BadRequest, Overloaded
from sandbox_service.policy import Policy
from sandbox_service.server import Identity, Server, unix_path
from sandbox_service.str_replace import Command

StatusCode = grpc.StatusCode


@contextlib.asynccontextmanager
async def stub_at(address):
    async with grpc.aio.insecure_channel(address, options=client.OPTIONS) as channel:
        yield sandbox_pb2_grpc.SandboxServiceStub(channel)


async def open_session(stub, digest, session_id="s"):
    request = sandbox_pb2.OpenRequest(
        session_id=session_id, run_id="run", task_set=digest, task_id="t-editing", skill="editing"
    )
    return await stub.Open(request, timeout=10)


async def code_of(call) -> tuple[StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


def exec_request(command, request_id="r", session_id="s", timeout_s=0.0):
    return sandbox_pb2.ExecRequest(session_id=session_id, request_id=request_id, command=command, timeout_s=timeout_s)


@pytest.mark.parametrize(
    "bind",
    ["0.0.0.0:0", "[::]:0", "10.1.2.3:50051", "example.org:50051", "50051", "localhost", "unix:/no/such/folder/s"]
    + ["unix:/tmp/" + "x" * 120],
)
def test_only_loopback_and_unix_sockets_are_served(tmp_path, bind):
    async def run():
        async with sessions_on(tmp_path) as (sessions, _, _):
            with pytest.raises(BadRequest, match="--bind="):
                await Server(sessions, bind).start()

    asyncio.run(run())


def test_an_address_in_use_is_refused(tmp_path):
    async def run():
        async with served(tmp_path / "a", "127.0.0.1:0") as (tcp, sessions, *_), served(tmp_path / "b") as (unix, *_):
            for address in (tcp, unix):
                with pytest.raises(BadRequest, match="another service"):
                    await Server(sessions, address).start()

    asyncio.run(run())


def test_unix_socket_is_private_and_removed(tmp_path):
    async def run():
        async with served(tmp_path) as (address, *_):
            path = unix_path(address)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not path.exists()

    asyncio.run(run())


def test_nothing_is_served_before_the_self_test(tmp_path):
    async def run():
        async with sessions_on(tmp_path) as (sessions, _, digest):
            sessions._refusing = "testing"
            port = Server(sessions, "127.0.0.1:0")
            address = await port.start()
            async with stub_at(address) as stub, grpc.aio.insecure_channel(address) as channel:
                health = health_pb2_grpc.HealthStub(channel)

                async def status(name):
                    return (await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)).status

                names = ("", "skillrl.sandbox.v1.SandboxService")
                assert [await status(n) for n in names] == [health_pb2.HealthCheckResponse.NOT_SERVING] * 2
                assert (await code_of(open_session(stub, digest)))[0] is StatusCode.UNAVAILABLE
                assert (await code_of(stub.Info(sandbox_pb2.InfoRequest())))[0] is StatusCode.UNAVAILABLE
                await port.serving(Identity("plain", Isolation({"network": "seen"}, {"memory": "not"}), True))
                assert [await status(n) for n in names] == [health_pb2.HealthCheckResponse.SERVING] * 2
                await open_session(stub, digest)
                info = await stub.Info(sandbox_pb2.InfoRequest())
                assert (list(info.enforced), list(info.unenforced)) == (["network"], ["memory"])
                assert (info.backend, info.unsafe, info.open_sessions) == ("plain", True, 1)
                assert list(info.task_sets) == [digest]
                score = sandbox_pb2.ScoreRequest(session_id="s", request_id="r")
                assert (await stub.Score(score)).unsafe
            await port.stop()

    asyncio.run(run())


def test_errors_have_their_codes(tmp_path):
    async def run():
        async with served(tmp_path, policy=Policy(max_sessions=1)) as served_at, stub_at(served_at[0]) as stub:
            digest = served_at[3]
            assert (await open_session(stub, digest)).workspace == "/workspace"
            unknown = exec_request("true", session_id="unknown")
            code, text = await code_of(stub.Exec(unknown))
            assert code is StatusCode.NOT_FOUND
            assert "open a new one" in text
            await stub.Exec(exec_request("true"))
            assert (await code_of(stub.Exec(exec_request("false"))))[0] is StatusCode.ALREADY_EXISTS
            bad = exec_request("true", request_id="")
            assert (await code_of(stub.Exec(bad)))[0] is StatusCode.INVALID_ARGUMENT
            edit = sandbox_pb2.StrReplaceRequest(session_id="s", request_id="e")
            assert (await code_of(stub.StrReplace(edit)))[0] is StatusCode.INVALID_ARGUMENT
            assert (await code_of(stub.Close(sandbox_pb2.CloseRequest())))[0] is StatusCode.INVALID_ARGUMENT
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await open_session(stub, digest, "another")
            assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
            assert ("grpc-retry-pushback-ms", str(servicer.PUSHBACK_MS)) in tuple(caught.value.trailing_metadata())

    asyncio.run(run())


def test_every_error_outcome_and_command_is_mapped():
    assert set(servicer._OUTCOMES) == set(Ended)
    assert set(servicer._COMMANDS.values()) == set(Command)
    assert servicer._STATUS[Overloaded] is StatusCode.RESOURCE_EXHAUSTED


def test_a_bug_in_grading_is_an_answer(tmp_path):
    async def grade(request):
        raise KeyError("a bug of ours")

    async def run():
        async with served(tmp_path, grade=grade) as (address, _, _, digest, _), stub_at(address) as stub:
            await open_session(stub, digest)
            reply = await stub.Score(sandbox_pb2.ScoreRequest(session_id="s", request_id="r"))
            assert (reply.graded, reply.reason, reply.reward) == (False, "grader", 0)
            assert "a bug of ours" in reply.detail

    asyncio.run(run())


def test_a_message_below_the_limit_passes_and_one_above_is_refused(tmp_path):
    def create(size, request_id):
        return sandbox_pb2.StrReplaceRequest(
            session_id="s", request_id=request_id, command="CREATE", path="big", new_text="x" * size
        )

    async def run():
        async with served(tmp_path) as (address, _, backend, digest, _):
            # No options of ours: the server's own limit is what is tested.
            channel = grpc.aio.insecure_channel(address)
            stub = sandbox_pb2_grpc.SandboxServiceStub(channel)
            async with channel:
                await open_session(stub, digest)
                assert (await stub.StrReplace(create(15 << 20, "a"))).output == "created big"
                assert (backend.workspaces[0].folder / "big").stat().st_size == 15 << 20
                code, text = await code_of(stub.StrReplace(create(17 << 20, "b")))
                assert code is StatusCode.RESOURCE_EXHAUSTED
                assert "larger than max" in text

    asyncio.run(run())


def test_a_passed_deadline_leaves_the_run_to_be_joined(tmp_path):
    async def run():
        async with served(tmp_path) as (address, _, backend, digest, _), stub_at(address) as stub:
            await open_session(stub, digest)
            request = exec_request("sleep 0.5; echo done")
            assert (await code_of(stub.Exec(request, timeout=0.1)))[0] is StatusCode.DEADLINE_EXCEEDED
            assert (await stub.Exec(request, timeout=10)).output == "done\n"
            assert len(backend.workspaces[0].runs) == 1

    asyncio.run(run())


def test_drain_lets_running_calls_finish(tmp_path):
    async def run():
        async with served(tmp_path) as (address, sessions, backend, digest, port), stub_at(address) as stub:
            await open_session(stub, digest)
            running = asyncio.ensure_future(stub.Exec(exec_request("sleep 0.5; echo done")))
            await asyncio.sleep(0.1)
            stopping = asyncio.create_task(port.stop(grace_s=10))
            await asyncio.sleep(0.1)
            code, _ = await code_of(stub.Exec(exec_request("true", "r2"), timeout=5))
            assert code is StatusCode.UNAVAILABLE
            assert (await running).output == "done\n"
            await stopping
            assert backend.workspaces[0].closed
            assert len(sessions) == 0

    asyncio.run(run())


def test_the_log_names_the_session_whose_call_failed(tmp_path):
    async def broken(*_, **options):
        raise KeyError("a bug of ours")

    async def run():
        async with served(tmp_path) as (address, sessions, backend, digest, _), stub_at(address) as stub:
            told = []
            sessions.emit = told.append
            await open_session(stub, digest)
            refused = exec_request("true", timeout_s=-1.0)
            assert (await code_of(stub.Exec(refused, timeout=10)))[0] is StatusCode.INVALID_ARGUMENT
            unknown = {"session_id": "t", "run_id": "other", "task_set": digest, "task_id": "none", "skill": "x"}
            await code_of(stub.Open(sandbox_pb2.OpenRequest(**unknown), timeout=10))
            backend.open_workspace = broken
            assert (await code_of(open_session(stub, digest, "broken")))[0] is StatusCode.INTERNAL
            return [(e.name, e.session_id, e.run_id, e.task_id) for e in told]

    assert asyncio.run(run()) == [
        ("open", "s", "run", "t-editing"),
        ("refused", "s", "run", "t-editing"),
        ("refused", "t", "other", "none"),
        ("failed", "broken", "run", "t-editing"),
    ]
