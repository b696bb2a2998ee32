"""Whatever comes over the wire gets one clear status, and the service goes on."""

import asyncio
import contextlib
import threading

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_support import served

from sandbox_service import client, sandbox_pb2
from sandbox_service.policy import Policy

METHODS = sandbox_pb2.DESCRIPTOR.services_by_name["SandboxService"].methods_by_name
# What the caller did wrong, never INTERNAL or UNKNOWN. Most calls of the fuzz are answered with one of these.
CALLERS_FAULT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

JUNK = {"junk": b"\xff" * 20, "cut": b"\x0a\xff\xff\xff\xff\x0f", "utf8": b"\x0a\x02\xc3\x28"}


class Wire:
    """A served service in a thread, and raw calls to it."""

    def __init__(self, tmp_path):
        self._loop, self._ready, self._stop = asyncio.new_event_loop(), threading.Event(), None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(tmp_path),))
        self._thread.start()
        self._ready.wait(60)

    async def _serve(self, tmp_path):
        self._stop = asyncio.Event()
        policy = Policy(max_sessions=4, exec_max_s=1.0, exec_default_s=1.0)
        async with contextlib.AsyncExitStack() as stack:
            service = await stack.enter_async_context(served(tmp_path, policy=policy))
            address, self.sessions, _, self.digest, _ = service
            channel = grpc.aio.insecure_channel(address, options=client.OPTIONS)
            self.channel = await stack.enter_async_context(channel)
            self._ready.set()
            await self._stop.wait()

    def close(self):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def send(self, method: str, request: bytes | Message) -> tuple[grpc.StatusCode, str]:
        data = request if isinstance(request, bytes) else request.SerializeToString()

        async def call():
            path = f"/skillrl.sandbox.v1.SandboxService/{method}"
            try:
                if method == "ReadOutput":
                    async for _ in self.channel.unary_stream(path)(data, timeout=20):
                        pass
                else:
                    await self.channel.unary_unary(path)(data, timeout=20)
                return grpc.StatusCode.OK, ""
            except grpc.aio.AioRpcError as e:
                return e.code(), e.details()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(60)


@pytest.fixture(scope="module")
def wire(tmp_path_factory):
    made = Wire(tmp_path_factory.mktemp("wire"))
    assert made.send("Open", opening(made, "known"))[0] is grpc.StatusCode.OK
    yield made
    made.close()


def opening(wire, session_id, **fields):
    whole = {"run_id": "run", "task_set": wire.digest, "task_id": "t-editing", "skill": "editing"} | fields
    return sandbox_pb2.OpenRequest(session_id=session_id, **whole)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize(
    "data", [b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xc3\x28"], ids=["junk", "cut", "utf8"]
)
def test_bytes_that_are_no_message(wire, method, data):
    code, text = wire.send(method, data)
    # A message without fields takes any well-formed bytes as unknown fields.
    if method == "Info" and code is grpc.StatusCode.OK:
        return
    assert code is grpc.StatusCode.INVALID_ARGUMENT, text
    assert "is no message of" in text and "stubs" in text


def exec_of(**fields):
    return sandbox_pb2.ExecRequest(**({"session_id": "known", "request_id": "r", "command": "true"} | fields))


def score_of(**fields):
    return sandbox_pb2.ScoreRequest(session_id="known", request_id="s", **fields)


def output_of(request_id, offset=0):
    return sandbox_pb2.ReadOutputRequest(session_id="known", request_id=request_id, offset=offset)


INVALID, NOT_FOUND, EXISTS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
)


