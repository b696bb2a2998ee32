"""The code under test a second time, beside the agent: in the folder of packages that a sandbox gets."""

import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from sandbox_service.graders.paths import is_source
from sandbox_service.tasks import Environment

# A shorter file may stand anywhere by chance.
MIN_COPY_BYTES = 200
_NAMESPACE = (b"extend_path", b"declare_namespace")


def copies(packages: Path, files: Mapping[str, bytes], environment: Environment) -> list[str]:
    """Where in `packages` modules of the tree `files` stand, in whatever version, and word-for-word copies of them.

    Reads the folder; paths are relative to it.
    """
    sources = {path: data for path, data in files.items() if path.endswith(".py") and is_source(path, environment)}
    # An empty file or a namespace's is shared by projects that have nothing to do with each other.
    own = {p: d for p, d in sources.items() if d.strip() and not any(word in d for word in _NAMESPACE)}
    modules = {_module(path, environment) for path in own}
    found = {name for module in modules for name in _places(packages, module)}
    texts = {data for data in own.values() if len(data) >= MIN_COPY_BYTES}
    sizes = {len(data) for data in texts}
    for file in packages.rglob("*"):
        name = file.relative_to(packages).as_posix()
        if file.suffix == ".py":
            if file.stat().st_size in sizes and file.read_bytes() in texts:
                found.add(name)
        elif file.is_file():
            found |= {f"{name}: {member}" for member in _members(file) if _is_of(member, modules)}
    return sorted(found)


def _module(path: str, environment: Environment) -> str:
    """`src/shop/__init__.py` -> `shop`, `src/shop/a.py` -> `shop/a`: below the deepest source root."""
    roots = [r for r in environment.source_roots if r != "." and path.startswith(f"{r.rstrip('/')}/")]
    inside = PurePosixPath(path).relative_to(max(roots, key=len, default="."))
    return str(inside.parent if inside.name == "__init__.py" else inside.with_suffix(""))


def _places(packages: Path, module: str) -> Iterator[str]:
    parent, name = packages / PurePosixPath(module).parent, PurePosixPath(module).name
    for file in (parent / f"{name}.py", parent / name / "__init__.py", *parent.glob(f"{name}.*.so")):
        if file.is_file() and file.stat().st_size:
            yield file.relative_to(packages).as_posix()


def _members(file: Path) -> list[str]:
    """Paths in a wheel, an egg or a zip, or below the top folder of a source distribution; none for another file."""
    if file.suffix in (".whl", ".egg", ".zip") and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    if file.name.endswith((".tar.gz", ".tgz")) and tarfile.is_tarfile(file):
        with tarfile.open(file) as archive:
            return [name.partition("/")[2] for name in archive.getnames()]
    return []


def _is_of(member: str, modules: set[str]) -> bool:
    bare = member.removeprefix("src/").removesuffix(".py").removesuffix("/__init__")
    return member.endswith(".py") and bare in modules
