"""Trees of repositories at a commit, from local git clones. Nothing of a history goes into a tree."""

import io
import subprocess
import tarfile
from pathlib import Path

from skillrl.tasks.readers.record import Unusable

MAX_TREE_BYTES = 64 << 20


def find_clone(folder: Path, repository: str) -> Path | None:
    """The clone of owner/name below `folder`: owner/name, owner__name or name, with or without .git."""
    name = repository.rpartition("/")[2]
    for candidate in (repository, repository.replace("/", "__"), name):
        for path in (folder / candidate, folder / f"{candidate}.git"):
            if (path / ".git").exists() or (path / "HEAD").exists():
                return path
    return None


def tree_of(folder: Path, repository: str, commit: str) -> dict[str, bytes]:
    """The files of a commit; links and special files are left out. Raises Unusable."""
    clone = find_clone(folder, repository)
    if clone is None:
        raise Unusable("no clone of its repository in --repositories")
    if commit.startswith("-"):
        raise Unusable("a damaged commit")
    # Attributes of the repository must not leave files out, as export-ignore does.
    argv = ["git", "-c", "safe.directory=*", "-C", str(clone), "-c", "core.attributesFile=/dev/null"]
    listed = subprocess.run([*argv, "ls-tree", "-r", "-l", "-z", f"{commit}^{{tree}}"], capture_output=True)
    if listed.returncode:
        raise Unusable("its commit is not in the clone")
    names, size = [], 0
    for entry in listed.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        head, _, name = entry.partition("\t")
        mode, kind, _, length = head.split()
        if kind == "blob" and mode != "120000":
            size += int(length)
            names.append(name)
    if size > MAX_TREE_BYTES:
        raise Unusable(f"a tree of more than {MAX_TREE_BYTES >> 20} MiB")
    return _blobs(argv, commit, names)


def _blobs(argv: list[str], commit: str, names: list[str]) -> dict[str, bytes]:
    """Contents by `git cat-file --batch`, as they are in the commit: no attribute or filter changes them."""
    if any("\n" in name for name in names):
        raise Unusable("a file name with a line end")
    asked = "".join(f"{commit}:{name}\n" for name in names).encode("utf-8", "surrogateescape")
    done = subprocess.run([*argv, "cat-file", "--batch"], input=asked, capture_output=True, check=True)
    answer, files = io.BytesIO(done.stdout), {}
    for name in names:
        head = answer.readline().split()
        if len(head) != 3:
            raise Unusable("a file that the clone does not hold (fetch it without --filter)")
        files[name] = answer.read(int(head[2]))
        answer.read(1)
    return files


def is_packable(files: dict[str, bytes]) -> bool:
    """Whether the names fit the archive that task sets keep trees in."""
    try:
        for name in files:
            tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)
    except (ValueError, UnicodeEncodeError):
        return False
    return True
