"""Logs of foreign test runners: worked by hand, and properties that hold for all of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import LOGS

from sandbox_service.graders.parsers import PARSERS, canonical

STATUSES = {"passed", "failed", "error", "skipped", "xfailed"}
NAMES = st.sampled_from(sorted(PARSERS))
# Lines of every runner mixed with each other, and any text.
LINES = sorted({line for log, _ in LOGS.values() for line in log.split("\n")})
MIXED = st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=30)), max_size=12).map("\n".join)
# Formats in which each line stands for itself.
LINEWISE = sorted(
    PARSERS.keys()
    - {"unittest", "django", "sympy", "doctest", "maven", "gradle_custom", "mocha", "karma", "phpunit", "pytest_names"}
)


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_logs_worked_by_hand(name):
    log, expected = LOGS[name]
    assert PARSERS[name](log) == expected


def test_every_parser_has_a_log():
    assert LOGS.keys() == PARSERS.keys()


@given(NAMES, st.one_of(MIXED, st.text()))
@settings(max_examples=300)
def test_any_log_is_parsed_into_known_statuses(name, log):
    results = PARSERS[name](log)
    assert set(results.values()) <= STATUSES
    assert all(isinstance(i, str) for i in results)


@given(st.sampled_from(LINEWISE), MIXED, MIXED)
@settings(max_examples=200)
def test_line_by_line_the_last_result_counts(name, first, second):
    parse = PARSERS[name]
    assert parse(f"{first}\n{second}") == parse(first) | parse(second)


# Parameters without digits: "[0m" would be taken for a colour.
IDS = st.lists(st.from_regex(r"tests/[a-z_]{1,8}\.py::test_[a-z]{1,8}(\[[a-z-]{1,6}\])?", fullmatch=True), max_size=6)
WORDS = {"passed": "PASSED", "failed": "FAILED", "error": "ERROR", "xfailed": "XFAIL"}


@given(IDS, st.data())
def test_what_pytest_sums_up_is_read_back(ids, data):
    results = {i: data.draw(st.sampled_from(sorted(WORDS))) for i in ids}
    noise = data.draw(st.sampled_from(["", " - assert 1 == 2", " - Failed: PASSED tests/x.py::test_x"]))
    log = "\n".join(f"{WORDS[s]} {i}{noise if s != 'passed' else ''}" for i, s in results.items())
    for name in ("pytest", "pytest_v2"):
        assert {i.partition(" - ")[0]: s for i, s in PARSERS[name](log).items()} == results


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("parse_log_pytest", "pytest"), ("parse_log_scikit", "pytest_v2"), ("parse_log_requests", "pytest_options"),
        ("gotest", "gotest"), ("parse_log_highlightjs", "mocha"), ("parse_log_calypso", None), ("", None),
    ],
)  # fmt: skip
def test_names_that_datasets_use(name, expected):
    assert canonical(name) == expected
