"""The cache of trees and packages: contents, keys, concurrency, crashes, eviction."""

import asyncio
import importlib.metadata
import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wheels import write_wheel

from sandbox_service import workspaces
from sandbox_service.backends.rootfs import sandbox_owner
from sandbox_service.errors import SandboxError, TaskSetError
from sandbox_service.tasks import TaskSetWriter, read_task_set
from sandbox_service.workspaces import MTIME, Trees, hold, tree_key

FILES = {"a.py": b"A = 1\n", "pkg/b.py": b"B = 2\n", "pkg/data.bin": b"\0\xff"}


@pytest.fixture
def task_set(tmp_path):
    writer = TaskSetWriter("test")
    writer.tree = writer.add_tree(FILES)
    writer.write(tmp_path / "set")
    made = read_task_set(tmp_path / "set")
    return made, writer.tree


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def materialise(trees: Trees, task_set, *overlays) -> Path:
    return asyncio.run(trees.materialise(*task_set, *overlays))


def test_a_tree_with_overlays(tmp_path, task_set):
    trees = Trees(tmp_path / "cache")
    assert contents(materialise(trees, task_set)) == FILES
    path = materialise(
        trees, task_set, {"a.py": "A = 3\n", "pkg/b.py": None}, {"new/c.py": "C = 4\n", "a.py": "A = 5\n"}
    )
    assert contents(path) == {"a.py": b"A = 5\n", "pkg/data.bin": b"\0\xff", "new/c.py": b"C = 4\n"}
    assert materialise(trees, task_set) != path
    assert materialise(Trees(tmp_path / "cache"), task_set) == materialise(trees, task_set)


def test_no_history_reaches_a_workspace(tmp_path):
    """A clone with a tag, a reflog, a remote and the commit of the fix, as a task set made elsewhere may hold it."""
    clone = tmp_path / "clone"

    def git(*arguments):
        options = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "init.defaultBranch=main"]
        subprocess.run(["git", *options, *arguments], cwd=clone, check=True, capture_output=True)

    clone.mkdir()
    git("init")
    for text in ("bug", "the fix"):
        (clone / "a.py").write_text(text)
        git("add", ".")
        git("commit", "-m", text)
        git("tag", f"v-{len(text)}")
    git("remote", "add", "origin", "https://example.org/x.git")
    git("checkout", "HEAD~1")
    writer = TaskSetWriter("test")
    nested = {"sub/.git": b"gitdir: ../.git/modules/sub\n", "sub/b.py": b"", ".gitignore": b"x\n"}
    tree = writer.add_tree(contents(clone) | nested)
    writer.write(tmp_path / "set")
    path = materialise(Trees(tmp_path / "cache"), (read_task_set(tmp_path / "set"), tree))
    assert contents(path) == {"a.py": b"bug", "sub/b.py": b"", ".gitignore": b"x\n"}
    assert not list(path.rglob(".git"))


def test_nothing_but_contents_can_be_told_from_a_tree(tmp_path, task_set):
    old_umask = os.umask(0o077)
    try:
        path = materialise(Trees(tmp_path / "cache"), task_set, {"pkg/b.py": "B = 3\n"})
    finally:
        os.umask(old_umask)
    for entry in (path, *path.rglob("*")):
        status = entry.stat()
        assert stat.S_IMODE(status.st_mode) == (0o755 if entry.is_dir() else 0o644), entry
        assert status.st_mtime == MTIME and (status.st_uid, status.st_gid) == sandbox_owner()


overlay = st.dictionaries(st.sampled_from("abc"), st.none() | st.sampled_from(["", "x", "null"]), max_size=3)


@given(st.lists(overlay, max_size=3), st.lists(overlay, max_size=3))
def test_keys_depend_on_contents_and_order_alone(one, other):
    def canonical(overlays):
        return [sorted(o.items(), key=str) for o in overlays if o]

    assert (tree_key("t", *one) == tree_key("t", *other)) == (canonical(one) == canonical(other))
    assert tree_key("t", *one) != tree_key("u", *one)
    assert tree_key("t", *[dict(reversed(o.items())) for o in one]) == tree_key("t", *one)


def test_callers_at_the_same_moment_share_one_build(tmp_path, task_set, monkeypatch):
    trees, reads = Trees(tmp_path / "cache"), []
    made, digest = task_set
    monkeypatch.setattr(workspaces, "_write_files", lambda root, files: reads.append(root) or original(root, files))

    async def many():
        return await asyncio.gather(*(trees.materialise(made, digest) for _ in range(20)))

    assert len(set(asyncio.run(many()))) == 1 and len(reads) == 1


