"""Ends the processes that a container's commands left, as its process 1."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

# Until then one command's processes are ended alone; after it, everything in the container.
_SWEEP_S, _HAMMER_S = 10.0, 10.0


def sweep(warden: int, others: set[int]) -> bool:
    """Stops, then kills, every descendant of a warden and every orphan; False when that does not succeed in time.

    `others` are the children of process 1 that have to live on, and what is below them.

    Stopped first: what is stopped holds its place among the limited number of processes, so that a fork bomb runs out
    of places, where killing would give them back to it.
    """
    deadline = time.monotonic() + _SWEEP_S
    for number in (signal.SIGSTOP, signal.SIGKILL):
        while time.monotonic() < deadline:
            found = _descendants(warden, others)
            moving = [pid for pid, state in found.items() if state not in ("TZ" if number == signal.SIGSTOP else "Z")]
            if not moving:
                break
            for pid in moving:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.001)
        else:
            return False
    return True


def hammer() -> None:
    """Kills every process but this one: a single call, which nothing that forks can outrun."""
    deadline = time.monotonic() + _HAMMER_S
    while time.monotonic() < deadline:
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        if all(state == "Z" for state in _descendants(1, set()).values()):
            return
        time.sleep(0.002)


def _descendants(warden: int, others: set[int]) -> dict[int, str]:
    """Process -> state of all processes but process 1, the warden, and those at or below `others`."""
    children: dict[int, list[tuple[int, str]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
                children.setdefault(int(parent), []).append((int(name), state))
    found: dict[int, str] = {}
    waiting = [1]
    while waiting:
        for pid, state in children.get(waiting.pop(), ()):
            if pid in others:
                continue
            waiting.append(pid)
            if pid != warden:
                found[pid] = state
    return found
