"""The jail's own tests once more, by a service that is no root: user namespaces do all the work."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

UID = 12345
HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def usable_interpreter() -> str | None:
    """One of our minor version that another user may run."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for place in (os.path.realpath(sys.executable), f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            subprocess.run([place, "-c", "import ssl"], user=UID, group=UID, extra_groups=[], cwd="/", check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return place
    return None


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as a plain user already")
@pytest.mark.parametrize("module", ["test_jail_isolation.py", "test_jail.py", "test_contract.py", "test_cells.py"])
def test_as_a_plain_user(module, tmp_path_factory):
    interpreter = usable_interpreter()
    if interpreter is None:
        pytest.skip("no interpreter of this version that a plain user can run; install one in /usr")
    folder = Path(f"/var/tmp/jail-as-user-{os.getpid()}-{module}")
    folder.mkdir()
    os.chown(folder, UID, UID)
    try:
        done = subprocess.run(
            [
                interpreter,
                "-B",
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--basetemp={folder}/t",
                str(HERE / module),
            ],
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
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
