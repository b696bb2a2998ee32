"""The trainer's side: sessions on one service, with repeats that never run anything twice.

    async with SandboxClient("unix:/run/sandbox.sock", run_id="run-1") as client:
        await client.wait_ready()
        async with await client.open(task_set, task_id, skill) as session:
            reply = await session.exec("python -m pytest -q")
            outcome = await session.score(sandbox_pb2.Submission(), "paper")

A call is repeated, under its own request id, while the service is unreachable (UNAVAILABLE) or busy
(RESOURCE_EXHAUSTED), each for a limited time. Leases are renewed in the background on the client's event loop: a loop
that is blocked for two thirds of a lease loses its sessions.
"""

import asyncio
import contextlib
import logging
import random
import time
import uuid
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sandbox_service import sandbox_pb2, sandbox_pb2_grpc
from sandbox_service.errors import BadRequest, IdReused, NotFound, Overloaded, SandboxError, TaskSetError

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Repeats are this module's: it alone knows how long to go on and what the service asked for.
    ("grpc.enable_retries", 0),
    # A service that has just started must be found soon, not after gRPC's own back-off of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A proxy of the environment must never see these calls.
    ("grpc.enable_http_proxy", 0),
)
_ERRORS = {
    grpc.StatusCode.INVALID_ARGUMENT: BadRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: IdReused,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.FAILED_PRECONDITION: TaskSetError,
}
EXEC_DEFAULT_S = 30.0
# Added to an exec's own limit: waiting for a turn, starting, and the way there and back.
EXEC_MARGIN_S = 15.0
# A service that is gone has no session left to close.
CLOSE_GIVE_UP_S = 2.0


class ServiceUnreachable(SandboxError):
    """Nothing answers at the address."""


class MessageTooLarge(SandboxError):
    """A request or a reply is above MAX_MESSAGE_BYTES."""


@dataclass(frozen=True)
class Patience:
    """How long to go on; all in seconds."""

    unreachable_s: float = 30.0
    busy_s: float = 600.0
    backoff_s: float = 0.1
    max_backoff_s: float = 5.0
    open_s: float = 300.0
    score_s: float = 1800.0
    short_s: float = 60.0


