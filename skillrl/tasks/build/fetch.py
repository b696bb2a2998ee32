"""Gets a source distribution by name, version and digest, and turns it into a clean tree of files."""

import hashlib
import io
import re
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from sandbox_service.pip import run_pip
from skillrl.tasks.build.licences import check_licence, licence_of
from skillrl.tasks.build.origins import addresses_in, hosted
from skillrl.tasks.build.tree import MAX_FILE_BYTES, MAX_TREE_BYTES, BuildError, Package, normalised, strip_reason
from skillrl.tasks.contamination import repository_key


def parse_requirement(text: str) -> tuple[str, str]:
    """`NAME==VERSION` -> normalised name and version."""
    match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)", text.strip())
    if not match:
        raise BuildError(f"{text!r} is not NAME==VERSION; give one exact version, as in inflection==0.5.1")
    return normalised(match[1]), match[2]


def download(requirement: str, sha256: str | None) -> bytes:
    """The archive's bytes, through pip. With a digest pip refuses any other file.

    pip runs the package's build back end for its metadata, outside any sandbox: fetch only what you would install.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n" if sha256 else f"{requirement}\n")
        arguments = ["download", "--no-deps", "--no-binary", ":all:", "--dest", folder, "--requirement", str(wanted)]
        arguments += ["--require-hashes"] if sha256 else []
        if why := run_pip(arguments, timeout_s=600.0):
            raise BuildError(
                f"pip cannot fetch the source distribution of {requirement}: {why}\n"
                "repair what it names, or take another package or version"
            )
        archives = [p for p in Path(folder).iterdir() if p != wanted]
        if len(archives) != 1 or not archives[0].name.endswith(".tar.gz"):
            names = ", ".join(p.name for p in archives) or "nothing"
            raise BuildError(f"{requirement}: expected one .tar.gz, pip gave {names}; take another package or version")
        return archives[0].read_bytes()


def fetch(requirement: str, sha256: str | None = None, *, allow_licence: str = "") -> Package:
    """Downloads, verifies, unpacks and cleans. Raises BuildError."""
    name, version = parse_requirement(requirement)
    data = download(f"{name}=={version}", sha256)
    return unpack(name, version, data, sha256, allow_licence=allow_licence)


def unpack(name: str, version: str, data: bytes, sha256: str | None = None, *, allow_licence: str = "") -> Package:
    """The archive's source files, relative to its one top folder. Nothing is written or executed."""
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256:
        raise BuildError(f"{name}=={version}: sha256 is {digest}, expected {sha256}; the archive is not the one named")
    stripped: dict[str, int] = {}
    files, metadata = {}, {}
    for path, content in _members(data, stripped):
        if path == "PKG-INFO" or path.endswith(".egg-info/requires.txt"):
            metadata[path.rpartition("/")[2]] = content.decode("utf-8", "replace")
        reason = strip_reason(path)
        if reason:
            stripped[reason] = stripped.get(reason, 0) + 1
        else:
            files[path] = content
    licence = licence_of(metadata.get("PKG-INFO", ""))
    check_licence(licence, f"{name}=={version}", allow_licence)
    key = repository_key(f"pypi:{name}")
    named = hosted(addresses_in(metadata.get("PKG-INFO", "")))
    return Package("pypi", name, version, digest, licence, files, stripped, metadata, repository=key, named=named)


def _members(data: bytes, stripped: dict[str, int]):
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                parts = PurePosixPath(member.name).parts
                if member.name.startswith("/") or ".." in parts or "\\" in member.name:
                    raise BuildError(f"the archive holds the unsafe path {member.name!r}; do not use this package")
                if member.isdir():
                    continue
                if not member.isfile():
                    stripped["links and special files"] = stripped.get("links and special files", 0) + 1
                    continue
                total += member.size
                if member.size > MAX_FILE_BYTES or total > MAX_TREE_BYTES:
                    raise BuildError(f"the archive is too large ({member.name!r}); take a smaller package")
                if len(parts) > 1:
                    yield "/".join(parts[1:]), archive.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError) as e:
        raise BuildError(f"the archive cannot be read ({e}); fetch it again") from e
