"""Gets a source distribution by name, version and digest, and turns it into a clean tree of files."""

import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

from sandbox_service.syntax import parse

MAX_FILE_BYTES = 4 << 20
MAX_TREE_BYTES = 64 << 20

# SPDX identifiers whose terms allow training on the code and keeping derived bugs.
LICENCES = {
    *("MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "Apache-2.0", "ISC", "PSF-2.0", "Python-2.0", "Zlib"),
    *("Unlicense", "CC0-1.0", "BSL-1.0"),
}
_LICENCE_NAMES = {
    "mit": "MIT",
    "mit license": "MIT",
    "the mit license (mit)": "MIT",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "bsd-3": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "isc license (iscl)": "ISC",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
# The test runner's own closure: a bug in it breaks the run and not a test.
RUNNER_PACKAGES = {"pytest", "pluggy", "iniconfig", "packaging", "pygments"}


class BuildError(Exception):
    """The package cannot become a task set. The message says why, and what else to do."""


@dataclass(frozen=True)
class Sdist:
    """A source distribution, unpacked and cleaned."""

    name: str
    version: str
    sha256: str
    licence: str
    files: Mapping[str, bytes]
    # What was left out of the archive -> number of members.
    stripped: Mapping[str, int] = field(default_factory=dict)

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


def parse_requirement(text: str) -> tuple[str, str]:
    """`NAME==VERSION` -> normalised name and version."""
    match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)", text.strip())
    if not match:
        raise BuildError(f"{text!r} is not NAME==VERSION; give one exact version, as in inflection==0.5.1")
    name = re.sub(r"[-_.]+", "-", match[1]).lower()
    if name in RUNNER_PACKAGES:
        raise BuildError(f"{name} is part of the test runner, a bug in it would break every test; take another package")
    return name, match[2]


def download(requirement: str, sha256: str | None) -> bytes:
    """The archive's bytes, through pip. With a digest pip refuses any other file.

    pip runs the package's build back end for its metadata, outside any sandbox: fetch only what you would install.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n" if sha256 else f"{requirement}\n")
        argv = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
        argv += ["--no-binary", ":all:", "--dest", folder, "--requirement", str(wanted)]
        argv += ["--require-hashes"] if sha256 else []
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
            raise BuildError(f"pip cannot fetch the source distribution of {requirement}: {reason}")
        archives = [p for p in Path(folder).iterdir() if p != wanted]
        if len(archives) != 1 or not archives[0].name.endswith(".tar.gz"):
            names = ", ".join(p.name for p in archives) or "nothing"
            raise BuildError(f"{requirement}: expected one .tar.gz, pip gave {names}; take another package or version")
        return archives[0].read_bytes()


def fetch(requirement: str, sha256: str | None = None, *, allow_licence: str = "") -> Sdist:
    """Downloads, verifies, unpacks and cleans. Raises BuildError."""
    name, version = parse_requirement(requirement)
    data = download(f"{name}=={version}", sha256)
    return unpack(name, version, data, sha256, allow_licence=allow_licence)


def unpack(name: str, version: str, data: bytes, sha256: str | None = None, *, allow_licence: str = "") -> Sdist:
    """The archive's source files, relative to its one top folder. Nothing is written or executed."""
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256:
        raise BuildError(f"{name}=={version}: sha256 is {digest}, expected {sha256}; the archive is not the one named")
    stripped: dict[str, int] = {}
    files, metadata = {}, ""
    for path, content in _members(data, stripped):
        if path == "PKG-INFO":
            metadata = content.decode("utf-8", "replace")
        reason = _strip_reason(path)
        if reason:
            stripped[reason] = stripped.get(reason, 0) + 1
        else:
            files[path] = content
    licence = licence_of(metadata)
    if licence not in LICENCES and licence != allow_licence:
        raise BuildError(
            f"{name}=={version}: licence {licence or 'unknown'!r} is not known to be permissive; read it, then pass "
            f"--allow_licence={licence or 'unknown'!r}"
        )
    return Sdist(name, version, digest, licence, files, stripped)


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


def _strip_reason(path: str) -> str:
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


def licence_of(metadata: str) -> str:
    """SPDX identifier from PKG-INFO: License-Expression, else License, else the classifier. Unknown text as it is."""
    headers = HeaderParser().parsestr(metadata)
    if headers.get("License-Expression"):
        return headers["License-Expression"].strip()
    classifiers = [c.rsplit("::", 1)[-1] for c in headers.get_all("Classifier", []) if c.startswith("License ::")]
    stated = [headers.get("License", ""), *classifiers]
    stated = [" ".join(s.split()) for s in stated if s.strip()]
    for text in stated:
        found = _LICENCE_NAMES.get(text.lower(), text)
        if found in LICENCES:
            return found
    return stated[0][:60] if stated else ""


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
