"""The trainer's side: sessions on one or several services, with repeats that never run anything twice.

    async with SandboxClient("unix:/run/sandbox.sock", run_id="run-1") as client:
        await client.wait_ready()
        async with await client.open(task_set, task_id, skill) as session:
            reply = await session.exec("python -m pytest -q")
            outcome = await session.score(sandbox_pb2.Submission(), "paper")

The address may name several services, separated by commas: each session lives on one of them, chosen by `placement`.
A call is repeated, under its own request id, while its service is unreachable (UNAVAILABLE) or busy
(RESOURCE_EXHAUSTED), each for a limited time; an open goes to another service instead where there is one. Leases are
renewed in the background on the client's event loop: a loop that is blocked for two thirds of a lease loses its
sessions.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from sandbox_service import sandbox_pb2
from sandbox_service.breaker import Breaker, BreakerConfig
from sandbox_service.credentials import ClientCredentials, covers, run_of
from sandbox_service.errors import IdReused, Overloaded, SandboxError
from sandbox_service.placement import Placement
from sandbox_service.remote import CLOSE_GIVE_UP_S, Service, Session, is_fault, new_id, now
from sandbox_service.transport import (
    OPTIONS,
    Link,
    MessageTooLarge,
    NoAnswer,
    Patience,
    ServiceUnreachable,
    Tries,
    check_size,
    dial,
    unreachable,
)

__all__ = [
    "OPTIONS",
    "Breaker",
    "BreakerConfig",
    "MessageTooLarge",
    "NoAnswer",
    "Patience",
    "SandboxClient",
    "SandboxError",
    "ServiceUnreachable",
    "Session",
]

log = logging.getLogger(__name__)

# Services tried one after the other before a pause.
OPEN_TRIES = 3
FIRST_RENEWAL_S = 1.0
# How often the load of a fleet's services is looked at.
LOAD_INTERVAL_S = 15.0


class SandboxClient:
    """One run's sessions. Make and use it inside one event loop.

    `address` is one address or several separated by commas, `credentials` a folder for services beyond loopback; with
    it the run id is put below the token's run. `connect` makes the link to an address.
    """

    def __init__(
        self,
        address: str,
        run_id: str,
        *,
        lease_ttl_s: float = 600.0,
        patience: Patience | None = None,
        credentials: Path | str | None = None,
        connect: Callable[[str, ClientCredentials | None], Link] = dial,
    ):
        files = ClientCredentials(Path(credentials)) if credentials else None
        scope = run_of(files.token) if files else ""
        self.address = address
        self.run_id = run_id if not scope or covers(scope, run_id) else f"{scope}/{run_id}"
        self._lease_ttl_s, self.patience = lease_ttl_s, patience or Patience()
        self._placement = Placement([a.strip() for a in address.split(",")])
        self._services = {a: Service(connect(a, files), host) for a, host in self._placement.hosts.items()}

    async def __aenter__(self) -> "SandboxClient":
        return self

    async def __aexit__(self, *exc) -> None:
        await self.close()

    async def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Waits until a service has passed its self-test. Raises ServiceUnreachable."""
        waiting = [asyncio.create_task(self._ready(s, timeout_s)) for s in self._services.values()]
        error: Exception | None = None
        try:
            for first in asyncio.as_completed(waiting):
                try:
                    return await first
                except ServiceUnreachable as e:
                    error = error or e
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
        raise error

    async def _ready(self, service: Service, timeout_s: float) -> None:
        deadline, last = time.monotonic() + timeout_s, "no answer"
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                reply = await service.link.health.Check(health_pb2.HealthCheckRequest(), timeout=left_s)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                last = "it is still testing its isolation, or shutting down"
            except grpc.aio.AioRpcError as e:
                last = e.details() or e.code().name
            await asyncio.sleep(min(0.1, max(left_s, 0)))
        raise unreachable(service.address, f"{last}, for {timeout_s:.0f} s")

    async def infos(self) -> dict[str, sandbox_pb2.InfoReply]:
        """What the services that answer are. Raises ServiceUnreachable when none does."""
        services = list(self._services.values())
        calls = (self.call(s, "Info", sandbox_pb2.InfoRequest(), self.patience.short_s) for s in services)
        replies = await asyncio.gather(*calls, return_exceptions=True)
        errors = [r for r in replies if isinstance(r, BaseException)]
        if len(errors) == len(replies) or any(not isinstance(e, SandboxError) for e in errors):
            raise errors[0]
        return {s.address: r for s, r in zip(services, replies, strict=True) if not isinstance(r, BaseException)}

    async def info(self) -> sandbox_pb2.InfoReply:
        """What the first service that answers is."""
        return next(iter((await self.infos()).values()))

    async def open(self, task_set: str, task_id: str, skill: str, session_id: str | None = None) -> "Session":
        """Opens a session on a private copy of the task's repository; where a service fails, at another one."""
        request = sandbox_pb2.OpenRequest(
            run_id=self.run_id, task_set=task_set, task_id=task_id, skill=skill, lease_ttl_s=self._lease_ttl_s
        )
        tries, asked = Tries(self.patience), {}
        try:
            while True:
                for service in self._candidates(f"{task_set}/{task_id}"):
                    request.session_id = asked.setdefault(service, session_id or new_id())
                    try:
                        reply = await service.attempt("Open", request, self.patience.open_s)
                    except IdReused as e:
                        # An id of our own comes back when its service was lost during the call.
                        if session_id:
                            raise
                        error = e
                        del asked[service]
                    except Overloaded as e:
                        error = e
                        service.host.full_until = now() + e.pushback_s
                        del asked[service]
                    except (ServiceUnreachable, NoAnswer) as e:
                        error = e
                    except SandboxError as e:
                        if not is_fault(e):
                            raise
                        error = e
                        service.strays.add(asked.pop(service))
                    else:
                        asked.pop(service)
                        return self._opened(service, request.session_id, reply)
                if is_fault(error):
                    raise error
                await tries.again(error)
        except asyncio.CancelledError:
            # The services may have opened it; its lease would hold the place for minutes.
            closing = (self.close_quietly(service, id) for service, id in asked.items())
            await asyncio.shield(asyncio.gather(*closing))
            raise
        finally:
            for service, stray in asked.items():
                service.strays.add(stray)

    def _candidates(self, key: str) -> Iterator[Service]:
        """The services to try now. A resting one gets a trial when its pause is over, or when no other is left."""
        at, tried = now(), 0
        order = self._placement.order(key, at)
        for host in order[:OPEN_TRIES]:
            if host.breaker.begin(at):
                tried += 1
                yield self._services[host.address]
        if not tried:
            yield self._services[order[0].address]

    def _opened(self, service: Service, session_id: str, reply: sandbox_pb2.OpenReply) -> "Session":
        session = Session(self, service, session_id, reply.workspace, reply.lease_ttl_s)
        self._keep(session)
        return session

    def adopt(self, session_id: str, address: str | None = None) -> "Session":
        """A session that another client of this run has opened, for instance before it crashed."""
        service = self._services[address or self._placement.order("", now())[0].address]
        session = Session(self, service, session_id, "", self._lease_ttl_s)
        self._keep(session)
        return session

    def _keep(self, session: "Session") -> None:
        session.service.add(session)
        for service in self._services.values() if len(self._services) > 1 else [session.service]:
            if service.heartbeat is None:
                service.heartbeat = asyncio.create_task(self._look_after(service))

    async def destroy_run(self, run_id: str) -> int:
        """Closes every session of a run at every service that answers; returns how many there were."""
        request = sandbox_pb2.CloseRequest(run_id=run_id)
        calls = (self.call(s, "Close", request, self.patience.short_s) for s in self._services.values())
        replies = await asyncio.gather(*calls, return_exceptions=True)
        return sum(r.closed for r in replies if not isinstance(r, BaseException))

    async def close(self) -> None:
        """Closes this client's sessions and links. Never raises: leases end what cannot be closed now."""
        services = self._services.values()
        beats = [s.heartbeat for s in services if s.heartbeat is not None]
        for beat in beats:
            beat.cancel()
        if beats:
            await asyncio.wait(beats)
        for service in services:
            service.heartbeat = None
        await asyncio.gather(*(self.close_quietly(s, *s.sessions, *s.strays) for s in services))
        await asyncio.gather(*(s.link.close() for s in services))

    async def close_quietly(self, service: Service, *session_ids: str) -> None:
        if not session_ids:
            return
        for session_id in session_ids:
            service.drop(session_id)
        request = sandbox_pb2.CloseRequest(session_ids=session_ids, run_id=self.run_id)
        with contextlib.suppress(SandboxError):
            await self.call(service, "Close", request, self.patience.short_s, give_up_s=CLOSE_GIVE_UP_S)
            service.strays -= set(session_ids)

    async def _look_after(self, service: Service) -> None:
        """Renews a service's leases in one call, closes strays, and in a fleet looks at its load."""
        fleet = len(self._services) > 1
        # Soon for the first time: the lease of an adopted session may be nearly over.
        pause_s = FIRST_RENEWAL_S
        while True:
            shortest_s = min((s.lease_ttl_s for s in service.sessions.values()), default=self._lease_ttl_s)
            await asyncio.sleep(min(pause_s, shortest_s / 3))
            pause_s = LOAD_INTERVAL_S if fleet else shortest_s / 3
            try:
                await self._renew(service, min(self.patience.short_s, shortest_s / 3))
                if fleet:
                    info = await service.attempt("Info", sandbox_pb2.InfoRequest(), self.patience.short_s)
                    service.host.told_open, service.host.told_most = info.open_sessions, info.max_sessions
            except SandboxError as e:
                log.warning("leases at %s not renewed: %s", service.address, e)

    async def _renew(self, service: Service, timeout_s: float) -> None:
        if service.strays:
            await self.close_quietly(service, *service.strays)
        if not service.sessions:
            return
        request = sandbox_pb2.RenewRequest(session_ids=list(service.sessions), lease_ttl_s=self._lease_ttl_s)
        reply = await self.call(service, "Renew", request, timeout_s)
        for session_id in reply.lost:
            if service.drop(session_id):
                log.warning("session %s is lost: its lease had expired or the service restarted", session_id)

    async def call(
        self, service: Service, method: str, request: Any, timeout_s: float, give_up_s: float | None = None
    ) -> Any:
        """Calls until an answer, a final error, or the end of patience. `timeout_s` bounds each try."""
        check_size(request)
        tries = Tries(self.patience, give_up_s)
        while True:
            try:
                return await service.attempt(method, request, timeout_s)
            except (Overloaded, ServiceUnreachable) as e:
                error = e
            await tries.again(error)
