"""States as submissions, without an engine: what counts of an archive, and what the written rewards say."""

import io
import tarfile

import pytest

from sandbox_service.backends.base import Ended
from sandbox_service.graders.reward_file import Verified, _from_json, _reward
from sandbox_service.graders.state import cleaned, names


def archive(**entries) -> bytes:
    """Path (with __ for /) -> text, or (kind, target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in entries.items():
            info = tarfile.TarInfo("./" + name.replace("__", "/").replace("DOT", "."))
            if isinstance(content, tuple):
                info.type, info.linkname = content
            info.mode = 0o4755
            data = content.encode() if isinstance(content, str) else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["conftestDOTpy", "a__sitecustomizeDOTpy", "pytestDOTini", "pytestDOTpy", "xDOTpth"])
def test_what_configures_the_tests_does_not_count(name):
    path = name.replace("__", "/").replace("DOT", ".")
    state = archive(**{name: "x", "ok": "y"})
    assert cleaned(state, (), "/app").left_out == (path,)
    # Unless the task itself has such a file.
    assert names(cleaned(state, {path}, "/app").archive) == {path, "ok"}


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        ("other", True), ("../app/x", True), ("/usr/bin/python3", True), ("/app/x", True), ("/workspace/x", True),
        ("/tests/expected", False), ("../tests/expected", False), ("/", False), ("..", False), ("//tests", False),
        ("/proc/self/root/tests", False), ("/packages", False), ("/logs/verifier/reward.txt", False),
        ("/dev/fd/1", False), ("/app/../tests", False),
    ],
)  # fmt: skip
def test_links_to_what_the_harness_brings_do_not_count(target, stays):
    left = cleaned(archive(out=(tarfile.SYMTYPE, target)), (), "/app")
    assert left.left_out == (() if stays else ("out",))


def test_modes_stay_and_rights_of_others_and_pipes_do_not():
    left = cleaned(archive(run="x", pipe=(tarfile.FIFOTYPE, "")), (), "/app")
    with tarfile.open(fileobj=io.BytesIO(left.archive)) as tar:
        (member,) = tar.getmembers()
    assert (member.name, member.mode) == ("run", 0o755) or (member.name, member.mode) == ("./run", 0o755)


def test_a_damaged_state_is_told():
    with pytest.raises(ValueError, match="damaged"):
        cleaned(b"no archive at all" * 100, (), "/app")


@pytest.mark.parametrize(
    ("ended", "written", "best", "reward"),
    [
        (Ended.EXITED, (1.0,), (1.0,), 1.0),
        (Ended.EXITED, (0.25,), (1.0,), 0.25),
        (Ended.EXITED, (7.0,), (1.0,), 1.0),
        (Ended.EXITED, (), (1.0,), 0.0),
        (Ended.EXITED, (None,), (1.0,), 0.0),
        (Ended.SIGNALED, (1.0,), (1.0,), 0.0),
        (Ended.TIMEOUT, (1.0,), (1.0,), 0.0),
        # More rewards than the tests write on the solution: somebody else wrote.
        (Ended.EXITED, (1.0, 0.0), (1.0,), 0.0),
        (Ended.EXITED, (0.0, 1.0), (1.0,), 0.0),
        (Ended.EXITED, (0.0, 1.0), (0.0, 1.0), 1.0),
        (Ended.EXITED, (0.0,), (0.0, 1.0), 0.0),
    ],
)
def test_the_reward_is_what_the_tests_wrote(ended, written, best, reward):
    assert _reward(Verified(ended, written, ""), best) == reward


def test_rewards_as_json():
    assert (_from_json('{"reward": 0.5, "x": 1}'), _from_json('{"score": 1}')) == (0.5, 1.0)
    assert [_from_json(t) for t in ('{"a": 1, "b": 1}', "[]", "", '{"reward": "nan"}', '{"reward": 1}{}')] == [None] * 5
