"""Which values have a text that gives them again in every build, and what a call comes to."""

import datetime
import decimal
import enum
import itertools
import math
import os
import tempfile
import time

import pytest

from skillrl.tasks.build.probe_values import MAX_ITEMS, answer, literal, made, steady


class Colour(enum.IntEnum):
    RED = 1


class Loud(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, "a", None, {2.5: (b"x",)}], "[1, 'a', None, {2.5: (b'x',)}]"),
        ([math.nan, -math.inf], "[nan, -inf]"),
        (datetime.timedelta(days=2), "datetime.timedelta(days=2)"),
        (datetime.datetime(2001, 2, 3, 4), "datetime.datetime(2001, 2, 3, 4, 0)"),
        (decimal.Decimal("1.50"), "Decimal('1.50')"),
        (range(3), "range(0, 3)"),
        (frozenset([1]), "frozenset({1})"),
    ],
)
def test_values_that_print_as_what_makes_them(value, text):
    assert literal(value) == text and literal(made(text)) == text


def test_values_without_such_a_text():
    loop = []
    loop.append(loop)
    values = [object(), len, Colour.RED, Loud("a"), loop, "a" * 500, iter([1]), datetime.date.today(), time.time()]
    values += [
        datetime.datetime.now() + datetime.timedelta(days=40),
        tempfile.gettempdir() + "/x",
        int(time.time()) + 60,
    ]
    assert [v for v in values if literal(v) is not None] == []


def test_texts_of_every_build():
    assert steady("date(1999, 1, 2)") and steady("2001-02-03") and steady("1234567890") and steady("at 0 x")
    assert not steady(f"cannot read '{os.getcwd()}/shop.py'")
    assert not steady("<f at 0x7f12>") and not steady(time.strftime("on %Y-%m-%d", time.gmtime()))


def test_answers():
    assert answer(lambda: {"a": 1}) == ["returned", "{'a': 1}"]
    assert answer(lambda: map(str, [1, 2])) == ["yielded", "['1', '2']"]
    kind, text = answer(itertools.count)
    assert kind == "yielded" and text.startswith("[0, 1, ") and text.endswith(f"{MAX_ITEMS - 1}, ...]")
    assert answer(lambda: 1 / 0) == ["raised", "ZeroDivisionError: division by zero"]
    assert answer(lambda: next(iter([]))) == ["raised", "StopIteration"]
    assert answer(lambda: (1 / n for n in (1, 0))) == ["raised", "ZeroDivisionError: division by zero"]
    assert answer(lambda: [object()]) == ["unfit", ""]
