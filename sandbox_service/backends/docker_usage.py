"""What a container uses of memory and disk, seen from inside."""

import os
from contextlib import suppress
from pathlib import Path

from sandbox_service.backends import cgroups


def own_group() -> cgroups.Hierarchy:
    """The container's own control group, as far as it can be seen from inside."""
    root = Path("/sys/fs/cgroup")
    if (root / "memory.events").exists():
        return cgroups.Hierarchy(2, {"memory": root, "pids": root})
    parents = {c: root / c for c, f in (("memory", "memory.oom_control"), ("pids", "pids.max"))}
    return cgroups.Hierarchy(1, {c: p for c, p in parents.items() if p.is_dir()})


def anonymous_bytes(groups: cgroups.Hierarchy) -> int:
    if "memory" not in groups.parents:
        return 0
    with suppress(OSError), open(groups.parents["memory"] / "memory.stat") as f:
        for line in f:
            name, _, value = line.partition(" ")
            if name == ("anon" if groups.version == 2 else "rss"):
                return int(value)
    return 0


def used_bytes(path: str) -> int:
    usage = os.statvfs(path)
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize


def is_full(path: str) -> bool:
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize < 16 * 1024 or usage.f_favail < 2
