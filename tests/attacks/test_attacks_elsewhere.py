"""The same attacks on a jail of a plain user, and in containers of a real engine."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from attack import LIMITS, everywhere
from bench import make_bench
from desk import Desk
from engine import ENGINES, IMAGE, NoEngine
from plain_user import own_folder, run_tests
from test_assaults import ASSAULTS, carry_out, secret  # noqa: F401
from test_attacks import ATTACKS, attempt

from sandbox_service.backends.docker import DockerBackend

pytestmark = pytest.mark.deep
HERE = Path(__file__).parent
FILES = ("test_assaults.py", "test_attacks.py")


@pytest.mark.skipif(os.geteuid() != 0, reason="the others run as a plain user already")
def test_as_a_plain_user(note):
    with own_folder("attacks-as-user") as folder:
        run_tests(folder, f"--attack-table={folder}/rows.json", *(str(HERE / name) for name in FILES))
        for _, *row in json.loads((folder / "rows.json").read_text()):
            note("jail of a plain user", *row)


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
