"""python -m sandbox_service: serves task sets on a loopback port, a unix socket or, with credentials, anywhere.

`python -m sandbox_service doctor` says what works on this host, and what to do about the rest.

Exit codes: 0 stopped, 1 a fault of the host, 2 bad arguments or task set, 3 isolation does not hold here.
"""

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_service import doctor, scratch
from sandbox_service.backends.base import Backend, Isolation
from sandbox_service.backends.docker import DockerBackend
from sandbox_service.backends.jail import JailBackend
from sandbox_service.backends.unsafe import UnsafeBackend
from sandbox_service.credentials import ServiceCredentials
from sandbox_service.embedded import EXIT_BAD_INPUT, EXIT_FAULT, EXIT_NO_ISOLATION, READY
from sandbox_service.errors import BadRequest, IsolationError, SandboxError, TaskSetError
from sandbox_service.graders import grade
from sandbox_service.graders.judge import Grader, Judge
from sandbox_service.graders.memo import GradeMemo
from sandbox_service.logs import Emit, configure, log_event, to_all
from sandbox_service.pauses import PauseWatch
from sandbox_service.policy import Policy
from sandbox_service.runner import Runner
from sandbox_service.server import Server, check_bind
from sandbox_service.servicer import Identity
from sandbox_service.sessions import Sessions
from sandbox_service.tasks import TaskSet, read_task_set
from sandbox_service.workspaces import Trees

# Optional: only --metrics needs it.
if TYPE_CHECKING:
    from sandbox_service.metrics import Metrics

GRACE_S = 20.0
CHECK_INTERVAL_S, CHECKS = 5.0, 3
# When the parent has died nobody waits for answers; a stop that hangs is cut short after this.
ORPHAN_EXIT_S = 10.0
PR_SET_PDEATHSIG = 1
BANNER = """\
**********************************************************************
* --allow-unsafe: commands of the agent are NOT fully isolated here. *
* Use it for code you trust alone. Every outcome is marked unsafe.   *
**********************************************************************"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox_service", description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", action="append", required=True, type=Path, metavar="DIR", help="a task set")
    parser.add_argument("--bind", default="127.0.0.1:50051", help="HOST:PORT or unix:PATH")
    parser.add_argument(
        "--credentials", type=Path, metavar="DIR", help="certificates and token secret; needed beyond loopback"
    )
    parser.add_argument("--backend", choices=("jail", "docker", "unsafe"), default="jail")
    parser.add_argument("--image", metavar="NAME", help="docker: the image of all sandboxes, best as NAME@sha256:...")
    parser.add_argument("--runtime", metavar="NAME", help="docker: the engine's runtime, such as runsc")
    parser.add_argument("--pool", type=int, default=2, metavar="N", help="docker: started containers kept of each kind")
    parser.add_argument("--allow-unsafe", action="store_true", help="serve loopback without proven isolation")
    parser.add_argument("--state", type=Path, metavar="DIR", help="working folder; a temporary one by default")
    parser.add_argument("--max-sessions", type=int, default=Policy.max_sessions)
    parser.add_argument("--max-execs", type=int, default=Policy.max_execs, help="commands at the same time")
    parser.add_argument(
        "--metrics", metavar="[HOST:]PORT", help="where /metrics and /healthz are served; off by default"
    )
    parser.add_argument(
        "--judge-url", default="", metavar="URL", help="a model to ask about reproductions; none by default"
    )
    parser.add_argument("--judge-model", default="", metavar="NAME", help="its name; a key is read from JUDGE_API_KEY")
    parser.add_argument("--judge-lowers", action="store_true", help="a NO of the judge takes the reward away")
    parser.add_argument("--log-level", choices=("debug", "info", "warning"), default="info")
    parser.add_argument("--exit-with-parent", action="store_true", help="stop at the end of stdin or of the parent")
    options = parser.parse_args(argv)
    if options.backend == "unsafe" and not options.allow_unsafe:
        parser.error("--backend=unsafe isolates nothing and needs --allow-unsafe")
    if min(options.max_sessions, options.max_execs) < 1:
        parser.error("--max-sessions and --max-execs must be at least 1")
    if options.metrics and not options.metrics.rpartition(":")[2].isdecimal():
        parser.error("--metrics needs a port, as in --metrics=9100 or --metrics=0.0.0.0:9100")
    return options


async def serve(options: argparse.Namespace, task_sets: Sequence[TaskSet], state: Path) -> None:
    """Serves until SIGTERM, SIGINT or the parent's end. Raises SandboxError when the backend is gone."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    orphaned = watch_parent(stop) if options.exit_with_parent else lambda: False
    async with contextlib.AsyncExitStack() as stack:
        policy = Policy(max_sessions=options.max_sessions, max_execs=options.max_execs)
        backend = await start_backend(options, state, policy)
        stack.push_async_callback(backend.stop)
        trees = Trees(state)
        runner = Runner(backend, trees, concurrency=policy.max_test_runs)
        sinks = [log_event]
        metrics = make_metrics(sinks) if options.metrics else None
        pauses = PauseWatch()
        # Ends last: what still runs while the service drains is watched too.
        stack.callback(asyncio.create_task(pauses.keep_ticking()).cancel)
        sessions = Sessions(
            backend,
            trees,
            task_sets,
            GradeMemo(pauses.guard(make_grader(options, runner), "a grade")),
            policy,
            journal_dir=state / "journal",
            emit=to_all(*sinks),
            pauses=pauses,
        )
        server = Server(sessions, options.bind, options.credentials and ServiceCredentials(options.credentials))
        if metrics:
            stack.callback(serve_metrics(metrics, sessions, options.metrics))
        address = await server.start()
        stack.push_async_callback(lambda: server.stop(0.0 if orphaned() else GRACE_S))
        isolation = await unless_stopped(prove_isolation(backend, options.allow_unsafe), stop)
        if isolation is None:
            return
        expiring = asyncio.create_task(sessions.keep_expiring())
        await server.serving(Identity(backend.name, isolation, options.allow_unsafe))
        print(f"{READY}{address}", flush=True)
        try:
            await unless_stopped(until_it_fails(backend), stop)
        finally:
            expiring.cancel()


