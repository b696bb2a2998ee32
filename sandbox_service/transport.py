"""One try of one call: channels, deadlines, statuses to errors; and how long to go on trying."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from sandbox_service import sandbox_pb2_grpc
from sandbox_service.credentials import ClientCredentials
from sandbox_service.errors import (
    BadRequest,
    Forbidden,
    IdReused,
    NotFound,
    Overloaded,
    SandboxError,
    TaskSetError,
    Unauthenticated,
)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Repeats are this package's: it alone knows how long to go on and what the service asked for.
    ("grpc.enable_retries", 0),
    # A service that has just started must be found soon, not after gRPC's own back-off of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A proxy of the environment must never see these calls.
    ("grpc.enable_http_proxy", 0),
)
_ERRORS = {
    grpc.StatusCode.INVALID_ARGUMENT: BadRequest,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: IdReused,
    grpc.StatusCode.FAILED_PRECONDITION: TaskSetError,
}


class ServiceUnreachable(SandboxError):
    """Nothing answers at the address."""


class NoAnswer(SandboxError):
    """The call's deadline passed; whether it ran is not known."""


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


@dataclass(frozen=True)
class Link:
    """A connection to one service."""

    stub: Any
    health: Any
    close: Callable[[], Awaitable[None]]


def dial(address: str, credentials: ClientCredentials | None) -> Link:
    """To be called inside the event loop that will use it."""
    if credentials:
        channel = grpc.aio.secure_channel(address, credentials.channel_credentials(), options=OPTIONS)
    else:
        channel = grpc.aio.insecure_channel(address, options=OPTIONS)
    return Link(sandbox_pb2_grpc.SandboxServiceStub(channel), health_pb2_grpc.HealthStub(channel), channel.close)


def check_size(request: Any) -> None:
    if request.ByteSize() > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"the request has {request.ByteSize()} bytes, the limit is {MAX_MESSAGE_BYTES}; send less at once"
        )


def error_of(address: str, error: grpc.aio.AioRpcError, timeout_s: float) -> SandboxError:
    """What a failed try means. An Overloaded carries `pushback_s`, what the service asked for."""
    code, details = error.code(), error.details() or error.code().name
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if "larger than max" in details:
            return MessageTooLarge(f"{details}; the limit is {MAX_MESSAGE_BYTES} bytes")
        overloaded = Overloaded(f"{address}: {details}")
        overloaded.pushback_s = _pushback_s(error)
        return overloaded
    if code is grpc.StatusCode.UNAVAILABLE:
        return unreachable(address, details)
    # The service keeps the deadline too, and may be the first to end the call.
    if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return NoAnswer(f"{address} gave no answer within {timeout_s:.0f} s")
    return _ERRORS.get(code, SandboxError)(details)


def unreachable(address: str, details: str) -> ServiceUnreachable:
    return ServiceUnreachable(
        f"no sandbox service at {address} ({details}); start one: python -m sandbox_service --tasks=DIR --bind=ADDRESS"
    )


def _pushback_s(error: grpc.aio.AioRpcError) -> float:
    """What the service asked for in its trailer, 0 when it asked for nothing."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-retry-pushback-ms" and value.isdecimal():
            return int(value) / 1000
    return 0.0


class Tries:
    """The tries of one call: raises the last error when patience ends, else waits before the next one.

    Waits grow and are drawn at random, so that the clients of a service that comes back do not all come at once.
    """

    def __init__(self, patience: Patience, unreachable_s: float | None = None):
        self._patience, self._backoff_s = patience, patience.backoff_s
        self._unreachable_s = patience.unreachable_s if unreachable_s is None else unreachable_s
        self._started = asyncio.get_running_loop().time()

    async def again(self, error: SandboxError) -> None:
        waited_s = asyncio.get_running_loop().time() - self._started
        limit_s = self._patience.busy_s if isinstance(error, Overloaded) else self._unreachable_s
        if waited_s > limit_s:
            error.add_note(f"given up after {waited_s:.0f} s")
            raise error
        pushback_s = getattr(error, "pushback_s", 0.0)
        await asyncio.sleep(random.uniform(1.0, 1.5) * pushback_s + random.uniform(0.5, 1.0) * self._backoff_s)
        self._backoff_s = min(2 * self._backoff_s, self._patience.max_backoff_s)


@contextlib.contextmanager
def as_sandbox_error(address: str, timeout_s: float):
    """Turns a failed try into its error."""
    try:
        yield
    except grpc.aio.AioRpcError as e:
        raise error_of(address, e, timeout_s) from None
