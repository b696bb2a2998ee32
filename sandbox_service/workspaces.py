"""Read-only directories for workspaces to stand on: trees of task sets, and folders of installed distributions.

Each directory is cached under the hash of what is in it. It is made under a temporary name and renamed when complete,
so that a crash leaves no half of one, and two callers that make the same one do no harm.
"""

import asyncio
import compileall
import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import py_compile
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sandbox_service.backends.base import PACKAGES
from sandbox_service.backends.rootfs import sandbox_owner
from sandbox_service.errors import SandboxError, TaskSetError
from sandbox_service.pip import run_pip
from sandbox_service.tasks import Overlay, TaskSet, apply_overlay

# One age for every file, so that nothing can be told from times. 2020-01-01; zip archives cannot hold 1970.
MTIME = 1577836800
# Marks a folder of packages that no second workspace will ask for.
FOR_ONE = ".for-one"
# A large distribution over a slow line, or one that is compiled.
PIP_TIMEOUT_S = 1800.0
_VERSION_CONTROL = {".git", ".hg", ".svn", ".bzr"}


def tree_key(tree: str, *overlays: Overlay) -> str:
    """The cache key of a tree with overlays applied in order. Depends on their contents alone."""
    canonical = json.dumps([tree, *(sorted(o.items()) for o in overlays if o)])
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


class Trees:
    """A cache of read-only directories below `cache_dir`, which several processes may share.

    At most `max_trees` and `max_bytes` are kept; the least recently used go first, except what a workspace holds (see
    `hold`) or what was asked for in the last ten minutes.
    """

    def __init__(self, cache_dir: Path, *, max_trees: int = 2048, max_bytes: int = 4 << 30):
        self._trees, self._packages = Path(cache_dir) / "trees", Path(cache_dir) / "packages"
        self._max_trees, self._max_bytes = max_trees, max_bytes
        self._building: dict[Path, asyncio.Task[Path]] = {}
        # Size and time of the last use, least recently used first.
        self._known: dict[Path, tuple[int, float]] = {}
        for folder in (self._trees, self._packages):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
        for path in sorted(self._trees.iterdir(), key=lambda p: p.stat().st_ctime):
            if not path.name.startswith("."):
                self._known[path] = _size(path), -math.inf

    async def materialise(self, task_set: TaskSet, tree: str, *overlays: Overlay) -> Path:
        """A directory with the tree `tree` after the overlays.

        Raises TaskSetError when the tree is missing or damaged or a path leads outside.
        """
        path = self._trees / tree_key(tree, *overlays)
        if path not in self._known:
            await self._once(path, lambda: _make_tree(path, task_set, tree, overlays))
            size = await asyncio.to_thread(_size, path)
        else:
            size = self._known[path][0]
        self._known.pop(path, None)
        self._known[path] = size, time.monotonic()
        if doomed := self._evict():
            await asyncio.to_thread(_remove_all, doomed)
        return path

    async def packages_dir(self, packages: tuple[str, ...] = ()) -> Path:
        """A directory with pytest and its dependencies, copied from this interpreter, and `packages` (NAME==VERSION).

        The latter are copied too where this interpreter has that version, else installed with pip. Raises SandboxError.
        """
        path = self._packages / packages_key(packages)
        return path if path.is_dir() else await self._once(path, lambda: make_packages(self._packages, packages))

    @contextlib.contextmanager
    def folder_for_one(self) -> Iterator[Path]:
        """An empty folder that may be the packages of one workspace; gone at the end, or at the next start."""
        path = Path(tempfile.mkdtemp(prefix=f".{os.getpid()}-", dir=self._packages))
        try:
            path.chmod(0o755)
            (path / FOR_ONE).touch()
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    async def _once(self, path: Path, make: Callable[[], Path]) -> Path:
        """Makes a directory in a thread, once for all who wait for it; a cancelled caller does not stop it."""
        if path not in self._building:
            task = self._building[path] = asyncio.create_task(asyncio.to_thread(make))
            task.add_done_callback(lambda _: self._building.pop(path))
        return await asyncio.shield(self._building[path])

    def _evict(self, protected_s: float = 600.0) -> list[Path]:
        """Takes the oldest trees out of the cache until it fits; returns where they wait for their removal."""
        count, size = len(self._known), sum(size for size, _ in self._known.values())
        now, doomed = time.monotonic(), []
        for path, (tree_size, used) in list(self._known.items()):
            if (count <= self._max_trees and size <= self._max_bytes) or now - used < protected_s:
                break
            aside = _set_aside(path)
            if aside:
                doomed.append(aside)
                del self._known[path]
                count, size = count - 1, size - tree_size
        return doomed


def hold(base: Path) -> int:
    """Keeps a cached directory from eviction, in every process, until the returned descriptor is closed."""
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise SandboxError(f"{base} is being evicted from the cache; try again") from None
    return fd


