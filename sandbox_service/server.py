"""A listening server: where it binds, what secures it, its health, start and drain."""

import ipaddress
import os
import socket
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sandbox_service import errors, sandbox_pb2, sandbox_pb2_grpc
from sandbox_service.credentials import ServiceCredentials
from sandbox_service.servicer import Identity, Servicer
from sandbox_service.sessions import Sessions

SERVICE = sandbox_pb2.DESCRIPTOR.services_by_name["SandboxService"].full_name
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
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


class ParseRequests(grpc.aio.ServerInterceptor):
    """Parses requests itself: bytes that are no message of the contract are the caller's fault, not INTERNAL."""

    async def intercept_service(self, continuation, handler_call_details):
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        parse = handler.request_deserializer

        async def parsed(data: bytes, context: grpc.aio.ServicerContext):
            try:
                return parse(data)
            except DecodeError as e:
                text = (
                    f"the request is no message of {handler_call_details.method} ({e}); use the stubs of this version"
                )
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)

        if handler.response_streaming:

            async def stream(data, context):
                async for reply in handler.unary_stream(await parsed(data, context), context):
                    yield reply

            return handler._replace(request_deserializer=None, unary_stream=stream)

        async def unary(data, context):
            return await handler.unary_unary(await parsed(data, context), context)

        return handler._replace(request_deserializer=None, unary_unary=unary)


class Server:
    """One listening server. `start` binds with health NOT_SERVING; `serving` opens it once isolation is proven.

    With credentials it speaks mutual TLS and wants a token with every call but those of health.
    """

    def __init__(self, sessions: Sessions, bind: str, credentials: ServiceCredentials | None = None):
        tokens = credentials.token_check if credentials else None
        self.sessions, self._servicer, self._credentials = sessions, Servicer(sessions, tokens), credentials
        self._bind, self._unix = bind, unix_path(bind)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=[ParseRequests()], options=OPTIONS, maximum_concurrent_rpcs=sessions.policy.max_rpcs
        )
        sandbox_pb2_grpc.add_SandboxServiceServicer_to_server(self._servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self) -> str:
        """Binds and listens; returns the address that clients dial. Raises BadRequest when it cannot bind."""
        check_bind(self._bind, secured=self._credentials is not None)
        # The mask makes the socket 0600 from its first moment.
        mask = os.umask(0o177)
        try:
            if self._credentials:
                port = self._server.add_secure_port(self._bind, self._credentials.server_credentials())
            else:
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


def check_bind(bind: str, *, secured: bool = False, unsafe: bool = False) -> None:
    """Raises BadRequest unless `bind` is a free unix socket path or a loopback address.

    Any address is good for a secured service, but never for one that serves although isolation does not hold.
    """
    path = unix_path(bind)
    if path:
        if secured:
            raise errors.BadRequest(f"--bind={bind}: a unix socket needs no --credentials; its file's mode guards it")
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
    if not loopback and unsafe:
        raise errors.BadRequest(
            f"--bind={bind}: with --allow-unsafe only loopback (127.0.0.1, [::1]) and unix sockets are served, because "
            "whoever can call could run commands on this host; drop --allow-unsafe or bind to loopback"
        )
    if not loopback and not secured:
        raise errors.BadRequest(
            f"--bind={bind}: only loopback (127.0.0.1, [::1]) and unix sockets are served without --credentials=DIR, "
            "because calls are then neither encrypted nor authenticated; make them with "
            "python -m sandbox_service.credentials --out=DIR --host=NAME --run=RUN"
        )
