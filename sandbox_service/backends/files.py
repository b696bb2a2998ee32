"""File operations on a workspace by trusted code. They run in a forked child that sees what the sandbox sees.

The agent may have put a symlink, a FIFO or a device in any place: nothing here blocks, and nothing leads outside.
"""

import errno
import os
import stat
from collections.abc import Iterator

from sandbox_service.backends.base import WORKSPACE

_ROOTS = (WORKSPACE, "/tmp")
# What an entry costs beside its content: it is looked at one by one until its submission is graded.
_ENTRY_BYTES = 1024
# Folders below one another: each costs two descriptors and a few frames of the stack.
_MAX_DEPTH = 100
# It is gone, or something else has taken its place, since it was looked at.
_VANISHED = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO})


def read_file(path: str, max_bytes: int, *, roots: tuple[str, ...] = _ROOTS) -> bytes:
    """Reads a regular file below one of `roots`; raises as Workspace.read_file promises."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_regular(fd, path, roots)
        with os.fdopen(os.dup(fd), "rb") as f:
            data = f.read(max_bytes + 1)
    finally:
        os.close(fd)
    if len(data) > max_bytes:
        raise ValueError(f"{path}: larger than {max_bytes} bytes")
    return data


def write_file(path: str, data: bytes, *, roots: tuple[str, ...] = _ROOTS) -> None:
    """Writes a file below one of `roots`, making parent directories."""
    parent = os.path.dirname(os.path.abspath(path))
    _check_below(os.path.realpath(parent), path, roots)
    os.makedirs(parent, exist_ok=True)
    # Truncated only after the check: the place may be something else than it seems.
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o644)
    except OSError as e:
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise ValueError(f"{path}: not a regular file") from e
        raise
    try:
        _check_regular(fd, path, roots)
        os.ftruncate(fd, 0)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def _check_regular(fd: int, path: str, roots: tuple[str, ...]) -> None:
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "Is a directory", path)
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: not a regular file")
    _check_below(os.readlink(f"/proc/self/fd/{fd}"), path, roots)


def _check_below(real: str, path: str, roots: tuple[str, ...]) -> None:
    if not any(real == root or real.startswith(root + "/") for root in roots):
        raise ValueError(f"{path}: leads outside of the workspace")


def changed_files(upper: str, base: str, max_bytes: int, *, is_whole: bool = False) -> dict[str, bytes | None]:
    """What the upper directory of an overlay changes in `base`, as Workspace.changed_files promises.

    Reads the layers themselves, never through a symlink. What vanishes meanwhile is left out. `is_whole` says that
    `upper` is no layer but the whole tree.
    """
    changes: dict[str, bytes | None] = {}
    budget = max_bytes
    upper_fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY)
    base_fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for path, data in _walk_upper(upper_fd, base_fd, "", max_bytes, is_whole):
            budget -= _ENTRY_BYTES + len(path) + len(data or b"")
            if budget < 0:
                raise ValueError(f"the change is larger than {max_bytes} bytes")
            changes[path] = data
    finally:
        os.close(upper_fd)
        os.close(base_fd)
    return changes


def _walk_upper(
    upper_fd: int, base_fd: int | None, prefix: str, max_bytes: int, is_whole: bool
) -> Iterator[tuple[str, bytes | None]]:
    if prefix.count("/") > _MAX_DEPTH:
        raise ValueError(f"the change has folders more than {_MAX_DEPTH} levels deep")
    names = sorted(os.listdir(upper_fd))
    if base_fd is not None and (is_whole or _is_opaque(upper_fd)):
        for name in sorted(set(os.listdir(base_fd)) - set(names)):
            yield from _deleted(base_fd, name, prefix + name)
    for name in names:
        path = prefix + name
        mode, base_mode = _mode(upper_fd, name), _mode(base_fd, name)
        if not mode:
            continue
        if stat.S_ISREG(mode):
            if base_mode and not stat.S_ISREG(base_mode):
                yield from _deleted(base_fd, name, path)
            try:
                data = _read_at(upper_fd, name, max_bytes)
            except OSError as e:
                if e.errno in _VANISHED:
                    continue
                raise
            if not base_mode or not stat.S_ISREG(base_mode) or _read_at(base_fd, name, len(data)) != data:
                yield path, data
        elif stat.S_ISDIR(mode):
            try:
                fd = _open_directory(upper_fd, name)
            except OSError as e:
                if e.errno in _VANISHED:
                    continue
                raise
            below = _open_directory(base_fd, name) if stat.S_ISDIR(base_mode) else None
            try:
                if below is None and base_mode:
                    yield from _deleted(base_fd, name, path)
                yield from _walk_upper(fd, below, path + "/", max_bytes, is_whole)
            finally:
                os.close(fd)
                if below is not None:
                    os.close(below)
        elif base_mode:
            # A whiteout, or something that is no file has taken the place.
            yield from _deleted(base_fd, name, path)


def _deleted(base_fd: int, name: str, path: str) -> Iterator[tuple[str, None]]:
    """Every regular file of the base at or below `name`."""
    mode = _mode(base_fd, name)
    if stat.S_ISREG(mode):
        yield path, None
    elif stat.S_ISDIR(mode):
        fd = _open_directory(base_fd, name)
        try:
            for child in sorted(os.listdir(fd)):
                yield from _deleted(fd, child, f"{path}/{child}")
        finally:
            os.close(fd)


def _mode(dir_fd: int | None, name: str) -> int:
    """The mode without following links; 0 when there is nothing."""
    if dir_fd is None:
        return 0
    try:
        return os.lstat(name, dir_fd=dir_fd).st_mode
    except FileNotFoundError:
        return 0


def _open_directory(dir_fd: int, name: str) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)


def _read_at(dir_fd: int, name: str, max_bytes: int) -> bytes:
    """Up to one byte more than `max_bytes`, so that a longer file shows."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    with os.fdopen(fd, "rb") as f:
        return f.read(max_bytes + 1)


def _is_opaque(fd: int) -> bool:
    """Whether the overlay hides the base's directory of this name (it was deleted and made again)."""
    for name in ("trusted.overlay.opaque", "user.overlay.opaque"):
        try:
            if os.getxattr(fd, name) in (b"y", b"Y"):
                return True
        except OSError:
            continue
    return False
