"""Suites that cannot import what they test: why, and what a build of the package adds."""

import asyncio
import json
import subprocess
import zipfile

import pytest
from wheels import BUILT, write_wheel

from skillrl.tasks.build.assemble import build_set, parts_of
from skillrl.tasks.build.checkout import read_checkout
from skillrl.tasks.build.diagnose import UnbuiltError, causes, fault
from skillrl.tasks.build.manifest import Entry, Manifest
from skillrl.tasks.build.tree import BuildError
from skillrl.tasks.build.wheel import build_wheel, made_by_build

FILES = dict.fromkeys(["src/shop/__init__.py", "src/shop/core/_fast.pyx", "src/till.py", "tests/test_a.py"], b"")


@pytest.mark.parametrize(
    ("log", "told", "by_build"),
    [
        ("E   ModuleNotFoundError: No module named 'six.moves'", "six is not installed: name the distribution", False),
        ("No module named 'shop._version'", "shop._version is no file of the repository: a build", True),
        ("No module named 'shop.core._fast'", "shop.core._fast is a compiled extension", False),
        ("cannot import name '_fast' from 'shop.core' (/w/a.py)", "shop.core._fast is a compiled extension", False),
        ("cannot import name 'x' from partially initialized module 'shop'", "shop.x is no file", True),
        ("cannot import name 'x' from 'collections'", "", False),
        ("PackageNotFoundError: No package metadata was found for Shop.Tools", "shop-tools asks for its own", True),
        ("importlib.metadata.PackageNotFoundError: other", "the distribution other is not installed", False),
        ("AssertionError", "", False),
    ],
)
def test_causes(log, told, by_build):
    found = causes(f"{log}\n{log}\n", FILES, "shop-tools")
    assert len(found) == bool(told)
    assert all(cause.text.startswith(told) and cause.by_build is by_build for cause in found)


def test_a_build_is_the_remedy_only_where_it_is_enough():
    made, missing = "No module named 'shop.a'\n", "No module named 'six'\n"
    assert type(fault("no test passes", made, causes(made, FILES, "shop"))) is UnbuiltError
    both = fault("no test passes", made + missing, causes(made + missing, FILES, "shop"))
    assert type(both) is BuildError
    assert str(both).startswith(
        "no test passes\n- shop.a is no file of the repository: a build of the package makes it\n"
    )
    assert "\n- six is not installed" in str(both)
    assert type(fault("no test passes", "", ())) is BuildError


def test_what_a_wheel_adds(tmp_path):
    path = write_wheel(tmp_path, "shop", "1.5", shop="X = 1\n", loose="")
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("shop/__init__.py", "shop/_version.py", "tests/test_a.py", "other/a.py", "shop/x.json"):
            archive.writestr(name, name)
        archive.writestr("shop/copy.py", "COPIED = 1\n")
    files = {"src/shop/__init__.py": b"", "python/a.py": b"COPIED = 1\n", "tests/test_a.py": b""}
    assert made_by_build(path.read_bytes(), files) == {
        "src/shop/_version.py": "shop/_version.py",
        # Without the description.
        "src/shop-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: shop\nVersion: 1.5\n",
    }
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("shop/_fast.cpython-311-x86_64-linux-gnu.so", "")
    with pytest.raises(BuildError, match="compiled extensions .shop/_fast"):
        made_by_build(path.read_bytes(), files)


def repository(folder, **changed):
    for name, text in {**BUILT, **changed}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("is_clone", [False, True])
def test_a_repository_is_built_in_a_copy(tmp_path, is_clone):
    folder = repository(tmp_path / "shop")
    if is_clone:
        for words in ("init -q", "add -A", "-c user.name=A -c user.email=a@b.c commit -qm First"):
            subprocess.run(["git", *words.split()], cwd=folder, check=True)
    package = read_checkout(folder)
    made = made_by_build(build_wheel(package, folder), package.files)
    assert made == {
        "src/shop/_version.py": "version = '1.5'\n",
        "src/shop-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: shop\nVersion: 1.5\n",
        "src/shop-1.5.dist-info/entry_points.txt": "[a]\nb = shop:c\n\n[d]\ne = shop:f\n",
    }
    assert read_checkout(folder).files == package.files


def build(folder, out, packages=None):
    manifest = Manifest("one", (Entry(repo=str(folder), packages=packages),))
    asyncio.run(build_set(manifest, out, jobs=1, progress=lambda *_: None))


def proven(out):
    return [json.loads(line)[0] for line in (parts_of(out) / "shop.jsonl").read_text().splitlines()]


# The suite of these passes; but each of its two tests is too large a share of it for a bug.
PASSED = "no usable bug among"


@pytest.mark.deep
def test_a_package_that_needs_its_build_is_built(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    folder = repository(tmp_path / "shop")
    with pytest.raises(BuildError, match=PASSED):
        build(folder, tmp_path / "out")
    before = proven(tmp_path / "out")
    assert before.count("made") == before.count("baseline") == 1
    with pytest.raises(BuildError, match=PASSED):
        build(folder, tmp_path / "out")
    # Kept, and not made again.
    assert proven(tmp_path / "out") == before


@pytest.mark.slow
def test_a_build_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    folder = repository(tmp_path / "shop", **{"backend.py": "raise SystemExit('no compiler here')\n"})
    with pytest.raises(BuildError, match=r"shop._version is no file[^$]*cannot be built: [^$]*no compiler here"):
        build(folder, tmp_path / "out")


@pytest.mark.deep
def test_what_a_repository_declares_is_installed(tmp_path, monkeypatch):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    needs = '[project]\nname = "shop"\nlicense = "MIT"\ndependencies = ["nut"]\n[dependency-groups]\ntest = ["gone"]\n'
    files = {"pyproject.toml": needs, "src/shop/__init__.py": "from nut import f\n", "backend.py": ""}
    folder = repository(tmp_path / "shop", **files)
    with pytest.raises(BuildError, match=r"nut is not installed[^$]*- nut was not installed: [^$]*- gone was not"):
        build(folder, tmp_path / "out")
    write_wheel(wheels, "nut", "1.0", nut="def f(x):\n    return x + 1\n")
    with pytest.raises(BuildError, match=PASSED):
        build(folder, tmp_path / "out")


def test_packages_that_are_named_take_the_place_of_what_is_declared(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    write_wheel(tmp_path, "nut", "1.0")
    write_wheel(tmp_path, "shop", "1.0", shop="Y = 2\n")
    needs = '[project]\nname = "shop"\nlicense = "MIT"\ndependencies = ["nut"]\n'
    folder = repository(tmp_path / "shop", **{"pyproject.toml": needs, "src/shop/__init__.py": "from nut import f\n"})
    with pytest.raises(BuildError, match="nut is not installed") as error:
        build(folder, tmp_path / "out", ())
    assert "installed were" not in str(error.value)
    with pytest.raises(BuildError, match=r"installed for its tests \(shop==1.0\)"):
        build(folder, tmp_path / "out", ("shop==1.0",))
