"""One service, and one session on it, as a client has them."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from sandbox_service import sandbox_pb2
from sandbox_service.errors import SandboxError
from sandbox_service.placement import Host
from sandbox_service.transport import Link, NoAnswer, ServiceUnreachable, Tries, as_sandbox_error

if TYPE_CHECKING:
    from sandbox_service.client import SandboxClient

EXEC_DEFAULT_S = 30.0
# Added to an exec's own limit: waiting for a turn, starting, and the way there and back.
EXEC_MARGIN_S = 15.0
# A service that is gone has no session left to close.
CLOSE_GIVE_UP_S = 2.0


def is_fault(error: SandboxError) -> bool:
    """Whether the service itself failed: nothing that the caller could do better, as all other kinds of errors are."""
    return type(error) is SandboxError


class Service:
    """One service as this client has it: its link, its sessions here, and what placement knows."""

    def __init__(self, link: Link, host: Host):
        self.link, self.host = link, host
        self.sessions: dict[str, Session] = {}
        # Ids of opens without a known end; to be closed when the service answers again.
        self.strays: set[str] = set()
        self.heartbeat: asyncio.Task | None = None

    @property
    def address(self) -> str:
        return self.host.address

    async def attempt(self, method: str, request: Any, timeout_s: float) -> Any:
        """One try; its end tells the breaker whether the service answers, and whether it can open sessions."""
        answered = True
        try:
            with as_sandbox_error(self.address, timeout_s):
                return await getattr(self.link.stub, method)(request, timeout=timeout_s)
        except SandboxError as e:
            answered = not isinstance(e, (ServiceUnreachable, NoAnswer)) and not (method == "Open" and is_fault(e))
            raise
        except asyncio.CancelledError:
            answered = None
            raise
        finally:
            if answered is not None:
                self.host.breaker.record(answered, now())

    def add(self, session: "Session") -> None:
        self.sessions[session.session_id] = session
        self.host.own = len(self.sessions)

    def drop(self, session_id: str) -> bool:
        known = self.sessions.pop(session_id, None) is not None
        self.host.own = len(self.sessions)
        return known


class Session:
    """One open session. Calls may overlap; `close` is safe to repeat."""

    def __init__(self, client: "SandboxClient", service: Service, session_id: str, workspace: str, lease_ttl_s: float):
        self.session_id, self.workspace, self.lease_ttl_s = session_id, workspace, lease_ttl_s
        self.service, self._client = service, client

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(self, *exc) -> None:
        await self.close()

    async def exec(
        self, command: str, timeout_s: float = EXEC_DEFAULT_S, request_id: str | None = None
    ) -> sandbox_pb2.ExecReply:
        """Runs a bash command; what it does wrong is in the reply. Cancelling the call ends the command."""
        request = sandbox_pb2.ExecRequest(
            session_id=self.session_id, request_id=request_id or new_id(), command=command, timeout_s=timeout_s
        )
        try:
            return await self._call("Exec", request, timeout_s + EXEC_MARGIN_S)
        except asyncio.CancelledError:
            await asyncio.shield(self.kill(request.request_id))
            raise

    async def output(self, request_id: str, offset: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        """Yields (offset, bytes) of an exec's output while it runs, from `offset` on, to its end.

        Goes on where it was when the connection is lost.
        """
        tries = Tries(self._client.patience)
        while True:
            request = sandbox_pb2.ReadOutputRequest(session_id=self.session_id, request_id=request_id, offset=offset)
            try:
                with as_sandbox_error(self.service.address, 0.0):
                    async for chunk in self.service.link.stub.ReadOutput(request):
                        if chunk.HasField("end"):
                            return
                        tries = Tries(self._client.patience)
                        if chunk.data:
                            yield chunk.offset, chunk.data
                            offset = chunk.offset + len(chunk.data)
            except ServiceUnreachable as e:
                error = e
            await tries.again(error)

    async def kill(self, request_id: str) -> None:
        """Ends an exec and all it has started. Never raises for a service that is gone."""
        request = sandbox_pb2.KillRequest(session_id=self.session_id, request_id=request_id)
        with contextlib.suppress(SandboxError):
            await self._call("Kill", request, self._client.patience.short_s, give_up_s=CLOSE_GIVE_UP_S)

    async def str_replace(
        self, command: str, path: str, new_text: str = "", old_text: str = "", request_id: str | None = None
    ) -> sandbox_pb2.StrReplaceReply:
        """`command` is "view", "create" or "replace"."""
        request = sandbox_pb2.StrReplaceRequest(
            session_id=self.session_id,
            request_id=request_id or new_id(),
            command=sandbox_pb2.StrReplaceRequest.Command.Value(command.upper()),
            path=path,
            new_text=new_text,
            old_text=old_text,
        )
        return await self._call("StrReplace", request, self._client.patience.short_s)

    async def score(
        self, submission: sandbox_pb2.Submission, reward_mode: str = "paper", request_id: str | None = None
    ) -> sandbox_pb2.ScoreReply:
        """Grades the submission; a fault of the service is a reply that is not graded."""
        request = sandbox_pb2.ScoreRequest(
            session_id=self.session_id,
            request_id=request_id or new_id(),
            submission=submission,
            reward_mode=reward_mode,
        )
        return await self._call("Score", request, self._client.patience.score_s)

    async def close(self) -> None:
        """Never raises for a service that is gone: the lease ends the session there."""
        await self._client.close_quietly(self.service, self.session_id)

    async def _call(self, method: str, request: Any, timeout_s: float, give_up_s: float | None = None) -> Any:
        return await self._client.call(self.service, method, request, timeout_s, give_up_s)


def new_id() -> str:
    return uuid.uuid4().hex


def now() -> float:
    return asyncio.get_running_loop().time()
