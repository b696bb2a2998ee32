"""What was proven so far, on disk: a build that is stopped goes on where it stopped."""

import json
from pathlib import Path


class Ledger:
    """An append-only file of JSON lines [key, value]; the first line says what the others are about.

    A last line that was not written to its end is forgotten. Values of another subject are thrown away.
    """

    def __init__(self, path: Path, subject: object):
        self._known: dict[str, object] = {}
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        rows = [row for line in lines if (row := _row(line)) is not None]
        if rows[:1] == [["subject", _plain(subject)]]:
            self._known = dict(rows[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb", buffering=0)
        for row in [["subject", subject], *self._known.items()]:
            self._write(row)

    def get(self, key: str) -> object | None:
        return self._known.get(key)

    def put(self, key: str, value: object) -> None:
        self._known[key] = _plain(value)
        self._write([key, value])

    def close(self) -> None:
        self._file.close()

    def _write(self, row) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")


def _row(line: bytes) -> list | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, list) and len(row) == 2 else None


def _plain(value: object) -> object:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))
