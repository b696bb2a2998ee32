"""What was proven so far, on disk: a build that is stopped goes on where it stopped."""

import json
from pathlib import Path


class Ledger:
    """An append-only file of JSON lines [key, value]; the first line says what the others are about.

    A last line that was not written to its end is forgotten. Values of another subject are thrown away.
    """

    def __init__(self, path: Path, subject: object):
        self._known: dict[str, object] = {}
        written = path.read_bytes() if path.exists() else b""
        lines = written.split(b"\n")[:-1]
        rows = [row for line in lines if (row := _row(line)) is not None]
        same = rows[:1] == [["subject", _plain(subject)]]
        if same:
            self._known = dict(rows[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        # What is proven stays as it stands: a build may be killed at any moment.
        self._file.truncate(written.rfind(b"\n") + 1 if same else 0)
        if not same:
            self._write(["subject", subject])

    def get(self, key: str) -> object | None:
        return self._known.get(key)

    def put(self, key: str, value: object) -> None:
        self._known[key] = _plain(value)
        self._write([key, value])

    def close(self) -> None:
        self._file.close()

    def _write(self, row) -> None:
        line = json.dumps(row).encode() + b"\n"
        # A disk that is nearly full takes the first bytes, and is an error at the next ones.
        while line:
            line = line[self._file.write(line) :]


def _row(line: bytes) -> list | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, list) and len(row) == 2 else None


def _plain(value: object) -> object:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))
