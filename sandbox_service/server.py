"""The gRPC edge: messages to method calls of `Sessions`, SandboxError to status codes, start and drain of a server."""

import asyncio
import ipaddress
import logging
import os
import socket
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sandbox_service import __version__, errors, sandbox_pb2, sandbox_pb2_grpc
from sandbox_service.backends.base import WORKSPACE, Ended, Isolation
from sandbox_service.graders.base import Submission
from sandbox_service.sessions import Sessions
from sandbox_service.str_replace import Command, Edit

log = logging.getLogger(__name__)

SERVICE = sandbox_pb2.DESCRIPTOR.services_by_name["SandboxService"].full_name
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# How long a client told Overloaded should wait, before its own jitter.
PUSHBACK_MS = 1000
# gRPC ignores unknown keys without a word: the ping limit's key is the one below, not the C constant's name.
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
)
_STATUS = {
    errors.BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.IdReused: grpc.StatusCode.ALREADY_EXISTS,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Draining: grpc.StatusCode.UNAVAILABLE,
    errors.IsolationError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TaskSetError: grpc.StatusCode.FAILED_PRECONDITION,
}
_OUTCOMES = {
    Ended.EXITED: sandbox_pb2.EXITED,
    Ended.SIGNALED: sandbox_pb2.SIGNALED,
    Ended.TIMEOUT: sandbox_pb2.TIMEOUT,
    Ended.OUT_OF_MEMORY: sandbox_pb2.OUT_OF_MEMORY,
    Ended.OUT_OF_PROCESSES: sandbox_pb2.OUT_OF_PROCESSES,
    Ended.OUT_OF_DISK: sandbox_pb2.OUT_OF_DISK,
    Ended.OUTPUT_LIMIT: sandbox_pb2.OUTPUT_LIMIT,
}
_COMMANDS = {
    sandbox_pb2.StrReplaceRequest.VIEW: Command.VIEW,
    sandbox_pb2.StrReplaceRequest.CREATE: Command.CREATE,
    sandbox_pb2.StrReplaceRequest.REPLACE: Command.REPLACE,
}
T = TypeVar("T")


@dataclass(frozen=True)
class Identity:
    """What Info says beside the load."""

    backend: str
    isolation: Isolation
    unsafe: bool = False
    boot_id: str = field(default_factory=lambda: uuid.uuid4().hex)


class Servicer(sandbox_pb2_grpc.SandboxServiceServicer):
    """`identity` is set once the self-test has passed."""

    def __init__(self, sessions: Sessions):
        self.sessions = sessions
        self.identity: Identity | None = None

    async def _answer(self, context: grpc.aio.ServicerContext, call: Awaitable[T]) -> T:
        """The call's result, or its error as a status. A cancelled RPC leaves the call running in its session."""
        try:
            return await call
        except errors.SandboxError as e:
            code = _STATUS.get(type(e), grpc.StatusCode.INTERNAL)
            overloaded = isinstance(e, errors.Overloaded)
            trailers = (("grpc-retry-pushback-ms", str(PUSHBACK_MS)),) if overloaded else ()
            await context.abort(code, str(e), trailers)
        except Exception as e:
            log.exception("a call failed")
            await context.abort(grpc.StatusCode.INTERNAL, f"{type(e).__name__}: {e}; see the service's log")

    async def Info(self, request, context):
        if self.identity is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the service is testing its isolation")
        return sandbox_pb2.InfoReply(
            backend=self.identity.backend,
            enforced=sorted(self.identity.isolation.enforced),
            unenforced=sorted(self.identity.isolation.unenforced),
            unsafe=self.identity.unsafe,
            boot_id=self.identity.boot_id,
            version=__version__,
            max_sessions=self.sessions.policy.max_sessions,
            open_sessions=len(self.sessions),
            task_sets=sorted(self.sessions.task_sets),
        )

    async def Open(self, request, context):
        call = self.sessions.open(
            request.session_id,
            request.run_id,
            request.task_set,
            request.task_id,
            request.skill,
            request.lease_ttl_s,
        )
        return sandbox_pb2.OpenReply(lease_ttl_s=await self._answer(context, call), workspace=WORKSPACE)

    async def Exec(self, request, context):
        call = self.sessions.exec(request.session_id, request.request_id, request.command, request.timeout_s)
        result = await self._answer(context, call)
        return sandbox_pb2.ExecReply(
            outcome=_OUTCOMES[result.ended],
            exit_code=result.exit_code,
            output=result.output.decode(errors="replace"),
            omitted_bytes=result.omitted_bytes,
            wall_s=result.wall_s,
        )

    async def StrReplace(self, request, context):
        command = _COMMANDS.get(request.command)
        if command is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "command must be VIEW, CREATE or REPLACE")
        edit = Edit(command, request.path, request.new_text, request.old_text)
        result = await self._answer(context, self.sessions.str_replace(request.session_id, request.request_id, edit))
        return sandbox_pb2.StrReplaceReply(ok=result.ok, output=result.output)

    async def Score(self, request, context):
        s = request.submission
        submission = Submission(tuple(s.files), s.judgment, s.review, s.missing)
        started = asyncio.get_running_loop().time()
        call = self.sessions.score(request.session_id, request.request_id, submission, request.reward_mode)
        grade = await self._answer(context, call)
        return sandbox_pb2.ScoreReply(
            graded=grade.reward is not None,
            reward=grade.reward or 0.0,
            components=grade.components,
            reason=grade.reason or "",
            detail=grade.detail,
            unsafe=self.identity is not None and self.identity.unsafe,
            wall_s=asyncio.get_running_loop().time() - started,
        )

    async def Renew(self, request, context):
        async def renew() -> list[str]:
            return self.sessions.renew(request.session_ids, request.lease_ttl_s)

        return sandbox_pb2.RenewReply(lost=await self._answer(context, renew()))

    async def Close(self, request, context):
        closed = await self._answer(context, self.sessions.close(request.session_ids, request.run_id))
        return sandbox_pb2.CloseReply(closed=closed)


