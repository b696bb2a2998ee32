"""MLE-bench's rule: metrics worked by hand, medals, files that cannot be scored, and records that cannot."""

import asyncio
import math

import pytest

from sandbox_service.graders import GradeRequest, Submission, grade
from sandbox_service.graders.leaderboard_metrics import metric_of
from sandbox_service.tasks import Environment, HiddenTask, Instance

PERFECT = "id,y\na,1\nb,0\nc,1\nd,0\n"
EXPECTED = {"metric": "auc-roc", "better": "higher", "gold": "0.95", "silver": "0.75", "bronze": "0.5"}


def graded(text: str | bytes | None, *, mode: str = "paper", **expected):
    instance = Instance(
        "i", "e", "", {}, (), (), "", "", expected=EXPECTED | {"gold_submission": PERFECT} | expected
    )  # fmt: skip
    environment = Environment("e", (), (), (), rule="leaderboard")
    task = HiddenTask("t", "ml_engineering", "i", {}, "submission.csv")
    changed = {} if text is None else {"submission.csv": text.encode() if isinstance(text, str) else text}
    return asyncio.run(grade(GradeRequest(None, task, instance, environment, Submission(), changed, mode), None))


def file(*values) -> str:
    return "id,y\n" + "".join(f"{i},{v}\n" for i, v in zip("abcd", values, strict=True))


@pytest.mark.parametrize(
    ("name", "labels", "predictions", "value"),
    [
        ("Accuracy", [["a", "b", "b"]], [["a", "a", "b"]], 2 / 3),
        # Columns have a mean: 1/2 of 1 and 1/2.
        ("accuracy", [["a", "b"], ["a", "b"]], [["a", "b"], ["a", "a"]], 0.75),
        # a: 2/(2+1); b: 2/(2+1).
        ("macro-F1", [["a", "b", "b"]], [["a", "a", "b"]], 2 / 3),
        ("quadratic weighted kappa", [["0", "1", "2"]], [["0", "1", "2"]], 1.0),
        # Squares 0, 1, 1 of the pairs; by chance (ours 0 1 2, theirs 0 2 1): mean over 9 pairs 12, times 3.
        ("qwk", [["0", "1", "2"]], [["0", "2", "1"]], 1 - 2 / (12 / 3)),
        ("AUC-ROC", [[1.0, 0.0, 1.0]], [[0.9, 0.5, 0.5]], 0.75),
        ("log-loss", [[1.0, 0.0]], [[0.5, 0.75]], (math.log(2) + math.log(4)) / 2),
        # Rows are scaled: 2, 1, 1 is 1/2, 1/4, 1/4.
        ("multi-class-log-loss", [[1.0], [0.0], [0.0]], [[0.5], [0.25], [0.25]], math.log(2)),
        ("root-mean-squared-error", [[1.0, 2.0]], [[4.0, 6.0]], math.sqrt(12.5)),
        ("mean absolute error", [[1.0, 2.0]], [[4.0, 6.0]], 3.5),
        ("RMSLE", [[0.0]], [[math.e - 1]], 1.0),
        ("r2", [[1.0, 2.0, 3.0]], [[1.0, 2.0, 2.0]], 0.5),
    ],
)
def test_metrics(name, labels, predictions, value):
    assert metric_of(name).score(labels, predictions) == pytest.approx(value, rel=1e-12)


def test_medals():
    assert graded(PERFECT).components == {"valid": 1, "score": 1, "gold": 1, "silver": 1, "bronze": 1}
    silver = file(0.9, 0.5, 0.5, 0.1)  # 3.5 of 4 pairs in order
    assert graded(silver).reward == 1 and graded(silver, mode="shaped").reward == pytest.approx(2 / 3)
    assert graded(silver).components["score"] == 0.875
    none = file(0.1, 0.9, 0.5, 0.5)
    assert graded(none).reward == 0 and graded(none).reason is None


def test_lower_may_be_better():
    expected = {"metric": "mae", "better": "lower", "gold": "0.1", "silver": "0.2", "bronze": "0.3"}
    assert graded(file(0.75, 0, 1, 0.25), **expected).components["gold"] == 0
    assert graded(file(0.75, 0, 1, 0.25), **expected).reward == 1
    assert graded(file(0, 1, 0, 1), **expected).reward == 0


@pytest.mark.parametrize(
    "text",
    [
        None, "", "id,y\n", "id,y\na,1\n", PERFECT + "a,1\n", PERFECT + "e,1\n", PERFECT.replace("a,1", "a,nan"),
        PERFECT.replace("a,1", "a,1e400"), PERFECT.replace("a,1", "a,x"), PERFECT.replace("a,1", "a,1,1"),
        PERFECT.replace("id,y", "id,z"), b"id,y\n\xff", 'id,y\n"a,1\n',
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_scored_earns_nothing(text):
    result = graded(text)
    assert result.reward == 0 and result.components["valid"] == 0 and "submission.csv: " in result.detail


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "kaggle-only"}, "'kaggle-only' is not one of accuracy"),
        ({"better": "lower"}, "says that lower is better"),
        ({"bronze": "none"}, "read the dataset again"),
        ({"gold": "1.5"}, "earn no gold medal"),
        ({"gold_submission": "id,y\na,1\n"}, "not defined for its own answers"),
    ],
)
def test_a_record_that_cannot_be_scored_is_refused(change, message):
    result = graded(PERFECT, **change)
    assert result.reward is None and result.reason == "task" and message in result.detail
