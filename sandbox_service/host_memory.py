"""How much memory is left for sandboxes: their files are memory too, and killing processes does not free those."""

from contextlib import suppress
from pathlib import Path

# Files of a control group: its limit, its use, and the part of that which the kernel drops when memory is short.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def left_share(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> float:
    """What is left of the host's memory, or of a control group's that this process is in, whichever is less; 0 to 1."""
    shares = [_of_host(proc)]
    for line in (proc / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, names = groups / "memory", _V1
        elif not controllers:
            root, names = groups, _V2
        else:
            continue
        # A limit of any group above holds too; inside a container the root is the group, whatever the path says.
        own = Path(path.lstrip("/"))
        for folder in (root / own, *(root / above for above in own.parents)):
            with suppress(OSError, ValueError):
                shares.append(_of_group(folder, names))
    return min(shares)


def _of_host(proc: Path) -> float:
    table = {name: int(rest.split()[0]) for name, _, rest in _rows(proc / "meminfo", ":")}
    return table["MemAvailable"] / table["MemTotal"]


def _of_group(folder: Path, names: tuple[str, str, str]) -> float:
    """Raises ValueError where there is no limit."""
    limit, used = (int((folder / name).read_text()) for name in names[:2])
    droppable = {name: int(rest) for name, _, rest in _rows(folder / "memory.stat", " ")}.get(names[2], 0)
    return max(0.0, 1 - (used - droppable) / limit)


def _rows(file: Path, separator: str):
    return (line.partition(separator) for line in file.read_text().splitlines())
