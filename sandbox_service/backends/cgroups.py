"""Control groups, version 1, 2 or none: one group per sandbox limits its memory and its processes.

The groups of one owner (a jail) lie in a directory `skillrl-BOOT-PID-START` of its own below each controller, so that
several share a host and what a dead one left behind can be told and removed.
"""

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_PREFIX = "skillrl-"
_WANTED = ("memory", "pids", "cpu")


@dataclass(frozen=True)
class Events:
    """What the kernel counted for one command."""

    out_of_memory: int = 0
    # Times that a fork was refused.
    out_of_processes: int = 0
    # Bytes of memory that are files of the workspace's tmpfs.
    file_bytes: int = 0


@dataclass(frozen=True)
class Hierarchy:
    """Where groups can be made: controller -> directory. In version 2 all controllers share one directory."""

    version: int
    parents: dict[str, Path] = field(default_factory=dict)

    @property
    def directories(self) -> set[Path]:
        return set(self.parents.values())

    def join(self, name: str) -> None:
        """Makes the group and moves the calling process into it. Raises OSError.

        Moving waits until every processor has passed through the scheduler, often for longer than all else that a
        sandbox takes, so it is done ahead of time.
        """
        for parent in self.directories:
            (parent / name).mkdir(parents=True)
        for parent in self.directories:
            _write(parent / name / "cgroup.procs", 0)

    def limit(self, name: str, memory_bytes: int, processes: int) -> None:
        """Raises OSError."""
        if "memory" in self.parents:
            group = self.parents["memory"] / name
            if self.version == 2:
                _write(group / "memory.max", memory_bytes)
                for optional, value in (("memory.swap.max", 0), ("memory.oom.group", 1)):
                    with suppress(OSError):
                        _write(group / optional, value)
            else:
                _write(group / "memory.limit_in_bytes", memory_bytes)
                with suppress(OSError):
                    _write(group / "memory.memsw.limit_in_bytes", memory_bytes)
        if "pids" in self.parents:
            _write(self.parents["pids"] / name / "pids.max", processes)

    def events(self, name: str) -> Events:
        """Reads the counters; absent files count as zero."""
        group = Group(self, name)
        try:
            return group.events()
        finally:
            group.close()

    def remove(self, name: str) -> bool:
        """Removes the group; False when the kernel still calls it busy, which can last a moment after the last exit."""
        gone = True
        for parent in self.directories:
            try:
                (parent / name).rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone

    def close(self, patience_s: float = 1.0) -> None:
        """Removes the owner's directories."""
        deadline = time.monotonic() + patience_s
        while not all(_remove_tree(parent) for parent in self.directories) and time.monotonic() < deadline:
            time.sleep(0.02)


NONE = Hierarchy(0)


class Group:
    """Files of one group, held open: they work on when rights and the host's file tree are given up."""

    def __init__(self, hierarchy: Hierarchy, name: str):
        version_2 = hierarchy.version == 2
        self._limits = ("memory.max",) if version_2 else ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes")
        self._kills = "memory.events" if version_2 else "memory.oom_control"
        self._fds: dict[str, int] = {}
        wanted = [("memory", file, os.O_WRONLY) for file in self._limits]
        wanted += [("memory", self._kills, os.O_RDONLY), ("memory", "memory.stat", os.O_RDONLY)]
        for controller, file, flags in (*wanted, ("pids", "pids.events", os.O_RDONLY)):
            with suppress(KeyError, OSError):
                self._fds[file] = os.open(hierarchy.parents[controller] / name / file, flags | os.O_CLOEXEC)

    @property
    def fds(self) -> set[int]:
        return set(self._fds.values())

    def raise_memory(self, memory_bytes: int) -> None:
        """To more than it was, or to less that is still more than what is in use."""
        # In version 1 memory and swap together are never allowed less than memory alone: which of them goes first
        # depends on the direction.
        for file in (*self._limits, *self._limits):
            with suppress(KeyError, OSError):
                os.pwrite(self._fds[file], str(memory_bytes).encode(), 0)

    def held_bytes(self) -> int:
        """What files hold that lie in memory."""
        return self._table("memory.stat").get("shmem", 0)

    def events(self) -> Events:
        """Absent files count as zero."""
        oom = self._table(self._kills).get("oom_kill", 0)
        return Events(oom, self._table("pids.events").get("max", 0), self.held_bytes() if oom else 0)

    def _table(self, file: str) -> dict[str, int]:
        """Lines of "name number"."""
        try:
            lines = os.pread(self._fds[file], 1 << 14, 0).decode().splitlines()
        except (KeyError, OSError):
            return {}
        return {name: int(value) for name, _, value in (line.partition(" ") for line in lines) if value.isdigit()}

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def find(root: Path = Path("/")) -> Hierarchy:
    """The hierarchy to use on this host, proven by making a group; NONE when no group can be made.

    `root` is where the host's file tree is seen. Removes leftovers of dead owners.
    """
    own = _own_name(root, os.getpid())
    mounts = _mounts(root)
    memberships = _memberships(root)
    parents: dict[str, Path] = {}
    for controller in _WANTED:
        if controller not in mounts:
            continue
        mount_point, mount_root = mounts[controller]
        member = memberships.get(controller, "/")
        below = os.path.relpath(member, mount_root) if member.startswith(mount_root) else "."
        parent = _usable([mount_point / below, mount_point], own, root)
        if parent:
            parents[controller] = parent
    if parents:
        _raise_weight(parents.get("cpu"), "cpu.shares", 1024)
        return Hierarchy(1, parents)
    if "" not in mounts:
        return NONE
    mount_point, mount_root = mounts[""]
    member = memberships.get("", "/")
    below = os.path.relpath(member, mount_root) if member.startswith(mount_root) else "."
    for place in dict.fromkeys((mount_point / below, (mount_point / below).parent, mount_point)):
        if not place.is_relative_to(mount_point):
            continue
        controllers = _delegated(place)
        if not {"memory", "pids"} <= controllers:
            continue
        parent = _usable([place], own, root)
        if parent and _enable(parent, controllers):
            _raise_weight(parent, "cpu.weight", 100)
            return Hierarchy(2, {c: parent for c in _WANTED if c in controllers})
    return NONE


