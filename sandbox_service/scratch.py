"""Temporary folders that do not outlive their process: what a `kill -9` left behind, the next one removes.

The maker holds a lock on its folder, which the kernel gives up when the process ends.
"""

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "skillrl-sandbox-"
# Between the making of a folder and its lock.
_YOUNG_S = 60.0
_held: dict[Path, int] = {}


def make(name: str) -> Path:
    """A new folder that only this user can enter."""
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-"))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)
    _held[folder] = fd
    return folder


def remove(folder: Path) -> None:
    """Removes a folder and gives up its lock. Safe to repeat."""
    shutil.rmtree(folder, ignore_errors=True)
    fd = _held.pop(folder, None)
    if fd is not None:
        os.close(fd)


def remove_dead(young_s: float = _YOUNG_S) -> list[Path]:
    """Removes this user's folders whose makers are dead; returns them."""
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        with suppress(OSError):
            status = folder.lstat()
            if status.st_uid != os.geteuid() or time.time() - status.st_ctime < young_s or folder in _held:
                continue
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                removed.append(folder)
            finally:
                os.close(fd)
    return removed
