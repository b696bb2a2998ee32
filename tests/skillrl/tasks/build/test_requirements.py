"""What a package needs: declared, resolved to versions, and kept."""

import asyncio
import contextlib
import importlib.metadata
import sys

import pytest
from wheels import write_wheel

from skillrl.tasks.build.ledger import Ledger
from skillrl.tasks.build.requirements import Declared, declared
from skillrl.tasks.build.resolve import Pins, pinned, resolve
from skillrl.tasks.build.tree import BuildError, Package


def package(files, **metadata):
    return Package(
        "repo", "shop", "0", "", "MIT", {p: t.encode() for p, t in files.items()}, {}, metadata, repository=""
    )


PYPROJECT = """
[project]
dependencies = ["Six >= 1.5", "tomli; python_version < '3.0'", "pytest>=7", "ruff"]
[project.optional-dependencies]
test = ["shop[speed]", "hypothesis<7", "pytest-cov"]
speed = ["regex"]
docs = ["sphinx", "secret"]
[dependency-groups]
dev = [{include-group = "Lint_it"}, "freezegun"]
lint-it = ["mypy", "types-six", "attrs", {include-group = "dev"}]
unused = ["other"]
"""
TOOLS = "mypy pytest-cov ruff types-six"
SETUP_CFG = """
[options]
install_requires =
    six>=1.5  # for old code
    mdurl~=0.1
tests_require = psutil
[options.extras_require]
testing = coverage
    mistune
plots = matplotlib
"""
SETUP_PY = """
import setuptools
raise SystemExit("it is never run")
NEEDS = ["six", "wcwidth"]
setuptools.setup(install_requires=NEEDS, tests_require="pytz", extras_require={"dev": ["toolz"], "x": ["y"]}, name=f())
"""
PKG_INFO = """\
Metadata-Version: 2.1
Name: shop
Provides-Extra: Tests
Provides-Extra: docs
Requires-Dist: six>=1.5
Requires-Dist: colorama; sys_platform == 'win32'
Requires-Dist: click[x]<9; python_version >= '3'
Requires-Dist: hypothesis; extra == 'tests'
Requires-Dist: sphinx-theme; extra == 'docs'

Requires-Dist: no-header
"""
REQUIRES_TXT = (
    "six\n\n[:python_version > '3']\nattrs\n\n[:python_version < '3']\nenum34\n\n[test:sys_platform=='linux']\ntoolz\n"
)
LINES = "-r other.txt\n-e .\n\nsix==1.16.0 --hash=sha256:ab\n# none\ntoolz # used\npytest\n"


@pytest.mark.parametrize(
    ("files", "metadata", "wanted", "no_use"),
    [
        ({"pyproject.toml": PYPROJECT}, {}, "Six>=1.5 hypothesis<7 regex attrs freezegun", TOOLS),
        ({"setup.cfg": SETUP_CFG}, {}, "six>=1.5 mdurl~=0.1 psutil mistune", "coverage"),
        ({"setup.py": SETUP_PY}, {}, "six wcwidth pytz toolz", ""),
        ({}, {"PKG-INFO": PKG_INFO}, "six>=1.5 click[x]<9 hypothesis", ""),
        ({}, {"requires.txt": REQUIRES_TXT}, "six attrs toolz", ""),
        ({"requirements-dev.txt": LINES}, {}, "six==1.16.0 toolz", ""),
        ({"tests/requirements.txt": "a", "requirements/test.txt": "b", "docs/requirements.txt": "c"}, {}, "b a", ""),
        ({"pyproject.toml": "[project\n", "setup.cfg": "x", "setup.py": "def"}, {}, "", ""),
        ({"pyproject.toml": "[project]\ndependencies = 3\n[dependency-groups]\ntest = 'x'\n"}, {}, "", ""),
    ],
    ids=["pyproject", "setup.cfg", "setup.py", "PKG-INFO", "requires.txt", "lines", "files", "damaged", "odd types"],
)  # fmt: skip
def test_what_is_declared(files, metadata, wanted, no_use):
    found = declared(package(files, **metadata))
    assert set(found.wanted) == set(wanted.split()) and len(found.wanted) == len(wanted.split())
    assert found.no_use == tuple(no_use.split()) and found.unusable == {}