@pytest.mark.parametrize(
    ("method", "request_of", "code", "says"),
    [
        ("Open", lambda w: opening(w, ""), INVALID, "session_id must not be empty"),
        ("Open", lambda w: opening(w, "x", run_id=""), INVALID, "run_id must not be empty"),
        ("Open", lambda w: opening(w, "x" * 513), INVALID, "at most 512"),
        ("Open", lambda w: opening(w, "a\nb"), INVALID, "printable"),
        ("Open", lambda w: opening(w, "x", task_set="no"), NOT_FOUND, "--tasks=DIR"),
        ("Open", lambda w: opening(w, "x", task_id="../../etc"), NOT_FOUND, "not in task set"),
        ("Open", lambda w: opening(w, "x", skill="review"), INVALID, "for skill 'editing'"),
        ("Open", lambda w: opening(w, "x", lease_ttl_s=-1.0), INVALID, "lease_ttl_s"),
        ("Open", lambda w: opening(w, "x", lease_ttl_s=float("nan")), INVALID, "lease_ttl_s"),
        ("Open", lambda w: opening(w, "known", run_id="other"), EXISTS, "different request"),
        ("Exec", lambda w: exec_of(session_id="nobody"), NOT_FOUND, "is unknown here"),
        ("Exec", lambda w: exec_of(request_id=""), INVALID, "request_id must not be empty"),
        ("Exec", lambda w: exec_of(request_id="x" * 600), INVALID, "at most 512"),
        ("Exec", lambda w: exec_of(timeout_s=float("inf")), INVALID, "timeout_s"),
        ("StrReplace", lambda w: sandbox_pb2.StrReplaceRequest(session_id="known", request_id="e"), INVALID, "VIEW"),
        ("Score", lambda w: score_of(reward_mode="x"), INVALID, "mode"),
        ("Kill", lambda w: sandbox_pb2.KillRequest(session_id="nobody", request_id="r"), NOT_FOUND, "unknown"),
        ("ReadOutput", lambda w: output_of("no"), NOT_FOUND, "unknown"),
        ("Close", lambda w: sandbox_pb2.CloseRequest(), INVALID, "name session_ids or a run_id"),
        ("Renew", lambda w: sandbox_pb2.RenewRequest(lease_ttl_s=-1.0), INVALID, "lease_ttl_s"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_status_and_its_words(wire, method, request_of, code, says):
    got, text = wire.send(method, request_of(wire))
    assert (got, says in text) == (code, True), text


def test_absurd_limits_are_clamped(wire):
    assert wire.send("Exec", exec_of(request_id="long", timeout_s=1e300)) == (grpc.StatusCode.OK, "")
    assert (
        wire.send("Renew", sandbox_pb2.RenewRequest(session_ids=["known"], lease_ttl_s=1e300))[0] is grpc.StatusCode.OK
    )
    session = wire.sessions._leases.get("known")
    assert session.expires_at - wire.sessions._clock() <= wire.sessions.policy.lease_max_s
    assert wire.send("ReadOutput", output_of("long", 2**64 - 1)) == (grpc.StatusCode.OK, "")
    # More than any message may have, and more than bash takes, which is the agent's mistake.
    assert (
        wire.send("Exec", exec_of(request_id="big", command="x" * (17 << 20)))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    assert wire.send("Exec", exec_of(request_id="wide", command="x" * (1 << 20)))[0] is grpc.StatusCode.OK


names = st.sampled_from(["known", "nobody", "", "r", "\0", "x" * 600, "../..", "é\u2028"]) | st.text(max_size=12)
numbers = st.floats() | st.sampled_from([0.0, -0.0, 1e-300, 1e300])


def value_of(field) -> st.SearchStrategy:
    kinds = {
        field.TYPE_STRING: names,
        field.TYPE_DOUBLE: numbers,
        field.TYPE_UINT64: st.integers(0, 2**64 - 1),
        field.TYPE_BOOL: st.booleans(),
        field.TYPE_ENUM: st.integers(-1, 9),
    }
    if field.type == field.TYPE_MESSAGE:
        return messages(field.message_type)
    return st.lists(kinds[field.type], max_size=3) if field.is_repeated else kinds[field.type]


def messages(descriptor) -> st.SearchStrategy:
    from google.protobuf.message_factory import GetMessageClass

    fields = st.fixed_dictionaries({}, optional={f.name: value_of(f) for f in descriptor.fields})
    return fields.map(lambda values: GetMessageClass(descriptor)(**values))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_message_is_answered(wire, data):
    method = data.draw(st.sampled_from(sorted(METHODS)))
    request = data.draw(messages(METHODS[method].input_type))
    if method == "Exec":
        request.command = "true"
    if method == "Close" and "known" in request.session_ids:
        request.run_id = "of another"
    code, text = wire.send(method, request)
    assert code is grpc.StatusCode.OK or code in CALLERS_FAULT, (code, text)
    assert code is grpc.StatusCode.OK or text
    assert wire.send("Info", sandbox_pb2.InfoRequest())[0] is grpc.StatusCode.OK


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(set(METHODS) - {"Exec", "Close"})), st.binary(max_size=60))
def test_any_bytes_are_answered(wire, method, data):
    code, text = wire.send(method, data)
    assert code is grpc.StatusCode.OK or code in CALLERS_FAULT, (code, text)