def _own_name(root: Path, pid: int) -> str:
    boot = (root / "proc/sys/kernel/random/boot_id").read_text()[:8]
    return f"{_PREFIX}{boot}-{pid}-{_start_time(root, pid)}"


def _start_time(root: Path, pid: int) -> str | None:
    try:
        return (root / f"proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _usable(places: list[Path], own: str, root: Path) -> Path | None:
    """The first place in which the owner's directory can be made; leftovers in it are removed on the way."""
    for place in places:
        for stale in place.glob(_PREFIX + "*"):
            if _is_stale(stale.name, own, root):
                _remove_tree(stale)
        try:
            (place / own).mkdir(exist_ok=True)
            if os.access(place / own / "cgroup.procs", os.W_OK):
                return place / own
        except OSError:
            continue
    return None


def _is_stale(name: str, own: str, root: Path) -> bool:
    parts = name.split("-")
    if len(parts) != 4 or name == own:
        return False
    _, boot, pid, start = parts
    return boot != own.split("-")[1] or not pid.isdigit() or _start_time(root, int(pid)) != start


def _remove_tree(path: Path) -> bool:
    """Removes empty groups, children first. A group that still holds a process stays."""
    with suppress(OSError):
        for child in path.iterdir():
            if child.is_dir():
                _remove_tree(child)
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _delegated(place: Path) -> set[str]:
    """Controllers that children of `place` have, after asking for those that are only available."""
    try:
        available = set((place / "cgroup.controllers").read_text().split())
        given = set((place / "cgroup.subtree_control").read_text().split())
        for controller in available.intersection(_WANTED) - given:
            with suppress(OSError):
                _write(place / "cgroup.subtree_control", f"+{controller}")
        return set((place / "cgroup.subtree_control").read_text().split())
    except OSError:
        return set()


def _enable(parent: Path, controllers: set[str]) -> bool:
    try:
        _write(parent / "cgroup.subtree_control", " ".join(f"+{c}" for c in _WANTED if c in controllers))
    except OSError:
        _remove_tree(parent)
        return False
    return True


def _raise_weight(parent: Path | None, name: str, of_one: int) -> None:
    """Against the host's other processes all commands together weigh as much as the few that run at the same time.

    Among themselves they are equal, however many processes one has.
    """
    if parent:
        with suppress(OSError):
            _write(parent / name, of_one * 2 * (os.cpu_count() or 1))


def _mounts(root: Path) -> dict[str, tuple[Path, str]]:
    """Controller ("" for version 2) -> mount point as seen through `root`, and which group it shows."""
    found: dict[str, tuple[Path, str]] = {}
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount_root, mount_point = left.split()[3:5]
        kind, _, options = right.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        point = root / mount_point.lstrip("/") if not mount_point.startswith(f"{root}/") else Path(mount_point)
        if kind == "cgroup2":
            found.setdefault("", (point, mount_root))
        for option in options.split(","):
            if kind == "cgroup" and option in _WANTED:
                found.setdefault(option, (point, mount_root))
    return found


def _memberships(root: Path) -> dict[str, str]:
    """Controller ("" for version 2) -> group of this process."""
    groups = {}
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update({controller: path for controller in controllers.split(",")})
    return groups


def _write(path: Path, value: object) -> None:
    with open(path, "w") as f:
        f.write(str(value))