def make_grader(options: argparse.Namespace, runner: Runner) -> Grader:
    """With a judge where one is named. Raises BadRequest."""
    if not options.judge_url:
        return lambda request: grade(request, runner)
    key = os.environ.get("JUDGE_API_KEY", "")
    judge = Judge(options.judge_url, options.judge_model, key=key, lowers=options.judge_lowers)
    return judge.over(lambda request: grade(request, runner))


def make_metrics(sinks: list[Emit]) -> "Metrics":
    """Adds the metrics to the sinks of events."""
    try:
        from sandbox_service.metrics import Metrics
    except ImportError as e:
        raise BadRequest(f"--metrics needs prometheus_client ({e}); pip install prometheus-client") from e
    metrics = Metrics()
    sinks.append(metrics.emit)
    return metrics


def serve_metrics(metrics: "Metrics", sessions: Sessions, where: str) -> Callable[[], None]:
    """Serves the pages; returns what closes them."""
    from sandbox_service.metrics import Page

    host, _, port = where.rpartition(":")
    metrics.watch(sessions)
    try:
        page = Page(metrics, lambda: sessions.is_accepting, int(port), host or "127.0.0.1")
    except OSError as e:
        raise BadRequest(f"--metrics={where}: {e.strerror}; choose another port") from e
    print(f"metrics on {host or '127.0.0.1'}:{page.port}", flush=True)
    return page.close


