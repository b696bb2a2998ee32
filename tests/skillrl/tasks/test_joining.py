"""Several test files in one keep what each of them does."""

import pytest

from skillrl.tasks.joining import joined

FIRST = """\
from __future__ import annotations
import math
from os.path import join

LIMIT = 3


def helper(x):
    return x + LIMIT


def test_x():
    assert helper(1) == 4 and math.floor(1.5) == 1 and join("a", "b") == "a/b"
"""
SECOND = """\
import math
from posixpath import basename as join

LIMIT = 10


def helper(x, LIMIT_=0):
    return x * LIMIT


class Holder:
    helper = 7


def test_x():
    assert helper(x=2) == 20 and Holder().helper == 7 and dict(helper=1) == {"helper": 1} and join("a/b") == "b"


class TestY:
    def test_x(self):
        assert math.ceil(0.5) == 1 and LIMIT == 10
"""


def run(text):
    """Runs every test of a file; their names."""
    space = {}
    exec(compile(text, "joined", "exec"), space)
    names = [name for name in space if name.lower().startswith("test")]
    for name in names:
        space[name]().test_x() if isinstance(space[name], type) else space[name]()
    return set(names)


def test_every_test_is_there_and_still_passes():
    assert run(joined([FIRST, SECOND])) == {"test_x", "test_x_1", "TestY"}
    assert run(joined([SECOND, FIRST])) == {"test_x", "test_x_1", "TestY"}
    assert run(joined([FIRST, SECOND, FIRST])) >= {"test_x", "test_x_1"}


def test_future_imports_come_first_and_once():
    text = joined([SECOND, FIRST, FIRST])
    assert text.startswith("from __future__ import annotations\n") and text.count("__future__") == 1


def test_a_test_that_fails_alone_fails_together():
    with pytest.raises(AssertionError):
        run(joined([FIRST, SECOND.replace("== 20", "== 5")]))


def test_one_file_stays_as_it_is():
    text = FIRST.replace("from __future__ import annotations\n", "")
    assert joined([text]) == text and joined([]) == ""
