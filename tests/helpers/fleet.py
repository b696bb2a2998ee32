"""Many services without processes: the real sessions and the real edge behind a network that loses, cuts and pauses."""

import asyncio
import collections
import random
from pathlib import Path

import grpc

from sandbox_service.backends.base import Ended, ExecResult, Isolation
from sandbox_service.errors import SandboxError
from sandbox_service.graders.base import Grade
from sandbox_service.logs import Event
from sandbox_service.policy import Policy
from sandbox_service.servicer import Identity, Servicer
from sandbox_service.sessions import Sessions
from sandbox_service.transport import Link

# A connection without a sign of life is given up after keepalive's time and timeout.
KEEPALIVE_S = 40.0


class Refused(Exception):
    def __init__(self, code, details, trailers):
        self.code, self.details, self.trailers = code, details, trailers


class Context:
    """What the edge needs of gRPC's context."""

    def invocation_metadata(self):
        return ()

    async def abort(self, code, details="", trailers=()):
        raise Refused(code, details, trailers)


def rpc_error(code, details, trailers=()):
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details)


class Ledger:
    """What really ran, by command."""

    def __init__(self):
        self.runs: collections.Counter[str] = collections.Counter()


class Workspace:
    def __init__(self, host, generation):
        self.host, self.generation = host, generation

    async def run(self, argv, *, timeout_s, env=None, limits=None, output=None):
        if self.host.generation == self.generation:
            self.host.ledger.runs[argv[-1]] += 1
        await asyncio.sleep(self.host.random.expovariate(2.0))
        return ExecResult(Ended.EXITED, 0, argv[-1].encode(), 0, 0.1)

    async def changed_files(self, *, max_bytes=0):
        return {}

    async def close(self):
        pass


class Backend:
    def __init__(self, host):
        self.host = host

    async def open_workspace(self, base, *, packages=None, limits=None, run_id=""):
        await asyncio.sleep(0.02)
        if self.host.is_broken:
            raise SandboxError("the jail's zygote died; restart the service")
        return Workspace(self.host, self.host.generation)


class Trees:
    async def materialise(self, task_set, tree, *overlays):
        return Path("/")

    async def packages_dir(self, packages=()):
        return Path("/")


async def grade(request) -> Grade:
    await asyncio.sleep(0.5)
    return Grade(1.0, {})


class Host:
    """One service and the network in front of it."""

    def __init__(self, address, task_set, ledger, policy, seed, loss=0.0):
        self.address, self.ledger, self.loss = address, ledger, loss
        self._task_set, self._policy = task_set, policy
        self.random = random.Random(seed)
        self.generation = self.attempts = self.opened = 0
        # The service answers, and its backend is gone.
        self.is_broken = False
        self._running = asyncio.Event()
        self._running.set()
        self.start()

    def start(self) -> None:
        self._died = asyncio.get_running_loop().create_future()
        clock = asyncio.get_running_loop().time
        self.sessions = Sessions(Backend(self), Trees(), [self._task_set], grade, self._policy, clock, emit=self._count)
        self.sessions.accept()
        self._edge = Servicer(self.sessions)
        self._edge.identity = Identity("simulated", Isolation({}, {}))
        self._expiring = asyncio.create_task(self.sessions.keep_expiring(1.0))

    def _count(self, event: Event) -> None:
        self.opened += event.name == "open"

    @property
    def is_up(self) -> bool:
        return not self._died.done()

    async def kill_9(self) -> None:
        """Everything it held is gone, and what runs has no effect any more."""
        self.generation += 1
        self._died.set_result(None)
        self._expiring.cancel()
        await self.sessions.stop()

    async def stop(self) -> None:
        self._expiring.cancel()
        await self.sessions.stop()

    def pause(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def link(self) -> Link:
        async def close():
            pass

        return Link(_Stub(self), None, close)

    async def call(self, method: str, request, timeout: float):
        self.attempts += 1
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(self.random.uniform(0.0005, 0.005))
                return await self._through(method, request)
        except TimeoutError:
            raise rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline") from None
        except Refused as e:
            raise rpc_error(e.code, e.details, e.trailers) from None

    async def _through(self, method: str, request):
        copy = type(request).FromString(request.SerializeToString())
        await self._unless_cut(self._running.wait())
        self._lose("the request was lost")
        handler = asyncio.create_task(getattr(self._edge, method)(copy, Context()))
        try:
            reply = await self._unless_cut(handler)
        except asyncio.CancelledError:
            handler.cancel()
            raise
        await self._unless_cut(self._running.wait())
        self._lose("the reply was lost")
        return reply

    def _lose(self, what: str) -> None:
        if self.random.random() < self.loss:
            raise rpc_error(grpc.StatusCode.UNAVAILABLE, what)

    async def _unless_cut(self, work):
        """The work's result, unless the host dies or is silent for too long."""
        work = asyncio.ensure_future(work)
        while True:
            done, _ = await asyncio.wait({work, self._died}, timeout=KEEPALIVE_S, return_when="FIRST_COMPLETED")
            if work in done:
                return work.result()
            if done or not self._running.is_set():
                work.cancel()
                await asyncio.wait({work})
                raise rpc_error(grpc.StatusCode.UNAVAILABLE, "connection lost")


class _Stub:
    def __init__(self, host: Host):
        self._host = host

    def __getattr__(self, method: str):
        return lambda request, timeout: self._host.call(method, request, timeout)


def make_fleet(count: int, task_set, *, capacity: int, loss: float = 0.0, seed: int = 0) -> tuple[list[Host], Ledger]:
    """To be called inside the loop. `task_set` is a read task set."""
    ledger, policy = Ledger(), Policy(max_sessions=capacity, max_execs=16, max_scores=16, max_opens=8)
    hosts = [Host(f"host-{i}", task_set, ledger, policy, seed * 1000 + i, loss) for i in range(count)]
    return hosts, ledger