class SandboxClient:
    """One service, one channel, one run. Make and use it inside one event loop."""

    def __init__(self, address: str, run_id: str, *, lease_ttl_s: float = 600.0, patience: Patience | None = None):
        self.address, self.run_id = address, run_id
        self._lease_ttl_s, self._patience = lease_ttl_s, patience or Patience()
        self._sessions: dict[str, Session] = {}
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._stub = sandbox_pb2_grpc.SandboxServiceStub(self._channel)
        self._heartbeat: asyncio.Task | None = None

    async def __aenter__(self) -> "SandboxClient":
        return self

    async def __aexit__(self, *exc) -> None:
        await self.close()

    async def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Waits until the service has passed its self-test. Raises ServiceUnreachable."""
        stub, deadline, last = health_pb2_grpc.HealthStub(self._channel), time.monotonic() + timeout_s, "no answer"
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=left_s)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                last = "it is still testing its isolation, or shutting down"
            except grpc.aio.AioRpcError as e:
                last = e.details() or e.code().name
            await asyncio.sleep(min(0.1, max(left_s, 0)))
        raise self._unreachable(timeout_s, last)

    async def info(self) -> sandbox_pb2.InfoReply:
        return await self._call(self._stub.Info, sandbox_pb2.InfoRequest(), self._patience.short_s)

    async def open(self, task_set: str, task_id: str, skill: str, session_id: str | None = None) -> "Session":
        """Opens a session on a private copy of the task's repository."""
        session_id = session_id or uuid.uuid4().hex
        request = sandbox_pb2.OpenRequest(
            session_id=session_id,
            run_id=self.run_id,
            task_set=task_set,
            task_id=task_id,
            skill=skill,
            lease_ttl_s=self._lease_ttl_s,
        )
        try:
            reply = await self._call(self._stub.Open, request, self._patience.open_s)
        except asyncio.CancelledError:
            # The service may have opened it; its lease would hold the place for minutes.
            await asyncio.shield(self._close_quietly(session_id))
            raise
        session = self._sessions[session_id] = Session(self, session_id, reply.workspace, reply.lease_ttl_s)
        if self._heartbeat is None:
            self._heartbeat = asyncio.create_task(self._keep_renewing())
        return session

    async def close(self) -> None:
        """Closes this client's sessions and the channel. Never raises: leases end what cannot be closed now."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.wait({self._heartbeat})
            self._heartbeat = None
        if self._sessions:
            await self._close_quietly(*self._sessions)
        await self._channel.close()

    async def _close_quietly(self, *session_ids: str) -> None:
        for session_id in session_ids:
            self._sessions.pop(session_id, None)
        request = sandbox_pb2.CloseRequest(session_ids=session_ids, run_id=self.run_id)
        with contextlib.suppress(SandboxError):
            await self._call(self._stub.Close, request, self._patience.short_s, give_up_s=CLOSE_GIVE_UP_S)

    async def _keep_renewing(self) -> None:
        while True:
            shortest_s = min((s.lease_ttl_s for s in self._sessions.values()), default=self._lease_ttl_s)
            await asyncio.sleep(shortest_s / 3)
            if not self._sessions:
                continue
            request = sandbox_pb2.RenewRequest(session_ids=list(self._sessions), lease_ttl_s=self._lease_ttl_s)
            try:
                reply = await self._call(self._stub.Renew, request, self._patience.short_s)
            except SandboxError as e:
                log.warning("leases not renewed: %s", e)
                continue
            for session_id in reply.lost:
                if self._sessions.pop(session_id, None):
                    log.warning("session %s is lost: its lease had expired or the service restarted", session_id)

    async def _call(self, method: Any, request: Any, timeout_s: float, give_up_s: float | None = None) -> Any:
        """Calls until an answer, a final error, or the end of patience. `timeout_s` bounds each try."""
        if request.ByteSize() > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(
                f"the request has {request.ByteSize()} bytes, the limit is {MAX_MESSAGE_BYTES}; send less at once"
            )
        patience, started, backoff_s = self._patience, time.monotonic(), self._patience.backoff_s
        give_up_s = patience.unreachable_s if give_up_s is None else give_up_s
        while True:
            pushback_s = 0.0
            try:
                return await method(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as e:
                waited_s, details = time.monotonic() - started, e.details() or e.code().name
                if e.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    if "larger than max" in details:
                        raise MessageTooLarge(f"{details}; the limit is {MAX_MESSAGE_BYTES} bytes") from None
                    if waited_s > patience.busy_s:
                        raise Overloaded(f"{self.address}: {details}") from None
                    pushback_s = _pushback_s(e)
                elif e.code() is grpc.StatusCode.UNAVAILABLE:
                    if waited_s > give_up_s:
                        raise self._unreachable(waited_s, details) from None
                elif e.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise SandboxError(f"{self.address} gave no answer within {timeout_s:.0f} s") from None
                else:
                    raise _ERRORS.get(e.code(), SandboxError)(details) from None
            await asyncio.sleep(pushback_s + random.uniform(0.5, 1.0) * backoff_s)
            backoff_s = min(2 * backoff_s, patience.max_backoff_s)

    def _unreachable(self, waited_s: float, details: str) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"no sandbox service at {self.address} after {waited_s:.0f} s ({details}); "
            "start one: python -m sandbox_service --tasks=DIR --bind=ADDRESS"
        )


class Session:
    """One open session. Calls may overlap; `close` is safe to repeat."""

    def __init__(self, client: SandboxClient, session_id: str, workspace: str, lease_ttl_s: float):
        self.session_id, self.workspace, self.lease_ttl_s = session_id, workspace, lease_ttl_s
        self._client = client

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(self, *exc) -> None:
        await self.close()

    async def exec(
        self, command: str, timeout_s: float = EXEC_DEFAULT_S, request_id: str | None = None
    ) -> sandbox_pb2.ExecReply:
        """Runs a bash command; what it does wrong is in the reply."""
        request = sandbox_pb2.ExecRequest(
            session_id=self.session_id, request_id=request_id or _new_id(), command=command, timeout_s=timeout_s
        )
        return await self._client._call(self._client._stub.Exec, request, timeout_s + EXEC_MARGIN_S)

    async def str_replace(
        self, command: str, path: str, new_text: str = "", old_text: str = "", request_id: str | None = None
    ) -> sandbox_pb2.StrReplaceReply:
        """`command` is "view", "create" or "replace"."""
        request = sandbox_pb2.StrReplaceRequest(
            session_id=self.session_id,
            request_id=request_id or _new_id(),
            command=sandbox_pb2.StrReplaceRequest.Command.Value(command.upper()),
            path=path,
            new_text=new_text,
            old_text=old_text,
        )
        return await self._client._call(self._client._stub.StrReplace, request, self._client._patience.short_s)

    async def score(
        self, submission: sandbox_pb2.Submission, reward_mode: str = "paper", request_id: str | None = None
    ) -> sandbox_pb2.ScoreReply:
        """Grades the submission; a fault of the service is a reply that is not graded."""
        request = sandbox_pb2.ScoreRequest(
            session_id=self.session_id,
            request_id=request_id or _new_id(),
            submission=submission,
            reward_mode=reward_mode,
        )
        return await self._client._call(self._client._stub.Score, request, self._client._patience.score_s)

    async def close(self) -> None:
        """Never raises for a service that is gone: the lease ends the session there."""
        await self._client._close_quietly(self.session_id)


def _new_id() -> str:
    return uuid.uuid4().hex


def _pushback_s(error: grpc.aio.AioRpcError) -> float:
    """What the service asked for in its trailer, 0 when it asked for nothing."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-retry-pushback-ms" and value.isdecimal():
            return int(value) / 1000
    return 0.0
