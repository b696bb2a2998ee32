"""No assault gets out of its sandbox or takes anything down with it: on the jail here.

`test_attacks_elsewhere.py` runs this module again as a plain user, and on Docker.
"""

import asyncio
import os
import secrets
import time
from pathlib import Path

import confused_attacks
import denial_attacks
import escape_attacks
import lasting_attacks
import pytest
from attack import Field, rows
from bench import make_bench

from sandbox_service.backends.base import Ended
from sandbox_service.backends.jail import JailBackend

ASSAULTS = rows(escape_attacks, confused_attacks, denial_attacks)
# On a sandbox that several commands share, as the jail's; a container of the docker backend promises less.
LASTING = rows(lasting_attacks)


@pytest.fixture(scope="module")
def jail(tmp_path_factory, secret):
    with asyncio.Runner() as loop:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("HOST_TOKEN", secret.read_text())
            bench = make_bench(loop, JailBackend, tmp_path_factory.mktemp("assaults"))
        yield bench
        loop.run(bench.backend.stop())


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """A file of the host that everybody may read, in a folder that everybody may write."""
    path = tmp_path_factory.mktemp("secret") / "secret.txt"
    path.write_text(f"SECRET-{secrets.token_hex(8)}")
    for folder in (path.parent, *path.parents[1:3]):
        folder.chmod(folder.stat().st_mode | 0o755)
    path.parent.chmod(0o777)
    return path


def left_over(marker: str) -> list[str]:
    """Processes of the host with this word in their command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = place.read_bytes()
        except OSError:
            continue
        if marker.encode() in line:
            found.append(place.parent.name)
    return found


async def carry_out(assault, backend, base, secret, neighbour=None, workspace=None) -> str:
    """Runs the assault; raises when it succeeds, when a neighbour suffers or when something lives on.

    Workspaces that are given stay open, for backends on which they are dear.
    """
    marker, made, others = f"marker-{secrets.token_hex(8)}", [], asyncio.all_tasks()

    async def open_one():
        made.append(await backend.open_workspace(base, limits=assault.limits))
        return made[-1]

    try:
        workspace, neighbour = workspace or await open_one(), neighbour or await open_one()
        field = Field(backend, workspace, neighbour, secret, secret.read_text(), marker)
        got = await assault.act(field)
        alive = await neighbour.run(["echo", "alive"], timeout_s=60.0)
        assert (alive.ended, alive.output) == (Ended.EXITED, b"alive\n"), "a neighbour suffered"
    finally:
        # What the assault itself began; it ends when its workspaces do.
        rest = asyncio.all_tasks() - others
        await asyncio.gather(*(one.close() for one in made))
        await asyncio.gather(*rest, return_exceptions=True)
    end = time.monotonic() + 10.0
    while left_over(marker) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    assert left_over(marker) == [], "a process lives on"
    return got


@pytest.mark.parametrize("assault", ASSAULTS + LASTING)
def test_assault_is_held(jail, secret, note, assault):
    got = jail.do(carry_out(assault, jail.backend, jail.base, secret))
    assert os.path.exists(secret)
    note("jail", assault.category, assault.name, assault.aims_for, got)
