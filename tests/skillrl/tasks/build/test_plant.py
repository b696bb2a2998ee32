"""Planting: which tests are relied on, which bugs are usable, and two places at once."""

import pytest

from sandbox_service.backends.base import Ended
from sandbox_service.runner import Place, TestRun
from skillrl.tasks.build.baseline import Verdict, compare_runs, read_verdict
from skillrl.tasks.build.plant import MAX_FAILING_SHARE, distance, reject, spread, together
from skillrl.tasks.build.removal import OPERATOR, removals
from skillrl.tasks.mutate import apply, sites


def test_only_tests_that_always_pass_are_relied_on():
    first = {"t::a": "passed", "t::b": "passed", "t::c": "failed", "t::d": "passed", "t::e[<x at 0x7f>]": "passed"}
    second = {**first, "t::b": "failed"}
    third = {k: v for k, v in first.items() if k != "t::d"}
    stable, dropped = compare_runs([first, second, third])
    assert stable == {"t::a"}
    assert dropped == {"flaky": 2, "always failed": 1, "id differs between runs": 1}


def run(results, ended=Ended.EXITED, reported=True, kind="AssertionError", path="test_a.py"):
    bad = [i for i, status in results.items() if status != "passed"]
    places = {i: Place("call", path, 3) for i in bad}
    return TestRun(ended, reported, 1, 0.1, results=results, failures=dict.fromkeys(bad, kind), places=places)


STABLE = frozenset({"t::a", "t::b"})
NONE, ONE = frozenset(), frozenset({"t::b"})
ONE_FAILS = {"t::a": "passed", "t::b": "failed"}
COLLECTION_ERROR = Verdict(NONE, rejected="collection error")


@pytest.mark.parametrize(
    ("test_run", "verdict"),
    [
        (run(ONE_FAILS), Verdict(ONE, ONE)),
        (run(ONE_FAILS, kind="TypeError", path="shop.py"), Verdict(ONE, ONE)),
        (run(ONE_FAILS, kind="TypeError"), Verdict(ONE, NONE)),
        (run({"t::a": "passed", "t::b": "passed", "t::z": "failed"}), Verdict(NONE)),
        (run({"t::a": "passed"}), COLLECTION_ERROR),
        (run({"t::a": "passed", "t::b": "error"}), COLLECTION_ERROR),
        (run({"t::a": "passed", "t::b": "passed", "u": "error"}), COLLECTION_ERROR),
        (run({}, ended=Ended.TIMEOUT, reported=False), Verdict(NONE, rejected="timeout")),
        (run({}, reported=False), Verdict(NONE, rejected="no report")),
    ],
)
def test_verdicts(test_run, verdict):
    assert read_verdict(test_run, STABLE, lambda path: path == "shop.py") == verdict


def test_usable_bugs():
    stable = frozenset(range(10))
    assert MAX_FAILING_SHARE == 0.3
    assert reject(Verdict(frozenset(range(3)), frozenset({1})), stable) == ""
    assert reject(Verdict(frozenset(range(4)), frozenset({1})), stable) == "too many tests fail"
    assert reject(Verdict(frozenset({1})), stable) == "fails for another reason than the behaviour"
    assert reject(Verdict(NONE), stable) == "survived"
    assert reject(Verdict(stable, stable), stable) == "nothing passes"
    assert reject(Verdict(NONE, rejected="timeout"), stable) == "timeout"


SOURCE = '''
def price(n, *, each: int = 2) -> int:
    """Total price of n things.

    >>> price(3)
    6
    """
    if n < 1:
        return 0
    return n * each


class Till:
    def add(self, amount):
        self.total += amount
        return self.total
'''


def test_two_mutations_at_once():
    first, second = (next(s for s in sites(SOURCE) if s.operator == o) for o in ("cmp_flip", "arith_flip"))
    both = together(SOURCE, second, first)
    assert both == together(SOURCE, first, second) == SOURCE.replace("n < 1", "n <= 1").replace("n * each", "n + each")
    assert distance(first, second) == distance(second, first) == 2
    with pytest.raises(ValueError, match="overlap"):
        together(SOURCE, first, first)


def test_spread_takes_all_sites_of_one_function():
    chosen = spread(SOURCE, "price", 0)
    assert set(chosen) == {s for s in sites(SOURCE) if s.symbol == "price"}
    assert len({s.operator for s in chosen[:4]}) == 4


def test_a_body_that_is_gone_leaves_signature_and_documentation():
    (site,) = removals(SOURCE)
    assert (site.operator, site.symbol, site.first_line, site.last_line) == (OPERATOR, "price", 8, 10)
    gone = apply(SOURCE, site)
    assert gone == SOURCE.replace("if n < 1:\n        return 0\n    return n * each", "raise NotImplementedError")


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    return 1\n",
        'def f():\n    "One line is all."\n    return 1\n',
        'def f():\n    "Only words."\n',
        'def f():\n    "Decorated."\n    @cache\n    def g():\n        return 1\n    return g\n',
        'def f():\n    "Long."\n' + "    x = 1\n" * 26,
    ],
)
def test_what_cannot_be_described_is_not_removed(source):
    assert removals(source) == []
