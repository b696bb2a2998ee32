"""Fixtures that several test folders share."""

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "helpers"))


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """Grades submissions for the shelf's tasks in real sandboxes."""
    from desk import Desk

    with asyncio.Runner() as loop:
        made = loop.run(Desk.open(tmp_path_factory.mktemp("desk"), loop))
        yield made
        loop.run(made.backend.stop())
