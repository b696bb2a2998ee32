"""Which files count, and how paths are spelled."""

import pytest

from sandbox_service.graders.paths import accepted_changes, canonical, is_source, is_test
from sandbox_service.tasks import Environment

SRC = Environment("e", (), ("src",), ("tests",))
FLAT = Environment("e", (), (".",), ("tests", "test_more.py"))
TREE = {"src/pkg/__init__.py", "src/pkg/a.py", "a/b.py", "README.md"}


@pytest.mark.parametrize(
    "spelling",
    [
        *("src/pkg/a.py", "./src/pkg/a.py", "a/src/pkg/a.py", "b/src/pkg/a.py", "/workspace/src/pkg/a.py"),
        *("pkg-1.0/src/pkg/a.py", " src/pkg/a.py ", "`src/pkg/a.py`", "src//pkg/./a.py", "/src/pkg/a.py"),
        "src\\pkg\\a.py",
    ],
)
def test_spellings_of_one_path(spelling):
    assert canonical(spelling, TREE) == "src/pkg/a.py"


def test_a_real_folder_named_like_a_prefix_stays():
    assert canonical("a/b.py", TREE) == "a/b.py"
    assert canonical("x/y/src/pkg/a.py", TREE) == "x/y/src/pkg/a.py"


def test_sources_and_tests():
    assert is_source("src/pkg/a.py", SRC) and is_source("src/pkg/data.json", SRC)
    assert is_source("pkg/a.py", FLAT)
    for path in ("tests/test_a.py", "tests/help.py", "test_more.py"):
        assert is_test(path, FLAT) and not is_source(path, FLAT)
    outside = ("README.md", "setup.py", "src/../x.py", "/etc/passwd", "srcs/a.py", "src/conftest.py", "src/a.pth")
    denied = ("src/pkg/a.so", "src/pkg/__pycache__/a.pyc", "src/tox.ini", "src/sitecustomize.py", "src/pytest.ini")
    assert not any(is_source(path, SRC) for path in (*outside, *denied))


def test_only_what_a_fix_may_change_is_accepted():
    change = {
        "src/pkg/a.py": b"1",
        "src/pkg/new.py": b"2",
        "src/pkg/__init__.py": None,
        "tests/test_a.py": b"",
        "README.md": b"",
    }
    accepted = accepted_changes(change, SRC, TREE)
    assert accepted == {"src/pkg/a.py": b"1", "src/pkg/new.py": b"2", "src/pkg/__init__.py": None}


def test_modules_of_python_and_the_runner_cannot_be_shadowed():
    change = {
        "src/json.py": b"",
        "src/_pytest/x.py": b"",
        "src/pluggy.py": b"",
        "src/pkg/json.py": b"",
        "src/other.py": b"",
    }
    assert set(accepted_changes(change, SRC, TREE)) == {"src/pkg/json.py", "src/other.py"}
    # A repository whose own package has such a name may change it.
    assert accepted_changes({"src/json/a.py": b""}, SRC, {"src/json/__init__.py"}) == {"src/json/a.py": b""}
