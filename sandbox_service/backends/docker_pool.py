"""Started containers that wait for their first and only use."""

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Coroutine

from sandbox_service.backends.docker_engine import Container, Engine, Kind
from sandbox_service.errors import SandboxError

log = logging.getLogger(__name__)

_KINDS_KEPT = 8
_PING_PATIENCE_S = 2.0


class Pool:
    """Keeps `size` containers of each of the last used kinds; at most `starting` are being made at the same time."""

    def __init__(self, engine: Engine, size: int, starting: int):
        self._engine, self._size = engine, size
        self._starting = asyncio.Semaphore(starting)
        self._ready: OrderedDict[Kind, deque[Container]] = OrderedDict()
        self._coming: Counter[Kind] = Counter()
        self._tasks: set[asyncio.Task] = set()
        self._closed = False

    async def take(self, kind: Kind) -> Container:
        """A container that has run nothing yet and answers. The caller destroys it; it never comes back."""
        waiting = self._ready.setdefault(kind, deque())
        try:
            while waiting:
                container, answers = waiting.popleft(), False
                try:
                    answers = await container.channel.ping(_PING_PATIENCE_S)
                finally:
                    if not answers:
                        self._spawn(self._engine.destroy(container))
                if answers:
                    return container
                log.warning("a waiting container had died; taking another")
        finally:
            self._refill(kind)
        return await self._make(kind)

    async def close(self) -> None:
        """Destroys what waits. Safe to repeat."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        idle = [container for waiting in self._ready.values() for container in waiting]
        self._ready.clear()
        await asyncio.gather(*map(self._engine.destroy, idle), return_exceptions=True)

    async def _make(self, kind: Kind) -> Container:
        async with self._starting:
            return await self._engine.make(kind)

    def _refill(self, kind: Kind) -> None:
        if self._closed:
            return
        self._ready.setdefault(kind, deque())
        self._ready.move_to_end(kind)
        while len(self._ready) > _KINDS_KEPT:
            for container in self._ready.popitem(last=False)[1]:
                self._spawn(self._engine.destroy(container))
        for _ in range(self._size - len(self._ready[kind]) - self._coming[kind]):
            self._coming[kind] += 1
            self._spawn(self._add(kind))

    async def _add(self, kind: Kind) -> None:
        try:
            container = await self._make(kind)
        except SandboxError as e:
            log.warning("no container for the pool: %s", e)
            return
        finally:
            self._coming[kind] -= 1
        if kind in self._ready:
            self._ready[kind].append(container)
        else:
            await self._engine.destroy(container)

    def _spawn(self, work: Coroutine) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