def test_the_packages_own_needs_come_first():
    files = {"requirements-test.txt": "a\n", "setup.cfg": "[options]\ninstall_requires = z\n"}
    assert declared(package(files)).wanted == ("z", "a")


def test_what_no_index_has_is_told():
    files = {"requirements-test.txt": "shed @ git+https://example.com/shed\nfile: x\nfine\n"}
    found = declared(package(files))
    assert found.wanted == ("fine",)
    assert found.unusable == {
        "shed @ git+https://example.com/shed": "is given by its address and not by a version",
        "file: x": "is no requirement that can be read",
    }


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """The only place where pip looks."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.deep
def test_versions_agree_and_what_cannot_be_met_is_told(wheels):
    write_wheel(wheels, "nut", "1.0")
    write_wheel(wheels, "nut", "2.0")
    write_wheel(wheels, "bolt", "1.0", ("nut<2", "packaging"))
    write_wheel(wheels, "old_runner", "1.0", ("packaging<1",))
    write_wheel(wheels, "loop", "1.0", ("shop", "nut"))
    write_wheel(wheels, "shop", "3.0")
    write_wheel(wheels, "packaging", importlib.metadata.version("packaging"))
    wanted = ("nut", "bolt>=1", "nowhere>=3", "nut==2.0", "loop", "old-runner")
    pins = resolve(Declared(wanted, unusable={"x": "y"}), "shop")
    # pip's newest nut is 2.0, but bolt came before the file that pins it.
    assert pins.packages == ("bolt==1.0", "nut==1.0")
    assert list(pins.unmet) == ["x", "nowhere>=3", "nut==2.0", "loop", "old-runner"]
    assert "nowhere>=3" in pins.unmet["nowhere>=3"] and "conflict" in pins.unmet["nut==2.0"]
    assert "needs shop itself" in pins.unmet["loop"] and "conflict" in pins.unmet["old-runner"]


def test_nothing_declared_asks_nobody(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert resolve(Declared(), "shop") == Pins((), {})


def test_an_index_that_is_not_reached_is_no_unmet_requirement(monkeypatch):
    for name, value in {"NO_INDEX": "0", "FIND_LINKS": "", "EXTRA_INDEX_URL": "", "RETRIES": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    # Nothing listens there.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(BuildError, match="pip does not reach its index[^$]*--packages"):
        resolve(Declared(("nut",)), "shop")


@contextlib.contextmanager
def ledger(path):
    with contextlib.closing(Ledger(path, "shop")) as opened:
        yield opened


async def pins_of(path, *wanted):
    with ledger(path) as proven:
        return await pinned(Declared(wanted), "shop", proven)


def settle(path):
    with ledger(path) as proven:
        proven.put("baseline", [1])


def test_a_build_that_goes_on_keeps_its_versions(wheels, tmp_path):
    path = tmp_path / "ledger.jsonl"
    write_wheel(wheels, "nut", "1.0")
    assert asyncio.run(pins_of(path, "nut")) == Pins(("nut==1.0",), {})
    write_wheel(wheels, "nut", "2.0")
    assert asyncio.run(pins_of(path, "nut")) == Pins(("nut==1.0",), {})
    assert asyncio.run(pins_of(tmp_path / "other.jsonl", "nut")) == Pins(("nut==2.0",), {})


@pytest.mark.deep
def test_what_was_not_met_is_tried_again_unless_the_suite_passed_without_it(wheels, tmp_path):
    path = tmp_path / "ledger.jsonl"
    assert asyncio.run(pins_of(path, "nut")).unmet.keys() == {"nut"}
    write_wheel(wheels, "bolt", "1.0")
    assert asyncio.run(pins_of(path, "bolt", "nut")).unmet.keys() == {"nut"}
    settle(path)
    write_wheel(wheels, "nut", "1.0")
    assert asyncio.run(pins_of(path, "bolt", "nut")).packages == ("bolt==1.0",)
