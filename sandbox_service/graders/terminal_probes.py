"""Probes of terminal tasks: a program of the workspace runs on inputs that its author has not seen.

Each probe has a fresh workspace: the pristine start, the agent's files, then the probe's own. What must come out is
compared here and never enters the sandbox, so nothing that runs there can say that it was right.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from sandbox_service.backends.base import Ended, ExecResult, Workspace
from sandbox_service.graders import terminal_driver
from sandbox_service.graders.bench import Files

# Standard output alone: what a program tells on standard error is its own business.
_QUIETLY = ("bash", "-c", 'exec "$@" 2>/dev/null', "bash")
_WRITE_TIMEOUT_S = 60.0
MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Ask:
    """One HTTP request, and what must be answered: status, content type without parameters, body."""

    method: str
    path: str
    body: str
    status: int
    content_type: str
    answer: str
    # Whether the answer is compared as JSON: the order of keys and spaces do not matter.
    is_json: bool = False

    def fits(self, got: object) -> bool:
        # A server may have written on our own output: anything may stand there.
        if not (isinstance(got, list) and len(got) == 3 and isinstance(got[2], str)):
            return False
        if got[:2] != [self.status, self.content_type]:
            return False
        if not self.is_json:
            return got[2] == self.answer
        try:
            return json.dumps(json.loads(got[2]), sort_keys=True) == json.dumps(json.loads(self.answer), sort_keys=True)
        except (ValueError, RecursionError):
            return False


@dataclass(frozen=True)
class Probe:
    """One run. With `asks` the command is a server, which gets its port as the last word."""

    command: tuple[str, ...]
    # Written before it starts, None: deleted.
    files: Mapping[str, str | None] = field(default_factory=dict)
    exit_code: int = 0
    # All of the standard output; None: whatever.
    stdout: str | None = None
    # Files when it has ended; None: there is none.
    after: Mapping[str, str | None] = field(default_factory=dict)
    asks: tuple[Ask, ...] = ()


def dumps(probes: Iterable[Probe]) -> str:
    return json.dumps([dataclasses.asdict(probe) for probe in probes], sort_keys=True)


def loads(text: str) -> tuple[Probe, ...]:
    """Raises ValueError, TypeError or KeyError for what `dumps` did not write."""
    probes = []
    for row in json.loads(text):
        asks = tuple(Ask(**ask) for ask in row.pop("asks"))
        probes.append(Probe(**{**row, "command": tuple(row["command"])}, asks=asks))
    if not probes:
        raise ValueError("no probes")
    return tuple(probes)


async def write(workspace: Workspace, files: Files) -> str:
    """Writes and deletes files; returns why that was not possible, or nothing."""
    gone = sorted(path for path, data in files.items() if data is None)
    if gone:
        await workspace.run(["rm", "-f", "--", *gone], timeout_s=_WRITE_TIMEOUT_S)
    try:
        for path, data in files.items():
            if data is not None:
                await workspace.write_file(path, data)
    except (OSError, ValueError) as e:
        return str(e)
    return ""


async def carry_out(probe: Probe, workspace: Workspace, timeout_s: float) -> tuple[Ended, str]:
    """(how the run ended, what was wrong). The workspace must hold the agent's files."""
    fault = await write(workspace, {p: None if t is None else t.encode() for p, t in probe.files.items()})
    if fault:
        return Ended.EXITED, f"the inputs do not fit the tree: {fault}"
    if probe.asks:
        spec = {"command": probe.command, "asks": [(a.method, a.path, a.body) for a in probe.asks]}
        # Isolated, so that no module of the workspace is imported.
        argv = ("python3", "-I", "-c", _driver(), json.dumps(spec))
    else:
        argv = probe.command
    done = await workspace.run([*_QUIETLY, *argv], timeout_s=timeout_s)
    return done.ended, _output_fault(probe, done) or await _files_fault(probe.after, workspace)


def _output_fault(probe: Probe, done: ExecResult) -> str:
    if done.ended is not Ended.EXITED:
        return f"ended as {done.ended.value}"
    if probe.asks:
        if done.omitted_bytes:
            return "the answers are too long"
        lines = done.output.decode(errors="replace").splitlines()
        # The driver's own lines, or somebody else has written among them.
        if done.exit_code or len(lines) != len(probe.asks):
            return f"the asking program was disturbed: exit status {done.exit_code}, {len(lines)} lines"
        wrong = sum(not ask.fits(got) for ask, got in zip(probe.asks, map(_json, lines), strict=True))
        return f"{wrong} of {len(probe.asks)} answers are wrong" if wrong else ""
    if done.exit_code != probe.exit_code:
        return f"exit status {done.exit_code}, not {probe.exit_code}"
    if probe.stdout is not None and (done.omitted_bytes or done.output != probe.stdout.encode()):
        return "the output is not the expected one"
    return ""


async def _files_fault(wanted: Mapping[str, str | None], workspace: Workspace) -> str:
    for path, text in wanted.items():
        try:
            got = await workspace.read_file(path, max_bytes=MAX_FILE_BYTES)
        except FileNotFoundError:
            got = None
        except (OSError, ValueError) as e:
            return f"{path}: {e}"
        if got != (None if text is None else text.encode()):
            return f"{path} is not as it must be"
    return ""


@cache
def _driver() -> str:
    return Path(terminal_driver.__file__).read_text(encoding="utf-8")


def _json(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
