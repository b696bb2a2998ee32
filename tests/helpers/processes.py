"""What runs on this machine, and patience with it."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path


def running_as(command: str) -> set[int]:
    """The processes with this command line, its words joined by blanks."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_text().replace("\0", " ").strip() == command:
                found.add(int(entry.name))
    return found


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    """Whether the condition came to hold in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
