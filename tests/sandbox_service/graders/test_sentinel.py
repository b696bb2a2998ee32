"""Planted expectations are wrong, in place and of the same type."""

import ast
import random

import pytest
import shelf
from hypothesis import given
from hypothesis import strategies as st

from sandbox_service.sentinel import extra_file, plant, seen, wrong

VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False, width=16),
        st.text(max_size=3),
        st.binary(max_size=3),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES, st.integers(0, 99))
def test_wrong_value_has_the_type_and_differs(value, seed):
    other = wrong(value, [value, 5, "x"], random.Random(seed))
    assert other != value and type(other) is type(value)
    assert ast.literal_eval(repr(other)) == other


SOURCE = """\
import pytest
from p import f


class TestX:
    def test_text(self):
        x = f(2)  # a comment stays
        assert x == "é", "message"

    def test_raises(self):
        with pytest.raises(ValueError):
            f(3)


def test_two():
    assert f(1) == 2
    assert f(2) == [3,
                    4]


def test_truth():
    assert f(1)


def test_short(): f(1)


@pytest.mark.parametrize("a, b", [(1, 2)])
def test_cases(a, b):
    assert f(a) == b


def helper():
    assert f(1) == 2
"""
IDS = [
    f"t.py::{n}"
    for n in ("TestX::test_text", "TestX::test_raises", "test_two", "test_truth", "test_short", "test_cases[1-2]")
]


@pytest.mark.parametrize("seed", range(6))
def test_one_expectation_a_test_is_turned_wrong(seed):
    planted = plant({"t.py": SOURCE}, IDS, seed)
    text = planted.files["t.py"]
    assert planted.functions == {i.partition("[")[0] for i in IDS} and planted.covers("t.py::test_cases[1-2]")
    new, old = text.splitlines(), SOURCE.splitlines()
    ast.parse(text)
    assert "a comment stays" in text and "def helper():\n    assert f(1) == 2\n" in text
    assert 'assert x == "é", "message"' not in text and ', "message"' in text
    assert "assert not f(1)" in text and "def test_short(): f(1); assert " in text
    # All else is in its place: one line more for the test that expects an exception and gets an assertion of its own,
    # and one less where the literal of two lines was turned wrong.
    assert len(new) == len(old) + 1 - ("[3,\n" not in text)


def test_the_line_that_shows_the_bug_is_preferred():
    for seed in range(8):
        text = plant({"t.py": SOURCE}, ["t.py::test_two"], seed, {"t.py::test_two": 17}).files["t.py"]
        assert "assert f(1) == 2\n    assert f(2) == [" in text and "[3,\n                    4]" not in text


def test_extra_file_keeps_one_test_and_takes_a_free_name():
    ids = [*shelf.PRICE_TESTS, *shelf.STOCK_TESTS]
    sources = {path: shelf.FILES[path] for path in (shelf.T, "tests/test_stock.py")}
    taken = {*shelf.FILES, "tests/test_prices_more.py"}
    for seed in range(12):
        planted = extra_file(sources, ids, taken, "tests", seed)
        ((path, text),) = planted.files.items()
        assert path not in taken and path.startswith("tests/test_")
        tests = [n.name for n in ast.walk(ast.parse(text)) if getattr(n, "name", "").startswith("test_")]
        (only,) = planted.functions
        assert tests == [only.rpartition("::")[2]]
    ((path, text),) = extra_file({}, [], taken, "tests", 3).files.items()
    assert path.startswith("tests/test_values") and "assert" in text


def test_a_test_is_seen_when_it_stands_in_the_visible_file_just_the_same():
    visible = SOURCE.replace("assert f(1) == 2\n    assert f(2)", "assert f(2)").replace(
        "def test_truth", "def test_lie"
    )
    known = {f"t.py::{n}" for n in ("TestX::test_text", "TestX::test_raises", "test_short", "test_cases")}
    assert seen({"t.py": SOURCE}, {"t.py": "# moved by a line\n" + visible}) == known
    assert seen({"t.py": SOURCE}, {"other.py": SOURCE}) == frozenset()
