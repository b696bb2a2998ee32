"""Honest work scores the maximum, none the minimum, every time; half-right work lies between in its components."""

import dataclasses

import pytest
import shelf

from sandbox_service.errors import Overloaded
from sandbox_service.graders import Submission, grade
from sandbox_service.graders.base import Grade

LIMIT_TESTS = """\
from shelf import discount


def test_below():
    assert discount(99, 10) == 99


def test_at_the_limit():
    assert discount(100, 10) == 90.0


def test_rounding():
    assert discount(333, 33) == 223.11
"""
PARCELS_TESTS = """\
import unittest

from shelf.prices import parcels


class TestParcels(unittest.TestCase):
    def test_full(self):
        self.assertEqual(parcels(10, 5), 2)

    def test_rest(self):
        self.assertEqual(parcels(11, 5), 3)

    def test_size(self):
        with self.assertRaises(ValueError):
            parcels(1, 0)
"""
LIMIT_REPRODUCTION = "from shelf import discount\n\n\ndef test_it():\n    assert discount(100, 10) == 90\n"
# Fails by the exception that the bug raises, not by an assertion.
CRASH_REPRODUCTION = "from shelf.stock import Stock\n\n\ndef test_it():\n    assert Stock().count('x') == 0\n"
PRICES, STOCK = "src/shelf/prices.py", "src/shelf/stock.py"

GOLD = [
    ("shelf-limit-localization", {}, Submission(files=(PRICES,))),
    ("shelf-crash-localization", {}, Submission(files=("b/" + STOCK, "/workspace/" + PRICES, PRICES))),
    ("shelf-limit-editing", {PRICES: shelf.PRICES}, None),
    ("shelf-crash-bug_fixing", {PRICES: shelf.PRICES, STOCK: shelf.STOCK}, None),
    ("shelf-limit-unit_tests", {shelf.UNIT_TESTS_PATH: LIMIT_TESTS}, None),
    ("shelf-crash-unit_tests", {shelf.UNIT_TESTS_PATH: PARCELS_TESTS}, None),
    ("shelf-limit-reproduction", {shelf.REPRODUCTION_PATH: LIMIT_REPRODUCTION}, None),
    ("shelf-crash-reproduction", {shelf.REPRODUCTION_PATH: CRASH_REPRODUCTION}, None),
    ("shelf-limit-review-0", {}, Submission(judgment="YES", review="right")),
    ("shelf-limit-review-1", {}, Submission(judgment="NO", review="wrong")),
]


@pytest.mark.parametrize("task_id, changed, submission", GOLD, ids=[row[0] for row in GOLD])
def test_gold_is_the_maximum_and_nothing_the_minimum(desk, task_id, changed, submission):
    localization = "localization" in task_id
    for _ in range(2):
        assert desk.grade(task_id, changed, submission=submission).reward == 1.0
        assert desk.grade(task_id, submission=Submission(missing=True)).reward == (-1.0 if localization else 0.0)


def test_fix_written_differently_is_a_fix(desk):
    other = shelf.changed(shelf.PRICES, ("    if total >= LIMIT:\n", "    if not total < LIMIT:\n"))
    result = desk.grade("shelf-limit-editing", {PRICES: other})
    assert result.reward == 1.0 and result.components["changed_lines_ratio"] == 1.0
    # Two source files and a test were touched; the test is left out, the fix counts.
    result = desk.grade("shelf-limit-bug_fixing", {PRICES: other, shelf.T: "", "src/shelf/extra.py": "x = 1\n"})
    assert result.reward == 1.0
    assert result.components["touched_tests"] == 1.0 and result.components["changed_lines_ratio"] == 1.5


def test_half_a_fix_shows_in_the_components(desk):
    result = desk.grade("shelf-crash-editing", {STOCK: shelf.STOCK})
    assert result.reward == 0.0 and result.components["f2p_passed"] == 0.25 and result.components["p2p_passed"] == 1.0


def test_a_fix_that_adds_an_honest_comparison_is_a_fix(desk):
    text = shelf.PRICES + "\n\nclass Money(float):\n    def __eq__(self, other):\n        return float(self) == other\n"
    value = "round(total * (100 - percent) / 100, 2)"
    text = shelf.changed(text, (value, f"Money({value})"))
    result = desk.grade("shelf-limit-editing", {PRICES: text})
    assert result.reward == 1.0 and result.components["new_comparison_methods"] == 1.0


