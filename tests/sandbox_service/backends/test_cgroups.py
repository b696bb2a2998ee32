"""Finding and using control groups, on made-up file trees of both versions and on this host."""

import os
from pathlib import Path

import pytest
from bench import write_tree

from sandbox_service.backends import cgroups

BOOT = "11111111-2222-3333-4444-555555555555\n"


def stat_line(pid: int, start: int) -> str:
    return f"{pid} (name with ) and spaces) S " + " ".join(["0"] * 18) + f" {start} 0 0\n"


def fake(tmp_path: Path, mounts: str, membership: str, files: dict[str, str]) -> Path:
    own = os.getpid()
    proc = {
        "proc/self/mountinfo": mounts,
        "proc/self/cgroup": membership,
        "proc/sys/kernel/random/boot_id": BOOT,
        f"proc/{own}/stat": stat_line(own, 77),
    }
    return write_tree(tmp_path, {**proc, **files})


def only(path: Path) -> Path:
    (child,) = path.glob("skillrl-*")
    return child


@pytest.fixture
def kernel(monkeypatch):
    """Lets the file system play the kernel: a new group appears with its files."""
    mkdir = Path.mkdir

    def make(path, *args, **kwargs):
        mkdir(path, *args, **kwargs)
        if "sys/fs/cgroup" in str(path):
            for name in ("cgroup.procs", "cgroup.subtree_control"):
                (path / name).touch()

    monkeypatch.setattr(Path, "mkdir", make)


V1_MOUNTS = (
    "20 1 0:1 / /sys rw - sysfs sysfs rw\n"
    "30 20 0:2 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n"
    "31 20 0:3 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
    "32 20 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)


def test_version_1(tmp_path, kernel):
    root = fake(
        tmp_path,
        V1_MOUNTS,
        "4:memory:/slice\n3:pids:/\n0::/\n",
        {"sys/fs/cgroup/memory/slice/x": "", "sys/fs/cgroup/pids/x": ""},
    )
    found = cgroups.find(root)
    own = f"skillrl-{BOOT[:8]}-{os.getpid()}-77"
    assert found == cgroups.Hierarchy(
        1, {"memory": root / "sys/fs/cgroup/memory/slice" / own, "pids": root / "sys/fs/cgroup/pids" / own}
    )
    found.join("7")
    found.limit("7", 1 << 20, 5)
    memory, pids = found.parents["memory"] / "7", found.parents["pids"] / "7"
    assert (memory / "memory.limit_in_bytes").read_text() == "1048576"
    assert (pids / "pids.max").read_text() == "5"
    assert (memory / "cgroup.procs").read_text() == (pids / "cgroup.procs").read_text() == "0"
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (memory / "memory.stat").write_text("cache 1\nshmem 4096\n")
    (pids / "pids.events").write_text("max 3\n")
    assert found.events("7") == cgroups.Events(2, 3, 4096)
    group = cgroups.Group(found, "7")
    group.raise_memory(2 << 20)
    assert (group.events(), group.held_bytes()) == (cgroups.Events(2, 3, 4096), 4096)
    group.close()
    for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        assert (memory / name).read_text() == "2097152"


def test_version_2_asks_for_its_controllers(tmp_path, kernel):
    mounts = "30 20 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    root = fake(
        tmp_path,
        mounts,
        "0::/user.slice/x.scope\n",
        {
            "sys/fs/cgroup/cgroup.controllers": "cpu memory pids",
            "sys/fs/cgroup/cgroup.subtree_control": "cpu memory pids",
            # The own scope holds processes, so its children get no controllers.
            "sys/fs/cgroup/user.slice/x.scope/cgroup.controllers": "memory pids",
            "sys/fs/cgroup/user.slice/cgroup.controllers": "",
        },
    )
    refusing = root / "sys/fs/cgroup/user.slice/x.scope/cgroup.subtree_control"
    refusing.unlink()
    os.mkdir(refusing)
    found = cgroups.find(root)
    parent = only(root / "sys/fs/cgroup")
    assert found == cgroups.Hierarchy(2, {c: parent for c in ("memory", "pids", "cpu")})
    assert (parent / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    found.join("7")
    found.limit("7", 1 << 20, 5)
    assert (parent / "7/memory.max").read_text() == "1048576"
    assert (parent / "7/memory.swap.max").read_text() == "0"
    assert (parent / "7/pids.max").read_text() == "5"
    (parent / "7/memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert found.events("7") == cgroups.Events(1, 0, 0)
    group = cgroups.Group(found, "7")
    group.raise_memory(2 << 20)
    assert (group.events(), group.held_bytes()) == (cgroups.Events(1, 0, 0), 0)
    group.close()
    assert (parent / "7/memory.max").read_text() == "2097152" and (parent / "7/memory.swap.max").read_text() == "0"


def test_no_groups(tmp_path):
    assert cgroups.find(fake(tmp_path, "20 1 0:1 / /sys rw - sysfs sysfs rw\n", "0::/\n", {})) == cgroups.NONE
    assert cgroups.NONE.events("1") == cgroups.Events() and cgroups.NONE.remove("1")
    group = cgroups.Group(cgroups.NONE, "1")
    group.raise_memory(1 << 20)
    assert (group.fds, group.events(), group.held_bytes()) == (set(), cgroups.Events(), 0)


def test_only_leftovers_of_the_dead_are_stale(tmp_path):
    root = fake(tmp_path, "", "", {"proc/42/stat": stat_line(42, 5)})
    own = f"skillrl-{BOOT[:8]}-{os.getpid()}-77"
    alive = f"skillrl-{BOOT[:8]}-42-5"
    assert not cgroups._is_stale(own, own, root) and not cgroups._is_stale(alive, own, root)
    for dead in (f"skillrl-{BOOT[:8]}-43-5", f"skillrl-{BOOT[:8]}-42-6", "skillrl-00000000-42-5"):
        assert cgroups._is_stale(dead, own, root), dead
    assert not cgroups._is_stale("skillrl-other", own, root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make control groups here")
def test_this_host_is_left_clean():
    found = cgroups.find()
    if found == cgroups.NONE:
        pytest.skip("no control groups here")
    assert {"memory", "pids"} <= found.parents.keys()
    assert all(parent.is_dir() for parent in found.directories)
    stale = next(iter(found.directories)).with_name("skillrl-00000000-1-1")
    stale.mkdir()
    cgroups.find()
    assert not stale.exists()
    assert all(folder.is_dir() for folder in found.directories)
    found.close()
    assert not any(folder.exists() for folder in found.directories)
