"""Rows of public datasets: from JSON Lines, JSON, Parquet or a name on the Hugging Face hub, read strictly.

A column has the type that its dataset publishes, or the row is damaged: an error that names file and line. Lists and
objects may also come as text that holds them in JSON, for the same datasets circulate in both forms. Columns that a
reader does not know are left alone and named in the summary.
"""

import ast
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

EXTRA = "pip install 'skillrl[datasets]'"
_MISSING = object()
_KINDS = {str: "text", list: "a list", dict: "an object", int: "an integer", float: "a number", bool: "true or false"}


class ReaderError(ValueError):
    """A source cannot be read, or a row is damaged; the message names the place and the remedy."""


@dataclass(frozen=True)
class Row:
    """One row. `where` names it in messages; `read` collects the columns that were asked for."""

    columns: Mapping[str, object]
    where: str
    read: set[str] = field(default_factory=set)

    def text(self, name: str, default: str | object = _MISSING) -> str:
        value = self._get(name, default)
        return self._checked(name, value, str)

    def integer(self, name: str, default: int | object = _MISSING) -> int:
        return self._checked(name, self._get(name, default), int)

    def number(self, name: str, default: float | object = _MISSING) -> float:
        value = self._get(name, default)
        value = float(value) if type(value) is int else self._checked(name, value, float)
        if not math.isfinite(value):
            raise self.damaged(f"column {name!r} must be a finite number, not {value}")
        return value

    def texts(self, name: str, default: tuple | object = _MISSING) -> tuple[str, ...]:
        """A list of texts: as it is, or written in a text as JSON or as a Python literal."""
        value = self._get(name, default)
        value = self._unpacked(name, value) if isinstance(value, str) else value
        value = list(value) if isinstance(value, tuple) else value
        for item in self._checked(name, value, list):
            self._checked(f"{name}[]", item, str)
        return tuple(value)

    def mapping(self, name: str, default: Mapping | object = _MISSING) -> "Row":
        """An object, or a text that holds one in JSON, as a row of its own."""
        value = self._get(name, default)
        value = self._unpacked(name, value) if isinstance(value, str) else value
        return Row(self._checked(name, value, dict), f"{self.where}: {name}")

    def rows(self, name: str, default: tuple | object = _MISSING) -> list["Row"]:
        """A list of objects, or a text that holds one in JSON."""
        value = self._get(name, default)
        value = self._unpacked(name, value) if isinstance(value, str) else value
        value = list(value) if isinstance(value, tuple) else value
        items = self._checked(name, value, list)
        return [Row(self._checked(f"{name}[]", v, dict), f"{self.where}: {name}[{i}]") for i, v in enumerate(items)]

    def has(self, name: str) -> bool:
        """Whether the column is there and holds something."""
        self.read.add(name)
        return self.columns.get(name) not in (None, "", [], {})

    def is_text(self, name: str) -> bool:
        self.read.add(name)
        return isinstance(self.columns.get(name), str)

    def damaged(self, reason: str) -> ReaderError:
        return ReaderError(f"{self.where}: damaged row: {reason}")

    def _get(self, name: str, default: object) -> object:
        self.read.add(name)
        value = self.columns.get(name)
        # Parquet and the hub give null for a column that a row lacks.
        if value is None:
            if default is _MISSING:
                raise self.damaged(f"column {name!r} is missing")
            return default
        return value

    def _checked(self, name: str, value: object, kind: type):
        if type(value) is not kind:
            found = _KINDS.get(type(value), type(value).__name__)
            raise self.damaged(f"column {name!r} must be {_KINDS[kind]}, not {found}")
        return value

    def _unpacked(self, name: str, value: str) -> object:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass
        try:
            # SWE-bench Pro writes Python lists. Only literals are read; its own harness evaluates them.
            return ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise self.damaged(f"column {name!r} holds neither a list nor an object: {value[:40]!r}") from None


def is_on_hub(source: str) -> bool:
    """Whether the source can only be a dataset's name on the hub, `owner/name`: nothing here has that path."""
    return source.count("/") == 1 and not source.startswith((".", "/")) and not Path(source).exists()


def read_rows(source: str, *, split: str) -> Iterator[Row]:
    """The rows of a file, of the files in a folder, or of a dataset on the hub. `split` may be empty but for the hub:
    all that is there.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in _FILES and (not split or _is_of(p, split)))
        if not files:
            raise ReaderError(f"{path} holds no {', '.join(_FILES)} file{f' of split {split}' if split else ''}")
        for file in files:
            yield from _FILES[file.suffix](file)
    elif path.exists():
        if path.suffix not in _FILES:
            raise ReaderError(f"{path}: not a dataset file; one of {', '.join(_FILES)}")
        yield from _FILES[path.suffix](path)
    elif is_on_hub(source):
        yield from _hub(source, split)
    else:
        raise ReaderError(f"there is no {source}; give a file, a folder or a dataset's name on the hub as owner/name")


def _is_of(path: Path, split: str) -> bool:
    """Whether a shard's name says that it is of the split (`test-00000-of-00001.parquet`)."""
    return path.stem == split or path.stem.startswith((f"{split}-", f"{split}_", f"{split}."))


def _jsonl(path: Path) -> Iterator[Row]:
    try:
        # Not splitlines: it also breaks at characters that JSON allows inside a text.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise ReaderError(f"{path}: {e}") from e
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _row(_json(line, f"{path}:{number}"), f"{path}:{number}")


def _json_list(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ReaderError(f"{path}: {e}") from e
    value = _json(text, str(path))
    if not isinstance(value, list):
        raise ReaderError(f"{path}: damaged file: the outermost value must be a list of rows")
    for number, item in enumerate(value, 1):
        yield _row(item, f"{path}: row {number}")


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ReaderError(f"{where}: damaged row: {e}") from e


def _row(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise ReaderError(f"{where}: damaged row: it must be an object, not {_KINDS.get(type(value), 'null')}")
    return Row(value, where)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as e:
        raise ReaderError(f"{path}: Parquet needs pyarrow; {EXTRA}") from e
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=256):
            for columns in batch.to_pylist():
                number += 1
                yield Row(columns, f"{path}: row {number}")
    except (OSError, ValueError) as e:
        if isinstance(e, ReaderError):
            raise
        raise ReaderError(f"{path}: damaged file after row {number}: {e}") from e


def _hub(name: str, split: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError as e:
        raise ReaderError(f"there is no file {name}; a dataset of the hub needs the package datasets: {EXTRA}") from e
    try:
        # Never `trust_remote_code`: a dataset is data.
        rows = datasets.load_dataset(name, split=split)
    except Exception as e:  # the package raises whatever its back ends do
        reason = f"{type(e).__name__}: {e}"
        raise ReaderError(f"the hub gives no {name} with split {split!r}; --part=SPLIT names another: {reason}") from e
    for number, columns in enumerate(rows, 1):
        yield Row(columns, f"{name} ({split}): row {number}")


_FILES = {".jsonl": _jsonl, ".json": _json_list, ".parquet": _parquet}