def test_shaped_rewards(desk):
    two = Submission(files=(PRICES, STOCK))
    assert desk.grade("shelf-limit-localization", submission=two, reward_mode="shaped").reward == pytest.approx(1 / 3)
    weak = "from shelf.prices import parcels\n\n\ndef test_full():\n    assert parcels(10, 5) == 2\n"
    result = desk.grade("shelf-crash-unit_tests", {shelf.UNIT_TESTS_PATH: weak}, reward_mode="shaped")
    assert result.reward == result.components["kill_rate"] == pytest.approx(1 / 3)
    assert desk.grade("shelf-crash-unit_tests", {shelf.UNIT_TESTS_PATH: weak}).reward == 0.0


def test_an_agent_that_also_fixed_the_bug_has_reproduced_it_all_the_same(desk):
    changed = {shelf.REPRODUCTION_PATH: LIMIT_REPRODUCTION, PRICES: shelf.PRICES}
    assert desk.grade("shelf-limit-reproduction", changed).reward == 1.0


READS_SOURCE = """\
import inspect

from shelf import prices


def test_it():
    assert "total >= LIMIT" in inspect.getsource(prices)
"""
FAILS = "\n\ndef test_more():\n    assert discount(100, 10) == 80\n"
SKIPS = "\n\ndef test_more():\n    if discount(100, 10) == 90:\n        import pytest\n\n        pytest.skip()\n"


@pytest.mark.parametrize(
    ("text", "reward", "swt_success"),
    [
        (LIMIT_REPRODUCTION, 1.0, 1.0),
        # The published rule asks neither why a test fails nor what it looks at.
        (READS_SOURCE, 0.0, 1.0),
        (LIMIT_REPRODUCTION + FAILS, 0.0, 0.0),
        # A skip is no failure here; there the test passed and does not any more.
        (LIMIT_REPRODUCTION + SKIPS, 1.0, 0.0),
    ],
)
def test_reproductions_by_the_reward_and_by_swt_bench(desk, text, reward, swt_success):
    grade = desk.grade("shelf-limit-reproduction", {shelf.REPRODUCTION_PATH: text})
    assert (grade.reward, grade.components["swt_success"]) == (reward, swt_success), grade


@pytest.mark.slow
def test_a_mutant_that_loops_for_ever_is_killed_by_the_limit(desk):
    condition = "    if total >= LIMIT:\n"
    loop = f"    while total > 200:\n        pass\n{condition}"
    loops = {PRICES: shelf.changed(shelf.PRICES, (condition, loop))}
    request = desk.request("shelf-limit-unit_tests", {shelf.UNIT_TESTS_PATH: LIMIT_TESTS})
    request = dataclasses.replace(request, instance=dataclasses.replace(request.instance, mutants=(loops,)))
    assert desk.loop.run(grade(request, desk.runner)).reward == 1.0


def test_a_task_that_does_not_behave_as_recorded_is_ungradable(desk):
    request = desk.request("shelf-limit-editing")
    wrong = dataclasses.replace(
        request.instance, pass_to_pass=(*request.instance.pass_to_pass, f"{shelf.T}::test_gone")
    )
    result = desk.loop.run(grade(dataclasses.replace(request, instance=wrong), desk.runner))
    assert (result.reward, result.reason) == (None, "task") and "test_gone" in result.detail


@pytest.mark.deep
def test_a_host_too_slow_for_the_correct_tree_is_no_reward(desk):
    """A submission that runs out of its time fails, but not where the correct tree would as well."""
    loops = {PRICES: "while True:\n    pass\n"}
    request = desk.request("shelf-limit-editing", loops)

    def within(timeout_s):
        environment = dataclasses.replace(request.environment, timeout_s=timeout_s)
        return desk.loop.run(grade(dataclasses.replace(request, environment=environment), desk.runner))

    assert within(20.0).reward == 0.0
    # Less than any interpreter takes to start.
    slow = within(0.005)
    assert (slow.reward, slow.reason) == (None, "infra") and "the correct tree ran out of its time too" in slow.detail


def test_faults_of_ours_are_never_rewards(desk):
    class Full:
        async def tree_files(self, task_set, tree):
            raise Overloaded("no capacity")

    class Broken:
        async def tree_files(self, task_set, tree):
            raise ZeroDivisionError

    request = desk.request("shelf-limit-editing")
    assert desk.loop.run(grade(request, Full())).reason == "infra"
    assert desk.loop.run(grade(request, Broken())).reason == "grader"
    with pytest.raises(ValueError, match="either a reward or a reason"):
        Grade(None)
