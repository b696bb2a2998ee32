"""The container engine: Docker's or Podman's socket through the Docker SDK, and what a sandbox's container is made of.

Calls of the SDK block and its own timeouts do not bound them, so they run in a few threads of their own.
"""

import asyncio
import functools
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sandbox_service.backends.base import PACKAGES, WORKSPACE, Limits
from sandbox_service.backends.docker_boot import COMMAND, bundle
from sandbox_service.backends.docker_channel import Channel, ContainerGone
from sandbox_service.backends.jobs import ENVIRONMENT
from sandbox_service.backends.rootfs import SANDBOX_ID
from sandbox_service.errors import IsolationError, SandboxError

LABEL, RUN_LABEL = "skillrl.owner", "skillrl.run"
_THREADS, _SDK_TIMEOUT_S = 8, 120
_READY_TIMEOUT_S = 60.0
_REMOVAL_PAUSES_S = (0.1, 0.3, 1.0, 3.0)
# For process 1 and the trusted operations: an interpreter that has imported pytest, and copies of it.
_OWN_MIB = 40
T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What containers have in common that can stand in for each other."""

    packages: Path
    limits: Limits
    # Room for the tree beside what the commands may write.
    tree_mib: int
    run_id: str = ""


@dataclass(eq=False)
class Container:
    container_id: str
    kind: Kind
    channel: Channel
    facts: dict


class Engine:
    """One engine. Raises SandboxError for what the engine refuses."""

    def __init__(self, socket_path: str, image: str, state_dir: Path, runtime: str | None, cpus: float):
        self.socket_path, self._image, self._runtime, self._cpus = socket_path, image, runtime, cpus
        self._etc = state_dir / "etc"
        self._threads = ThreadPoolExecutor(_THREADS, "docker")
        self._local = threading.local()
        self._clients: list = []
        self._live: set[str] = set()
        self.owner = _owner()
        self.image_id, self._is_podman = "", False

    async def call(self, method: Callable[..., T], *args, **options) -> T:
        """Runs `method(client, ...)` in a thread that has a client of its own."""
        from docker import errors

        def work():
            try:
                return method(self._client(), *args, **options)
            except errors.DockerException as e:
                raise SandboxError(f"the container engine at {self.socket_path}: {e}") from e
            except OSError as e:
                raise SandboxError(f"no container engine answers at {self.socket_path}: {e}") from e

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError as e:
            raise SandboxError("the docker backend was stopped") from e

    def _client(self):
        from docker import APIClient

        if not hasattr(self._local, "client"):
            base_url = f"unix://{self.socket_path}"
            self._local.client = APIClient(base_url=base_url, version="auto", timeout=_SDK_TIMEOUT_S)
            self._clients.append(self._local.client)
        return self._local.client

    async def start(self) -> None:
        """Pulls the image where it is missing and removes what dead owners left. Raises IsolationError."""
        try:
            import docker  # noqa: F401
        except ImportError as e:
            raise IsolationError("the docker backend needs the Docker SDK: pip install 'docker>=7.1'") from e
        with socket.socket(socket.AF_UNIX) as probe:
            if number := probe.connect_ex(self.socket_path):
                text = f"no container engine answers at {self.socket_path}: {os.strerror(number)}"
                raise IsolationError(f"{text}; see `python -m sandbox_service doctor`")
        self._etc.mkdir(parents=True, exist_ok=True)
        user = f"agent:x:{SANDBOX_ID}:{SANDBOX_ID}:agent:/tmp:/bin/sh"
        (self._etc / "passwd").write_text(f"root:x:0:0:root:/root:/bin/sh\n{user}\n")
        (self._etc / "group").write_text(f"root:x:0:\nagent:x:{SANDBOX_ID}:\n")
        try:
            version = await self.call(lambda client: client.version())
            self._is_podman = any("podman" in c["Name"].lower() for c in version.get("Components") or ())
            self.image_id = await self.call(_resolve_image, self._image)
            await self.remove_orphans()
        except SandboxError as e:
            raise IsolationError(f"{e}; see `python -m sandbox_service doctor`") from e

    async def make(self, kind: Kind) -> Container:
        """A started container whose process 1 answers."""
        container_id = await self._create(kind)
        channel = None
        try:
            # Process 1 says nothing before it has read its program, so nothing is missed.
            await self.call(lambda client: client.start(container_id))
            channel = await Channel.attach(self.socket_path, container_id)
            channel.write_raw(bundle())
            facts = await asyncio.wait_for(asyncio.shield(channel.ready), _READY_TIMEOUT_S)
            if "lost" in facts:
                raise ContainerGone(await self.last_words(container_id))
        except BaseException as e:
            await asyncio.shield(self._discard(container_id, channel))
            if isinstance(e, TimeoutError):
                raise SandboxError(f"a container did not answer within {_READY_TIMEOUT_S:.0f} s of its start") from e
            raise
        return Container(container_id, kind, channel, facts)

    async def _create(self, kind: Kind) -> str:
        """A thread cannot be cancelled: what it makes for a caller that has gone is removed."""
        creating = asyncio.create_task(self.call(_create, self._settings(kind)))
        creating.add_done_callback(self._note)
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            await asyncio.wait([creating])
            if not creating.cancelled() and creating.exception() is None:
                await self._discard(creating.result(), None)
            raise

    def _note(self, creating: "asyncio.Task[str]") -> None:
        if not creating.cancelled() and creating.exception() is None:
            self._live.add(creating.result())

    async def destroy(self, container: Container) -> None:
        """Safe to repeat."""
        await self._discard(container.container_id, container.channel)

    async def _discard(self, container_id: str, channel: Channel | None) -> None:
        if channel:
            await channel.close()
        await self.call(_remove, container_id)
        self._live.discard(container_id)

    async def died_of_memory(self, container: Container) -> bool:
        """Whether the kernel killed process 1 because the container's memory was used up."""
        with suppress(SandboxError):
            state = (await self.call(lambda client: client.inspect_container(container.container_id)))["State"]
            return bool(state.get("OOMKilled"))
        return False

    async def last_words(self, container_id: str) -> str:
        with suppress(SandboxError):
            state = (await self.call(lambda client: client.inspect_container(container_id)))["State"]
            why = f"status {state.get('ExitCode')} {state.get('Error') or ''}"
            return f"the container ended at once ({why}): the image needs python3 (3.10 or later, with ctypes) on PATH"
        return "the container ended at once"

    async def remove_orphans(self) -> int:
        """Destroys what services that are no more left behind; returns how much."""
        found = [c for c in await self.call(_list, LABEL) if _is_orphan(c, self.owner)]
        await asyncio.gather(*(self.call(_remove, item["Id"]) for item in found))
        return len(found)

    async def stop(self) -> None:
        with suppress(SandboxError):
            await asyncio.gather(*(self.call(_remove, container_id) for container_id in list(self._live)))
        self._live.clear()
        await asyncio.to_thread(self._threads.shutdown)
        for client in self._clients:
            client.close()
        self._clients.clear()

    def _settings(self, kind: Kind) -> dict:
        """Arguments of the SDK's create_container and create_host_config."""
        limits, disk = kind.limits, kind.limits.disk_mib
        # Files are memory too. Full disks must leave room for what reads them back.
        memory = (max(limits.memory_mib, 3 * disk) + kind.tree_mib + _OWN_MIB) << 20
        return {
            "container": {
                "image": self.image_id,
                "command": list(COMMAND),
                # An image may name another program to start with.
                "entrypoint": [],
                "name": f"skillrl-{uuid.uuid4().hex[:16]}",
                "hostname": "sandbox",
                "user": f"{SANDBOX_ID}:{SANDBOX_ID}",
                "working_dir": "/",
                "environment": {k: v for k, v in ENVIRONMENT.items() if k != "PATH"},
                "labels": {LABEL: self.owner, RUN_LABEL: kind.run_id},
                "stdin_open": True,
                "detach": False,
                "healthcheck": {"test": ["NONE"]},
            },
            "host": {
                "network_mode": "none",
                "dns": ["127.0.0.1"],
                "dns_search": ["."],
                "read_only": True,
                "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges:true"],
                "ipc_mode": "private",
                "pids_limit": limits.processes + 8,
                "mem_limit": memory,
                "memswap_limit": memory,
                "oom_score_adj": 500,
                "nano_cpus": int(self._cpus * 1e9),
                "log_config": {"Type": "none", "Config": {}},
                # Podman asks for more than a service without CAP_SYS_RESOURCE may give; commands get less than this.
                "ulimits": [{"Name": "nofile", "Soft": 4096, "Hard": 4096}, {"Name": "core", "Soft": 0, "Hard": 0}]
                + ([{"Name": "nproc", "Soft": 4096, "Hard": 4096}] if self._is_podman else []),
                "tmpfs": {
                    WORKSPACE: self._tmpfs(disk + kind.tree_mib, "0755"),
                    "/tmp": self._tmpfs(disk, "1777"),
                    "/dev/shm": self._tmpfs(disk, "1777"),
                    # It would mount one of its own there, writable, on a root that is read-only.
                    **({"/var/tmp": "ro,size=4k"} if self._is_podman else {}),
                },
                "binds": [
                    f"{os.path.realpath(kind.packages)}:{PACKAGES}:ro",
                    f"{self._etc / 'passwd'}:/etc/passwd:ro",
                    f"{self._etc / 'group'}:/etc/group:ro",
                ],
                "runtime": self._runtime,
            },
        }

    def _tmpfs(self, size_mib: int, mode: str) -> str:
        common = f"rw,exec,nosuid,nodev,size={size_mib}m"
        if self._is_podman:
            # It refuses the other options: many small files are then stopped by the limit of memory.
            return f"{common},mode=1777"
        return f"{common},mode={mode},uid={SANDBOX_ID},gid={SANDBOX_ID},nr_inodes={max(4096, size_mib * 256)}"


