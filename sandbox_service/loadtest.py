"""python -m sandbox_service.loadtest: one service under many sessions, killed clients and a `kill -9` of its own.

    python -m sandbox_service.loadtest --minutes=10 --sessions=2000 --clients=64

Workers (`loadworker`) keep the sessions open and mix calls; some are killed at random, and successors take their
sessions over. In the middle the service itself is killed and started again. At the end every session's log is compared
with what was answered, and the host is searched for what may have been left. The last line is one JSON object; the exit
code is 0 when nothing was lost, doubled, wrong or leaked and memory stayed flat.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sandbox_service import scratch
from sandbox_service.client import SandboxClient
from sandbox_service.embedded import READY
from sandbox_service.loadworker import MARKER
from sandbox_service.tasks import Environment, HiddenTask, Instance, TaskSetWriter

PROCESSES = 8
# The service may grow by this much between the first and the last quarter of its life under full load.
FLAT = 1.15
FAULTS = ("lost", "doubled", "wrong", "errors", "expired", "leaked_processes", "leaked_mounts", "leaked_cgroups")
_CORRECT, _BUGGY = "def double(x):\n    return 2 * x\n", "def double(x):\n    return 3 * x\n"
_TEST = b"from pkg.core import double\n\n\ndef test_double():\n    assert double(2) == 4\n"


def write_tasks(path: Path) -> str:
    """A task set with one task; returns its digest."""
    writer = TaskSetWriter("load")
    tree = writer.add_tree({"pkg/__init__.py": b"", "pkg/core.py": _CORRECT.encode(), "tests/test_core.py": _TEST})
    writer.environments["e"] = Environment("e", (), (".",), ("tests",), timeout_s=60.0)
    bug, test = {"pkg/core.py": _BUGGY}, "tests/test_core.py::test_double"
    writer.instances.append(Instance("i", "e", tree, bug, (test,), (), "pkg/core.py", "double"))
    public = {"task_id": "t-editing", "skill": "editing", "instance_id": "i", "repository": "r", "family": "f"}
    writer.public.append(public | {"split": "train", "level": 0, "inputs": {"instruction": "double"}})
    writer.tasks.append(HiddenTask("t-editing", "editing", "i", bug))
    return writer.write(path)


@dataclass
class Service:
    """The service under test, as a process."""

    arguments: list[str]
    log: Path
    process: subprocess.Popen | None = None
    # (seconds since the test's start, resident MiB of the service and what it has started), one list for each life.
    memory: list[list[tuple[float, float]]] = field(default_factory=list)

    def start(self) -> None:
        command = [sys.executable, "-m", "sandbox_service", *self.arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        if not any(line.startswith(READY) for line in self.process.stdout):
            raise SystemExit(f"the service did not start; see {self.log}:\n{self.log.read_text()[-2000:]}")
        self.memory.append([])

    def measure(self, at_s: float) -> None:
        self.memory[-1].append((at_s, sum(map(_resident_mib, (self.process.pid, *_children(self.process.pid))))))

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class LoadTest:
    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.folder = options, folder
        self.random = random.Random(options.seed)
        self.address = f"unix:{folder}/socket"
        self.digest = write_tasks(folder / "tasks")
        limit = f"--max-sessions={options.sessions + 8 * options.clients}"
        state = [f"--tasks={folder / 'tasks'}", f"--state={folder / 'state'}", f"--bind={self.address}", limit]
        self.service = Service([*state, "--log-level=warning"], folder / "service.log")
        self.workers: dict[int, subprocess.Popen] = {}
        self.lives: Counter[int] = Counter()
        self.kills = 0

    def run(self) -> dict:
        before, started = Host.look(), time.monotonic()
        self.service.start()
        try:
            for number in range(PROCESSES):
                self._start_worker(number)
            self._endure(started, self.options.minutes * 60)
            self._stop_workers()
            left_open = asyncio.run(self._open_sessions())
            self.service.process.send_signal(signal.SIGTERM)
            self.service.process.communicate(timeout=60)
        finally:
            for process in (*self.workers.values(), self.service.process):
                process.kill()
                process.communicate()
        leaks = self._wait_for_leaks(before)
        leaks["leaked_folders"] = len([p for p in self._left() if p.exists()])
        return self._figures(time.monotonic() - started, left_open, leaks)

    def _endure(self, started: float, seconds: float) -> None:
        killed = not self.options.kill_service
        next_kill = self.options.kill_every_s
        while (at_s := time.monotonic() - started) < seconds:
            time.sleep(0.5)
            self.service.measure(at_s)
            if at_s > next_kill:
                number = self.random.randrange(PROCESSES)
                self.workers[number].kill()
                self.workers[number].communicate()
                self.kills += 1
                next_kill = at_s + self.random.uniform(0.5, 1.5) * self.options.kill_every_s
                self._start_worker(number)
            if not killed and at_s > seconds / 2:
                killed = True
                self.service.kill()
                self.service.start()
            for number, worker in self.workers.items():
                if worker.poll() is not None:
                    raise SystemExit(f"worker {number} ended by itself; see {self.folder}/worker-{number}.log")

    def _start_worker(self, number: int) -> None:
        self.lives[number] += 1
        share, options = PROCESSES, self.options
        flags = {
            "address": self.address,
            "task-set": self.digest,
            "run": f"load-{number}",
            "journal": self.folder / f"worker-{number}.jsonl",
            "stats": self.folder / f"stats-{number}-{self.lives[number]}.json",
            "sessions": options.sessions // share,
            "clients": max(1, options.clients // share),
            "rate": options.rate / share,
            "seed": options.seed * 1000 + number * 100 + self.lives[number],
        }
        command = [sys.executable, "-m", "sandbox_service.loadworker", *(f"--{k}={v}" for k, v in flags.items())]
        with (self.folder / f"worker-{number}.log").open("ab") as log:
            self.workers[number] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _stop_workers(self) -> None:
        for worker in self.workers.values():
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers.values():
            worker.communicate(timeout=600)

    async def _open_sessions(self) -> int:
        async with SandboxClient(self.address, "load") as client:
            return (await client.info()).open_sessions

    def _wait_for_leaks(self, before: "Host") -> dict[str, int]:
        """What the kernel still removes a moment later is no leak."""
        deadline = time.monotonic() + 15
        while any((leaks := Host.look().beyond(before, self.folder)).values()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return leaks

    def _left(self) -> Iterator[Path]:
        """What a service should have taken away with it."""
        yield self.folder / "socket"
        yield from (self.folder / "state" / "journal").glob("*")
        yield from (self.folder / "state").glob("workspace-*")

    def _figures(self, wall_s: float, left_open: int, leaks: dict[str, int]) -> dict:
        counts, times_s = Counter(), []
        for path in self.folder.glob("stats-*.json"):
            stats = json.loads(path.read_text())
            counts.update(stats["counts"])
            times_s += stats["exec_s"]
        times_s.sort()
        growth = [_growth(life) for life in self.service.memory]
        figures = {
            "minutes": round(wall_s / 60, 2),
            "sessions": self.options.sessions,
            "clients": self.options.clients,
            "opened": counts["open"],
            "calls": sum(counts[name] for name in ("open", "exec", "view", "edit", "score", "checks")),
            "execs": counts["exec"],
            "scores": counts["score"],
            "checks": counts["checks"],
            "exec_ms_p50": round(1000 * times_s[len(times_s) // 2], 1) if times_s else None,
            "exec_ms_p99": round(1000 * times_s[len(times_s) * 99 // 100], 1) if times_s else None,
            "client_kills": self.kills,
            "service_kills": len(self.service.memory) - 1,
            "lost_answers": counts["lost_answers"],
            "reattached": counts["reattached"],
            "repeated_later": counts["repeated_later"],
            "lost_to_restart": counts["lost_to_restart"],
            "ungradable": counts["ungradable"],
            **{name: counts[name] for name in ("lost", "doubled", "wrong", "errors", "expired")},
            **leaks,
            "left_open": left_open,
            "memory_mib": [round(max((mib for _, mib in life), default=0.0), 1) for life in self.service.memory],
            "memory_growth": growth,
            "load_average": round(os.getloadavg()[0], 1),
        }
        faults = sum(figures[name] for name in FAULTS) + figures["leaked_folders"] + left_open
        figures["passed"] = faults == 0 and all(g is None or g < FLAT for g in growth)
        return figures


@dataclass(frozen=True)
class Host:
    """What a service may leave on its host."""

    processes: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]

    @classmethod
    def look(cls) -> "Host":
        processes = set()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_text().replace("\0", " ").strip()
                # What the load test's commands leave running, and a zygote.
                if command == MARKER or command.endswith(" -s -S -B -"):
                    processes.add(f"{entry.name} {command}")
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        cgroups = (str(p) for place in ("*", "unified") for p in Path("/sys/fs/cgroup").glob(f"{place}/**/skillrl-*"))
        return cls(frozenset(processes), frozenset(mounts), frozenset(cgroups))

    def beyond(self, before: "Host", folder: Path) -> dict[str, int]:
        """What is here and was not, but for what other services of this host hold."""
        owned = {line for line in self.processes - before.processes if not line.endswith(" -s -S -B -")}
        orphans = {line for line in self.processes - before.processes - owned if _parent(line.split()[0]) == 1}
        dead = [name for name in self.cgroups - before.cgroups if not Path("/proc", name.split("-")[-2]).exists()]
        mounts = [line for line in self.mounts - before.mounts if str(folder) in line]
        return {"leaked_processes": len(owned | orphans), "leaked_mounts": len(mounts), "leaked_cgroups": len(dead)}


def _parent(pid: str) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _children(pid: int) -> Iterator[int]:
    """Children and grandchildren: the zygote and the process it became, but not the commands that it starts."""
    for child in _direct(pid):
        yield child
        yield from _direct(child)


def _direct(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


def _resident_mib(pid: int) -> float:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def _growth(life: Sequence[tuple[float, float]]) -> float | None:
    """Mean memory of a life's last quarter over that of its third; the first half is for filling up."""
    quarter = len(life) // 4
    if quarter < 20:
        return None
    third, last = (
        statistics.fmean(mib for _, mib in part) for part in (life[-2 * quarter : -quarter], life[-quarter:])
    )
    return round(last / third, 3)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox_service.loadtest", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=2000, help="open at the same time")
    parser.add_argument("--clients", type=int, default=64, help=f"in {PROCESSES} processes")
    parser.add_argument("--rate", type=float, default=12.0, help="calls a second that are tried for, all together")
    parser.add_argument("--kill-every-s", type=float, default=15.0, help="mean time between kills of clients")
    parser.add_argument("--kill-service", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    folder = scratch.make("load")
    try:
        figures = LoadTest(options, folder).run()
        for log in sorted(folder.glob("*.log")):
            for line in log.read_text(errors="replace").splitlines()[-20:]:
                print(f"{log.name}: {line}", file=sys.stderr)
    finally:
        scratch.remove(folder)
    for name, value in figures.items():
        print(f"{name:<18} {value}")
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
