"""The probe over a small package of our own: which calls are recorded, and what they come to when made again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from skillrl.tasks.build import observe
from skillrl.tasks.build.observe import _call, _row

SHOP = """
class Basket:
    def __init__(self, items, *, currency="EUR"):
        self.items, self.currency = list(items), currency

    @classmethod
    def of(cls, *items):
        return cls(items)

    @staticmethod
    def empty():
        return Basket([])

    @property
    def size(self):
        return len(self.items)

    def total(self, factor=1):
        return factor * sum(self.items)

    def copy(self):
        return Basket(self.items)

    def _secret(self):
        return 1


class _Hidden(Basket):
    pass


def parse(text, kind=None):
    return Basket([int(part) for part in text.split("+")])


def twice(f):
    return f() * 2
"""
TESTS = """
import shop


def test_methods():
    basket = shop.Basket([1, 2], currency="USD")
    assert basket.total(2) == 6
    assert basket.size == 2
    assert basket.copy().size == 2
    assert basket._secret() == 1


def test_class_method():
    assert shop.Basket.of(4, 5).total() == 9
    assert shop.Basket.empty().size == 0


def test_function():
    assert shop.parse("1+2").total(factor=3) == 9
    assert shop.twice(lambda: 4) == 8
    assert shop._Hidden([1]).size == 1
"""


@pytest.fixture
def ask(tmp_path):
    def run(source=SHOP, tests=TESTS, **spec):
        (tmp_path / "shop.py").write_text(source)
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / "test_shop.py").write_text(tests)
        spec = {"root": str(tmp_path), "source_roots": ["."], "tests": ["tests"], **spec}
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        argv = [
            sys.executable,
            Path(observe.__file__).with_name("probe.py"),
            tmp_path / "spec.json",
            tmp_path / "out.json",
        ]
        subprocess.run(argv, check=True, cwd=tmp_path, capture_output=True, timeout=120)
        return json.loads((tmp_path / "out.json").read_text())

    return run


def test_calls_of_functions_classes_and_what_they_give(ask):
    calls = [_call(row, tests) for *row, tests in ask(mode="record")]
    by_test = {}
    for call in calls:
        assert call.module == "shop" and _call(_row(call), call.tests) == call
        by_test.setdefault(*(t.rpartition("::")[2] for t in call.tests), []).append((call.expression, call.symbol))
    assert by_test == {
        "test_methods": [
            ("Basket([1, 2], currency='USD')", "Basket"),
            ("Basket([1, 2], currency='USD').total(2)", "Basket.total"),
            ("Basket([1, 2], currency='USD').size", "Basket.size"),
            ("Basket([1, 2], currency='USD').copy()", "Basket.copy"),
        ],
        "test_class_method": [
            ("Basket.of(4, 5)", "Basket.of"),
            ("Basket.of(4, 5).total()", "Basket.of.total"),
        ],
        "test_function": [
            ("parse('1+2')", "parse"),
            ("parse('1+2').total(3)", "parse.total"),
        ],
    }
    assert {call.imported for call in calls} == {"Basket", "parse"}


def test_calls_are_made_again(ask):
    basket = ["shop", "Basket", ["[1, 2]"], {"currency": "'USD'"}, None]
    calls = [
        ["shop", "total", ["2"], {}, basket],
        ["shop", "size", None, {}, basket],
        ["shop", "Basket.of", ["4"], {}, None],
        ["shop", "total", [], {}, ["shop", "parse", ["'1+x'"], {}, None]],
    ]
    total, size, made, failed = ask(mode="evaluate", calls=calls)
    assert (total, size) == (["returned", "6", True], ["returned", "2", True])
    # Its text is an address.
    assert made == ["unfit", "", True]
    assert failed == ["raised", "ValueError: invalid literal for int() with base 10: 'x'", True]


def test_arguments_are_those_at_entry_and_endless_calls_end(ask):
    source = (
        "def price(n, *rest, each=2):\n    return _p(n) * each + sum(rest)\n\n\ndef _p(n):\n    return n\n\n\n"
        "def odd(x):\n    return x\n\n\ndef slow():\n    while True:\n        pass\n"
    )
    tests = (
        "import shop\n\n\ndef test_a():\n    assert shop.price(3) == 6\n    shop.price(1, 2, each=3)\n\n\n"
        "def test_b():\n    shop.price(3)\n    shop.odd(object())\n"
    )
    a, b = "tests/test_shop.py::test_a", "tests/test_shop.py::test_b"
    assert ask(source, tests, mode="record") == [
        ["shop", "price", ["3"], {}, None, [a, b]],
        ["shop", "price", ["1", "2"], {"each": "3"}, None, [a]],
    ]
    calls = [["price", ["3"], {}], ["price", ["'a'"], {"each": "[]"}], ["slow", [], {}]]
    right, wrong, slow = ask(source, tests, mode="evaluate", calls=[["shop", *call, None] for call in calls])
    assert right == ["returned", "6", True]
    assert wrong[0] == "raised" and wrong[1].startswith("TypeError: ")
    assert slow == ["raised", "no result after 2 seconds", True]


DAYS = """
import datetime

_NONE = object()


def cut(text, width=3, fill=_NONE, end=".", mark="!"):
    return text[:width] + end


def bare(text, fill=_NONE, /, end="."):
    return text


def days(first, last):
    while first < last:
        yield first
        first += datetime.timedelta(1)
"""
DAYS_TESTS = """
import datetime as dt

import shop


def test_a():
    shop.cut("abcd", 3)
    shop.cut("abcd", mark="?")
    shop.bare("abcd")
    assert len(list(shop.days(dt.date(2020, 1, 1), dt.date(2020, 1, 3)))) == 2
    list(shop.days(dt.date.today(), dt.date(2020, 1, 3)))
"""


def test_defaults_dates_and_iterators(ask):
    recorded = ask(DAYS, DAYS_TESTS, mode="record")
    # The default of `bare` is no literal and can only be given by position; no build is made on the same day.
    assert [row[1:4] for row in recorded] == [
        ["cut", ["'abcd'"], {}],
        ["cut", ["'abcd'"], {"mark": "'?'"}],
        ["days", ["datetime.date(2020, 1, 1)", "datetime.date(2020, 1, 3)"], {}],
    ]
    cut, _, days = ask(DAYS, DAYS_TESTS, mode="evaluate", calls=[row[:5] for row in recorded])
    assert cut == ["returned", "'abc.'", True]
    assert days == ["yielded", "[datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]", True]
