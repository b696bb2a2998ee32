"""When a record counts as solved, by the published rule of its dataset. Pure functions of parsed results.

"pass_and_fail" (SWE-bench and most others): every fail-to-pass test passed or failed as expected (xfail), every
pass-to-pass test did so or was skipped. "exact_map" (R2E-Gym): the results are exactly the expected ones.
"passed_set" (SWE-rebench v2): the tests that passed are exactly those of both lists. `swt_success` (SWT-Bench) judges
submitted tests, and no repair, by what they showed before and after the gold change.

Departures from the published code, all towards refusing: an absent test has failed under every rule; a status that no
rule knows is a failure (swebench 5.0.2 leaves such a pass-to-pass test out of its count); a record without
fail-to-pass tests is never solved (swebench: always); results that the exit status contradicts count for nothing, also
outside of pass_and_fail; and `commands` wants tests with wrong expectations to fail.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RULES = ("pass_and_fail", "exact_map", "passed_set")
PASSED = frozenset({"passed", "xfailed"})
BAD = frozenset({"failed", "error"})
# A time in a name differs from run to run.
_TIMES = re.compile(
    r"\s*\[\s*\d+(?:\.\d+)?\s*m?s\s*\]\s*$|\s+in\s+\d+(?:\.\d+)?\s+m?sec\b|\s*\(\s*\d+(?:\.\d+)?\s*m?s\s*\)\s*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Verdict:
    """Shares of the tests that are as they should be, in [0, 1], and whether the record is solved."""

    fail_to_pass: float
    pass_to_pass: float
    solved: bool


@dataclass(frozen=True)
class Transitions:
    """Test ids by what the gold change made of them, in SWT-Bench's groups; what passes before and after is in none.

    Only "passed" and "failed" are statuses there: an error, a skip and an absent test are the same nothing.
    """

    # Passed with the change and had not passed before: failed, or were nothing.
    fail_to_pass: frozenset[str] = frozenset()
    # Passed before and not with the change.
    pass_to_fail: frozenset[str] = frozenset()
    # Failed with the change and had not passed before: failed, or were nothing.
    fail_to_fail: frozenset[str] = frozenset()


def transitions(before: Mapping[str, str], after: Mapping[str, str]) -> Transitions:
    """`before` and `after` map test ids to statuses, on the bug and with the gold change."""
    passed_before = {i for i, status in before.items() if status == "passed"}
    passed, failed = ({i for i, status in after.items() if status == wanted} for wanted in ("passed", "failed"))
    return Transitions(
        fail_to_pass=frozenset(passed - passed_before),
        pass_to_fail=frozenset(passed_before - passed),
        fail_to_fail=frozenset(failed - passed_before),
    )


def swt_success(submitted: Transitions, without: Transitions) -> bool:
    """Whether submitted tests show the bug by SWT-Bench's rule. `without`: of the same test files before they came."""
    shows_more = submitted.fail_to_pass > without.fail_to_pass
    breaks_more = submitted.pass_to_fail - without.pass_to_fail or submitted.fail_to_fail - without.fail_to_fail
    return shows_more and not breaks_more


def contradicted(results: Mapping[str, str], exit_code: int) -> bool:
    """Whether the command failed although no test did: the log then does not tell of the run that was."""
    return exit_code != 0 and not any(status in BAD for status in results.values())


def judge(
    rule: str,
    results: Mapping[str, str],
    exit_code: int,
    fail_to_pass: Sequence[str],
    pass_to_pass: Sequence[str],
    expected: Mapping[str, str] | None = None,
) -> Verdict:
    """`expected` are the statuses of further tests, for exact_map. Raises ValueError for a rule that is not wired."""
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is not wired; one of {', '.join(RULES)}")
    if contradicted(results, exit_code):
        results = {}
    if rule == "passed_set":
        results = {_TIMES.sub("", i).strip(): status for i, status in results.items()}
        fail_to_pass, pass_to_pass = ([_TIMES.sub("", i).strip() for i in ids] for ids in (fail_to_pass, pass_to_pass))
    f2p = _share([status_of(i, results) in PASSED for i in fail_to_pass])
    p2p = _share([status_of(i, results) in PASSED | {"skipped"} for i in pass_to_pass])
    solved = bool(fail_to_pass) and f2p == p2p == 1
    if rule == "exact_map":
        wanted = {**dict.fromkeys((*fail_to_pass, *pass_to_pass), "passed"), **(expected or {})}
        solved = solved and dict(results) == wanted
    elif rule == "passed_set":
        passed = {i for i, status in results.items() if status == "passed"}
        solved = solved and passed == {*fail_to_pass, *pass_to_pass}
    return Verdict(f2p, p2p, solved)


def status_of(test_id: str, results: Mapping[str, str]) -> str | None:
    """The status of a test; an id cut within its parameters stands for all that go on from it, if they agree.

    676 ids of SWE-bench Verified are cut so (SWE-bench issue 290).
    """
    if test_id in results or test_id.count("[") <= test_id.count("]"):
        return results.get(test_id)
    found = [status for i, status in results.items() if i.startswith(test_id)]
    return found[0] if found and len({status in PASSED for status in found}) == 1 else None


def _share(good: list[bool]) -> float:
    return sum(good) / len(good) if good else 1.0
