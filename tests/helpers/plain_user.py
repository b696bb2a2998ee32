"""Runs tests once more as a user who is no root."""

import contextlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

UID = 12345
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def own_folder(name: str) -> Iterator[Path]:
    """A folder of the plain user."""
    folder = Path(f"/var/tmp/{name}-{os.getpid()}")
    folder.mkdir()
    os.chown(folder, UID, UID)
    try:
        yield folder
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def run_tests(folder: Path, *arguments: str) -> None:
    """Skips where the plain user has no Python; asserts that all tests pass."""
    interpreter = _usable_interpreter()
    if interpreter is None:
        pytest.skip("no interpreter of this version that a plain user can run; install one in /usr")
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={folder}/t"]
    done = subprocess.run(
        [interpreter, "-B", "-m", "pytest", *options, *arguments],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
            "HOME": str(folder),
            "TMPDIR": str(folder),
        },
        user=UID,
        group=UID,
        extra_groups=[],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def _usable_interpreter() -> str | None:
    """One of our minor version that another user may run."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for place in (os.path.realpath(sys.executable), f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            subprocess.run([place, "-c", "import ssl"], user=UID, group=UID, extra_groups=[], cwd="/", check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return place
    return None
