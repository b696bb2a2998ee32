"""A small task set, a backend without isolation, and a served service for the tests of sessions, server and client."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from sandbox_service.backends.base import Backend, Ended, ExecResult, Isolation, Workspace
from sandbox_service.backends.output import HeadTail
from sandbox_service.graders.base import Grade
from sandbox_service.server import Identity, Server
from sandbox_service.sessions import Sessions
from sandbox_service.tasks import Environment, HiddenTask, Instance, TaskSetWriter, read_task_set
from sandbox_service.workspaces import Trees

CORRECT = b"def double(x):\n    return 2 * x\n"
BUGGY = "def double(x):\n    return 3 * x\n"
TESTS = b"from pkg.core import double\n\n\ndef test_double():\n    assert double(2) == 4\n"
PUBLIC = {
    "task_id": "t-editing",
    "skill": "editing",
    "instance_id": "i1",
    "repository": "r1",
    "family": "f1",
    "split": "train",
    "level": 0,
    "inputs": {"instruction": "double() in pkg/core.py must return twice its argument"},
}


def write_task_set(path: Path) -> str:
    """One repository with one bug, as an editing and a localization task; returns the set's digest."""
    writer = TaskSetWriter("small")
    files = {"pkg/__init__.py": b"", "pkg/core.py": CORRECT, "tests/test_core.py": TESTS}
    tree = writer.add_tree(files)
    writer.environments["e1"] = Environment("e1", (), (".",), ("tests",), timeout_s=30.0)
    bug = {"pkg/core.py": BUGGY}
    writer.instances.append(
        Instance("i1", "e1", tree, bug, ("tests/test_core.py::test_double",), (), "pkg/core.py", "double")
    )
    for skill in ("editing", "localization"):
        writer.public.append(PUBLIC | {"task_id": f"t-{skill}", "skill": skill})
        writer.tasks.append(HiddenTask(f"t-{skill}", skill, "i1", bug))
    return writer.write(path)


class PlainWorkspace(Workspace):
    """A copy in a folder. `big` makes changed_files refuse."""

    def __init__(self, folder: Path, base: Path):
        self.folder, self.base, self.runs, self.closed = folder, base, [], False
        self.big = False
        shutil.copytree(base, folder)

    async def run(self, argv, *, timeout_s, env=None, limits=None, output=None):
        self.runs.append(list(argv))
        started, kept = time.monotonic(), output or HeadTail(1 << 30)
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ended = Ended.TIMEOUT
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while data := await process.stdout.read(1 << 16):
                        kept.add(data)
                    await process.wait()
                ended = Ended.EXITED
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return ExecResult(ended, process.returncode, *kept.result(), time.monotonic() - started)

    async def run_harness(self, spec, *, timeout_s, limits=None):
        raise AssertionError("these tests bring their own grade function")

    async def read_file(self, path, *, max_bytes=8 << 20):
        return (self.folder / path).read_bytes()

    async def write_file(self, path, data):
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    async def changed_files(self, *, max_bytes=32 << 20):
        if self.big:
            raise ValueError("the change is larger than 32 MiB")
        now = {p.relative_to(self.folder).as_posix(): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
        return {p: d for p, d in now.items() if not (self.base / p).exists() or (self.base / p).read_bytes() != d}

    async def close(self):
        self.closed = True
        shutil.rmtree(self.folder, ignore_errors=True)


class PlainBackend(Backend):
    name = "plain"

    def __init__(self, folder: Path):
        self.folder, self.workspaces = folder, []

    async def start(self):
        self.folder.mkdir(parents=True, exist_ok=True)

    async def self_test(self):
        return Isolation({}, {"everything": "a backend for tests"})

    async def check(self):
        pass

    async def open_workspace(self, base, *, packages=None, limits=None, run_id=""):
        workspace = PlainWorkspace(self.folder / str(len(self.workspaces)), base)
        self.workspaces.append(workspace)
        return workspace

    async def stop(self):
        for workspace in self.workspaces:
            await workspace.close()


class BareTrees(Trees):
    """PlainBackend has no use for packages."""

    async def packages_dir(self, packages=()):
        return self._packages


async def pass_all(request) -> Grade:
    """A grade that shows what it was given."""
    return Grade(1.0, {"changed": float(len(request.changed))}, detail=",".join(sorted(request.changed)))


@contextlib.asynccontextmanager
async def sessions_on(tmp_path: Path, grade=pass_all, policy=None, clock=time.monotonic, **options):
    """Yields (sessions, backend, digest of the task set), accepting calls."""
    digest = write_task_set(tmp_path / "tasks")
    backend = PlainBackend(tmp_path / "workspaces")
    await backend.start()
    task_sets = [read_task_set(tmp_path / "tasks")]
    sessions = Sessions(backend, BareTrees(tmp_path / "trees"), task_sets, grade, policy, clock, **options)
    sessions.accept()
    try:
        yield sessions, backend, digest
    finally:
        await sessions.stop()
        await backend.stop()


@contextlib.asynccontextmanager
async def served(tmp_path: Path, bind: str = "", credentials=None, **options):
    """Yields (address, sessions, backend, digest, server) of a server on a real socket."""
    async with sessions_on(tmp_path, **options) as (sessions, backend, digest):
        with tempfile.TemporaryDirectory() as folder:  # a short path: unix sockets allow 107 bytes
            server = Server(sessions, bind or f"unix:{folder}/s", credentials)
            address = await server.start()
            await server.serving(Identity(backend.name, await backend.self_test()))
            try:
                yield address, sessions, backend, digest, server
            finally:
                await server.stop()
