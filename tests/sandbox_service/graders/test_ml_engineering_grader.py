import asyncio
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_service.graders import Submission, grade
from sandbox_service.graders.base import GradeRequest
from sandbox_service.graders.ml_engineering import DEMANDS, MAX_BYTES, Answers, BadFile, score_file
from sandbox_service.graders.ml_engineering_metrics import METRICS, accuracy, auc, f1, rmse
from sandbox_service.tasks import Environment, HiddenTask, Instance, TaskSet

PATH = "predictions.csv"
GOLD = "id,prediction\n7,1\n8,0\n9,1\n10,0\n"
AREA = {"metric": "auc", "bar": "0.75", "trivial": "0.5", "gold_submission": GOLD}


def test_accuracy_by_hand():
    assert accuracy("abca", "abba") == 0.75


def test_f1_by_hand():
    # One of two positives found, one false alarm: 2 / (2 + 1 + 1).
    assert f1("1100", "1010") == 0.5
    assert f1("1100", "0011") == f1("1100", "0000") == 0.0
    assert f1("1100", "1100") == 1.0


def test_auc_by_hand():
    # Pairs of a positive and a negative: 3 of 4 in the right order.
    assert auc("1010", [0.9, 0.5, 0.4, 0.1]) == 0.75
    assert auc("10", [0.3, 0.3]) == 0.5
    assert auc("1100", [1, 1, 1, 0]) == 0.75


@given(st.lists(st.tuples(st.sampled_from("01"), st.integers(-4, 4)), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(rows):
    labels, scores = [r[0] for r in rows], [float(r[1]) for r in rows]
    pairs = [(a, b) for x, a in zip(labels, scores, strict=True) for y, b in zip(labels, scores, strict=True) if x > y]
    if pairs:
        assert auc(labels, scores) == sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)
        assert auc(labels, [2 * s + 1 for s in scores]) == auc(labels, scores)


def test_rmse_by_hand():
    assert rmse([1, 2, 3, 4], [1, 2, 3, 8]) == 2.0
    assert rmse([0.0, 0.0], [1e200, 0.0]) == pytest.approx(1e200 / 2**0.5)


@pytest.mark.parametrize(
    ("name", "score", "bar", "trivial", "meets", "progress"),
    [
        ("auc", 0.75, 0.75, 0.5, True, 1.0),
        ("auc", 0.625, 0.75, 0.5, False, 0.5),
        ("auc", 0.2, 0.75, 0.5, False, 0.0),
        ("rmse", 10.0, 10.0, 30.0, True, 1.0),
        ("rmse", 20.0, 10.0, 30.0, False, 0.5),
        ("rmse", 99.0, 10.0, 30.0, False, 0.0),
    ],
)
def test_progress_goes_from_trivial_to_bar(name, score, bar, trivial, meets, progress):
    metric = METRICS[name]
    assert metric.meets(score, bar) is meets
    assert metric.progress(score, trivial, bar) == progress


def request(changed, expected=AREA, reward_mode="paper", rule=""):
    environment = Environment("e", (), (), (), rule=rule)
    instance = Instance("i", "e", "", {}, (), (), "", "", expected=expected)
    task = HiddenTask("t", "ml_engineering", "i", {}, submission_path=PATH)
    tasks = TaskSet(None, "digest", {"e": environment}, {"i": instance}, {"t": task})
    return GradeRequest(tasks, task, instance, environment, Submission(), changed, reward_mode)


def graded(data, **options):
    """What a file earns; no run is needed, so there is no runner."""
    return asyncio.run(grade(request({} if data is None else {PATH: data}, **options), None))


def test_rewards():
    assert graded(GOLD.encode()).reward == 1.0
    order = b"id,prediction\r\n10, 0.1\r\n7,.9\r\n9,4e-1\r\n8,5E-1\r\n\r\n"
    at_the_bar = graded(order)
    assert at_the_bar.reward == 1.0 and at_the_bar.components["score"] == 0.75
    below = b"id,prediction\n7,0.9\n8,0.8\n9,0.1\n10,0.2\n"
    assert (graded(below).reward, graded(below).components["score"]) == (0.0, 0.5)
    middle = b"id,prediction\n7,3\n8,2\n9,2\n10,2\n"
    assert graded(middle).components["score"] == 0.75
    assert graded(b"id,prediction\n7,3\n8,2\n9,1\n10,1\n", reward_mode="shaped").reward == pytest.approx(0.5)


def test_a_mark_at_the_head_of_the_file_is_no_fault():
    assert graded(b"\xef\xbb\xbf" + GOLD.encode()).reward == 1.0


LINES = GOLD.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("component", "data"),
    [
        ("submitted", None),
        ("readable", b""),
        ("readable", b"\xff\xfe" + GOLD.encode("utf-16-le")),
        ("readable", GOLD.encode() + b"\n" * MAX_BYTES),
        ("readable", GOLD.replace("id,", "nr,").encode()),
        ("readable", "".join(LINES[1:]).encode()),
        ("readable", GOLD.replace("7,1", "7,1,1").encode()),
        ("readable", GOLD.replace("7,1", '7,"1').encode()),
        ("readable", ("id,prediction\n" + "1" * 200_000 + ",1\n").encode()),
        ("complete", "".join(LINES[:-1]).encode()),
        ("complete", (GOLD + LINES[1]).encode()),
        ("complete", (GOLD + "99,1\n").encode()),
        ("complete", GOLD.replace("7,1", "07,1").encode()),
        ("valid", GOLD.replace("7,1", "7,").encode()),
        ("valid", GOLD.replace("7,1", "7,nan").encode()),
        ("valid", GOLD.replace("7,1", "7,-inf").encode()),
        ("valid", GOLD.replace("7,1", "7,1e999").encode()),
        ("valid", GOLD.replace("7,1", "7,1e300").encode()),
        ("valid", GOLD.replace("7,1", "7,=1").encode()),
        ("valid", GOLD.replace("7,1", "7,1_0").encode()),
        ("valid", GOLD.replace("7,1", "7,0x1").encode()),
        ("valid", GOLD.replace("7,1", "7,\u0661").encode()),
        ("valid", GOLD.replace("7,1", "7," + "9" * 5000).encode()),
        ("valid", GOLD.replace("7,1", "7,1\0").encode()),
    ],
)
def test_bad_files_get_nothing_and_are_told_why(component, data):
    for mode in ("paper", "shaped"):
        got = graded(data, reward_mode=mode)
        assert got.reward == 0.0 and got.detail.startswith(PATH)
        good = DEMANDS[: DEMANDS.index(component)]
        assert {name for name in DEMANDS if got.components[name]} == set(good)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data):
    answers = Answers.read(request({}))
    for text in (data, b"id,prediction\n" + data):
        with pytest.raises(BadFile):
            score_file(text, answers)


