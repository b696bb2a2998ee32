"""The open sessions: who holds what until when, and how those that are gone have ended."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from sandbox_service.backends.base import Workspace
from sandbox_service.backends.output import HeadTail
from sandbox_service.calls import Calls
from sandbox_service.errors import NotFound
from sandbox_service.journal import Entry
from sandbox_service.policy import Policy
from sandbox_service.tasks import HiddenTask, TaskSet

ENDINGS_KEPT = 10_000


@dataclass
class Session:
    """A lease on a workspace. Times are those of the service's clock."""

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
    # Of the commands that run now, by request id; and those that Kill has ended.
    outputs: dict[str, HeadTail] = field(default_factory=dict)
    killed: set[str] = field(default_factory=set)


class Leases:
    """A table of sessions. `lost` are those that an earlier service of this host has left open."""

    def __init__(self, policy: Policy, clock: Callable[[], float], lost: Iterable[Entry] = ()):
        self._policy, self._clock = policy, clock
        self._sessions: dict[str, Session] = {}
        self._endings: OrderedDict[str, str] = OrderedDict()
        for entry in lost:
            self._remember(entry.session_id, "was lost when the service restarted")

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __contains__(self, session: Session) -> bool:
        return self._sessions.get(session.session_id) is session

    def get(self, session_id: str) -> Session | None:
        """The session, even when its lease has run out a moment ago."""
        return self._sessions.get(session_id)

    def find(self, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session is None or session.expires_at <= self._clock():
            raise self.gone(session_id)
        return session

    def gone(self, session_id: str) -> NotFound:
        known = "expired" if session_id in self._sessions else self._endings.get(session_id)
        return self.unknown(session_id, known or "is unknown here")

    def unknown(self, session_id: str, known: str = "is unknown here") -> NotFound:
        return NotFound(
            f"session {session_id!r} {known}; open a new one and start the episode again "
            f"(renew leases in time; sessions do not outlive the service or {self._policy.lifetime_s:.0f} s)"
        )

    def ending(self, session_id: str) -> str | None:
        """How a session that is gone has ended; None when nothing is known of it."""
        return self._endings.get(session_id)

    def add(self, session: Session) -> None:
        self._sessions[session.session_id] = session

    def touch(self, session: Session, ttl_s: float = 0.0) -> None:
        """Extends the lease, never beyond the session's lifetime."""
        ttl_s = min(ttl_s or session.ttl_s, self._policy.lease_max_s)
        session.expires_at = min(self._clock() + ttl_s, session.opened_at + self._policy.lifetime_s)

    def expired(self) -> list[Session]:
        """Those whose time has run out, but for what is still being opened."""
        now = self._clock()
        return [s for s in self if s.expires_at <= now and s.opening.done()]

    def forget(self, session: Session) -> None:
        """Takes out what never came to be; the same id may try again."""
        if session in self:
            del self._sessions[session.session_id]

    def end(self, session: Session, ending: str) -> None:
        with contextlib.suppress(KeyError):
            del self._sessions[session.session_id]
        self._remember(session.session_id, ending)

    def _remember(self, session_id: str, ending: str) -> None:
        self._endings[session_id] = ending
        while len(self._endings) > ENDINGS_KEPT:
            self._endings.popitem(last=False)