@functools.cache
def packages_key(packages: tuple[str, ...]) -> str:
    key = json.dumps([sorted(packages), importlib.metadata.version("pytest"), sys.version])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def make_packages(folder: Path, packages: tuple[str, ...] = ()) -> Path:
    """Makes (unless it is there) the directory of distributions below `folder`, and returns it. Blocking."""
    path = folder / packages_key(packages)
    if not path.is_dir():
        local = [p for p in packages if _is_installed(p)]
        others = [p for p in packages if p not in local]
        folder.mkdir(parents=True, exist_ok=True)
        with _building(path) as building:
            _pip_install(building, others)
            # What a local one needs may be named in another version than the local one.
            _copy_distributions(building, ["pytest", *local], {canonicalize_name(Requirement(p).name) for p in others})
            _seal(building)
            _compile(building)
    return path


def without_history(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """A tree without the folders of version control: their refs, tags, logs and later commits hold the answers."""
    return {path: data for path, data in files.items() if not _VERSION_CONTROL & set(PurePosixPath(path).parts)}


def _make_tree(path: Path, task_set: TaskSet, tree: str, overlays: Iterable[Overlay]) -> Path:
    if not path.is_dir():
        files = without_history(apply_overlay(task_set.tree_files(tree), *overlays))
        with _building(path) as building:
            _write_files(building, files)
            _seal(building)
    return path


@contextlib.contextmanager
def _building(path: Path) -> Iterator[Path]:
    """A temporary directory that becomes `path` at the end of the block; another's equal result is as good."""
    building = Path(tempfile.mkdtemp(prefix=f".{os.getpid()}-", dir=path.parent))
    try:
        yield building
        building.chmod(0o755)
        try:
            building.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _set_aside(path: Path) -> Path | None:
    """Renames a directory that nobody holds; None when somebody does."""
    doomed = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return doomed
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.rename(doomed)
    except OSError:
        return None
    finally:
        os.close(fd)
    return doomed


def _remove_all(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """What a dead process left half made."""
    for path in folder.glob(".*-*"):
        pid = path.name[1:].partition("-")[0]
        if not pid.isdigit() or not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _write_files(root: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise TaskSetError(f"path {name!r} leads out of the tree; rebuild the task set")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _seal(root: Path) -> None:
    """World-readable, one age, one owner: the sandbox's."""
    owner = sandbox_owner()
    for directory, _, files in os.walk(root):
        for name in files:
            path = os.path.join(directory, name)
            os.chmod(path, 0o644)
            os.utime(path, (MTIME, MTIME))
            os.chown(path, *owner)
    for directory, _, _ in os.walk(root, topdown=False):
        os.chmod(directory, 0o755)
        os.utime(directory, (MTIME, MTIME))
        os.chown(directory, *owner)


def _size(root: Path) -> int:
    """Bytes on disk, counting a block for every file."""
    return sum(
        4096 + os.path.getsize(os.path.join(directory, name))
        for directory, _, names in os.walk(root)
        for name in names
        if os.path.exists(os.path.join(directory, name))
    )


def _is_installed(requirement: str) -> bool:
    name, _, version = requirement.partition("==")
    try:
        return importlib.metadata.version(name) == version
    except importlib.metadata.PackageNotFoundError:
        return False


def _closure(names: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    """The distributions named and all that they need here, from this interpreter."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [Requirement(n).name for n in names]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as e:
            raise SandboxError(f"{name} is not installed beside the service; run pip install {name}") from e
        for text in found[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def runner_pins() -> list[str]:
    """pytest and what it needs, as NAME==VERSION: every folder of packages holds these versions."""
    return [f"{name}=={distribution.version}" for name, distribution in _closure(["pytest"]).items()]


def _copy_distributions(target: Path, names: Iterable[str], but: Container[str]) -> None:
    for name, distribution in _closure(names).items():
        if name in but:
            continue
        for file in distribution.files or ():
            outside = ".." in file.parts or file.is_absolute()
            if outside or file.suffix == ".pyc" or file.name == "direct_url.json":
                continue
            source, copy = Path(distribution.locate_file(file)), target / file
            if not source.is_file():
                raise SandboxError(f"{name} lacks its file {file}; run pip install --force-reinstall {name}")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def _pip_install(target: Path, packages: list[str]) -> None:
    if not packages:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as runner:
        # The runner is copied over what pip installs: a package that needs it gets the same version.
        runner.write("\n".join(runner_pins()))
        runner.flush()
        arguments = ["install", "--no-compile", "--target", str(target), "--constraint", runner.name, *packages]
        why = run_pip(arguments, timeout_s=PIP_TIMEOUT_S)
    if why:
        raise SandboxError(f"pip cannot install {' '.join(packages)}: {why}\ninstall them beside the service instead")


def _compile(root: Path) -> None:
    """Bytecode that is used without a look at the source: imports in a fresh sandbox are then fast."""
    compileall.compile_dir(
        str(root),
        quiet=2,
        stripdir=str(root),
        prependdir=PACKAGES,
        # Hundreds of tables that a run imports one of at most.
        rx=re.compile(r"/pygments/(lexers|styles|formatters)/"),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    for path in root.rglob("__pycache__"):
        path.chmod(0o755)
        for file in path.iterdir():
            file.chmod(0o644)
