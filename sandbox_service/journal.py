"""What a service was about to hold, on disk, so that the next one knows what a `kill -9` has cost.

Each service writes its own file into the journal folder and holds a lock on it; the lock goes with the process,
however it ends, so a file without one is a dead service's. A line is written before anything is made for a session,
so that no crash can fall between the making and the record. Lines reach the kernel, not the disk: after a crash of
the whole host there is nothing left to be reconciled.
"""

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

# Lines beyond those of open sessions before the file is written anew.
_SLACK_LINES = 10_000


@dataclass(frozen=True)
class Entry:
    """One session."""

    session_id: str
    run_id: str
    task_id: str
    # Unix time.
    opened_at: float


class Journal:
    """The journal of this service, as `folder/NAME.jsonl`; `name` must be new."""

    def __init__(self, folder: Path, name: str):
        self._path = Path(folder) / f"{name}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, Entry] = {}
        self._lines = 0
        self._file = _locked(self._path)

    def opening(self, entry: Entry) -> None:
        """To be called before anything is made for the session."""
        self._open[entry.session_id] = entry
        self._write({"open": asdict(entry)})

    def closed(self, session_id: str) -> None:
        """To be called when nothing of the session is left. Safe to repeat."""
        if self._open.pop(session_id, None):
            self._write({"closed": session_id})

    def close(self) -> None:
        """Removes the file when no session is open; else it stays, for the next service to find."""
        if self._file.closed:
            return
        if not self._open:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def _write(self, line: dict) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._lines += 1
        if self._lines > _SLACK_LINES + 4 * len(self._open):
            self._rewrite()

    def _rewrite(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        fresh = _locked(temporary)
        fresh.writelines(json.dumps({"open": asdict(entry)}) + "\n" for entry in self._open.values())
        fresh.flush()
        temporary.replace(self._path)
        self._file.close()
        self._file, self._lines = fresh, len(self._open)


def take_dead(folder: Path) -> list[Entry]:
    """The sessions that dead services left open; their journals are removed. Those of living services stay."""
    lost: list[Entry] = []
    for path in sorted(Path(folder).glob("*.jsonl")) + sorted(Path(folder).glob("*.tmp")):
        with suppress(FileNotFoundError, BlockingIOError), open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.suffix == ".jsonl":
                lost += _read(file)
            path.unlink()
    return lost


def _locked(path: Path) -> TextIO:
    while True:
        file = os.fdopen(
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8"
        )
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the two calls another service may have taken it for a dead one's and removed it.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()


def _read(file: TextIO) -> list[Entry]:
    """Entries without an end. A last line that a crash cut is no session: nothing was made for it yet."""
    entries: dict[str, Entry] = {}
    for text in file:
        if not text.endswith("\n"):
            break
        line = json.loads(text)
        if "open" in line:
            entry = Entry(**line["open"])
            entries[entry.session_id] = entry
        else:
            entries.pop(line["closed"], None)
    return list(entries.values())
