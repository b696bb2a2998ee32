"""The contract's edge: messages to method calls of `Sessions`, SandboxError to status codes, tokens to runs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from sandbox_service import __version__, errors, sandbox_pb2, sandbox_pb2_grpc
from sandbox_service.backends.base import WORKSPACE, Ended, ExecResult, Isolation
from sandbox_service.credentials import TokenCheck, covers
from sandbox_service.graders.base import Submission
from sandbox_service.logs import Event
from sandbox_service.sessions import Sessions
from sandbox_service.str_replace import Command, Edit

log = logging.getLogger(__name__)

# How long a client told Overloaded should wait, before its own jitter.
PUSHBACK_MS = 1000
# A reader of a silent command's output hears this often that it still runs.
SIGN_OF_LIFE_S = 15.0
_STATUS = {
    errors.BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
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
    Ended.CANCELLED: sandbox_pb2.CANCELLED,
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


class Servicer(sandbox_pb2_grpc.SandboxServiceServicer):
    """`identity` is set once the self-test has passed. With `tokens` every call acts for the run of its token."""

    def __init__(self, sessions: Sessions, tokens: TokenCheck | None = None):
        self.sessions, self._tokens = sessions, tokens
        self.identity: Identity | None = None

    async def _answer(
        self, context: grpc.aio.ServicerContext, request: Message, call: Callable[[str | None], Awaitable[T]]
    ) -> T:
        """The call's result, or its error as a status. A cancelled RPC leaves the call running in its session.

        `call` gets the token's run; None when there are no tokens.
        """
        try:
            return await call(self._tokens.scope(context.invocation_metadata()) if self._tokens else None)
        except Exception as e:
            await self._abort(context, request, e)

    async def _abort(self, context: grpc.aio.ServicerContext, request: Message, error: Exception) -> None:
        """Ends the RPC with the error's status, and tells the log whose call it was."""
        ids = self.sessions.ids_of(getattr(request, "session_id", ""))
        ids = {name: known or getattr(request, name, "") for name, known in ids.items()}
        expected = isinstance(error, errors.SandboxError)
        kind = type(error).__name__
        told = Event("refused" if expected else "failed", **ids, fields={"error": kind, "detail": str(error)})
        self.sessions.emit(told)
        if not expected:
            log.error("a call failed", exc_info=error)
            await context.abort(grpc.StatusCode.INTERNAL, f"{kind}: {error}; see the service's log")
        overloaded = isinstance(error, errors.Overloaded)
        trailers = (("grpc-retry-pushback-ms", str(PUSHBACK_MS)),) if overloaded else ()
        await context.abort(_STATUS.get(type(error), grpc.StatusCode.INTERNAL), str(error), trailers)

    def _is_ours(self, session_id: str, scope: str | None) -> bool:
        """False for a session of another run than the token's."""
        run_id = self.sessions.run_of(session_id)
        return scope is None or run_id is None or covers(scope, run_id)

    def _check_session(self, session_id: str, scope: str | None) -> None:
        if not self._is_ours(session_id, scope):
            raise self.sessions.unknown(session_id)

    async def Info(self, request, context):
        return await self._answer(context, request, self._info)

    async def _info(self, scope: str | None) -> sandbox_pb2.InfoReply:
        if self.identity is None:
            raise errors.Draining("the service is testing its isolation; retry in a few seconds")
        return sandbox_pb2.InfoReply(
            backend=self.identity.backend,
            enforced=sorted(self.identity.isolation.enforced),
            unenforced=sorted(self.identity.isolation.unenforced),
            unsafe=self.identity.unsafe,
            boot_id=self.sessions.boot_id,
            version=__version__,
            max_sessions=self.sessions.policy.max_sessions,
            open_sessions=len(self.sessions),
            task_sets=sorted(self.sessions.task_sets),
            running_execs=self.sessions.running_execs,
            waiting_calls=self.sessions.waiting_calls,
        )

    async def Open(self, request, context):
        async def call(scope):
            if scope is not None and not covers(scope, request.run_id):
                raise errors.Forbidden(f"the token is for the run {scope!r}, not for {request.run_id!r}")
            self._check_session(request.session_id, scope)
            return await self.sessions.open(
                request.session_id,
                request.run_id,
                request.task_set,
                request.task_id,
                request.skill,
                request.lease_ttl_s,
            )

        return sandbox_pb2.OpenReply(lease_ttl_s=await self._answer(context, request, call), workspace=WORKSPACE)

    async def Exec(self, request, context):
        async def call(scope):
            self._check_session(request.session_id, scope)
            return await self.sessions.exec(request.session_id, request.request_id, request.command, request.timeout_s)

        result = await self._answer(context, request, call)
        return _exec_reply(result, result.output.decode(errors="replace"))

    async def ReadOutput(self, request, context):
        async def call(scope):
            self._check_session(request.session_id, scope)
            return self.sessions.read_output(request.session_id, request.request_id, request.offset)

        try:
            quiet_since = asyncio.get_running_loop().time()
            async for offset, data in await self._answer(context, request, call):
                now = asyncio.get_running_loop().time()
                if data or now - quiet_since > SIGN_OF_LIFE_S:
                    quiet_since = now
                    yield sandbox_pb2.OutputChunk(offset=offset, data=data)
            result = await self.sessions.exec_result(request.session_id, request.request_id)
        except errors.SandboxError as e:
            await self._abort(context, request, e)
        yield sandbox_pb2.OutputChunk(offset=len(result.output) + result.omitted_bytes, end=_exec_reply(result))

    async def Kill(self, request, context):
        async def call(scope):
            self._check_session(request.session_id, scope)
            return await self.sessions.kill(request.session_id, request.request_id)

        return sandbox_pb2.KillReply(killed=await self._answer(context, request, call))

    async def StrReplace(self, request, context):
        async def call(scope):
            self._check_session(request.session_id, scope)
            command = _COMMANDS.get(request.command)
            if command is None:
                raise errors.BadRequest("command must be VIEW, CREATE or REPLACE")
            edit = Edit(command, request.path, request.new_text, request.old_text)
            return await self.sessions.str_replace(request.session_id, request.request_id, edit)

        result = await self._answer(context, request, call)
        return sandbox_pb2.StrReplaceReply(ok=result.ok, output=result.output)

    async def Score(self, request, context):
        async def call(scope):
            self._check_session(request.session_id, scope)
            s = request.submission
            submission = Submission(tuple(s.files), s.judgment, s.review, s.missing)
            return await self.sessions.score(request.session_id, request.request_id, submission, request.reward_mode)

        started = asyncio.get_running_loop().time()
        grade = await self._answer(context, request, call)
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
        async def call(scope):
            ours = [i for i in request.session_ids if self._is_ours(i, scope)]
            return self.sessions.renew(ours, request.lease_ttl_s) + sorted(set(request.session_ids) - set(ours))

        return sandbox_pb2.RenewReply(lost=await self._answer(context, request, call))

    async def Close(self, request, context):
        async def call(scope):
            if scope is not None and request.run_id and not covers(scope, request.run_id):
                raise errors.Forbidden(f"the token is for the run {scope!r}, not for {request.run_id!r}")
            ours = [i for i in request.session_ids if self._is_ours(i, scope)]
            if request.session_ids and not ours:
                return 0
            return await self.sessions.close(ours, request.run_id)

        return sandbox_pb2.CloseReply(closed=await self._answer(context, request, call))


def _exec_reply(result: ExecResult, output: str = "") -> sandbox_pb2.ExecReply:
    return sandbox_pb2.ExecReply(
        outcome=_OUTCOMES[result.ended],
        exit_code=result.exit_code,
        output=output,
        omitted_bytes=result.omitted_bytes,
        wall_s=result.wall_s,
    )
