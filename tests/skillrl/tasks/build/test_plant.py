"""Planting: which tests are relied on, which bugs are usable, and two places at once."""

import asyncio

import pytest
from till import SOURCE

from sandbox_service.backends.base import Ended
from sandbox_service.runner import Place, TestRun
from skillrl.tasks.build.baseline import Baseline, Verdict, broken_files, compare_runs, read_verdict
from skillrl.tasks.build.plant import EVERY_SEVERAL, MAX_FAILING_SHARE, Planter, distance, reject, spread, together
from skillrl.tasks.build.removal import OPERATOR, removals
from skillrl.tasks.mutate import apply, sites


def test_only_tests_that_always_pass_are_relied_on():
    first = {"t::a": "passed", "t::b": "passed", "t::c": "failed", "t::d": "passed", "t::e[<x at 0x7f>]": "passed"}
    second = {**first, "t::b": "failed"}
    third = {k: v for k, v in first.items() if k != "t::d"}
    stable, dropped = compare_runs([first, second, third])
    assert stable == {"t::a"}
    assert dropped == {"flaky": 2, "always failed": 1, "id differs between runs": 1}


def test_files_that_never_import_are_known():
    first = {"a.py": "error", "b.py": "error", "c.py::t": "error"}
    assert broken_files([first, {"a.py": "error", "b.py::t": "passed"}]) == {"a.py"}


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
        (run({"t::a": "passed", "t::b": "passed", "always.py": "error"}), Verdict(NONE)),
        (run({}, ended=Ended.TIMEOUT, reported=False), Verdict(NONE, rejected="timeout")),
        (run({}, reported=False), Verdict(NONE, rejected="no report")),
    ],
)
def test_verdicts(test_run, verdict):
    baseline = Baseline(STABLE, {}, frozenset({"always.py"}), 0.1)
    assert read_verdict(test_run, baseline, STABLE, lambda path: path == "shop.py") == verdict


def test_usable_bugs():
    stable = frozenset(range(10))
    assert MAX_FAILING_SHARE == 0.3
    assert reject(Verdict(frozenset(range(3)), frozenset({1})), stable) == ""
    assert reject(Verdict(frozenset(range(4)), frozenset({1})), stable) == "too many tests fail"
    assert reject(Verdict(frozenset({1})), stable) == "fails for another reason than the behaviour"
    assert reject(Verdict(NONE), stable) == "survived"
    assert reject(Verdict(stable, stable), stable) == "nothing passes"
    assert reject(Verdict(NONE, rejected="timeout"), stable) == "timeout"


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


class Oracle:
    """A suite of one test for each function of two files: it fails when the function's text is another."""

    def __init__(self, sources, masked=frozenset()):
        self.sources, self.masked, self.asked = sources, masked, []

    async def verdict(self, overlay, baseline, *, timeout_s, repeat=0, paths=()):
        self.asked.append((frozenset(overlay), repeat, tuple(paths)))
        failing = set()
        for path, text in overlay.items():
            before, after = (t.split("\n\n\n") for t in (self.sources[path], text))
            failing |= {f"{path}::{i}" for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
        if len(overlay) > 1:
            failing -= self.masked
        return Verdict(frozenset(failing), frozenset(failing))


def module(count):
    return "\n\n\n".join(f"def f{i}(x):\n    return x + {i}" for i in range(count)) + "\n"


def planted(masked=frozenset(), count=8):
    sources = {"a.py": module(count), "b.py": module(count)}
    stable = frozenset(f"{path}::{i}" for path in sources for i in range(count))
    suite = Oracle(sources, masked)
    planter = Planter(suite, Baseline(stable, {}, frozenset(), 0.1), sources, lambda symbol: [f"{symbol}.py"], seed=1)

    async def collect():
        return [bug async for bug in planter.bugs()]

    return asyncio.run(collect()), planter, suite


def test_some_bugs_are_in_two_files_and_say_what_each_half_breaks():
    bugs, planter, suite = planted()
    several = [bug for bug in bugs if bug.operator == "several_files"]
    assert several and len(several) <= len(bugs) / (EVERY_SEVERAL - 1)
    for bug in several:
        assert set(bug.overlay) == {"a.py", "b.py"} and len(bug.key) == 8
        assert bug.failing == frozenset().union(*bug.failing_alone) and len(bug.failing) == 2
        assert bug.passing == planter.baseline.stable - bug.failing
    assert planter.tally["two kept bugs as one"] == len(several)
    # Each was confirmed as a whole.
    assert {repeat for paths, repeat, _ in suite.asked if len(paths) == 2} == {0, 1, 2}


def test_halves_that_hide_each_other_stay_apart():
    every = frozenset(f"{path}::{i}" for path in ("a.py", "b.py") for i in range(8))
    bugs, planter, _ = planted(masked=every)
    assert bugs and all(len(bug.mutations) == 1 for bug in bugs)
    assert planter.tally["two kept bugs as one"] == 0


def test_some_bugs_are_a_missing_body():
    described = 'def f(x):\n    """Return x and one.\n\n    Always.\n    """\n    y = x + 1\n    return y\n'
    sources = {"a.py": "\n\n\n".join(described.replace("def f", f"def f{i}") for i in range(8))}
    planter = Planter(Oracle(sources), Baseline(frozenset(f"a.py::{i}" for i in range(8)), {}, frozenset(), 0.1),
        sources, lambda symbol: [], seed=1)  # fmt: skip

    async def first(count):
        bugs = planter.bugs()
        return [await anext(bugs) for _ in range(count)]

    operators = [bug.operator for bug in asyncio.run(first(8))]
    assert operators.count(OPERATOR) == 2 and operators.index(OPERATOR) == 2


def test_mutants_of_a_function_are_proven_with_its_own_test_files():
    bugs, planter, suite = planted()
    suite.asked.clear()
    mutants = asyncio.run(planter.killed(bugs[0].mutations[0].function, besides=bugs[0]))
    assert {paths for _, _, paths in suite.asked} == {(f"{bugs[0].mutations[0].site.symbol}.py",)}
    assert mutants and all(m not in bugs[0].mutations for m, _ in mutants)
