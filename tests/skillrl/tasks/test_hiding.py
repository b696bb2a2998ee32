"""Hiding tests: what is removed, what stays byte for byte, and tests that a class inherits."""

from skillrl.tasks.hiding import definitions, names_of_tests, reaching_tests, without_tests

TESTS = b"""\
import pytest
from pkg import spin, turn


@pytest.fixture
def spun():
    return spin(1)


def helper():
    return spin(2)


@pytest.mark.parametrize("n", [1, 2])
def test_spin(n):
    assert spin(n) == n


def test_by_helper():
    assert helper() == 2


def test_by_fixture(spun):
    assert spun == 1


class TestTurn:
    def test_turn(self):
        assert turn(1) == -1

    def test_both(self):
        assert turn(spin(1)) == -1


class TestSpin:
    def test_spin(self):
        assert spin(3) == 3
"""


def test_without_tests_removes_whole_functions_with_decorators_and_emptied_classes():
    files = {"tests/test_a.py": TESTS}
    left = without_tests(
        files,
        [
            "tests/test_a.py::test_spin[2]",
            "tests/test_a.py::TestSpin::test_spin",
            "tests/test_a.py::TestTurn::test_both",
        ],
    )["tests/test_a.py"]
    assert "parametrize" not in left
    assert "TestSpin" not in left
    assert "def test_both" not in left
    assert left.endswith("        assert turn(1) == -1\n")
    # The rest is byte for byte what it was.
    assert all(line in TESTS.decode() for line in left.splitlines())
    compile(left, "left", "exec")


def test_a_file_without_tests_left_is_deleted():
    files = {"tests/test_a.py": b"def test_one():\n    pass\n", "tests/test_b.py": b"def test_two():\n    pass\n"}
    assert without_tests(files, ["tests/test_a.py::test_one"]) == {"tests/test_a.py": None}


def test_reaching_tests_follow_helpers_and_fixtures():
    files = {"tests/test_a.py": TESTS, "pkg/test_c.py": b"def test_spin():\n    spin(1)\n"}
    assert reaching_tests(files, ("tests",), "Wheel.spin") == {
        f"tests/test_a.py::{t}"
        for t in ("test_spin", "test_by_helper", "test_by_fixture", "TestTurn::test_both", "TestSpin::test_spin")
    }
    # A dunder method is used through its class.
    assert reaching_tests(files, ("tests",), "TestTurn.__len__") == set()


MIXIN = b"""\
import unittest


class Moves:
    def test_turn(self):
        assert self.wheel().turn() == 1

    def test_stop(self):
        assert self.wheel().stop() == 0


class Small(Moves):
    pass


class TestSmall(Small, unittest.TestCase):
    def test_size(self):
        assert self.wheel().size == 1
"""
USER = b"""\
from . import Moves
from tests.test_wheel import Small as Little


class TestLarge(Moves, Little):
    pass
"""
WHEELS = {"tests/__init__.py": MIXIN, "tests/test_wheel.py": MIXIN, "tests/test_large.py": USER}


def test_inherited_tests_are_found_where_they_are_defined():
    ids = ["tests/test_wheel.py::TestSmall::test_turn", "tests/test_large.py::TestLarge::test_stop[1]"]
    assert definitions(WHEELS, ids) == {
        "tests/test_wheel.py": {"Moves::test_turn"},
        "tests/__init__.py": {"Moves::test_stop"},
    }
    unknown = ["tests/test_large.py::TestLarge::test_none", "gone.py::T::test_a", "tests/test_large.py::test_f"]
    assert definitions(WHEELS, unknown) == {
        "tests/test_large.py": {"TestLarge::test_none", "test_f"},
        "gone.py": {"T::test_a"},
    }


def test_a_class_that_others_need_stays():
    hidden = without_tests(WHEELS, [f"tests/test_wheel.py::TestSmall::test_{n}" for n in ("turn", "stop", "size")])
    (left,) = hidden.values()
    space = {}
    exec(compile(left, "left", "exec"), space)
    assert "def test" not in left and issubclass(space["TestSmall"], space["Moves"])
    assert left.count("    pass\n") == 3


def test_a_package_file_and_an_imported_file_stay():
    only = b"def test_a():\n    assert True\n"
    files = {"tests/__init__.py": only, "tests/test_a.py": only, "tests/test_b.py": b"from tests.test_a import x\n"}
    hidden = without_tests(files, ["tests/__init__.py::test_a", "tests/test_a.py::test_a"])
    assert hidden == {"tests/__init__.py": "", "tests/test_a.py": ""}


def test_a_fixture_is_no_test_whatever_its_name():
    fixture = "@pytest.fixture(params=[1])\ndef test_url(request):\n    return 1\n"
    text = f"import pytest\n\n\n{fixture}\n\ndef test_b(test_url):\n    pass\n".encode()
    assert names_of_tests(text) == {"test_b"}
    assert without_tests({"test_a.py": text}, ["test_a.py::test_url"]) == {"test_a.py": text.decode()}