async def start_backend(options: argparse.Namespace, state: Path, policy: Policy) -> Backend:
    """Raises IsolationError with the remedy when this host cannot run the jail and --allow-unsafe is not given."""
    # The service bounds what runs; the backend's own bound must not make anything wait beyond its deadline.
    running = policy.max_execs + policy.max_test_runs
    if options.backend == "docker":
        image, runtime, pool = options.image, options.runtime, options.pool
        backend = DockerBackend(state, image, runtime=runtime, max_running=running, pool=pool)
        try:
            await backend.start()
            return backend
        except BaseException:
            await backend.stop()
            raise
    if options.backend == "jail":
        backend = JailBackend(state, max_running=running)
        try:
            await backend.start()
            return backend
        except (IsolationError, OSError) as e:
            await backend.stop()
            if not options.allow_unsafe:
                raise IsolationError(
                    f"no jail on this host: {e}\n"
                    "Run the service on another host, or pass --allow-unsafe for code that you trust."
                ) from e
            print(f"no jail on this host: {e}", file=sys.stderr)
    backend = UnsafeBackend(state)
    await backend.start()
    return backend


async def prove_isolation(backend: Backend, allow_unsafe: bool) -> Isolation:
    """Attacks the backend. Raises IsolationError with the remedy when something does not hold."""
    isolation = await backend.self_test()
    print(f"backend {backend.name}; enforced: {', '.join(sorted(isolation.enforced)) or 'nothing'}")
    if isolation.unenforced:
        failures = "\n".join(f"  {name}: {evidence}" for name, evidence in sorted(isolation.unenforced.items()))
        if not allow_unsafe:
            raise IsolationError(
                f"isolation does not hold on this host:\n{failures}\n"
                "Run on a host where it does, or pass --allow-unsafe for code that you trust."
            )
        print(f"NOT enforced:\n{failures}")
    if allow_unsafe:
        print(BANNER, file=sys.stderr)
    return isolation


async def until_it_fails(backend: Backend) -> None:
    """Looks at the backend now and then. Raises its SandboxError when it has failed CHECKS times in a row.

    A service without a backend must end: it would have the fewest sessions of its fleet, and get all new ones.
    """
    failed = 0
    while True:
        await asyncio.sleep(CHECK_INTERVAL_S)
        try:
            await backend.check()
            failed = 0
        except SandboxError:
            failed += 1
            if failed == CHECKS:
                raise


async def unless_stopped(work, stop: asyncio.Event):
    """The work's result; None when `stop` comes first."""
    tasks = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return None if tasks[0].cancelled() else tasks[0].result()


def watch_parent(stop: asyncio.Event):
    """Sets `stop` when the parent dies; returns a function that says whether it has."""
    loop, parent, gone = asyncio.get_running_loop(), os.getppid(), threading.Event()

    def leave() -> None:
        gone.set()
        loop.call_soon_threadsafe(stop.set)
        time.sleep(ORPHAN_EXIT_S)
        os._exit(1)

    def read_to_the_end() -> None:
        while os.read(0, 4096):
            pass
        leave()

    def check() -> None:
        # The kernel sends the signal when the parent's *thread* that made us ends; the process may live on.
        if os.getppid() != parent:
            threading.Thread(target=leave, daemon=True).start()

    loop.add_signal_handler(signal.SIGUSR1, check)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
    threading.Thread(target=read_to_the_end, daemon=True).start()
    return gone.is_set


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["doctor"]:
        return doctor.main(argv[1:])
    options = parse(argv)
    configure(options.log_level)
    scratch.remove_dead()
    state = options.state or scratch.make("state")
    try:
        state.mkdir(parents=True, exist_ok=True)
        check_bind(options.bind, secured=options.credentials is not None, unsafe=options.allow_unsafe)
        task_sets = [read_task_set(path, [options.image] if options.image else ()) for path in options.tasks]
        asyncio.run(serve(options, task_sets, state))
    except (TaskSetError, BadRequest) as e:
        print(f"error: {e}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except IsolationError as e:
        print(f"error: {e}", file=sys.stderr)
        return EXIT_NO_ISOLATION
    except SandboxError as e:
        print(f"error: {e}", file=sys.stderr)
        return EXIT_FAULT
    finally:
        if options.state is None:
            scratch.remove(state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
