"""safetensors files of a folder: read slice by slice, written tensor by tensor.

The format: 8 bytes, little endian, the length of the header; the header, JSON of each tensor's dtype, shape and
offsets into the data; the data (https://github.com/huggingface/safetensors#format).
"""

import contextlib
import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from skillrl.models.families import HfError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises HfError where it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise HfError(f"{path} cannot be read ({e}); copy it again") from e
    if not isinstance(value, dict):
        raise HfError(f"{path} holds no JSON object; copy it again")
    return value


class TensorFiles(contextlib.AbstractContextManager):
    """The tensors of a folder by name. Files are mapped, so that a slice reads only its own bytes."""

    def __init__(self, folder: Path):
        self._stack = contextlib.ExitStack()
        self._slices: dict[str, Any] = {}
        self._files: dict[str, Path] = {}
        try:
            for file, listed in _files(folder).items():
                self._open(file, listed)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, file: Path, listed: Iterable[str]) -> None:
        if not file.is_file():
            raise HfError(f"{file} is missing; copy the whole folder again")
        try:
            handle = self._stack.enter_context(safe_open(file, framework="numpy"))
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as e:
            raise HfError(f"{file} cannot be read ({e}); it is truncated or damaged: copy it again") from e
        if absent := sorted(set(listed) - slices.keys()):
            raise HfError(f"{file} lacks {absent[:4]}, which {INDEX} lists there; copy the whole folder again")
        self._slices |= slices
        self._files |= dict.fromkeys(slices, file)

    def __exit__(self, *_: object) -> None:
        self._slices.clear()
        self._stack.close()

    def names(self) -> set[str]:
        return set(self._slices)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises HfError unless the tensor has this shape and floating-point numbers."""
        found, dtype = tuple(self._slices[name].get_shape()), self._slices[name].get_dtype()
        if found != shape:
            raise HfError(
                f"{self._files[name]}: {name} has shape {list(found)}, config.json says {list(shape)}; "
                "take config.json and weights of the same model"
            )
        if dtype not in _DTYPES.values():
            raise HfError(
                f"{self._files[name]}: {name} has dtype {dtype}, only {', '.join(_DTYPES.values())} are supported; "
                "take the weights of the model before quantization"
            )

    def read(self, name: str, index: tuple[slice, ...] = (slice(None),)) -> np.ndarray:
        try:
            return self._slices[name][index]
        except (SafetensorError, OSError) as e:
            raise HfError(f"{self._files[name]}: {name} cannot be read ({e}); copy the file again") from e


def _files(folder: Path) -> dict[Path, list[str]]:
    """Weight files and the tensors that the index lists in each."""
    if not (folder / INDEX).is_file():
        if not (folder / WEIGHTS).is_file():
            raise HfError(f"{folder} holds neither {WEIGHTS} nor {INDEX}; convert the weights to safetensors")
        return {folder / WEIGHTS: []}
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) and "/" not in f for f in weight_map.values()):
        raise HfError(f"{folder / INDEX} holds no weight_map of tensor to file name; copy it again")
    files: dict[Path, list[str]] = {}
    for name, file in weight_map.items():
        files.setdefault(folder / file, []).append(name)
    return files


@dataclass(frozen=True)
class TensorInfo:
    """A tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def write_tensors(
    folder: Path, tensors: Sequence[TensorInfo], arrays: Iterable[np.ndarray], max_file_bytes: int
) -> None:
    """Writes `arrays`, the contents of `tensors` in their order, one at a time.

    One model.safetensors where it holds at most `max_file_bytes`, otherwise several files with an index.
    """
    groups: list[list[TensorInfo]] = [[]]
    for tensor in tensors:
        if groups[-1] and sum(t.num_bytes for t in groups[-1]) + tensor.num_bytes > max_file_bytes:
            groups.append([])
        groups[-1].append(tensor)
    contents = iter(arrays)
    count = len(groups)
    files = [WEIGHTS] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    for name, group in zip(files, groups, strict=True):
        with (folder / name).open("wb") as file:
            file.write(_header(group))
            for tensor in group:
                value = np.ascontiguousarray(next(contents))
                if value.nbytes != tensor.num_bytes:
                    raise ValueError(f"{tensor} comes with {value.nbytes} bytes")
                file.write(value.reshape(-1).view(np.uint8).data)
    if count > 1:
        total = sum(t.num_bytes for t in tensors)
        weight_map = {t.name: file for file, group in zip(files, groups, strict=True) for t in group}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _header(tensors: Sequence[TensorInfo]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.num_bytes
        header[tensor.name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8 bytes
    return struct.pack("<Q", len(text)) + text
