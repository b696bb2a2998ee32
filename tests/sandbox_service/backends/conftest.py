"""A running jail for all of these tests, and workspaces over a small tree."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import make_bench

from sandbox_service.backends.jail import JailBackend


@pytest.fixture(scope="session")
def jail(tmp_path_factory):
    with asyncio.Runner() as loop:
        bench = make_bench(loop, JailBackend, tmp_path_factory.mktemp("jail"))
        yield bench
        loop.run(bench.backend.stop())


@pytest.fixture
def workspace(jail):
    made = jail.workspace()
    yield made
    jail.do(made.close())


@pytest.fixture
def command_lines() -> Callable[[str], list[int]]:
    """Finds the host's processes by a word of their command line."""

    def find(word: str) -> list[int]:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if word.encode() in line.split(b"\0"):
                found.append(int(pid))
        return found

    return find
