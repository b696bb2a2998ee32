"""Strict reading of JSON Lines into frozen dataclasses: every field by its declared type, unknown fields refused."""

import functools
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

from sandbox_service.errors import TaskSetError


def read_records(path: Path, cls: type, *, remedy: str = "rebuild the task set") -> list:
    """The records of `path`, one a line. Raises TaskSetError that names file, line and remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise TaskSetError(f"{path}: {e.strerror}; is this a task set? {remedy}") from e
    except UnicodeDecodeError as e:
        raise TaskSetError(f"{path}: {e}; {remedy}") from e
    records = []
    # Not splitlines: it also breaks at characters that JSON allows inside a string.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
        try:
            records.append(decode(cls, json.loads(line)))
        except ValueError as e:
            raise TaskSetError(f"{path}:{number}: damaged {cls.__name__} record: {e}; {remedy}") from e
        except RecursionError as e:
            raise TaskSetError(f"{path}:{number}: damaged {cls.__name__} record: nested too deeply; {remedy}") from e
    return records


def decode(cls: type, value: object, where: str = "") -> object:
    """`value`, as JSON gave it, as an instance of `cls`: a dataclass, str, int, float, bool, tuple, mapping or union.

    Raises ValueError that names the field.
    """
    origin = typing.get_origin(cls)
    if is_dataclass(cls):
        return _dataclass(cls, value, where)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(cls)
        if value is None and type(None) in options:
            return None
        return decode(next(o for o in options if o is not type(None)), value, where)
    if origin is tuple:
        item = typing.get_args(cls)[0]
        return tuple(decode(item, v, f"{where}[{i}]") for i, v in enumerate(_of(list, value, where)))
    if origin is Mapping:
        item = typing.get_args(cls)[1]
        return {k: decode(item, v, f"{where}[{k!r}]") for k, v in _of(dict, value, where).items()}
    if cls is float and type(value) is int:
        return float(value)
    return _of(cls, value, where)


def _of(cls: type, value: object, where: str):
    if type(value) is not cls:
        raise ValueError(f"{where or 'the line'} must be {_NAMES.get(cls, cls.__name__)}, not {_kind(value)}")
    return value


def _dataclass(cls: type, value: object, where: str) -> object:
    row = _of(dict, value, where)
    known = _fields(cls)
    if unknown := sorted(row.keys() - known.keys()):
        raise ValueError(f"unknown field {unknown[0]!r}{f' in {where}' if where else ''}")
    if missing := sorted(n for n, (_, required) in known.items() if required and n not in row):
        raise ValueError(f"missing field {missing[0]!r}{f' in {where}' if where else ''}")
    prefix = f"{where}." if where else ""
    return cls(**{name: decode(known[name][0], v, prefix + name) for name, v in row.items()})


@functools.cache
def _fields(cls: type) -> dict[str, tuple[object, bool]]:
    """Field name -> its type and whether it must be there."""
    hints = typing.get_type_hints(cls)
    return {f.name: (hints[f.name], f.default is MISSING and f.default_factory is MISSING) for f in fields(cls)}


_NAMES = {str: "text", dict: "an object", list: "a list", int: "an integer", float: "a number", bool: "true or false"}


def _kind(value: object) -> str:
    return "null" if value is None else _NAMES.get(type(value), type(value).__name__)
