"""The published rules, and where this project departs from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_service.graders.rules import Transitions, Verdict, contradicted, judge, status_of, swt_success, transitions

GOOD = {"a": "passed", "b": "passed", "c": "skipped"}


@pytest.mark.parametrize(
    ("results", "exit_code", "expected"),
    [
        (GOOD, 0, Verdict(1.0, 1.0, True)),
        ({**GOOD, "a": "xfailed"}, 0, Verdict(1.0, 1.0, True)),
        # A skipped test solves nothing, but breaks nothing either.
        ({**GOOD, "a": "skipped"}, 0, Verdict(0.0, 1.0, False)),
        ({**GOOD, "a": "failed"}, 1, Verdict(0.0, 1.0, False)),
        ({**GOOD, "b": "error"}, 1, Verdict(1.0, 0.5, False)),
        # Absent is failed.
        ({"b": "passed", "c": "passed"}, 0, Verdict(0.0, 1.0, False)),
        ({"a": "passed", "c": "passed"}, 0, Verdict(1.0, 0.5, False)),
        ({}, 0, Verdict(0.0, 0.0, False)),
        # A test outside of both lists may fail.
        ({**GOOD, "z": "failed"}, 1, Verdict(1.0, 1.0, True)),
        # The command failed and no test did: the log tells of another run.
        (GOOD, 1, Verdict(0.0, 0.0, False)),
        (GOOD, -9, Verdict(0.0, 0.0, False)),
    ],
)
def test_pass_and_fail(results, exit_code, expected):
    assert judge("pass_and_fail", results, exit_code, ["a"], ["b", "c"]) == expected


@pytest.mark.parametrize(
    ("results", "solved"),
    [
        ({"a": "passed", "b": "passed", "k": "failed"}, True),
        ({"a": "passed", "b": "passed", "k": "passed"}, False),
        ({"a": "passed", "b": "passed"}, False),
        ({"a": "passed", "b": "passed", "k": "failed", "new": "passed"}, False),
    ],
)
def test_exact_map(results, solved):
    exit_code = int("failed" in results.values())
    assert judge("exact_map", results, exit_code, ["a"], ["b"], {"k": "failed"}).solved is solved


@pytest.mark.parametrize(
    ("results", "solved"),
    [
        ({"a [3 ms]": "passed", "b": "passed", "k": "failed"}, True),
        ({"a (0.1s)": "passed", "b": "passed", "more": "passed"}, False),
        ({"a": "passed"}, False),
    ],
)
def test_passed_set(results, solved):
    """Durations in names are no part of them; a further test that passes is too much."""
    assert judge("passed_set", results, 0 if "k" not in results else 1, ["a [1 ms]"], ["b"]).solved is solved


def test_without_fail_to_pass_tests_nothing_is_solved():
    assert not judge("pass_and_fail", GOOD, 0, [], ["b"]).solved


@pytest.mark.parametrize("rule", ["sanitizer", "reward_file", "leaderboard", "fail_only", ""])
def test_rules_that_are_not_wired(rule):
    with pytest.raises(ValueError, match="not wired"):
        judge(rule, GOOD, 0, ["a"], [])


CUT = {"t[log(a-1]": "passed", "t[log(a-2]": "passed", "u[x(1]": "passed", "u[x(2]": "failed", "v": "passed"}


@pytest.mark.parametrize(
    ("test_id", "expected"),
    [("t[log(a", "passed"), ("u[x(", None), ("v", "passed"), ("t", None), ("t[log(a-1]", "passed"), ("w[", None)],
)
def test_ids_that_are_cut_within_their_parameters(test_id, expected):
    assert status_of(test_id, CUT) == expected


RESULTS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["passed", "failed", "error", "skipped", "odd"]))
LISTS = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)


@given(RESULTS, st.integers(-1, 2), LISTS, LISTS, st.sampled_from(["pass_and_fail", "exact_map", "passed_set"]))
def test_taking_a_result_away_or_breaking_it_never_solves(results, exit_code, f2p, p2p, rule):
    for test_id in [i for i in results if i in f2p or i in p2p]:
        worse = [{k: v for k, v in results.items() if k != test_id}, results | {test_id: "failed"}]
        for changed in worse:
            assert not judge(rule, changed, exit_code, f2p, p2p).solved


@given(RESULTS, st.integers(-1, 2), LISTS, LISTS)
def test_the_stricter_rules_solve_no_more(results, exit_code, f2p, p2p):
    base = judge("pass_and_fail", results, exit_code, f2p, p2p)
    for rule in ("exact_map", "passed_set"):
        assert base.solved or not judge(rule, results, exit_code, f2p, p2p).solved


@given(RESULTS)
def test_success_is_never_contradicted(results):
    assert not contradicted(results, 0)


NOTHING = Transitions()
# Status before and after the gold change -> the group, as swt-bench's get_eval_report has it.
SWT_GROUPS = {
    ("failed", "passed"): "fail_to_pass",
    ("error", "passed"): "fail_to_pass",
    ("skipped", "passed"): "fail_to_pass",
    (None, "passed"): "fail_to_pass",
    ("passed", "failed"): "pass_to_fail",
    ("passed", "error"): "pass_to_fail",
    ("passed", "skipped"): "pass_to_fail",
    ("passed", None): "pass_to_fail",
    ("failed", "failed"): "fail_to_fail",
    ("error", "failed"): "fail_to_fail",
    (None, "failed"): "fail_to_fail",
    ("passed", "passed"): None,
    ("failed", "error"): None,
    ("failed", None): None,
    ("error", "error"): None,
    (None, "xfailed"): None,
}


@pytest.mark.parametrize(("statuses", "group"), SWT_GROUPS.items())
def test_what_the_gold_change_makes_of_a_test(statuses, group):
    before, after = ({} if status is None else {"t": status} for status in statuses)
    assert transitions(before, after) == (Transitions(**{group: frozenset("t")}) if group else NOTHING)


@pytest.mark.parametrize(
    ("before", "after", "success"),
    [
        ({"new": "failed"}, {"new": "passed"}, True),
        # The file could not be imported: the published rule takes that for a failure, the reward does not.
        ({"tests/test_new.py": "error"}, {"new": "passed"}, True),
        ({"new": "failed", "more": "passed"}, {"new": "passed", "more": "passed"}, True),
        ({"new": "passed"}, {"new": "passed"}, False),
        ({"new": "failed"}, {"new": "failed"}, False),
        ({}, {}, False),
        # One that fails on the correct code spoils it, whatever it did before.
        ({"new": "failed", "more": "failed"}, {"new": "passed", "more": "failed"}, False),
        ({"new": "failed"}, {"new": "passed", "more": "failed"}, False),
        ({"new": "failed", "more": "passed"}, {"new": "passed", "more": "failed"}, False),
        ({"new": "failed", "more": "passed"}, {"new": "passed", "more": "skipped"}, False),
        ({"new": "failed", "more": "passed"}, {"new": "passed"}, False),
        # An error stays one: neither passed nor failed.
        ({"new": "failed", "more": "error"}, {"new": "passed", "more": "error"}, True),
    ],
)
def test_success_of_submitted_tests(before, after, success):
    assert swt_success(transitions(before, after), NOTHING) is success


def test_success_counts_from_what_the_files_showed_without_the_submission():
    known = transitions({"old": "failed", "odd": "failed"}, {"old": "passed", "odd": "failed"})
    # What was there adds nothing, and what was broken does not count against it.
    assert not swt_success(known, known)
    before, after = {"old": "failed", "odd": "failed", "new": "failed"}, {"old": "passed", "odd": "failed"}
    assert swt_success(transitions(before, after | {"new": "passed"}), known)
    # The submission took a test away that showed the bug.
    assert not swt_success(transitions({"new": "failed"}, {"new": "passed"}), known)


@given(RESULTS, RESULTS, RESULTS, RESULTS)
def test_a_further_failure_on_the_correct_code_is_never_success(before, after, known_before, known_after):
    known, found = transitions(known_before, known_after), transitions(before, after)
    assert not (found.fail_to_pass & found.pass_to_fail or found.fail_to_fail & found.pass_to_fail)
    assert not swt_success(known, known)
    worse = transitions(before, after | {"further": "failed"})
    assert not swt_success(worse, known)
    # A test that passes before and after changes nothing.
    better = transitions(before | {"further": "passed"}, after | {"further": "passed"})
    assert swt_success(better, known) is swt_success(found, known)
