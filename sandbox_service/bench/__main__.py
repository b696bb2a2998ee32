"""python -m sandbox_service.bench: what a sandbox, a command in it and a grade cost on this host.

Contenders take turns, so that all meet the same load; one that is absent here gives null and the reason. Prints tables
and, as the last line, one JSON object.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

# gRPC writes a line for every subprocess that is begun beside it.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from sandbox_service.backends.docker import DockerBackend, default_socket
from sandbox_service.backends.jail import JailBackend
from sandbox_service.bench import grading
from sandbox_service.bench.contenders import (
    Absent,
    Bare,
    Bubblewrap,
    Contender,
    DockerCli,
    OnBackend,
    OnService,
    swe_rex,
)
from sandbox_service.bench.cycles import EXECS_PER_EPISODE, Latencies, exec_latencies, latencies, quantile, rate
from sandbox_service.client import SandboxClient
from sandbox_service.embedded import embedded_service
from sandbox_service.errors import SandboxError

GOALS = {
    "exec_ratio_subprocess_p50": 3.0,
    "fork_ms_p50": 5.0,
    "grading_overhead_share": 0.2,
    "episodes_ratio_docker": 3.0,
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox_service.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=200, help="measured cycles of each contender")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement of a rate")
    parser.add_argument("--workers", type=int, default=2 * (os.cpu_count() or 1), help="episodes at the same time")
    parser.add_argument("--docker-image", default="", help="image with bash for the engine at DOCKER_HOST")
    parser.add_argument("--swerex-python", default="", help="interpreter of an environment with swe-rex")
    parser.add_argument("--cases", type=int, default=20, help="slow tests in the graded suite")
    parser.add_argument("--pause-s", type=float, default=0.02, help="length of each of them")
    parser.add_argument("--gradings", type=int, default=5, help="gradings of each skill")
    return parser.parse_args(argv)


async def bench(options: argparse.Namespace, folder: Path, stack: contextlib.AsyncExitStack) -> dict:
    tasks = grading.write_tasks(folder / "tasks", options.cases, options.pause_s)
    base = folder / "base"
    base.mkdir()
    (base / "a.txt").write_text("x\n")
    absent: dict[str, str] = {}

    jail = JailBackend(folder / "jail")
    await jail.start()
    stack.push_async_callback(jail.stop)
    address = await stack.enter_async_context(embedded_service([folder / "tasks"]))
    client = await stack.enter_async_context(SandboxClient(address, run_id="bench"))
    await client.wait_ready()
    contenders: list[Contender] = [Bare(), OnBackend(jail, base), OnService(client, tasks.digest, "t-editing")]
    slow: list[Contender] = []

    async def docker_backend() -> Contender:
        if not options.docker_image:
            raise Absent("give an image with bash and Python in it: --docker-image=NAME")
        backend = DockerBackend(folder / "docker", options.docker_image)
        await backend.start()
        stack.push_async_callback(backend.stop)
        return OnBackend(backend, base)

    async def join(name: str, make: Callable[[], Awaitable[Any]], among: list[Contender]) -> None:
        try:
            among.append(await make())
        except (Absent, SandboxError, OSError) as e:
            absent[name] = str(e).partition("\n")[0]

    await join("bubblewrap", Bubblewrap.make, contenders)
    await join("SWE-ReX local", lambda: stack.enter_async_context(swe_rex(options.swerex_python)), slow)
    await join("docker run", lambda: DockerCli.make(default_socket(), options.docker_image), slow)
    await join("docker", docker_backend, slow)

    cycles = await latencies(contenders, options.turns)
    cycles |= await latencies([*contenders, *slow], max(5, options.turns // 10)) if slow else {}
    execs = await exec_latencies([*contenders, *slow], options.turns)
    one, many = {}, {}
    for contender in (*contenders, *slow):
        one[contender.name] = await rate(contender, 1, options.workers, options.seconds)
        many[contender.name] = await rate(contender, EXECS_PER_EPISODE, options.workers, options.seconds)
    costs = await grading.costs(jail, folder, tasks, options.gradings)
    plain_s = await grading.plain_pytest(tasks, folder, sys.executable, options.gradings)
    show_cycles(cycles, execs, one, many, absent)
    show_costs(costs, plain_s)
    return figures(cycles, execs, one, many, costs, plain_s) | {"absent": absent, "load": os.getloadavg()[0]}


def show_cycles(cycles: dict[str, Latencies], execs, one, many, absent: dict[str, str]) -> None:
    head = ("open p50", "cycle p50", "p99", "exec p50", "p99", "cycles/s", f"episodes of {EXECS_PER_EPISODE}/s")
    print(f"{'milliseconds':16}" + "".join(f"{name:>18}" for name in head))
    for name, kept in cycles.items():
        row = (quantile(kept.open_s, 0.5), quantile(kept.cycle_s, 0.5), quantile(kept.cycle_s, 0.99))
        row = [1000 * s for s in (*row, quantile(execs[name], 0.5), quantile(execs[name], 0.99))]
        print(f"{name:16}" + "".join(f"{value:18.2f}" for value in (*row, one[name], many[name])))
    for name, why in absent.items():
        print(f"{name:16}  absent: {why}")


def show_costs(costs: dict[str, grading.Cost], plain_s: float) -> None:
    print(f"\n{'grading':16}{'ms':>12}{'test runs':>12}{'ms in them':>12}{'overhead %':>12}")
    for skill, cost in costs.items():
        row = (1000 * cost.grade_s, cost.runs, 1000 * cost.tests_s, 100 * cost.overhead_share)
        print(f"{skill:16}" + "".join(f"{value:12.1f}" for value in row))
    print(f"{'pytest alone':16}{1000 * plain_s:12.1f}\n")


def figures(cycles: dict[str, Latencies], execs, one, many, costs: dict[str, grading.Cost], plain_s: float) -> dict:
    """Ratios are of medians; null stands for a contender that is absent."""

    def ratio(values: dict[str, float], above: str, below: str) -> float | None:
        return round(values[above] / values[below], 3) if above in values and below in values else None

    p50 = {name: quantile(values, 0.5) for name, values in execs.items()}
    cycle = {name: quantile(kept.cycle_s, 0.5) for name, kept in cycles.items()}
    seconds, tests_s = (sum(getattr(cost, name) for cost in costs.values()) for name in ("grade_s", "tests_s"))
    grades = {f"grade_{skill}_ms": round(1000 * cost.grade_s, 2) for skill, cost in costs.items()}
    return grades | {
        "cycles_per_s": round(one["service"], 2),
        "jail_cycles_per_s": round(one["jail"], 2),
        "cycle_ms_p50": round(1000 * cycle["service"], 3),
        "cycle_ms_p99": round(1000 * quantile(cycles["service"].cycle_s, 0.99), 3),
        "exec_ms_p50": round(1000 * p50["jail"], 3),
        "exec_ratio_subprocess_p50": ratio(p50, "jail", "subprocess"),
        "exec_ratio_bubblewrap_p50": ratio(p50, "jail", "bubblewrap"),
        "exec_ratio_swerex_p50": ratio(p50, "jail", "SWE-ReX local"),
        "service_exec_ratio_subprocess_p50": ratio(p50, "service", "subprocess"),
        "cycle_ratio_swerex_p50": ratio(cycle, "service", "SWE-ReX local"),
        "fork_ms_p50": round(1000 * quantile(cycles["jail"].open_s, 0.5), 3),
        "fork_ms_p99": round(1000 * quantile(cycles["jail"].open_s, 0.99), 3),
        "episodes_per_s": round(many["service"], 2),
        "episodes_ratio_docker": ratio(many, "service", "docker run"),
        "episodes_ratio_docker_backend": ratio(many, "service", "docker"),
        "grading_overhead_share": round((seconds - tests_s) / tests_s, 4),
        "plain_pytest_ms": round(1000 * plain_s, 2),
    }


async def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    with tempfile.TemporaryDirectory(prefix="sandbox-bench-") as name:
        async with contextlib.AsyncExitStack() as stack:
            found = await bench(options, Path(name), stack)
    for goal, bound in GOALS.items():
        value = found[goal]
        reached = value is not None and (value >= bound if goal == "episodes_ratio_docker" else value < bound)
        print(f"{goal}: {value} (goal {bound:g}: {'reached' if reached else 'absent' if value is None else 'missed'})")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
