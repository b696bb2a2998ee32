"""The parts of the docker backend that need no engine."""

import asyncio
import json
import os
import struct
from pathlib import Path

import pytest
from bench import TREE, write_tree

from sandbox_service.backends import docker_trees
from sandbox_service.backends.base import Ended, Limits
from sandbox_service.backends.docker import DockerBackend, _Request, default_socket
from sandbox_service.backends.docker_channel import Channel, ContainerGone
from sandbox_service.backends.docker_engine import Engine, Kind, _is_orphan, _owner
from sandbox_service.errors import IsolationError, SandboxError


def unpacked(tmp_path: Path, base: Path) -> tuple[docker_trees.Archive, Path]:
    archive = docker_trees.Archives().of(base)
    file = tmp_path / "archive.tar"
    file.write_bytes(archive.data)
    target = tmp_path / "copy"
    target.mkdir()
    with file.open("rb") as stream:
        docker_trees.unpack(stream, str(target))
    return archive, target


def test_a_tree_travels_whole(tmp_path):
    base = write_tree(tmp_path / "base", TREE | {"run.sh": "#!/bin/sh\n"})
    (base / "run.sh").chmod(0o755)
    (base / "link").symlink_to("a.txt")
    (base / "empty").mkdir()
    os.link(base / "a.txt", base / "twin")
    os.mkfifo(base / "pipe")
    os.utime(base / "a.txt", (1577836800, 1577836800))
    archive, copy = unpacked(tmp_path, base)
    assert {p.relative_to(copy).as_posix() for p in copy.rglob("*")} == {
        *(p.relative_to(base).as_posix() for p in base.rglob("*") if p.name != "pipe")
    }
    assert (copy / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (copy / "a.txt").stat().st_mtime == 1577836800
    assert os.readlink(copy / "link") == "a.txt"
    assert (copy / "twin").stat().st_nlink == 1, "an edit of one would change the other"
    assert archive.index["a.txt"][0] == 6 and "link" not in archive.index
    assert docker_trees.changed_files(str(copy), archive.index, 10_000) == {}


def test_changes_against_the_index(tmp_path):
    archive, copy = unpacked(tmp_path, write_tree(tmp_path / "base", TREE))
    (copy / "a.txt").write_text("alphA\n")
    (copy / "docs/y.md").unlink()
    (copy / "docs/y.md").symlink_to("/etc/passwd")
    (copy / "new").write_bytes(b"\xff")
    (copy / "pkg/mod.py").chmod(0o755)
    assert docker_trees.changed_files(str(copy), archive.index, 1000) == {
        "a.txt": b"alphA\n",
        "new": b"\xff",
        "docs/y.md": None,
    }
    with pytest.raises(ValueError, match="larger than 200"):
        docker_trees.changed_files(str(copy), archive.index, 200)


def test_archives_are_kept_within_their_bound(tmp_path):
    archives = docker_trees.Archives(max_bytes=25_000)
    bases = [write_tree(tmp_path / name, {"f": name}) for name in "abc"]
    first = archives.of(bases[0])
    assert archives.of(bases[0]) is first
    for base in bases[1:]:
        archives.of(base)
    assert archives.of(bases[0]) is not first


OWN = "boot.11.100.5"


@pytest.mark.parametrize(
    ("owner", "state", "orphan"),
    [
        (OWN, "running", False),
        (OWN, "exited", False),
        ("other-boot.11.100.5", "running", True),
        ("boot.11.1.no-such-start", "running", True),
        # Another pid namespace: whether its owner lives cannot be seen, but what has ended is nobody's.
        ("boot.12.4194303.5", "running", False),
        ("boot.12.4194303.5", "exited", True),
        ("nonsense", "running", True),
    ],
)
def test_whose_containers_are_removed(owner, state, orphan):
    assert _is_orphan({"Labels": {"skillrl.owner": owner}, "State": state}, OWN) is orphan


def test_a_living_owner_keeps_its_containers():
    living = _owner()
    boot, namespace, *_ = living.split(".")
    assert not _is_orphan({"Labels": {"skillrl.owner": living}, "State": "running"}, f"{boot}.{namespace}.1.1")


def end(**changes) -> dict:
    whole = {"lines": ["start", "exit 1 0.5"], "stopped": "", "wall_s": 0.7, "out_of_memory": 0, "out_of_processes": 0}
    return whole | {"file_bytes": 0, "disk_full": False} | changes


@pytest.mark.parametrize(
    ("changes", "ended", "code"),
    [
        ({}, Ended.EXITED, 1),
        ({"lines": ["start", "signal 11 0.5"]}, Ended.SIGNALED, 11),
        ({"lines": ["start"]}, Ended.SIGNALED, 9),
        ({"lines": ["start", "exit 0 0.5"], "out_of_memory": 3, "disk_full": True}, Ended.EXITED, 0),
        ({"out_of_memory": 1}, Ended.OUT_OF_MEMORY, -1),
        ({"out_of_memory": 1, "file_bytes": 60 << 20}, Ended.OUT_OF_DISK, -1),
        ({"lines": ["start"], "stopped": "memory"}, Ended.OUT_OF_MEMORY, -1),
        ({"lines": ["start"], "stopped": "timeout"}, Ended.TIMEOUT, -1),
        ({"lines": ["start"], "stopped": "timeout", "out_of_processes": 9}, Ended.OUT_OF_PROCESSES, -1),
        ({"lines": ["start"], "stopped": "output"}, Ended.OUTPUT_LIMIT, -1),
        ({"disk_full": True}, Ended.OUT_OF_DISK, -1),
        ({"lines": ["error 11 BlockingIOError: no fork"]}, Ended.OUT_OF_PROCESSES, -1),
    ],
)
def test_what_an_end_means(changes, ended, code):
    async def result():
        request = _Request({}, b"")
        request.take({"end": end(**changes)}, b"")
        await asyncio.wait_for(request.done, 1.0)
        return request.result(memory_mib=64, tree_bytes=1 << 20)

    got = asyncio.run(result())
    assert (got.ended, got.exit_code) == (ended, code)


def test_a_command_that_never_started_is_our_fault():
    async def result():
        request = _Request({}, b"")
        request.take({"end": end(lines=["error 12 OSError: no memory"])}, b"")
        return request.result(64, 0)

    with pytest.raises(SandboxError, match="no memory"):
        asyncio.run(result())


def frame(message: dict, payload: bytes = b"") -> bytes:
    head = json.dumps(message).encode()
    return struct.pack(">II", len(head), len(payload)) + head + payload


def test_frames_survive_any_cut_of_the_stream():
    """The engine cuts stdout where it likes, and mixes stderr in."""
    messages = [({"ready": True}, b""), ({"id": 1, "of": "output"}, bytes(70_000)), ({"id": 1, "end": {}}, b"")]
    stdout = b"".join(frame(*m) for m in messages)

    async def receive(cut: int) -> list:
        reader = asyncio.StreamReader(limit=1 << 20)
        for start in range(0, len(stdout), cut):
            piece = stdout[start : start + cut]
            reader.feed_data(struct.pack(">BxxxI", 1, len(piece)) + piece)
            reader.feed_data(struct.pack(">BxxxI", 2, 5) + b"noise")
        got = []
        channel = Channel(reader, None)
        channel.open(lambda message, data: got.append((message, data)))
        reader.feed_eof()
        await channel.closed
        assert (await channel.ready) == {"ready": True}
        with pytest.raises(ContainerGone):
            channel.send(1, "ping")
        assert got.pop()[0] == {"lost": "the container ended"}
        return got

    for cut in (1000, 8191, 1 << 20):
        assert asyncio.run(receive(cut)) == messages[1:]


def test_the_container_is_asked_for_every_protection(tmp_path):
    engine = Engine("/nowhere", "image", tmp_path, "runsc", 1.5)
    settings = engine._settings(Kind(tmp_path, Limits(memory_mib=512, processes=100, disk_mib=64), 8, "run-7"))
    host, container = settings["host"], settings["container"]
    assert (host["network_mode"], host["read_only"], host["cap_drop"]) == ("none", True, ["ALL"])
    assert host["security_opt"] == ["no-new-privileges:true"] and "cap_add" not in host and "privileged" not in host
    assert host["mem_limit"] == host["memswap_limit"] == (512 + 8 + 40) << 20
    assert (host["pids_limit"], host["nano_cpus"], host["runtime"]) == (108, 1_500_000_000, "runsc")
    assert all("size=" in o and "nosuid" in o and "nodev" in o for o in host["tmpfs"].values())
    assert all(bind.endswith(":ro") for bind in host["binds"])
    assert container["user"] == "1000:1000" and container["labels"]["skillrl.run"] == "run-7"
    assert not any("SECRET" in name for name in container["environment"])


@pytest.mark.parametrize("value", ["tcp://host:2375", "ssh://host"])
def test_only_local_sockets(monkeypatch, value):
    monkeypatch.setenv("DOCKER_HOST", value)
    with pytest.raises(IsolationError, match="unix://"):
        default_socket()


def test_no_engine_is_a_refusal_with_its_remedy(tmp_path):
    async def start():
        backend = DockerBackend(tmp_path / "state", "image", socket_path=str(tmp_path / "none"))
        try:
            await backend.start()
        finally:
            await backend.stop()

    with pytest.raises(IsolationError, match="doctor|pip install"):
        asyncio.run(start())