class Server:
    """One listening server. `start` binds with health NOT_SERVING; `serving` opens it once isolation is proven."""

    def __init__(self, sessions: Sessions, bind: str):
        self.sessions, self._servicer = sessions, Servicer(sessions)
        self._bind, self._unix = bind, unix_path(bind)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=sessions.policy.max_rpcs)
        sandbox_pb2_grpc.add_SandboxServiceServicer_to_server(self._servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self) -> str:
        """Binds and listens; returns the address that clients dial. Raises BadRequest when it cannot bind."""
        check_bind(self._bind)
        # The mask makes the socket 0600 from its first moment.
        mask = os.umask(0o177)
        try:
            port = self._server.add_insecure_port(self._bind)
        except RuntimeError as e:
            raise errors.BadRequest(f"cannot bind {self._bind}: is another service running there? ({e})") from e
        finally:
            os.umask(mask)
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()
        return self._bind if self._unix else f"{self._bind.rpartition(':')[0]}:{port}"

    async def serving(self, identity: Identity) -> None:
        self._servicer.identity = identity
        self.sessions.accept()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float = 0.0) -> None:
        """Refuses new calls, gives running ones `grace_s` seconds, closes every session."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self.sessions.drain()
        await self._server.stop(grace_s)
        await self.sessions.stop()
        if self._unix:
            self._unix.unlink(missing_ok=True)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE):
            await self._health.set(name, status)


def unix_path(address: str) -> Path | None:
    return Path(address.removeprefix("unix:")) if address.startswith("unix:") else None


def check_bind(bind: str) -> None:
    """Raises BadRequest unless `bind` is a free unix socket path or a loopback address."""
    path = unix_path(bind)
    if path:
        if len(os.fsencode(path)) > 107:
            raise errors.BadRequest(f"--bind={bind}: a unix socket's path has at most 107 bytes; choose a shorter one")
        if not path.parent.is_dir():
            raise errors.BadRequest(f"--bind={bind}: no folder {path.parent}; make it first")
        with socket.socket(socket.AF_UNIX) as probe:
            if path.exists() and probe.connect_ex(str(path)) == 0:
                raise errors.BadRequest(f"--bind={bind}: another service is running there")
        return
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    if not port.isdecimal():
        raise errors.BadRequest(f"--bind={bind}: give HOST:PORT or unix:PATH")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise errors.BadRequest(
            f"--bind={bind}: only loopback (127.0.0.1, [::1]) and unix sockets are served, because calls are neither "
            "encrypted nor authenticated; use 127.0.0.1:PORT and reach it through ssh -L from other machines"
        )
