"""The files of a package, and how they are laid out: what is source, what is a test. Pure functions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox_service.syntax import parse

MAX_FILE_BYTES = 4 << 20
MAX_TREE_BYTES = 64 << 20
# The test runner's own closure: a bug in it breaks the run and not a test.
RUNNER_PACKAGES = {"pytest", "pluggy", "iniconfig", "packaging", "pygments"}


class BuildError(Exception):
    """The package cannot become a task set. The message says why, and what else to do."""


@dataclass(frozen=True)
class Package:
    """Source code with its tests, cleaned."""

    # "pypi" or "repo".
    origin: str
    name: str
    # A repository's is its commit.
    version: str
    # Of the archive; a repository's is that of its files.
    sha256: str
    licence: str
    files: Mapping[str, bytes]
    # What was left out -> number of files.
    stripped: Mapping[str, int] = field(default_factory=dict)
    # Texts of a source distribution's PKG-INFO and requires.txt, where it has them.
    metadata: Mapping[str, str] = field(default_factory=dict)
    # A key of contamination.repository_key.
    repository: str = field(kw_only=True)
    # `owner/name` of all repositories that its remotes and its metadata name.
    named: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


def normalised(name: str) -> str:
    """A distribution's name as the index spells it. Raises BuildError for the test runner's own."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in RUNNER_PACKAGES:
        raise BuildError(f"{name} is part of the test runner, a bug in it would break every test; take another package")
    return name


def strip_reason(path: str) -> str:
    """Why a file is left out; empty when it is kept."""
    *folders, name = path.split("/")
    if any(f.startswith(".") or f in ("__pycache__", "CVS") for f in folders) or name.endswith((".pyc", ".pyo")):
        return "version control and caches"
    if any(f.endswith((".egg-info", ".dist-info")) for f in folders) or path == "PKG-INFO":
        return "package metadata"
    if folders[:1] in (["build"], ["dist"]):
        return "build results"
    # It may tell of the planted place ("fixed f for ..."), and nothing needs it.
    if re.match(r"(changelog|changes|history|news|release[_-]?notes)\b", name, re.IGNORECASE):
        return "changelogs"
    if name.startswith("."):
        return "version control and caches"
    return ""


def find_test_roots(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Outermost folders named test or tests, and test files outside of them."""
    roots = set()
    for path in files:
        parts = path.split("/")
        if not path.endswith(".py"):
            continue
        for depth, part in enumerate(parts[:-1], 1):
            if part in ("test", "tests", "testing"):
                if _holds_tests(files, "/".join(parts[:depth])):
                    roots.add("/".join(parts[:depth]))
                break
        else:
            if re.fullmatch(r"test_.*\.py|.*_test\.py", parts[-1]):
                roots.add(path)
    return tuple(sorted(roots))


def _holds_tests(files: Mapping[str, bytes], folder: str) -> bool:
    return any(p.startswith(folder + "/") and re.search(r"/(test_[^/]*|[^/]*_test)\.py$", p) for p in files)


def find_source_roots(files: Mapping[str, bytes]) -> tuple[str, ...]:
    return ("src",) if any(p.startswith("src/") and p.endswith(".py") for p in files) else (".",)


def find_source_files(files: Mapping[str, bytes], tests: tuple[str, ...]) -> list[str]:
    """Modules of the importable packages, without tests, version files and what is no UTF-8 Python."""
    prefix = "src/" if find_source_roots(files) == ("src",) else ""
    found = []
    for path in sorted(files):
        parts = path.removeprefix(prefix).split("/")
        inside_tests = any(path == root or path.startswith(root + "/") for root in tests)
        if not path.startswith(prefix) or not path.endswith(".py") or inside_tests:
            continue
        packages = [prefix + "/".join(parts[:depth]) + "/__init__.py" for depth in range(1, len(parts))]
        is_script = len(parts) == 1 and parts[0] in _SCRIPTS
        if is_script or parts[-1] in _NOT_MUTATED or not all(p in files for p in packages) or not _parses(files[path]):
            continue
        found.append(path)
    return found


_SCRIPTS = {"setup.py", "conftest.py", "noxfile.py", "tasks.py", "fabfile.py", "ez_setup.py", "conf.py"}
_NOT_MUTATED = {"_version.py", "__about__.py", "__main__.py", "conftest.py", "_compat.py", "compat.py"}


def _parses(data: bytes) -> bool:
    try:
        parse(data.decode("utf-8"))
    except (SyntaxError, ValueError):
        return False
    return True
