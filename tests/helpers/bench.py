"""Drives a sandbox backend from plain test functions."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sandbox_service.backends.base import WORKSPACE, Backend, ExecResult, HarnessResult, Limits, Workspace
from sandbox_service.workspaces import MTIME

TREE = {"a.txt": "alpha\n", "pkg/__init__.py": "", "pkg/mod.py": "X = 1\n", "docs/deep/x.md": "x\n", "docs/y.md": "y\n"}
SMALL = Limits(memory_mib=64, processes=24, disk_mib=16)


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


class Bench:
    """Drives one backend from plain test functions."""

    def __init__(self, loop: asyncio.Runner, backend: Backend, base: Path):
        self.do, self.backend, self.base = loop.run, backend, base

    def workspace(self, limits: Limits = SMALL, base: Path | None = None) -> Workspace:
        return self.do(self.backend.open_workspace(base or self.base, limits=limits))

    def sh(self, workspace: Workspace, script: str, timeout_s: float = 20.0, **options) -> ExecResult:
        return self.do(workspace.run(["bash", "-c", script], timeout_s=timeout_s, **options))

    def python(self, workspace: Workspace, code: str, timeout_s: float = 20.0, **options) -> ExecResult:
        return self.do(workspace.run(["python3", "-c", code], timeout_s=timeout_s, **options))

    def harness(self, workspace: Workspace, test_paths: Sequence[str]) -> HarnessResult:
        spec = {"nonce": "n", "root": WORKSPACE, "files": {}, "mtime": MTIME, "source_roots": ["."], "conftest": False}
        spec |= {"test_paths": test_paths, "test_ids": []}
        return self.do(workspace.run_harness(json.dumps(spec).encode(), timeout_s=60.0))


def make_bench(loop: asyncio.Runner, make: Callable[[Path], Backend], folder: Path) -> Bench:
    async def start() -> Backend:
        backend = make(folder / "state")
        await backend.start()
        return backend

    return Bench(loop, loop.run(start()), write_tree(folder / "base", TREE))