def _resolve_image(client, image: str) -> str:
    """The image's own id, which no later push or tag can change; pulled where it is not here."""
    from docker.errors import ImageNotFound

    try:
        found = client.inspect_image(image)
    except ImageNotFound:
        client.pull(image)
        found = client.inspect_image(image)
    if volumes := (found.get("Config") or {}).get("Volumes"):
        text = f"image {image} declares volumes ({', '.join(volumes)}), which would be writable and without a limit"
        raise SandboxError(f"{text}; build it without VOLUME")
    return found["Id"]


def _create(client, settings: Mapping[str, dict]) -> str:
    host = client.create_host_config(**settings["host"])
    return client.create_container(host_config=host, **settings["container"])["Id"]


def _list(client, label: str) -> list[dict]:
    return client.containers(all=True, filters={"label": label})


def _remove(client, container_id: str) -> None:
    """Absent, or being removed by another, is as good."""
    from docker.errors import APIError, NotFound

    for pause_s in (*_REMOVAL_PAUSES_S, None):
        try:
            client.remove_container(container_id, force=True, v=True)
        except NotFound:
            return
        except APIError as e:
            # Podman fails so while the container is ending, Docker while something looks at its files.
            if e.status_code >= 500 and pause_s is not None:
                time.sleep(pause_s)
                continue
            if e.status_code != 409:
                raise
        return


@functools.cache
def _owner() -> str:
    """Boot, pid namespace, pid and start time of this process: who may still need its containers."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}.{os.getpid()}.{_start_time('self')}"


def _start_time(pid: str) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _is_orphan(container: Mapping, own: str) -> bool:
    """One that has ended, or whose owner is known to be dead. Processes of another pid namespace cannot be seen."""
    owner = container["Labels"].get(LABEL, "")
    if owner == own:
        return False
    parts, own_parts = owner.split("."), own.split(".")
    if container["State"] in ("exited", "dead") or len(parts) != len(own_parts) or parts[0] != own_parts[0]:
        return True
    return parts[1] == own_parts[1] and _start_time(parts[2]) != parts[3]
