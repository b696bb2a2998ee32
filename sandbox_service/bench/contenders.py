"""Ways of running a command, behind one small contract: open a place, run in it, close it.

All run `bash -c true`. What a contender lacks on this host is told by `Absent`, which ends nothing.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

from sandbox_service.backends.base import Backend
from sandbox_service.client import SandboxClient, Session

COMMAND = ["bash", "-c", "true"]
START_S = 120.0


class Absent(Exception):
    """The contender cannot run here; the text says why."""


class Contender(Protocol):
    name: str

    async def open(self) -> Any: ...

    async def exec(self, place: Any) -> None: ...

    async def close(self, place: Any) -> None: ...


async def call(*command: str, **options) -> str:
    """Runs a program of the host to its end; returns what it wrote."""
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=pipe, stderr=pipe, **options)
    output, errors = await process.communicate()
    if process.returncode:
        raise Absent(f"{command[0]} failed: {errors.decode(errors='replace').strip()[-200:]}")
    return output.decode(errors="replace").strip()


class Bare:
    """A subprocess without any sandbox: what there is to compare with."""

    name = "subprocess"

    async def open(self) -> None: ...

    async def exec(self, place: None) -> None:
        await call(*COMMAND)

    async def close(self, place: None) -> None: ...


class Bubblewrap(Bare):
    """A fresh sandbox for every command, with no limits but the namespaces'."""

    name = "bubblewrap"
    _ARGUMENTS = "--unshare-all --unshare-user --disable-userns --die-with-parent --new-session --cap-drop ALL"
    _VIEW = "--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64"
    _REST = "--proc /proc --dev /dev --tmpfs /tmp --uid 1000 --gid 1000 --clearenv --setenv PATH /usr/bin --chdir /tmp"

    async def exec(self, place: None) -> None:
        arguments = f"{self._ARGUMENTS} {self._VIEW} {self._REST}".split()
        # As root it would map the host's root into the sandbox.
        user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        await call("bwrap", *arguments, "--", *COMMAND, cwd="/", **user)

    @classmethod
    async def make(cls) -> "Bubblewrap":
        if not shutil.which("bwrap"):
            raise Absent("bwrap is not installed; apt-get install bubblewrap")
        made = cls()
        await made.exec(None)
        return made


class OnBackend:
    """One of the service's own backends, without gRPC."""

    def __init__(self, backend: Backend, base: Path):
        self.name, self._backend, self._base = backend.name, backend, base

    async def open(self) -> Any:
        return await self._backend.open_workspace(self._base)

    async def exec(self, place: Any) -> None:
        await place.run(COMMAND, timeout_s=START_S)

    async def close(self, place: Any) -> None:
        await place.close()


class OnService:
    """Sessions of a service on the same host, through its client."""

    name = "service"

    def __init__(self, client: SandboxClient, task_set: str, task_id: str):
        self._client, self._task = client, (task_set, task_id, "editing")

    async def open(self) -> Session:
        return await self._client.open(*self._task)

    async def exec(self, place: Session) -> None:
        await place.exec("true")

    async def close(self, place: Session) -> None:
        await place.close()


class DockerCli:
    """Containers by the command line, hardened and limited as the service's own."""

    name = "docker run"
    _ARGUMENTS = (
        *("--network=none", "--read-only", "--tmpfs=/tmp", "--user=1000:1000", "--cap-drop=ALL", "--init"),
        *("--security-opt=no-new-privileges", "--memory=1g", "--pids-limit=128", "--cpus=1"),
    )

    def __init__(self, socket_path: str, image: str):
        self._docker = ("docker", "--host", f"unix://{socket_path}")
        self._image, self._numbers = image, itertools.count()

    async def open(self) -> str:
        return await call(*self._docker, "run", "-d", "--rm", *self._ARGUMENTS, self._image, "sleep", "3600")

    async def exec(self, place: str) -> None:
        await call(*self._docker, "exec", place, *COMMAND)

    async def close(self, place: str) -> None:
        await call(*self._docker, "rm", "-f", place)

    @classmethod
    async def make(cls, socket_path: str, image: str) -> "DockerCli":
        if not image:
            raise Absent("give an image with bash in it: --docker-image=NAME")
        if not shutil.which("docker"):
            raise Absent("no docker command; apt-get install docker.io")
        if not os.path.exists(socket_path):
            raise Absent(f"no engine at {socket_path}; set DOCKER_HOST=unix:///PATH")
        made = cls(socket_path, image)
        place = await made.open()
        await made.close(place)
        return made


_REX = """
import asyncio, json, sys
from swerex.runtime.abstract import BashAction, CloseBashSessionRequest, CreateBashSessionRequest
from swerex.runtime.local import LocalRuntime

async def main():
    runtime = LocalRuntime()
    print("ready", flush=True)
    for line in sys.stdin:
        word, _, name = line.strip().partition(" ")
        if word == "open":
            await runtime.create_session(CreateBashSessionRequest(session=name, startup_timeout=60))
        elif word == "exec":
            await runtime.run_in_session(BashAction(command="bash -c true", session=name, check="raise", timeout=60))
        else:
            await runtime.close_session(CloseBashSessionRequest(session=name))
        print("done", flush=True)

asyncio.run(main())
"""


class SweRex:
    """SWE-ReX's local runtime: a long-lived shell for each session, with no isolation. One call at a time."""

    name = "SWE-ReX local"

    def __init__(self, process: asyncio.subprocess.Process):
        self._process, self._numbers, self._turn = process, itertools.count(), asyncio.Lock()

    async def _ask(self, line: str) -> None:
        async with self._turn:
            self._process.stdin.write(f"{line}\n".encode())
            if (await self._process.stdout.readline()).strip() != b"done":
                raise Absent("SWE-ReX's runtime died")

    async def open(self) -> str:
        name = f"s{next(self._numbers)}"
        await self._ask(f"open {name}")
        return name

    async def exec(self, place: str) -> None:
        await self._ask(f"exec {place}")

    async def close(self, place: str) -> None:
        await self._ask(f"close {place}")


@contextlib.asynccontextmanager
async def swe_rex(python: str) -> AsyncIterator[SweRex]:
    """`python`: the interpreter of an environment with swe-rex in it."""
    if not python:
        raise Absent("give --swerex-python: an interpreter of an environment of its own with swe-rex")
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(python, "-c", _REX, stdin=pipe, stdout=pipe, stderr=null)
    except OSError as e:
        raise Absent(f"{python}: {e.strerror}") from e
    try:
        async with asyncio.timeout(START_S):
            while (line := await process.stdout.readline()).strip() != b"ready":
                if not line:
                    raise Absent(f"{python} cannot import swerex; pip install swe-rex there")
        yield SweRex(process)
    finally:
        process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
