"""Fixtures that several test folders share."""

import asyncio
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# The suite decides what may land, so it plays the same examples each time; look for new ones with
# `pytest --hypothesis-profile=explore`.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile("gate")

sys.path.insert(0, str(Path(__file__).parent / "helpers"))


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """Grades submissions for the shelf's tasks in real sandboxes."""
    from desk import Desk

    with asyncio.Runner() as loop:
        made = loop.run(Desk.open(tmp_path_factory.mktemp("desk"), loop))
        yield made
        loop.run(made.backend.stop())


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no core ends with a long file while the others wait."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_addoption(parser):
    parser.addoption("--engine", choices=["docker", "podman"], default="docker", help="whose containers are tested")


@pytest.fixture(scope="session")
def engine(request):
    """A real container engine with an image; skips where none can be started."""
    from engine import ENGINES, NoEngine

    made = ENGINES[request.config.getoption("--engine")]()
    try:
        made.start()
    except NoEngine as e:
        pytest.skip(f"no container engine: {e}")
    yield made
    made.stop()


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """Starts the programs from the command line."""
    from program import Program

    return Program(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="session")
def world_dir(tmp_path_factory):
    """A task set of nine generated instances of level 0."""
    from skillrl.tasks.world import write_set

    path = tmp_path_factory.mktemp("world") / "tasks"
    write_set(path, seed=3, levels=(0,), counts={"train": 6, "heldout_repositories": 2, "heldout_families": 1})
    return path


@pytest.fixture(scope="session")
def policy_dir(tmp_path_factory, world_dir):
    """A small policy that guesses, as a Hugging Face folder."""
    from policies import make_policy

    from skillrl.tasks.source import read_tasks

    return make_policy(tmp_path_factory.mktemp("policy") / "hf", read_tasks(world_dir))