original = workspaces._write_files


def test_a_cancelled_caller_does_not_spoil_the_build_for_others(tmp_path, task_set):
    trees = Trees(tmp_path / "cache")

    async def main():
        first = asyncio.create_task(trees.materialise(*task_set))
        second = asyncio.create_task(trees.materialise(*task_set))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert contents(asyncio.run(main())) == FILES


def test_what_a_crash_left_is_removed_and_never_used(tmp_path, task_set):
    path = materialise(Trees(tmp_path / "cache"), task_set)
    half = path.with_name(".999999999-half")
    half.mkdir()
    alive = path.with_name(f".{os.getpid()}-building")
    alive.mkdir()
    assert materialise(Trees(tmp_path / "cache"), task_set) == path
    assert not half.exists() and alive.exists()


def test_paths_that_lead_out_are_refused(tmp_path, task_set):
    trees = Trees(tmp_path / "cache")
    for bad in ("../evil.py", "/evil.py", "pkg/../../evil.py"):
        with pytest.raises(TaskSetError, match="leads out"):
            materialise(trees, task_set, {bad: "x"})
    with pytest.raises(TaskSetError):
        asyncio.run(trees.materialise(task_set[0], "0" * 64))
    assert [p for p in (tmp_path / "cache/trees").iterdir()] == []


def test_the_least_recently_used_go_first_and_what_is_held_stays(tmp_path, task_set):
    trees = Trees(tmp_path / "cache", max_trees=3)
    paths = [materialise(trees, task_set, {"n": str(i)}) for i in range(5)]
    assert all(p.exists() for p in paths), "what was asked for a moment ago stays"
    held = hold(paths[0])
    materialise(trees, task_set, {"n": "1"})
    workspaces._remove_all(trees._evict(protected_s=0.0))
    assert [i for i, p in enumerate(paths) if p.exists()] == [0, 1, 4]
    os.close(held)
    trees._max_trees = 1
    workspaces._remove_all(trees._evict(protected_s=0.0))
    assert [i for i, p in enumerate(paths) if p.exists()] == [1]
    assert contents(materialise(trees, task_set, {"n": "2"}))["n"] == b"2"


def test_the_size_is_bounded_too(tmp_path, task_set):
    trees = Trees(tmp_path / "cache", max_bytes=60_000)
    paths = [materialise(trees, task_set, {"n": str(i)}) for i in range(6)]
    workspaces._remove_all(trees._evict(protected_s=0.0))
    assert [p.exists() for p in paths] == [False] * 3 + [True] * 3


def test_packages_are_pytest_and_what_it_needs(tmp_path):
    trees = Trees(tmp_path / "cache")
    path = asyncio.run(trees.packages_dir(()))
    assert {"pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments"} <= set(os.listdir(path))
    assert not {"numpy", "sandbox_service", "grpc"} & set(os.listdir(path))
    assert list((path / "_pytest/__pycache__").glob("*.pyc"))
    assert asyncio.run(trees.packages_dir(())) == path


def test_versions_that_are_named_are_the_ones_that_stand_there(tmp_path, monkeypatch):
    """rich is copied and needs markdown-it-py, of which another version is named; a wheel needs one of the runner's."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    here = importlib.metadata.version("packaging")
    write_wheel(tmp_path, "markdown_it_py", "999.0", markdown_it="X = 1\n")
    write_wheel(tmp_path, "nut", "1.0", ("packaging",))
    write_wheel(tmp_path, "packaging", "999.0")
    write_wheel(tmp_path, "packaging", here)
    named = (f"rich=={importlib.metadata.version('rich')}", "markdown-it-py==999.0", "nut==1.0")
    path = asyncio.run(Trees(tmp_path / "cache").packages_dir(named))
    assert (path / "markdown_it.py").exists() and not (path / "markdown_it").exists() and (path / "rich").exists()
    found = {path.name for path in path.glob("*.dist-info") if path.name.startswith(("packaging", "markdown_it"))}
    assert found == {"markdown_it_py-999.0.dist-info", f"packaging-{here}.dist-info"}


def test_a_version_that_is_here_is_copied_and_one_that_is_nowhere_is_an_error(tmp_path, monkeypatch):
    version = importlib.metadata.version("absl-py")
    trees = Trees(tmp_path / "cache")
    path = asyncio.run(trees.packages_dir((f"absl-py=={version}",)))
    assert (path / "absl/flags").exists() and (path / "pytest").exists()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(SandboxError, match="pip cannot install"):
        asyncio.run(trees.packages_dir(("no-such-distribution==9.9",)))
    assert len(list((tmp_path / "cache/packages").iterdir())) == 1
