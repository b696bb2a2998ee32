"""Small wheels and a build back end that lies in the repository: what pip needs when there is no index."""

import zipfile
from pathlib import Path


def write_wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = (), **modules: str) -> Path:
    """A pure wheel with its metadata; `modules` are file names without suffix -> text."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {f"{module}.py": text for module, text in (modules or {name: ""}).items()}
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    files[f"{info}/METADATA"] = "\n".join(["Metadata-Version: 2.1", *lines, "", "Fixed f for odd numbers.\n"])
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


# Makes shop/_version.py, as setuptools-scm and hatch-vcs do.
BACKEND = """\
import pathlib, zipfile

FILES = {
    "shop/_version.py": "version = '1.5'\\n",
    "shop-1.5.dist-info/METADATA": "Metadata-Version: 2.1\\nName: shop\\nVersion: 1.5\\n\\nFixed f for odd numbers.\\n",
    "shop-1.5.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "shop-1.5.dist-info/entry_points.txt": "[a]\\nb = shop:c\\n\\n[d]\\ne = shop:f\\n",
}


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    files = dict(FILES)
    for path in [*pathlib.Path("src").rglob("*.py"), *pathlib.Path("tests").rglob("*.py")]:
        files[path.as_posix().removeprefix("src/")] = path.read_text()
    files["shop-1.5.dist-info/RECORD"] = "".join(name + ",,\\n" for name in files)
    name = "shop-1.5-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return name
"""
BUILT = {
    "pyproject.toml": """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "shop"
license = "MIT"
dynamic = ["version"]
""",
    "backend.py": BACKEND,
    "src/shop/__init__.py": """\
from importlib.metadata import version

from shop._version import version as made

assert version("shop") == made


def f(x):
    return x + 1
""",
    "tests/test_shop.py": """\
import shop


def test_f():
    assert shop.f(1) == 2


def test_g():
    pass
""",
}
