"""A container engine of the tests' own, Debian's Docker or Podman in a temporary folder, and an image.

The image comes from no registry but from the Debian packages installed here: everything essential, Python and git.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

IMAGE = "local/sandbox:1"
_LEFT_OUT = re.compile(
    r"/usr/share/(doc|man|info|locale|lintian|i18n|zoneinfo)/|/usr/include/|/var/|/boot/|\.pyc$|/test/"
)
_PACKAGES = ("python3", "git", "bash", "patch", "libstdc++6")
_HEADERS = "/usr/include/"
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_LINKS = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")


class NoEngine(Exception):
    """An engine cannot be started on this machine; the text says why."""


class Engine:
    """`start` brings it up with the image loaded; `stop` ends it and removes everything it made."""

    program: str
    package: str
    storage_drivers: tuple[str, ...]

    def start(self) -> "Engine":
        if os.geteuid() != 0:
            raise NoEngine(f"starting {self.program} needs root")
        if not shutil.which(self.program, path=_PATH):
            raise NoEngine(f"no {self.program} here; run `apt-get install --no-install-recommends {self.package}`")
        # Short and on a real disk: sockets have 107 bytes, and an overlay cannot stand on an overlay.
        self.folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/var/tmp"))
        self.socket = str(self.folder / "s")
        problems = []
        try:
            for storage in self.storage_drivers:
                if self._launch(storage):
                    make_image(self.client())
                    return self
                problems.append(f"{storage}: {self._log()}")
            raise NoEngine(f"{self.program} does not start: " + "; ".join(problems))
        except BaseException:
            self.stop()
            raise

    def command(self, storage: str) -> list[str]:
        """The daemon's command line."""
        raise NotImplementedError

    def _launch(self, storage: str, patience_s: float = 60.0) -> bool:
        with (self.folder / "log").open("wb") as log:
            environment = os.environ | {"PATH": _PATH}
            self.process = subprocess.Popen(
                self.command(storage), stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket(socket.AF_UNIX) as probe:
                # It listens once it is ready.
                if probe.connect_ex(self.socket) == 0:
                    return True
            time.sleep(0.05)
        self._end()
        return False

    def client(self):
        from docker import APIClient

        return APIClient(base_url=f"unix://{self.socket}", version="auto", timeout=300)

    def containers(self, **filters) -> list[dict]:
        client = self.client()
        try:
            return client.containers(all=True, filters=filters)
        finally:
            client.close()

    def _log(self) -> str:
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else "it said nothing"

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def stop(self) -> None:
        if hasattr(self, "process"):
            self._end()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in sorted((m for m in mounts if m.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class Dockerd(Engine):
    program, package, storage_drivers = "dockerd", "docker.io", ("overlay2", "vfs")

    def command(self, storage: str) -> list[str]:
        arguments = {
            "data-root": self.folder / "data",
            "exec-root": self.folder / "exec",
            "pidfile": self.folder / "pid",
            "host": f"unix://{self.socket}",
            "storage-driver": storage,
            # Nothing of the machine's network may change.
            "bridge": "none",
            "iptables": "false",
            "ip6tables": "false",
            "ip-forward": "false",
        }
        return [self.program, *(f"--{name}={value}" for name, value in arguments.items())]


class Podman(Engine):
    program, package, storage_drivers = "podman", "podman", ("overlay", "vfs")

    def command(self, storage: str) -> list[str]:
        arguments = {
            "root": self.folder / "data",
            "runroot": self.folder / "run",
            "tmpdir": self.folder / "tmp",
            "storage-driver": storage,
            # Without systemd there is nobody to make the groups.
            "cgroup-manager": "cgroupfs",
        }
        flags = [f"--{name}={value}" for name, value in arguments.items()]
        return [self.program, *flags, "system", "service", "--time=0", f"unix://{self.socket}"]

    def stop(self) -> None:
        """Podman has no daemon that its containers would die with."""
        if hasattr(self, "process") and self.process.poll() is None:
            client = self.client()
            for container in self.containers():
                client.remove_container(container["Id"], force=True)
            client.close()
        super().stop()


ENGINES = {"docker": Dockerd, "podman": Podman}


def make_image(client, image: str = IMAGE, extra: tuple[str, ...] = ()) -> None:
    """Imports a root file system made of installed packages as `image`; `extra` ones come with their headers."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as f:
        with tarfile.open(fileobj=f, mode="w") as tar:
            write_root(tar, extra)
        f.flush()
        repository, _, tag = image.partition(":")
        imported = json.loads(client.import_image_from_file(f.name, repository=repository).splitlines()[-1])
        # Podman's import forgets the tag.
        client.tag(imported.get("id") or imported["status"], repository, tag)
    client.close()


def write_root(tar: tarfile.TarFile, extra: tuple[str, ...] = ()) -> None:
    added = set()
    for name in _LINKS:
        if os.path.islink(f"/{name}"):
            tar.add(f"/{name}", name)
            added.add(f"/{name}")
    for place in ("/dev", "/proc", "/sys", "/tmp", "/run", "/etc/alternatives"):
        tar.add(place, place[1:], recursive=False)
        added.add(place)
    chosen = [*Path("/etc/alternatives").iterdir(), *(p for p in Path("/usr/bin").iterdir() if _is_alternative(p))]
    for path in [*_files(_closure([*_PACKAGES, *extra])), *map(str, chosen)]:
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        left_out = _LEFT_OUT.search(real) and not (extra and real.startswith(_HEADERS))
        if real in added or left_out or not os.path.lexists(real):
            continue
        added.add(real)
        tar.add(real, real[1:], recursive=False)
    if "/usr/bin/python" not in added:
        link = tarfile.TarInfo("usr/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, "python3"
        tar.addfile(link)


def _is_alternative(path: Path) -> bool:
    return path.is_symlink() and os.readlink(path).startswith("/etc/alternatives/")


def _closure(names: list[str]) -> set[str]:
    """Installed packages: the essential ones, those named, and all that they need."""
    fields = "${binary:Package}\t${Package}\t${Essential}\t${Provides}\t${Pre-Depends}, ${Depends}\n"
    text = subprocess.run(["dpkg-query", "-W", f"-f={fields}"], capture_output=True, text=True, check=True).stdout
    needs: dict[str, str] = {}
    known: dict[str, str] = {}
    waiting = list(names)
    for line in text.splitlines():
        full, short, essential, provides, depends = line.split("\t")
        needs[full] = depends
        for name in [full, short, *re.findall(r"[a-z0-9][a-z0-9+.-]+", re.sub(r"\([^)]*\)", "", provides))]:
            known.setdefault(name, full)
        if essential == "yes":
            waiting.append(full)
    found: set[str] = set()
    while waiting:
        full = known.get(waiting.pop())
        if full and full not in found:
            found.add(full)
            plain = re.sub(r"\([^)]*\)", "", needs[full])
            waiting += re.findall(r"[a-z0-9][a-z0-9+.-]+", plain)
    return found


def _files(packages: set[str]) -> list[str]:
    done = subprocess.run(["dpkg-query", "-L", *sorted(packages)], capture_output=True, text=True, check=True)
    return sorted({line for line in done.stdout.splitlines() if line.startswith("/") and line != "/."})
