"""Excerpts of failing tests of a small package of our own, found on its buggy tree and replayed on both."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from skillrl.tasks.build import observe

FILES = {
    "shop/__init__.py": "from shop.core import Till\n",
    "shop/core.py": """
class Till:
    def __init__(self, *coins):
        self.coins = list(coins)

    def __eq__(self, other):
        return self.coins == other.coins

    def each(self, change):
        return (change(coin) for coin in self.coins)

    def pay(self, coin):
        if coin < 0:
            raise ValueError("below 0")
        self.coins.append(coin)


def total(till, start):
    return start + sum(till.coins)


def _whole(till):
    return total(till, 0)
""",
    "tests/test_shop.py": """
import datetime
import tempfile
import time
import unittest

import pytest
import shop.core as place
from shop import Till
from shop.core import _whole, total


def double(x):
    return 2 * x


@pytest.fixture
def till():
    return Till(1)


@pytest.mark.parametrize("start", [7])
def test_total(start):
    till = Till(1, 2)
    till.pay(start)
    assert place.total(till, start) == 17


@pytest.mark.parametrize("make, coins", [(Till, [5])])
def test_each(make, coins):
    assert list(make(*coins).each(double)) == [10]


def test_stream():
    changed = Till(3).each(double)
    assert next(changed) == 6


def test_pay():
    with pytest.raises(ValueError):
        Till().pay(-1)


class TestTill(unittest.TestCase):
    first = 4
    sum = staticmethod(total)

    def test_sum(self):
        self.assertEqual(self.sum(Till(self.first), start=1), 5)


def test_fixture(till):
    assert total(till, 0) == 1


def test_private():
    assert _whole(Till(1)) == 1


def test_clock():
    assert total(Till(int(time.time())), 0) == int(time.time())


def test_day():
    today = datetime.date.today()
    assert total(Till(today.year), 0) == today.year


@pytest.mark.parametrize("folder", [tempfile.gettempdir() + "/x"])
def test_folder(folder):
    assert total(Till(), len(folder)) == len(folder)
""",
}
BUGS = (
    ("start + sum", "start + 1 + sum"),
    ("(change(coin)", "(change(coin) + 1"),
    ('raise ValueError("below 0")', "return"),
)


@pytest.fixture
def ask(tmp_path):
    def run(tree, **spec):
        folder = tmp_path / tree
        for path, text in FILES.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            for right, wrong in BUGS if tree == "buggy" else ():
                text = text.replace(right, wrong)
            (folder / path).write_text(text)
        spec = {"root": str(folder), "source_roots": ["."], "tests": ["tests"], **spec}
        (folder / "spec.json").write_text(json.dumps(spec))
        argv = [sys.executable, Path(observe.__file__).with_name("probe.py"), "spec.json", "out.json"]
        subprocess.run(argv, check=True, cwd=folder, capture_output=True, timeout=120)
        return json.loads((folder / "out.json").read_text())

    return run


def test_failing_tests_are_shown_as_a_user_would_see_them(ask):
    names = ("total", "each", "stream", "pay", "fixture", "private", "clock", "day", "folder")
    ids = [*(f"tests/test_shop.py::test_{name}" for name in names), "tests/test_shop.py::TestTill::test_sum"]
    told = ask("buggy", mode="find", ids=ids)
    found, said = told["excerpts"], {test_id.rpartition("::")[2]: message for test_id, message in told["said"]}
    assert said["test_sum"] == "6 != 5" and said["test_stream"].startswith("7 == 6")
    # It says which second it is.
    assert said["test_clock"] == "" and said["test_pay"] == "nothing was raised"
    correct, buggy = ask("correct", mode="replay", excerpts=found), ask("buggy", mode="replay", excerpts=found)
    seen = {
        "\n".join((*shown["lines"], shown["expression"])): (got[:2], right[:2], right[2])
        for shown, got, right in zip(found, buggy, correct, strict=True)
    }
    # The test holds of the moment in which it runs.
    clock = "from shop import Till\nfrom time import time\ntotal(Till(int(time())), 0)"
    assert seen.pop(clock)[:2] == (["unfit", ""], ["unfit", ""])
    double = "def double(x):\n    return 2 * x\n"
    till = "from shop import Till\n"
    assert seen == {
        f"{till}till = Till(1, 2)\ntill.pay(7)\ntotal(till, 7)": (["returned", "18"], ["returned", "17"], True),
        f"{till}{double}list(Till(*[5]).each(double))": (["returned", "[11]"], ["returned", "[10]"], True),
        f"{till}{double}changed = Till(3).each(double)\nnext(changed)": (["returned", "7"], ["returned", "6"], True),
        f"{till}Till().pay(-1)": (["returned", "None"], ["raised", "ValueError: below 0"], True),
        f"{till}total(Till(4), start=1)": (["returned", "6"], ["returned", "5"], True),
        f"{till}from datetime import date\ntoday = date.today()\ntotal(Till(today.year), 0) == today.year": (
            ["returned", "False"],
            ["returned", "True"],
            True,
        ),
    }
    assert {name: module for shown in found for name, module in shown["origins"]} == {
        "Till": "shop", "total": "shop.core", "date": "datetime", "time": "time",
    }  # fmt: skip


def test_what_differs_from_build_to_build_and_a_claim_that_does_not_hold(ask):
    def shown(expression, check="", lines=()):
        return {"lines": lines, "expression": expression, "check": check, "origins": []}

    excerpts = [
        shown("object()"),
        shown("time()", lines=["from time import time"]),
        shown("date.today()", lines=["from datetime import date"]),
        shown("gettempdir() + '/x'", lines=["from tempfile import gettempdir"]),
        shown("iter(range(30))"),
        shown("Till(2).coins", "Till(2).coins == [3]", ["from shop import Till"]),
        shown("undefined", "undefined"),
        shown("[].pop()"),
    ]
    *passing, items, claimed, undefined, failed = ask("correct", mode="replay", excerpts=excerpts)
    assert passing == [["unfit", "", True]] * 4
    assert items == ["yielded", f"[{', '.join(map(str, range(20)))}, ...]", True]
    assert claimed == ["returned", "[2]", False]
    assert undefined == ["raised", "NameError: name 'undefined' is not defined", False]
    assert failed == ["raised", "IndexError: pop from empty list", True]
