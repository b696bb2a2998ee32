"""What pip says when it fails: the reason, and not the hint that ends it."""

import tarfile
import time
from pathlib import Path

import pytest

from sandbox_service.pip import MAX_LINES, reason, run_pip

PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
# Fails or hangs when pip asks for metadata; needs nothing from an index.
FAILS = 'print("looking for libfoo")\nraise RuntimeError("needs the library libfoo")\n'
HANGS = "import os, time\n\nopen(PATH, 'w').write(str(os.getpid()))\ntime.sleep(300)\n"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Puts a source distribution `bad==1.0` with this back end where pip alone looks."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    def put(backend):
        files = {"pyproject.toml": PYPROJECT, "backend.py": backend, "PKG-INFO": "Name: bad\nVersion: 1.0\n"}
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        with tarfile.open(tmp_path / "bad-1.0.tar.gz", "w:gz") as archive:
            for name in files:
                archive.add(tmp_path / name, f"bad-1.0/{name}")
        return ["download", "--no-deps", "--no-binary", ":all:", "--dest", str(tmp_path / "out")]

    return put


def test_a_build_that_fails_is_told_by_what_it_printed(shelf):
    why = run_pip([*shelf(FAILS), "bad==1.0"], timeout_s=60)
    assert "RuntimeError: needs the library libfoo" in why and "did not run successfully" in why
    assert "hint" not in why and len(why.splitlines()) <= MAX_LINES + 1


def test_a_wrong_digest_is_told_with_both(shelf, tmp_path):
    wanted = tmp_path / "requirements.txt"
    wanted.write_text(f"bad==1.0 --hash=sha256:{'0' * 64}\n")
    why = run_pip([*shelf(FAILS), "--requirement", str(wanted), "--require-hashes"], timeout_s=60)
    assert "DO NOT MATCH THE HASHES" in why and f"Expected sha256 {'0' * 64}" in why and "Got" in why


def test_a_name_that_nobody_has(shelf):
    assert "No matching distribution found for other==1" in run_pip([*shelf(FAILS), "other==1"], timeout_s=60)


def test_a_build_without_an_end_is_stopped(shelf, tmp_path):
    arguments = shelf(HANGS.replace("PATH", repr(str(tmp_path / "pid"))))
    # On a busy machine pip needs longer until it gets there.
    for timeout_s in (3, 6, 12, 24, 48):
        started = time.monotonic()
        assert run_pip([*arguments, "bad==1.0"], timeout_s=timeout_s) == f"it did not end within {timeout_s} s"
        assert time.monotonic() - started < timeout_s + 60
        if (tmp_path / "pid").exists():
            break
    backend = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _runs(backend):
        time.sleep(0.05)
    assert not _runs(backend)


def _runs(stat):
    try:
        # A zombie waits for its parent alone.
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_works_has_no_reason():
    assert run_pip(["--version"], timeout_s=60) == ""


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        ("", ""),
        ("WARNING: old\nERROR: no\n  such thing\n", "ERROR: no\n  such thing"),
        ("killed\n", "killed"),
        ("".join(f"{n}\n" for n in range(40)), "\n".join(map(str, range(40 - MAX_LINES, 40)))),
        ("error: a\n\n× Building b.\n╰─> [2 lines of output]\n    x\n      y\n    [end of output]\nhint: z\n",
         "Building b.\n  x\n    y"),
    ],
)  # fmt: skip
def test_the_part_that_says_why(stderr, told):
    assert reason(stderr) == told
