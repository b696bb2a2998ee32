"""The same attacks on a jail of a plain user, and in containers of a real engine."""

import asyncio
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from attack import LIMITS, everywhere
from bench import make_bench
from desk import Desk
from engine import ENGINES, IMAGE, NoEngine
from test_assaults import ASSAULTS, carry_out, secret  # noqa: F401
from test_attacks import ATTACKS, attempt

from sandbox_service.backends.docker import DockerBackend

pytestmark = pytest.mark.deep
UID = 12345
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILES = ("test_assaults.py", "test_attacks.py")


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


@pytest.mark.skipif(os.geteuid() != 0, reason="the others run as a plain user already")
def test_as_a_plain_user(note):
    interpreter = usable_interpreter()
    if interpreter is None:
        pytest.skip("no interpreter of this version that a plain user can run; install one in /usr")
    folder = Path(f"/var/tmp/attacks-as-user-{os.getpid()}")
    folder.mkdir()
    os.chown(folder, UID, UID)
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={folder}/t", f"--attack-table={folder}/rows.json"]
    try:
        done = subprocess.run(
            [interpreter, "-B", "-m", "pytest", *options, *(str(HERE / name) for name in FILES)],
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
        for _, *row in json.loads((folder / "rows.json").read_text()):
            note("jail of a plain user", *row)
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.fixture(scope="module")
def docker(tmp_path_factory, secret, request):  # noqa: F811
    """A container backend on an engine of its own."""
    try:
        engine = ENGINES[request.config.getoption("--engine")]().start()
    except NoEngine as e:
        pytest.skip(str(e))
    try:
        with asyncio.Runner() as loop:
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("HOST_TOKEN", secret.read_text())
                make = lambda state: DockerBackend(state, IMAGE, socket_path=engine.socket, pool=0)  # noqa: E731
                bench = make_bench(loop, make, tmp_path_factory.mktemp("docker"))
            desk = loop.run(Desk.open(tmp_path_factory.mktemp("docker-desk"), loop, bench.backend))
            neighbour, shared = bench.workspace(LIMITS), bench.workspace(LIMITS)
            yield bench, desk, neighbour, shared
            loop.run(bench.backend.stop())
    finally:
        engine.stop()


@pytest.mark.parametrize("assault", [row for row in ASSAULTS if not row.values[0].deep])
def test_assault_is_held_in_a_container(docker, secret, note, assault, pytestconfig):  # noqa: F811
    bench, _, neighbour, shared = docker
    workspace = None if assault.alone else shared
    got = bench.do(carry_out(assault, bench.backend, bench.base, secret, neighbour, workspace))
    note(pytestconfig.getoption("--engine"), assault.category, assault.name, assault.aims_for, got)


@pytest.mark.parametrize("attack", everywhere(ATTACKS))
def test_attack_scores_the_minimum_in_a_container(docker, note, attack, pytestconfig):
    _, desk, _, _ = docker
    note(pytestconfig.getoption("--engine"), attack.category, attack.name, attack.aims_for, attempt(desk, attack))
