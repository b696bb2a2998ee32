"""Takes the files of a repository on this machine: a git clone, or any folder."""

import hashlib
import subprocess
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from sandbox_service.tasks import pack_tree
from skillrl.tasks.build.licences import check_licence, from_statements, from_text
from skillrl.tasks.build.origins import hosted, key_of_clone, urls_of
from skillrl.tasks.build.tree import MAX_FILE_BYTES, MAX_TREE_BYTES, BuildError, Package, normalised, strip_reason

_LICENCE_FILES = ("LICENSE", "LICENCE", "COPYING", "UNLICENSE")


def read_checkout(path: Path, *, allow_licence: str = "") -> Package:
    """The repository at `path` without its history. Nothing is executed. Raises BuildError.

    Of a git clone only what is committed counts, so that the same commit gives the same tasks.
    """
    if not path.is_dir():
        raise BuildError(f"--repo={path} is no folder; give the root of a repository")
    version, paths = _committed(path) if (path / ".git").exists() else ("0", _all_files(path))
    files, stripped, total = {}, {}, 0
    for name in paths:
        file = path / name
        reason = "links and special files" if file.is_symlink() or not file.is_file() else strip_reason(name)
        if reason:
            stripped[reason] = stripped.get(reason, 0) + 1
            continue
        size = file.stat().st_size
        total += size
        if size > MAX_FILE_BYTES or total > MAX_TREE_BYTES:
            raise BuildError(f"{path} is too large ({name!r}); take a smaller repository, or clone it without its data")
        files[name] = file.read_bytes()
    project = _project(files)
    name = normalised(str(project.get("name") or path.resolve().name))
    licence = _licence(project, files)
    check_licence(licence, name, allow_licence)
    digest, remotes = hashlib.sha256(pack_tree(files)).hexdigest(), _remotes(path)
    key, named = key_of_clone(remotes, name), hosted([*remotes, *urls_of(project)])
    return Package("repo", name, version, digest, licence, files, stripped, repository=key, named=named)


def _committed(path: Path) -> tuple[str, list[str]]:
    """The commit's first characters, and the tracked files, which must stand as they were committed."""
    if changed := _git(path, "status", "--porcelain", "--untracked-files=no").strip():
        first = changed.splitlines()[0].strip()
        raise BuildError(f"{path} has changes that are not committed ({first}); commit or undo them")
    commit = _git(path, "rev-parse", "--short=12", "HEAD").strip()
    return commit, sorted(filter(None, _git(path, "ls-files", "-z").split("\0")))


def _remotes(path: Path) -> list[str]:
    """The addresses that a clone comes from, that of `origin` first."""
    if not (path / ".git").exists():
        return []
    rows = [line.split()[:2] for line in _git(path, "remote", "-v").splitlines()]
    return [address for _, address in sorted(rows, key=lambda row: row[0] != "origin")]


def _git(path: Path, *arguments: str, timeout_s: float = 300.0) -> str:
    # The clone's owner may be another user; nothing of it is run.
    settings = ("-c", f"safe.directory={path.resolve()}", "-c", "core.fsmonitor=false")
    try:
        done = subprocess.run(
            ["git", *settings, "-C", str(path), *arguments], capture_output=True, text=True, timeout=timeout_s
        )
    except FileNotFoundError:
        raise BuildError("git is not installed; install it, or give a folder without .git") from None
    except subprocess.TimeoutExpired:
        raise BuildError(
            f"{path}: git {arguments[0]} did not end within {timeout_s:.0f} s; run it there by hand, or give a copy "
            "without .git"
        ) from None
    if done.returncode:
        raise BuildError(f"{path} is no usable git clone: {done.stderr.strip()[-300:]}")
    return done.stdout


def _all_files(path: Path) -> list[str]:
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_symlink() or not p.is_dir())


def _project(files: Mapping[str, bytes]) -> Mapping:
    """The [project] table of pyproject.toml, empty where there is none."""
    try:
        found = tomllib.loads(files.get("pyproject.toml", b"").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise BuildError(f"pyproject.toml cannot be read: {e}; repair it") from e
    return found.get("project", {})


def _licence(project: Mapping, files: Mapping[str, bytes]) -> str:
    """What pyproject.toml says, else what the licence file holds."""
    stated = project.get("license", "")
    if isinstance(stated, Mapping):
        stated = stated.get("text", "")
    return from_statements([stated, *project.get("classifiers", [])]) or from_text(_licence_text(files))


def _licence_text(files: Mapping[str, bytes]) -> str:
    found: Iterable[str] = (p for p in sorted(files) if "/" not in p and p.upper().startswith(_LICENCE_FILES))
    return "\n".join(files[p].decode("utf-8", "replace") for p in found)
