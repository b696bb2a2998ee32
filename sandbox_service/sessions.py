"""Sessions: leases on private workspaces, and the calls that run in them.

Every id is made by the client. A call with a known request id gets the first run's answer (it joins the run when that
is still going on), so a lost reply never leads to a second run. Calls belong to the session, not to the RPC that asked
for them: they end with their own time limit, or with the session.

A session is journaled before anything is made for it. After a `kill -9` the next service tells from the journal which
sessions were lost, and answers NotFound for them; their mounts and processes died with the service, and backends remove
the rest when they start.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

from sandbox_service import checks
from sandbox_service.backends.base import Backend, Ended, ExecResult, Workspace
from sandbox_service.calls import Calls, fingerprint, join, retrieve
from sandbox_service.errors import BadRequest, Draining, IdReused, NotFound, Overloaded, SandboxError, TaskSetError
from sandbox_service.execs import Execs
from sandbox_service.graders import state
from sandbox_service.graders.base import Grade, GradeRequest, Submission, TaskFault
from sandbox_service.host_memory import left_share
from sandbox_service.journal import Entry, Journal, take_dead
from sandbox_service.leases import Leases, Session
from sandbox_service.logs import Emit, Event, log_event
from sandbox_service.pauses import PauseWatch
from sandbox_service.policy import Policy, Slots
from sandbox_service.str_replace import Edit, EditResult, apply_edit
from sandbox_service.tasks import TaskSet
from sandbox_service.workspaces import Trees

log = logging.getLogger(__name__)

REWARD_MODES = ("paper", "shaped")


class Sessions:
    """The service without gRPC. One event loop; every method may run many times at once.

    `grade` turns a request into a grade. `clock` gives monotonic seconds. `journal_dir` is shared by the services of a
    host; without it nothing is journaled. `emit` is told what happens to sessions.
    `memory_left` gives the share of memory that is left.
    """

    def __init__(
        self,
        backend: Backend,
        trees: Trees,
        task_sets: Iterable[TaskSet],
        grade: Callable[[GradeRequest], Awaitable[Grade]],
        policy: Policy | None = None,
        clock: Callable[[], float] = time.monotonic,
        journal_dir: Path | None = None,
        emit: Emit = log_event,
        pauses: PauseWatch | None = None,
        memory_left: Callable[[], float] = left_share,
    ):
        self.policy = policy or Policy()
        self.task_sets: Mapping[str, TaskSet] = {s.digest: s for s in task_sets}
        self._backend, self._trees, self._grade, self._clock = backend, trees, grade, clock
        self.boot_id = uuid.uuid4().hex
        lost = take_dead(journal_dir) if journal_dir else []
        self._journal = Journal(journal_dir, self.boot_id) if journal_dir else None
        self.emit, self._pauses, self._memory_left = emit, pauses or PauseWatch(), memory_left
        for entry in lost:
            emit(Event("lost", entry.run_id, entry.task_id, entry.session_id))
        self._leases = Leases(self.policy, clock, lost)
        self._closing: set[asyncio.Task] = set()
        self._refusing = "the service is testing its isolation; retry in a few seconds"
        p = self.policy
        self._opens = Slots("slots for opening sessions", p.max_opens, p.max_waiting, p.open_wait_s)
        self._execs = Slots("slots for commands", p.max_execs, p.max_waiting, p.exec_wait_s)
        self._commands = Execs(self._execs, self._pauses, clock)
        self._scores = Slots("slots for grading", p.max_scores, p.max_waiting, p.score_wait_s)

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def is_accepting(self) -> bool:
        return not self._refusing

    @property
    def running_execs(self) -> int:
        return self._execs.taken

    @property
    def waiting_calls(self) -> int:
        return self._opens.waiting + self._execs.waiting + self._scores.waiting

    def run_of(self, session_id: str) -> str | None:
        """The run that a session belongs to; None when it is not open."""
        session = self._leases.get(session_id)
        return session.run_id if session else None

    def ids_of(self, session_id: str) -> dict[str, str]:
        """For the log: run_id, task_id and session_id; the first two are empty where the session is not open."""
        session = self._leases.get(session_id)
        run_id, task_id = (session.run_id, session.task.task_id) if session else ("", "")
        return {"run_id": run_id, "task_id": task_id, "session_id": session_id}

    def unknown(self, session_id: str) -> NotFound:
        """What a caller is told who may not know of the session."""
        return self._leases.unknown(session_id)

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
        checks.ids(session_id=session_id, run_id=run_id)
        contents = fingerprint("open", run_id, task_set, task_id, skill, lease_ttl_s)
        session = self._leases.get(session_id)
        if session is None:
            session = self._new_session(session_id, run_id, task_set, task_id, skill, lease_ttl_s, contents)
        elif session.contents != contents:
            raise IdReused(f"session {session_id!r} is open with a different request; make a new id for each session")
        await self._workspace(session)
        if session not in self._leases:
            raise self._leases.gone(session_id)
        self._leases.touch(session)
        return session.ttl_s

    async def exec(self, session_id: str, request_id: str, command: str, timeout_s: float = 0.0) -> ExecResult:
        """Runs a bash command; what it does wrong is in the result."""
        session = self._session(session_id)
        contents = fingerprint("exec", command, timeout_s)
        timeout_s = checks.seconds("timeout_s", timeout_s) or self.policy.exec_default_s
        left_s = session.opened_at + self.policy.lifetime_s - self._clock()
        timeout_s = min(timeout_s, self.policy.exec_max_s, left_s)

        async def run() -> ExecResult:
            reason = checks.why_bash_cannot_start(command)
            if reason:
                return ExecResult(Ended.EXITED, 126, f"bash: {reason}\n".encode(), 0, 0.0)
            result = await self._commands.run(session, request_id, command, timeout_s)
            self._tell("exec", session, outcome=result.ended.value, wall_s=round(result.wall_s, 4))
            return result

        return await session.calls.once(request_id, contents, run)

    def read_output(self, session_id: str, request_id: str, offset: int) -> AsyncIterator[tuple[int, bytes]]:
        """An exec's output, as `Execs.read` gives it."""
        return self._commands.read(self._session(session_id), request_id, offset)

    async def exec_result(self, session_id: str, request_id: str) -> ExecResult:
        """The result of an exec that came before."""
        return await join(self._session(session_id).calls.find(request_id), session_id)

    async def kill(self, session_id: str, request_id: str) -> bool:
        """Ends an exec; False when it has ended before or never came."""
        return await self._commands.kill(self._session(session_id), request_id)

    async def str_replace(self, session_id: str, request_id: str, edit: Edit) -> EditResult:
        session = self._session(session_id)

        async def run() -> EditResult:
            paused_s = self._pauses.paused_s
            async with self._execs.take():
                result = await apply_edit(await self._workspace(session), edit)
            if not result.ok:
                self._pauses.check(paused_s, "a failed edit")
            self._tell("edit", session, ok=result.ok)
            return result

        return await session.calls.once(request_id, fingerprint("str_replace", edit), run)

    async def score(self, session_id: str, request_id: str, submission: Submission, reward_mode: str = "") -> Grade:
        """Grades the submission. A fault of ours is a grade without a reward, never an exception."""
        session = self._session(session_id)
        reward_mode = reward_mode or REWARD_MODES[0]
        if reward_mode not in REWARD_MODES:
            raise BadRequest(f"unknown reward_mode {reward_mode!r}; one of {', '.join(REWARD_MODES)}")

        async def run() -> Grade:
            started = self._clock()
            async with self._scores.take():
                grade = await self._score(session, submission, reward_mode)
            result = "graded" if grade.reward is not None else grade.reason
            wall_s = round(self._clock() - started, 4)
            self._tell("score", session, result=result, reward=grade.reward, detail=grade.detail, wall_s=wall_s)
            return grade

        return await session.calls.once(request_id, fingerprint("score", submission, reward_mode), run)

    def renew(self, session_ids: Sequence[str], lease_ttl_s: float = 0.0) -> list[str]:
        """Extends leases; returns the ids that are lost."""
        lease_ttl_s = checks.seconds("lease_ttl_s", lease_ttl_s)
        lost = []
        for session_id in session_ids:
            try:
                self._leases.touch(self._leases.find(session_id), lease_ttl_s)
            except NotFound:
                lost.append(session_id)
        return lost

    async def close(self, session_ids: Sequence[str] = (), run_id: str = "") -> int:
        """Closes the named sessions, or every session of the run; returns how many were open."""
        if not session_ids and not run_id:
            raise BadRequest("name session_ids or a run_id to close")
        chosen = [self._leases.get(n) for n in dict.fromkeys(session_ids)] if session_ids else list(self._leases)
        return await self._close([s for s in chosen if s and run_id in ("", s.run_id)], "was closed")

    # Upkeep.

    def expire(self) -> int:
        """Begins to close the sessions whose lease has run out; returns how many. One that hangs holds up no other."""
        return len(self._begin_closing(self._leases.expired(), "expired"))

    async def keep_expiring(self, interval_s: float = 1.0) -> None:
        while True:
            self.expire()
            await asyncio.sleep(interval_s)

    async def stop(self) -> None:
        """Closes everything. Safe to repeat."""
        self.drain()
        await self._close(list(self._leases), "was closed: the service is shutting down")
        if self._closing:
            await asyncio.wait(set(self._closing))
        if self._journal:
            self._journal.close()

    # Inside.

    def _check_accepting(self) -> None:
        if self._refusing:
            raise Draining(self._refusing)

    def _session(self, session_id: str) -> Session:
        self._check_accepting()
        session = self._leases.find(session_id)
        self._leases.touch(session)
        return session

    def _tell(self, name: str, session: Session, **fields: object) -> None:
        self.emit(Event(name, session.run_id, session.task.task_id, session.session_id, fields))

    def _new_session(self, session_id, run_id, task_set, task_id, skill, lease_ttl_s, contents) -> Session:
        ending = self._leases.ending(session_id)
        if ending:
            raise IdReused(f"session {session_id!r} {ending}; make a new id for each session")
        if task_set not in self.task_sets:
            served = ", ".join(self.task_sets) or "none"
            raise NotFound(f"task set {task_set!r} is not served here (served: {served}); start with its --tasks=DIR")
        tasks = self.task_sets[task_set]
        task = tasks.task(task_id)
        if task.skill != skill:
            raise BadRequest(f"task {task_id!r} is for skill {task.skill!r}, not {skill!r}")
        ttl_s = min(checks.seconds("lease_ttl_s", lease_ttl_s) or self.policy.lease_default_s, self.policy.lease_max_s)
        if len(self._leases) >= self.policy.max_sessions:
            raise Overloaded(f"all {self.policy.max_sessions} sessions are open; retry later or raise --max-sessions")
        if (left := self._memory_left()) < self.policy.least_memory_left:
            raise Overloaded(f"{left * 100:.0f} % of the memory is left; retry later, or lower --max-sessions")
        now, calls = self._clock(), Calls(session_id, self.policy.answers_kept)
        session = Session(session_id, run_id, contents, tasks, task, ttl_s, now, now + ttl_s, calls)
        if self._journal:
            self._journal.opening(Entry(session_id, run_id, task_id, time.time()))
        session.opening = asyncio.create_task(self._open_workspace(session))
        session.opening.add_done_callback(retrieve)
        self._leases.add(session)
        return session

    async def _open_workspace(self, session: Session) -> Workspace:
        """A failed opening is forgotten, so that the same id may try again."""
        instance = session.task_set.instance_of(session.task)
        try:
            environment = session.task_set.environment_of(instance)
            async with self._opens.take():
                base = await self._trees.materialise(session.task_set, instance.tree, session.task.visible)
                packages = await self._trees.packages_dir(environment.packages)
                workspace = await self._backend.open_workspace(base, packages=packages, run_id=session.run_id)
                try:
                    await state.fill(workspace, environment)
                except BaseException:
                    await asyncio.shield(workspace.close())
                    raise
        except BaseException:
            self._leases.forget(session)
            self._journal_closed(session)
            raise
        self._tell("open", session, skill=session.task.skill)
        return workspace

    async def _workspace(self, session: Session) -> Workspace:
        return await join(session.opening, session.session_id)

    async def _score(self, session: Session, submission: Submission, reward_mode: str) -> Grade:
        try:
            workspace = await self._workspace(session)
            note = ""
            instance = session.task_set.instance_of(session.task)
            environment = session.task_set.environment_of(instance)
            changed, captured = {}, None
            try:
                if environment.rule in state.RULES:
                    captured = await state.capture(workspace)
                else:
                    changed = await workspace.changed_files()
            except ValueError as e:
                note = f"the workspace's change was not graded: {e}"
            grade = await self._grade(
                GradeRequest(
                    task_set=session.task_set,
                    task=session.task,
                    instance=instance,
                    environment=environment,
                    submission=submission,
                    changed=changed,
                    state=captured,
                    reward_mode=reward_mode,
                )
            )
        except Exception as e:
            log.exception("grading task %s failed", session.task.task_id)
            return Grade(reward=None, components={}, reason=_reason(e), detail=f"{type(e).__name__}: {e}")
        return Grade(grade.reward, grade.components, grade.reason, "; ".join(filter(None, (note, grade.detail))))

    async def _close(self, sessions: Sequence[Session], ending: str) -> int:
        if closing := self._begin_closing(sessions, ending):
            await asyncio.wait(closing)
        return len(sessions)

    def _begin_closing(self, sessions: Sequence[Session], ending: str) -> set[asyncio.Task]:
        # Tasks, so that a caller that goes away does not leave a workspace half closed.
        closing = {asyncio.create_task(self._destroy(session)) for session in sessions}
        for session in sessions:
            self._leases.end(session, ending)
            self._tell("close", session, ending=ending.partition(":")[0])
        self._closing |= closing
        for task in closing:
            task.add_done_callback(self._closing.discard)
        return closing

    async def _destroy(self, session: Session) -> None:
        await session.calls.cancel()
        await asyncio.wait({session.opening})  # cancelling it half-way could leak what it has made
        if session.opening.exception() is None:
            try:
                await session.opening.result().close()
            except Exception:
                # Left in the journal: something of it may still be there.
                log.exception("closing session %s failed", session.session_id)
                return
        self._journal_closed(session)

    def _journal_closed(self, session: Session) -> None:
        if self._journal:
            self._journal.closed(session.session_id)


def _reason(error: Exception) -> str:
    """Whose fault it is that there is no reward."""
    if isinstance(error, TaskSetError | TaskFault):
        return "task"
    return "infra" if isinstance(error, SandboxError) else "grader"
