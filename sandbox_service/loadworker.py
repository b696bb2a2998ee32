"""One process of clients for the load test: plays sessions, and proves from their own logs that nothing ran twice.

Every command appends its request id to a file in its workspace. What was tried and what was answered goes into a
journal on disk before the next step, so that the successor of a killed worker takes the sessions over: it repeats the
call that had no answer, under its own id, and goes on.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sandbox_service import sandbox_pb2
from sandbox_service.client import NoAnswer, SandboxClient, SandboxError, ServiceUnreachable, Session
from sandbox_service.errors import IdReused, NotFound

LEASE_S = 180.0
# What no process may be left of; in a session of its own, so that a kill of the process group misses it.
MARKER = "sleep 97531"
FIX = ("pkg/core.py", "2 * x", "3 * x")


@dataclass
class Track:
    """What this worker knows of one session."""

    session_id: str
    client: int
    # Request ids in the order of their calls; only the last may lack an answer.
    tried: list[str] = field(default_factory=list)
    answered: int = 0
    # Whether its Open has been answered.
    opened: bool = False
    fixed: bool = False
    session: Session | None = None


class Journal:
    """Lines that a successor reads; in the page cache they survive a kill."""

    def __init__(self, path: Path):
        self.tracks: dict[str, Track] = {}
        if path.exists():
            for line in path.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    self._replay(json.loads(line))
        self._file = path.open("a", buffering=1)

    def write(self, op: str, track: Track, request_id: str = "") -> None:
        line = {"op": op, "session": track.session_id, "client": track.client, "request": request_id}
        self._file.write(json.dumps(line) + "\n")
        self._replay(line)

    def _replay(self, line: dict) -> None:
        name = line["session"]
        match line["op"]:
            case "opening":
                self.tracks[name] = Track(name, line["client"])
            case "open":
                self.tracks[name].opened = True
            case "try":
                self.tracks[name].tried.append(line["request"])
            case "answer":
                self.tracks[name].answered += 1
            case "fixed":
                self.tracks[name].fixed = True
            case "end":
                self.tracks.pop(name, None)


class Worker:
    """`sessions` sessions at a time, together `rate` calls a second."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.journal = options, Journal(options.journal)
        self.counts: collections.Counter[str] = collections.Counter()
        self.times_s: list[float] = []
        self.stopping = asyncio.Event()
        self.random = random.Random(options.seed)

    async def run(self) -> None:
        options = self.options
        clients = [SandboxClient(options.address, options.run, lease_ttl_s=LEASE_S) for _ in range(options.clients)]
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stopping.set)
        taken_over = list(self.journal.tracks.values())
        for track in filter(lambda track: track.opened, taken_over):
            track.session = clients[track.client].adopt(track.session_id)
        players = [self._play(clients, track) for track in taken_over]
        players += [self._play(clients, None) for _ in range(options.sessions - len(taken_over))]
        await asyncio.gather(*players)
        for client in clients:
            await client.close()

    async def _play(self, clients: Sequence[SandboxClient], track: Track | None) -> None:
        pause_s = self.options.sessions / self.options.rate
        while not self.stopping.is_set():
            try:
                if track is None:
                    await self._pause(pause_s / 4)
                    track = self._new_track(len(clients))
                elif not track.opened:
                    await self._open(clients, track)
                elif track.answered < len(track.tried):
                    await self._exec(track, track.tried[-1])
                    self.counts["reattached"] += 1
                else:
                    await self._pause(pause_s)
                    track = await self._step(track)
            except (NotFound, IdReused) as e:
                self._gone(track, str(e))
                track = None
            except (NoAnswer, ServiceUnreachable):
                self.counts["repeated_later"] += 1
            except SandboxError as e:
                self.counts["errors"] += 1
                print(f"error: {e}", file=sys.stderr, flush=True)
        if track is not None and track.opened:
            with contextlib.suppress(SandboxError):
                await self._end(track)

    async def _pause(self, mean_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), self.random.uniform(0, 2 * mean_s))

    def _new_track(self, clients: int) -> Track | None:
        if self.stopping.is_set():
            return None
        track = Track(uuid.uuid4().hex, self.random.randrange(clients))
        self.journal.write("opening", track)
        return self.journal.tracks[track.session_id]

    async def _open(self, clients: Sequence[SandboxClient], track: Track) -> None:
        started = time.monotonic()
        opening = clients[track.client].open(self.options.task_set, "t-editing", "editing", track.session_id)
        track.session = await opening
        self._count("open", started)
        self.journal.write("open", track)

    async def _step(self, track: Track) -> Track | None:
        chance = self.random.random()
        if chance < 0.70:
            await self._exec(track, uuid.uuid4().hex)
        elif chance < 0.85:
            started = time.monotonic()
            await track.session.str_replace("view", "pkg/core.py")
            self._count("view", started)
        elif chance < 0.90:
            await self._check(track)
        elif chance < 0.94:
            if not track.fixed:
                edited = await track.session.str_replace("replace", FIX[0], FIX[1], FIX[2])
                self.counts["wrong"] += not (edited.ok or "found 0" in edited.output or "no match" in edited.output)
                self.journal.write("fixed", track)
            self.counts["edit"] += 1
        elif chance < 0.95:
            await self._score(track)
        else:
            await self._end(track)
            return None
        return track

    async def _exec(self, track: Track, request_id: str) -> None:
        """Appends the id to the session's log. One call in ten loses its answer on the way and is repeated."""
        if track.answered == len(track.tried):
            self.journal.write("try", track, request_id)
        command = f"echo {request_id} >> /tmp/log; (setsid {MARKER} &); echo done"
        started = time.monotonic()
        if self.random.random() < 0.1:
            request = sandbox_pb2.ExecRequest(
                session_id=track.session_id, request_id=request_id, command=command, timeout_s=30.0
            )
            with contextlib.suppress(SandboxError):
                await track.session.service.attempt("Exec", request, 0.01)
            self.counts["lost_answers"] += 1
        reply = await track.session.exec(command, request_id=request_id)
        self._count("exec", started)
        self.journal.write("answer", track, request_id)
        if (reply.outcome, reply.output) != (sandbox_pb2.EXITED, "done\n"):
            self.counts["wrong"] += 1
            print(f"wrong: exec said {reply}", file=sys.stderr, flush=True)

    async def _check(self, track: Track) -> None:
        """Compares the session's log with what was answered."""
        reply = await track.session.exec("cat /tmp/log 2>/dev/null")
        ran, answered = reply.output.split(), track.tried[: track.answered]
        self.counts["checks"] += 1
        if reply.omitted_bytes:
            return
        self.counts["doubled"] += len(ran) - len(set(ran))
        self.counts["lost"] += len(set(answered) - set(ran))
        if ran[: len(answered)] != answered:
            print(f"wrong: {track.session_id} ran {ran}, answered {answered}", file=sys.stderr, flush=True)
            self.counts["wrong"] += 1

    async def _score(self, track: Track) -> None:
        started = time.monotonic()
        reply = await track.session.score(sandbox_pb2.Submission())
        self._count("score", started)
        if not reply.graded:
            self.counts["ungradable"] += 1
        elif reply.reward != float(track.fixed):
            self.counts["wrong"] += 1
            print(f"wrong: reward {reply.reward}, fixed {track.fixed}", file=sys.stderr, flush=True)

    async def _end(self, track: Track) -> None:
        await self._check(track)
        await track.session.close()
        self.journal.write("end", track)
        self.counts["ended"] += 1

    def _gone(self, track: Track, text: str) -> None:
        lost = "restarted" in text or "unknown" in text
        self.counts["lost_to_restart" if lost else "expired"] += 1
        if track.session:
            track.session.service.drop(track.session_id)
        self.journal.write("end", track)

    def _count(self, what: str, started: float) -> None:
        self.counts[what] += 1
        if what == "exec":
            self.times_s.append(time.monotonic() - started)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox_service.loadworker", description=__doc__.split("\n")[0])
    parser.add_argument("--address", required=True)
    parser.add_argument("--task-set", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--stats", type=Path, required=True)
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args(argv)
    asyncio.run(report(options))


async def report(options: argparse.Namespace) -> None:
    """Runs a worker; its counts are on disk every second, so that a kill loses little of them."""
    worker = Worker(options)
    running = asyncio.create_task(worker.run())
    while not running.done():
        await asyncio.wait({running}, timeout=1.0)
        temporary = options.stats.with_suffix(".tmp")
        temporary.write_text(json.dumps({"counts": worker.counts, "exec_s": worker.times_s}))
        temporary.replace(options.stats)
    await running


if __name__ == "__main__":
    main()
