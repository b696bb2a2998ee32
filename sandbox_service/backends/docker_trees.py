"""The tree of a workspace in a container: sent as an archive, and compared with its index of hashes afterwards.

`Archives` is the service's side; `unpack` and `changed_files` run inside the container.
"""

import errno
import hashlib
import io
import os
import stat
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# Path of a regular file -> its size and SHA-256.
Index = Mapping[str, tuple[int, str]]
# What an entry costs beside its content.
_ENTRY_BYTES = 100
# Nobody nests a source tree so deep; a program that does wants to break what walks it.
MAX_DEPTH = 100
# It is gone, or something else has taken its place, since it was looked at.
_VANISHED = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO})
_BLOCK = 4096


@dataclass(frozen=True)
class Archive:
    data: bytes
    index: Index
    # In a file system of blocks.
    size_bytes: int


class Archives:
    """Archives of base directories; the last used are kept, `max_bytes` of them. May be used from several threads."""

    def __init__(self, max_bytes: int = 256 << 20):
        self._max_bytes = max_bytes
        self._known: OrderedDict[tuple[str, int], Archive] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, base: Path) -> Archive:
        """Blocking. The directory must not change while its archive is known."""
        key = os.path.realpath(base), os.stat(base).st_ino
        archive = self._known.get(key) or _pack(base)
        with self._lock:
            self._known[key] = archive
            self._known.move_to_end(key)
            size = sum(len(a.data) for a in self._known.values())
            while size > self._max_bytes:
                size -= len(self._known.popitem(last=False)[1].data)
        return archive


def _pack(base: Path) -> Archive:
    buffer = io.BytesIO()
    index: dict[str, tuple[int, str]] = {}
    size = 0

    def describe(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        nonlocal size
        if not (info.isreg() or info.isdir() or info.issym()):
            return None
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        size += _BLOCK + -(-info.size // _BLOCK) * _BLOCK
        return info

    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        # A hard link would make two files of the workspace one.
        tar.inodes = _NoLinks()
        # Not the root itself, which may belong to the engine.
        for path in sorted(Path(base).iterdir()):
            tar.add(path, path.name, filter=describe)
        for info in tar.getmembers():
            if info.isreg():
                path = os.path.normpath(info.name)
                data = (Path(base) / path).read_bytes()
                index[path] = len(data), hashlib.sha256(data).hexdigest()
    return Archive(buffer.getvalue(), index, size)


class _NoLinks(dict):
    """Where tarfile remembers inodes that it has met: it shall not."""

    def __setitem__(self, key, value) -> None:
        pass


def unpack(stream: BinaryIO, root: str) -> None:
    """Fills the empty directory `root`; everything belongs to the caller's user."""
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        options = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
        tar.extractall(root, **options)


def changed_files(root: str, index: Index, max_bytes: int) -> dict[str, bytes | None]:
    """Regular files below `root` that differ from the index; None for those that are no more. Follows no symlink.

    What vanishes meanwhile is left out. Raises ValueError when that is more than `max_bytes`, or the tree is too deep.
    """
    changes: dict[str, bytes | None] = {}
    seen: set[str] = set()
    budget = max_bytes
    for path, data in _changed_below(_open(root, None, os.O_DIRECTORY), "", 0, index, seen, max_bytes):
        budget -= _ENTRY_BYTES + len(path) + len(data)
        if budget < 0:
            raise ValueError(f"the change is larger than {max_bytes} bytes")
        changes[path] = data
    return changes | {path: None for path in index if path not in seen}


def _changed_below(
    fd: int, prefix: str, depth: int, index: Index, seen: set[str], max_bytes: int
) -> Iterator[tuple[str, bytes]]:
    """Closes `fd`. Adds every regular file to `seen`."""
    if depth > MAX_DEPTH:
        os.close(fd)
        raise ValueError(f"the tree has folders more than {MAX_DEPTH} levels deep")
    try:
        for name in sorted(os.listdir(fd)):
            path, data = prefix + name, None
            try:
                mode = os.lstat(name, dir_fd=fd).st_mode
                below = _open(name, fd, os.O_DIRECTORY) if stat.S_ISDIR(mode) else None
                if stat.S_ISREG(mode):
                    data = _read_at(fd, name, max_bytes)
            except OSError as e:
                if e.errno in _VANISHED:
                    continue
                raise
            if below is not None:
                yield from _changed_below(below, path + "/", depth + 1, index, seen, max_bytes)
            elif data is not None:
                seen.add(path)
                known = index.get(path)
                if known is None or known[0] != len(data) or known[1] != hashlib.sha256(data).hexdigest():
                    yield path, data
    finally:
        os.close(fd)


def _read_at(dir_fd: int, name: str, max_bytes: int) -> bytes:
    """Up to one byte more than `max_bytes`, so that a longer file shows."""
    with os.fdopen(_open(name, dir_fd, 0), "rb") as f:
        return f.read(max_bytes + 1)


def _open(name: str, dir_fd: int | None, kind: int) -> int:
    """A program may have taken its own user's rights away; they are given back."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | kind
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except PermissionError:
        mode = stat.S_IMODE(os.lstat(name, dir_fd=dir_fd).st_mode)
        os.chmod(name, mode | (0o700 if kind else 0o400), dir_fd=dir_fd)
        return os.open(name, flags, dir_fd=dir_fd)