def test_classes_are_those_that_occur():
    expected = {**AREA, "metric": "accuracy", "gold_submission": "id,prediction\n1,a\n2,b\n3,a\n"}
    assert graded(b"id,prediction\n1,a\n2,b\n3,b\n", expected=expected).components["score"] == pytest.approx(2 / 3)
    assert graded(b"id,prediction\n1,a\n2,b\n3,c\n", expected=expected).components["valid"] == 0.0
    assert graded(b"id,prediction\n1,a\n2,b\n3,A\n", expected=expected).components["valid"] == 0.0


@pytest.mark.parametrize(
    "damage", [{"metric": "luck"}, {"bar": "high"}, {"bar": "0.5"}, {"gold_submission": ""}, {"trivial": "?"}]
)
def test_a_damaged_record_is_our_fault(damage):
    got = graded(GOLD.encode(), expected={**AREA, **damage})
    assert (got.reward, got.reason) == (None, "task") and "rebuild" in got.detail


def test_records_of_datasets_are_left_to_their_own_rule():
    got = graded(GOLD.encode(), rule="mle_bench")
    assert (got.reward, got.reason) == (None, "task") and "mle_bench" in got.detail


def test_the_submission_stands_at_its_path_alone():
    elsewhere = dataclasses.replace(request({}), changed={f"out/{PATH}": GOLD.encode(), "train.csv": GOLD.encode()})
    assert asyncio.run(grade(elsewhere, None)).reward == 0.0
