"""Sessions: leases on private workspaces, and the calls that run in them.

Every id is made by the client. A call with a known request id gets the first run's answer (it joins the run when that
is still going on), so a lost reply never leads to a second run. Calls belong to the session, not to the RPC that asked
for them: they end with their own time limit, or with the session.

There is no journal. A workspace's mounts and processes die with the service process, and a backend removes what an
earlier process left behind (cgroups, state folders) when it starts; a client whose service restarted gets NotFound.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sandbox_service.backends.base import Backend, Ended, ExecResult, Workspace
from sandbox_service.calls import Calls, fingerprint, join, retrieve
from sandbox_service.errors import BadRequest, Draining, IdReused, NotFound, Overloaded, SandboxError, TaskSetError
from sandbox_service.graders.base import Grade, GradeRequest, Submission, TaskFault
from sandbox_service.policy import Policy, Slots
from sandbox_service.str_replace import Edit, EditResult, apply_edit
from sandbox_service.tasks import HiddenTask, TaskSet
from sandbox_service.workspaces import Trees

log = logging.getLogger(__name__)

REWARD_MODES = ("paper", "shaped")
# The kernel's MAX_ARG_STRLEN: a longer argument cannot be passed to bash.
MAX_COMMAND_BYTES = 128 * 1024 - 1
ENDINGS_KEPT = 10_000


@dataclass
class _Session:
    session_id: str
    run_id: str
    contents: str
    task_set: TaskSet
    task: HiddenTask
    ttl_s: float
    opened_at: float
    expires_at: float
    calls: Calls
    opening: asyncio.Task[Workspace] | None = None


class Sessions:
    """The service without gRPC. One event loop; every method may run many times at once.

    `grade` turns a request into a grade. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        backend: Backend,
        trees: Trees,
        task_sets: Iterable[TaskSet],
        grade: Callable[[GradeRequest], Awaitable[Grade]],
        policy: Policy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.policy = policy or Policy()
        self.task_sets: Mapping[str, TaskSet] = {s.digest: s for s in task_sets}
        self._backend, self._trees, self._grade, self._clock = backend, trees, grade, clock
        self._sessions: dict[str, _Session] = {}
        self._endings: OrderedDict[str, str] = OrderedDict()
        self._closing: set[asyncio.Task] = set()
        self._refusing = "the service is testing its isolation; retry in a few seconds"
        p = self.policy
        self._execs = Slots("slots for commands", p.max_execs, p.max_waiting, p.exec_wait_s)
        self._scores = Slots("slots for grading", p.max_scores, p.max_waiting, p.score_wait_s)

    def __len__(self) -> int:
        return len(self._sessions)

    def accept(self) -> None:
        """Starts to take calls; until then they are refused as Draining is (UNAVAILABLE)."""
        self._refusing = ""

    def drain(self) -> None:
        self._refusing = "the service is shutting down; use another one"

    # Calls of the contract. They raise SandboxError; anything else is a bug.

    async def open(
        self, session_id: str, run_id: str, task_set: str, task_id: str, skill: str, lease_ttl_s: float = 0.0
    ) -> float:
        """Opens a workspace for a task; returns the lease's length in seconds."""
        self._check_accepting()
        if not session_id or not run_id:
            raise BadRequest("session_id and run_id must not be empty; the client makes both")
        contents = fingerprint("open", run_id, task_set, task_id, skill, lease_ttl_s)
        session = self._sessions.get(session_id)
        if session is None:
            session = self._new_session(session_id, run_id, task_set, task_id, skill, lease_ttl_s, contents)
        elif session.contents != contents:
            raise IdReused(f"session {session_id!r} is open with a different request; make a new id for each session")
        await self._workspace(session)
        if self._sessions.get(session_id) is not session:
            raise self._gone(session_id)
        self._touch(session)
        return session.ttl_s

    async def exec(self, session_id: str, request_id: str, command: str, timeout_s: float = 0.0) -> ExecResult:
        """Runs a bash command; what it does wrong is in the result."""
        session = self._session(session_id)
        contents = fingerprint("exec", command, timeout_s)
        timeout_s = self._positive("timeout_s", timeout_s) or self.policy.exec_default_s
        left_s = session.opened_at + self.policy.lifetime_s - self._clock()
        timeout_s = min(timeout_s, self.policy.exec_max_s, left_s)

        async def run() -> ExecResult:
            reason = _impossible(command)
            if reason:
                return ExecResult(Ended.EXITED, 126, f"bash: {reason}\n".encode(), 0, 0.0)
            async with self._execs.take():
                workspace = await self._workspace(session)
                return await workspace.run(["bash", "-c", command], timeout_s=timeout_s)

        return await session.calls.once(request_id, contents, run)

    async def str_replace(self, session_id: str, request_id: str, edit: Edit) -> EditResult:
        session = self._session(session_id)

        async def run() -> EditResult:
            async with self._execs.take():
                return await apply_edit(await self._workspace(session), edit)

        return await session.calls.once(request_id, fingerprint("str_replace", edit), run)

    async def score(self, session_id: str, request_id: str, submission: Submission, reward_mode: str = "") -> Grade:
        """Grades the submission. A fault of ours is a grade without a reward, never an exception."""
        session = self._session(session_id)
        reward_mode = reward_mode or REWARD_MODES[0]
        if reward_mode not in REWARD_MODES:
            raise BadRequest(f"unknown reward_mode {reward_mode!r}; one of {', '.join(REWARD_MODES)}")

        async def run() -> Grade:
            async with self._scores.take():
                return await self._score(session, submission, reward_mode)

        return await session.calls.once(request_id, fingerprint("score", submission, reward_mode), run)

    def renew(self, session_ids: Sequence[str], lease_ttl_s: float = 0.0) -> list[str]:
        """Extends leases; returns the ids that are lost."""
        lease_ttl_s = self._positive("lease_ttl_s", lease_ttl_s)
        lost = []
        for session_id in session_ids:
            try:
                self._touch(self._find(session_id), lease_ttl_s)
            except NotFound:
                lost.append(session_id)
        return lost

    async def close(self, session_ids: Sequence[str] = (), run_id: str = "") -> int:
        """Closes the named sessions, or every session of the run; returns how many were open."""
        if not session_ids and not run_id:
            raise BadRequest("name session_ids or a run_id to close")
        names = session_ids or list(self._sessions)
        chosen = [self._sessions[n] for n in dict.fromkeys(names) if n in self._sessions]
        return await self._close([s for s in chosen if run_id in ("", s.run_id)], "was closed")

    # Upkeep.

    async def expire(self) -> int:
        """Closes the sessions whose lease has run out."""
        now = self._clock()
        expired = [s for s in self._sessions.values() if s.expires_at <= now and s.opening.done()]
        return await self._close(expired, "expired")

    async def keep_expiring(self, interval_s: float = 1.0) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await self.expire()

    async def stop(self) -> None:
        """Closes everything. Safe to repeat."""
        self.drain()
        await self._close(list(self._sessions.values()), "was closed: the service is shutting down")
        if self._closing:
            await asyncio.wait(set(self._closing))

    # Inside.

    def _check_accepting(self) -> None:
        if self._refusing:
            raise Draining(self._refusing)

    def _positive(self, name: str, value: float) -> float:
        if not math.isfinite(value) or value < 0:
            raise BadRequest(f"{name} must be a number of seconds, 0 for the default; got {value}")
        return value

    def _find(self, session_id: str) -> _Session:
        session = self._sessions.get(session_id)
        if session is None or session.expires_at <= self._clock():
            raise self._gone(session_id)
        return session

    def _gone(self, session_id: str) -> NotFound:
        known = "expired" if session_id in self._sessions else self._endings.get(session_id, "is unknown here")
        return NotFound(
            f"session {session_id!r} {known}; open a new one and start the episode again "
            f"(renew leases in time; sessions do not outlive the service or {self.policy.lifetime_s:.0f} s)"
        )

    def _session(self, session_id: str) -> _Session:
        self._check_accepting()
        session = self._find(session_id)
        self._touch(session)
        return session

    def _touch(self, session: _Session, ttl_s: float = 0.0) -> None:
        ttl_s = min(ttl_s or session.ttl_s, self.policy.lease_max_s)
        session.expires_at = min(self._clock() + ttl_s, session.opened_at + self.policy.lifetime_s)

    def _new_session(self, session_id, run_id, task_set, task_id, skill, lease_ttl_s, contents) -> _Session:
        if session_id in self._endings:
            raise IdReused(f"session {session_id!r} {self._endings[session_id]}; make a new id for each session")
        if task_set not in self.task_sets:
            served = ", ".join(self.task_sets) or "none"
            raise NotFound(f"task set {task_set!r} is not served here (served: {served}); start with its --tasks=DIR")
        tasks = self.task_sets[task_set]
        task = tasks.task(task_id)
        if task.skill != skill:
            raise BadRequest(f"task {task_id!r} is for skill {task.skill!r}, not {skill!r}")
        ttl_s = min(self._positive("lease_ttl_s", lease_ttl_s) or self.policy.lease_default_s, self.policy.lease_max_s)
        if len(self._sessions) >= self.policy.max_sessions:
            raise Overloaded(f"all {self.policy.max_sessions} sessions are open; retry later or raise --max-sessions")
        now, calls = self._clock(), Calls(session_id, self.policy.answers_kept)
        session = _Session(session_id, run_id, contents, tasks, task, ttl_s, now, now + ttl_s, calls)
        session.opening = asyncio.create_task(self._open_workspace(session))
        session.opening.add_done_callback(retrieve)
        self._sessions[session_id] = session
        return session

    async def _open_workspace(self, session: _Session) -> Workspace:
        """A failed opening is forgotten, so that the same id may try again."""
        instance = session.task_set.instance_of(session.task)
        environment = session.task_set.environment_of(instance)
        try:
            base = await self._trees.materialise(session.task_set, instance.tree, session.task.visible)
            packages = await self._trees.packages_dir(environment.packages)
            return await self._backend.open_workspace(base, packages=packages)
        except BaseException:
            if self._sessions.get(session.session_id) is session:
                del self._sessions[session.session_id]
            raise

    async def _workspace(self, session: _Session) -> Workspace:
        return await join(session.opening, session.session_id)

    async def _score(self, session: _Session, submission: Submission, reward_mode: str) -> Grade:
        try:
            workspace = await self._workspace(session)
            note = ""
            try:
                changed = await workspace.changed_files()
            except ValueError as e:
                changed, note = {}, f"the workspace's change was not graded: {e}"
            instance = session.task_set.instance_of(session.task)
            grade = await self._grade(
                GradeRequest(
                    task_set=session.task_set,
                    task=session.task,
                    instance=instance,
                    environment=session.task_set.environment_of(instance),
                    submission=submission,
                    changed=changed,
                    reward_mode=reward_mode,
                )
            )
        except Exception as e:
            log.exception("grading task %s failed", session.task.task_id)
            reason = (
                "task"
                if isinstance(e, TaskSetError | TaskFault)
                else "infra"
                if isinstance(e, SandboxError)
                else "grader"
            )
            return Grade(reward=None, components={}, reason=reason, detail=f"{type(e).__name__}: {e}")
        return Grade(grade.reward, grade.components, grade.reason, "; ".join(filter(None, (note, grade.detail))))

    async def _close(self, sessions: Sequence[_Session], ending: str) -> int:
        # Tasks, so that a caller that goes away does not leave a workspace half closed.
        closing = {asyncio.create_task(self._destroy(session)) for session in sessions}
        for session in sessions:
            self._sessions.pop(session.session_id, None)
            self._endings[session.session_id] = ending
        while len(self._endings) > ENDINGS_KEPT:
            self._endings.popitem(last=False)
        self._closing |= closing
        for task in closing:
            task.add_done_callback(self._closing.discard)
        if closing:
            await asyncio.wait(closing)
        return len(sessions)

    async def _destroy(self, session: _Session) -> None:
        await session.calls.cancel()
        await asyncio.wait({session.opening})  # cancelling it half-way could leak what it has made
        if session.opening.exception() is None:
            try:
                await session.opening.result().close()
            except Exception:
                log.exception("closing session %s failed", session.session_id)


def _reason(error: Exception) -> str:
    """Whose fault it is that there is no reward."""
    if isinstance(error, TaskSetError | TaskFault):
        return "task"
    return "infra" if isinstance(error, SandboxError) else "grader"


def _impossible(command: str) -> str:
    """Why bash cannot be started with this command; empty when it can."""
    if "\0" in command:
        return "the command holds a NUL byte"
    return "the command is too long" if len(command.encode()) > MAX_COMMAND_BYTES else ""
