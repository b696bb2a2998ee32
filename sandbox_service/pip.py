"""Runs pip, and finds in what it prints why it failed."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

# Of what a failed build printed, and of pip's own words.
MAX_LINES = 15

# What a program that pip started printed: pip frames it, below a line that says what pip was doing.
_FRAMED = re.compile(
    r"^ *× ([^\n]+)\n(?:[^\n]*\n)*?[^\n]*\[\d+ lines? of output\]\n(.*?)\n *\[end of output\]", re.M | re.S
)


def run_pip(arguments: Sequence[str], *, timeout_s: float) -> str:
    """Runs `python -m pip` with this interpreter. Returns why it failed; empty when it did not. Blocking."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    # A build that outlives pip would hold a pipe open.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            for pid in _family(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            return f"it did not end within {timeout_s:.0f} s"
        said.seek(0)
        text = said.read().decode(errors="replace")
    return "" if status == 0 else reason(text) or f"exit status {status}"


def reason(stderr: str) -> str:
    """The part of pip's stderr that says why: the end of what a build printed, else what follows the first `ERROR:`."""
    if framed := _FRAMED.search(stderr):
        lines = textwrap.dedent(framed[2]).splitlines()
        return "\n".join([framed[1], *(f"  {line}" for line in lines[-MAX_LINES:])])
    lines = [line.rstrip() for line in stderr.splitlines() if line.strip()]
    first = next((n for n, line in enumerate(lines) if line.lstrip().lower().startswith("error:")), 0)
    return "\n".join(lines[first:][-MAX_LINES:])


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(found for child in children for found in _family(int(child)))]
