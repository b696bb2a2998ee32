"""What a backend promises: private workspaces, commands with limits, outcomes as data.

A workspace is a writable copy-on-write view of a read-only directory (its `base`). Inside the sandbox it is always
mounted at `WORKSPACE`. Everything that runs in it has no network, no capabilities and no view of the host.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# Not at run time: the zygote imports this module and has no use for asyncio.
if TYPE_CHECKING:
    from sandbox_service.backends.output import HeadTail

WORKSPACE = "/workspace"
# Importable distributions (pytest and what the repository's tests need), read-only and on PYTHONPATH.
PACKAGES = "/packages"


class Ended(enum.Enum):
    """How a command ended. Every value is a normal answer; faults of our own raise SandboxError."""

    EXITED = "exited"
    SIGNALED = "signaled"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_PROCESSES = "out_of_processes"
    OUT_OF_DISK = "out_of_disk"
    OUTPUT_LIMIT = "output_limit"
    # Its caller ended it.
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Limits:
    """Per workspace (disk) and per command (the rest)."""

    memory_mib: int = 1024
    processes: int = 128
    disk_mib: int = 256
    open_files: int = 1024
    # Kept of the output: half from its head, half from its tail.
    output_kept_bytes: int = 64 * 1024
    # A command that writes more than this is stopped.
    output_stop_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True)
class ExecResult:
    ended: Ended
    # Exit status; the signal's number when `ended` is SIGNALED; -1 when stopped by a limit.
    exit_code: int
    output: bytes
    omitted_bytes: int
    wall_s: float


@dataclass(frozen=True)
class HarnessResult:
    """A run of the trusted test harness: the process's end, and what it reported over its private channel."""

    exec: ExecResult
    # JSON of the harness's report; None when the process ended before reporting.
    report: bytes | None


class Workspace(ABC):
    """One private writable copy. Safe to use from one event loop; commands may overlap."""

    @abstractmethod
    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        output: "HeadTail | None" = None,
    ) -> ExecResult:
        """Runs `argv` in WORKSPACE with an empty stdin. Nothing it started survives its end.

        `output` is where the output is kept, for a caller that reads it while the command runs.
        """

    @abstractmethod
    async def run_harness(self, spec: bytes, *, timeout_s: float, limits: Limits | None = None) -> HarnessResult:
        """Runs `sandbox_service.harness` on the JSON `spec` in the workspace."""

    @abstractmethod
    async def read_file(self, path: str, *, max_bytes: int = 8 << 20) -> bytes:
        """Reads a regular file as the sandbox sees it; symlinks cannot lead outside.

        Raises FileNotFoundError, IsADirectoryError, or ValueError (not a regular file, too large, outside).
        """

    @abstractmethod
    async def write_file(self, path: str, data: bytes) -> None:
        """Writes a file as the sandbox's user, making parent directories. Raises as `read_file`, or OSError."""

    @abstractmethod
    async def changed_files(self, *, max_bytes: int = 32 << 20) -> dict[str, bytes | None]:
        """Regular files that differ from the base, by relative path; None marks a deletion. Symlinks are left out.

        Raises ValueError when the change is larger than `max_bytes`.
        """

    @abstractmethod
    async def close(self) -> None:
        """Kills what runs and frees everything. Safe to repeat."""


@dataclass(frozen=True)
class Isolation:
    """What the self-test saw: property -> evidence."""

    enforced: Mapping[str, str]
    unenforced: Mapping[str, str]


class Backend(ABC):
    name: str

    @abstractmethod
    async def start(self) -> None:
        """Makes the backend ready. Raises IsolationError with the remedy when the host cannot run it."""

    @abstractmethod
    async def self_test(self) -> Isolation:
        """Attacks a throwaway workspace and reports what held."""

    @abstractmethod
    async def open_workspace(
        self, base: Path, *, packages: Path | None = None, limits: Limits | None = None, run_id: str = ""
    ) -> Workspace:
        """A fresh workspace over the read-only directory `base`.

        `packages` is a directory of importable distributions; None gives pytest and its dependencies alone.
        `run_id` is the run that it is for: a mark on whatever of it the host's tools show.
        """

    @abstractmethod
    async def check(self) -> None:
        """Raises SandboxError when the backend cannot make or run anything."""

    @abstractmethod
    async def stop(self) -> None:
        """Destroys every workspace and process. Safe to repeat."""
