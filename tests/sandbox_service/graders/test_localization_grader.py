"""The measures of localization: of the set, and Loc-Bench's of the order."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_service.graders import Submission, grade
from sandbox_service.graders.localization import MAX_PATHS, decide, ranked

TREE = {"a.py", "b.py", "c.py", "pkg/d.py", "pkg/e.py", "pkg/f.py"}
TWO = ["a.py:f", "a.py:g", "pkg/d.py:K.m"]


@pytest.mark.parametrize(
    ("files", "functions", "acc", "recall"),
    [
        (["a.py"], ["a.py:f"], (1, 1, 1), (1, 1, 1)),
        (["b.py", "a.py"], ["a.py:f"], (0, 1, 1), (0, 1, 1)),
        (["b.py", "c.py", "pkg/e.py", "a.py"], ["a.py:f"], (0, 0, 1), (0, 0, 1)),
        (["b.py", "c.py", "pkg/d.py", "pkg/e.py", "pkg/f.py", "a.py"], ["a.py:f"], (0, 0, 0), (0, 0, 0)),
        # Two files, though three functions; of two, one is enough within the first place.
        (["a.py", "pkg/d.py"], TWO, (1, 1, 1), (0.5, 1, 1)),
        (["a.py", "b.py", "c.py", "pkg/d.py"], TWO, (1, 0, 1), (0.5, 0.5, 1)),
        (["b.py", "pkg/d.py"], TWO, (0, 0, 0), (0, 0.5, 0.5)),
        # Another spelling is the same file, and a file counts once.
        (["./a.py", "a/a.py", "repo/pkg/d.py"], TWO, (1, 1, 1), (0.5, 1, 1)),
        # Of six files, five are a whole answer.
        (sorted(TREE)[:5], [f"{path}:f" for path in TREE], (1, 1, 1), (0.2, 0.6, 1)),
        ([], TWO, (0, 0, 0), (0, 0, 0)),
        (["missing.py"] * 100_000 + ["a.py"], ["a.py:f"], (0, 0, 0), (0, 0, 0)),
    ],
)
def test_files_by_the_order_of_the_answer(files, functions, acc, recall):
    found = ranked(files, functions, TREE)
    assert tuple(found[f"acc_at_{k}"] for k in (1, 3, 5)) == acc
    assert tuple(found[f"recall_at_{k}"] for k in (1, 3, 5)) == recall


PATHS = st.lists(st.sampled_from(sorted(TREE)), unique=True, max_size=6)


@given(PATHS, PATHS.filter(bool))
def test_all_files_within_the_cut_are_a_whole_answer(files, truth):
    found = ranked(files, [f"{path}:f" for path in truth], TREE)
    for k in (1, 3, 5):
        assert found[f"acc_at_{k}"] >= float(found[f"recall_at_{k}"] == 1) and 0 <= found[f"recall_at_{k}"] <= 1
        assert k < len(truth) or found[f"acc_at_{k}"] == float(found[f"recall_at_{k}"] == 1)
    if len(truth) <= 5 and len(files) <= min(5, MAX_PATHS):
        of_the_set = decide(files, truth, TREE)
        assert found["recall_at_5"] == of_the_set["recall"] and found["acc_at_5"] >= of_the_set["exact"]


def test_a_record_that_names_functions_is_measured_so_too(desk):
    request = desk.request(
        "shelf-limit-localization", submission=Submission(files=("README.md", "src/shelf/prices.py"))
    )
    plain = desk.loop.run(grade(request, desk.runner))
    assert plain.reward == -1.0 and not any("_at_" in name for name in plain.components)
    expected = {"edit_functions": json.dumps(["src/shelf/prices.py:discount"])}
    request = dataclasses.replace(request, instance=dataclasses.replace(request.instance, expected=expected))
    measured = desk.loop.run(grade(request, desk.runner))
    # The reward is the same: of the whole set.
    assert measured.reward == -1.0 and measured.components.items() > plain.components.items()
    assert (measured.components["acc_at_1"], measured.components["acc_at_3"]) == (0.0, 1.0)
