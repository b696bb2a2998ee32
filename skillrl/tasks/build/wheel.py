"""What only a build of a package makes: modules such as `_version.py`, and its metadata."""

import io
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from sandbox_service.pip import run_pip
from skillrl.tasks.build.tree import BuildError, Package, find_source_roots


def build_wheel(package: Package, repository: Path | None, *, timeout_s: float = 600.0) -> bytes:
    """The package's wheel, from a copy of its `repository`, or from the archive that it was read from. Blocking.

    pip runs the package's build back end, outside any sandbox. Raises BuildError.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["wheel", "--no-deps", "--wheel-dir", f"{folder}/wheels"]
        if repository is None:
            wanted = Path(folder, "wanted.txt")
            wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
            arguments += ["--require-hashes", "--no-binary", package.name, "--requirement", str(wanted)]
        else:
            try:
                _copy(repository, Path(folder, "copy"))
            except (OSError, subprocess.SubprocessError, shutil.Error) as e:
                raise BuildError(f"{repository} cannot be copied to be built: {e}") from e
            arguments += [f"{folder}/copy"]
        if why := run_pip(arguments, timeout_s=timeout_s):
            raise BuildError(f"{package.requirement} cannot be built: {why}")
        (wheel,) = Path(folder, "wheels").glob("*.whl")
        return wheel.read_bytes()


def _copy(repository: Path, copy: Path) -> None:
    """With a clone's history, of which some back ends make the version."""
    if not (repository / ".git").exists():
        shutil.copytree(repository, copy, symlinks=True)
        return
    source = str(repository.resolve())
    settings = ("-c", f"safe.directory={source}", "-c", f"safe.directory={source}/.git", "-c", "core.fsmonitor=false")
    subprocess.run(["git", *settings, "clone", "--quiet", source, copy], check=True, capture_output=True)


def made_by_build(wheel: bytes, files: Mapping[str, bytes]) -> dict[str, str]:
    """Path in the tree -> text, of the modules that the wheel has and the tree `files` lacks, and of its metadata.

    Raises BuildError for a wheel with compiled extensions.
    """
    (root,) = find_source_roots(files)
    prefix = "" if root == "." else root + "/"
    folders = {path.removeprefix(prefix).partition("/")[0] for path in files if path.startswith(prefix) and "/" in path}
    known = {data for path, data in files.items() if path.endswith(".py") and data.strip()}
    made = {}
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        names = archive.namelist()
        if compiled := [name for name in names if name.endswith((".so", ".pyd", ".dylib"))]:
            raise BuildError(f"the package holds compiled extensions ({compiled[0]}); take a package of Python alone")
        for name in names:
            top, _, rest = name.partition("/")
            data, path = archive.read(name), prefix + name
            if top.endswith(".dist-info"):
                if rest == "METADATA":
                    # After the headers stands the description, which may tell of the planted place.
                    made[path] = re.split(r"\r?\n\r?\n", data.decode())[0] + "\n"
                elif rest == "entry_points.txt":
                    made[path] = data.decode()
            elif name.endswith(".py") and top in folders and path not in files and data not in known:
                made[path] = data.decode()
    return made
