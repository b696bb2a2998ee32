"""Mixed runs: lots, and test files that look alike whichever of their expectations count."""

import ast
import re

import pytest
import shelf

from sandbox_service.graders.mixed import MixedRun, held_share, lots, mixtures
from sandbox_service.sentinel import definitions, mix

FUNCTIONS = sorted({i.partition("[")[0] for i in (*shelf.PRICE_TESTS, *shelf.STOCK_TESTS)})
SOURCES = {path: shelf.FILES[path] for path in (shelf.T, "tests/test_stock.py")}


@pytest.mark.parametrize("seed", ["a", "b", "c"])
@pytest.mark.parametrize("runs", [2, 4])
def test_each_test_is_wrong_in_half_of_the_runs(seed, runs):
    drawn = lots(FUNCTIONS, seed, runs)
    assert len(drawn) == runs
    for function in FUNCTIONS:
        assert sum(function in wrong for wrong in drawn) == runs // 2
    assert drawn == lots(reversed(FUNCTIONS), seed, runs) and drawn != lots(FUNCTIONS, seed + "another", runs)


def without_table(text: str) -> tuple[str, bytes]:
    """The text with the pairs in a fixed order, and what the table says."""
    ((name, table),) = re.findall(r"^(_[0-9a-f]{6}) = (b.*)$", text, re.M)
    tree = ast.parse(text[: text.rindex(name)].replace(name, "TABLE"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Tuple):
            node.value.elts.sort(key=ast.dump)
    return ast.dump(tree), ast.literal_eval(table)


def test_right_and_wrong_files_differ_in_their_tables_alone():
    right, wrong = (mix(SOURCES, FUNCTIONS, chosen, "seed") for chosen in ((), FUNCTIONS))
    assert right.keys() == wrong.keys() == SOURCES.keys()
    for path in SOURCES:
        (one, its), (other, theirs) = without_table(right[path]), without_table(wrong[path])
        assert one == other and len(its) == len(theirs) == sum(f.startswith(path) for f in FUNCTIONS)


def test_what_counts_is_looked_up():
    text = """\
def test_a():
    assert 1 + 1 == 2


def test_b():
    x = [[]]
    assert not x.pop()


def test_c(): len("")


def test_d():
    y = 3
    assert sum([1, 2]) == (
        y  # three
    ), "message"
"""
    names = [f"t.py::test_{n}" for n in "abcd"]
    for seed in range(20):
        for turned in (names, names[:2], names[2:], []):
            space: dict = {}
            exec(mix({"t.py": text}, names, turned, str(seed))["t.py"], space)
            failed = []
            for name in names:
                try:
                    space[name.rpartition("::")[2]]()
                except AssertionError:
                    failed.append(name)
            assert failed == turned


def test_tests_to_inherit_are_found_where_they_are_written():
    sources = {
        "tests/__init__.py": "class Mixin:\n    def test_a(self): pass\n    def test_b(self): pass\n",
        "tests/test_x.py": (
            "class TestX(Mixin):\n    def test_b(self): pass\n\n\nclass TestY(TestX):\n    def test_c(self): pass\n"
        ),
    }
    ids = [f"tests/test_x.py::{n}" for n in ("TestX::test_a", "TestX::test_b", "TestY::test_b", "TestY::test_c[1-2]")]
    assert definitions(sources, ids[:2]) == {"tests/__init__.py::Mixin::test_a", ids[1]}
    found = definitions(sources, ids)
    assert found == {"tests/__init__.py::Mixin::test_a", "tests/__init__.py::Mixin::test_b", ids[1], ids[3][:-5]}
    assert set(mixtures(sources, ids, "seed", 2)[0]) == set(sources)


def test_a_test_is_held_both_ways_when_runs_show_both():
    first, second = MixedRun({}, ("a", "b"), ("c",)), MixedRun({}, ("c", "b"), ("a",))
    assert held_share([first, second], ["a", "b", "c", "d"]) == 0.5
