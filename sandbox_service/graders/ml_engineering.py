"""ML engineering: 1 when the submitted predictions meet the bar on the hidden labels, else 0.

`expected` of the instance holds the `metric`, the `bar`, the score of `trivial` predictions, and the labels as the
file that would score best (`gold_submission`): "id,prediction" and a row for every id. The submission must have the
same header and every id once, in any order. Nothing of the agent's is run. With reward_mode="shaped" a well-formed
file earns its way from the trivial score to the bar.
"""

import asyncio
import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.graders.ml_engineering_metrics import METRICS, Metric
from sandbox_service.runner import Runner

HEADER = ["id", "prediction"]
# Many times what the largest test set needs.
MAX_BYTES = 4 << 20
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
# Larger ones only serve to make sums overflow.
_LARGEST = 1e100


class BadFile(Exception):
    """A submission that cannot be scored. `component` is the demand that it fails."""

    def __init__(self, component: str, why: str):
        super().__init__(why)
        self.component = component


# In the order in which they are looked at: a file that fails one of them has 0 there and in all that follow.
DEMANDS = ("submitted", "readable", "complete", "valid")


@dataclass(frozen=True)
class Answers:
    """What the record expects."""

    metric: Metric
    bar: float
    trivial: float
    # Id -> label.
    labels: Mapping[str, str]

    @classmethod
    def read(cls, request: GradeRequest) -> "Answers":
        expected = request.instance.expected
        try:
            rows = _rows(expected["gold_submission"])
            metric, bar, trivial = METRICS[expected["metric"]], float(expected["bar"]), float(expected["trivial"])
            if bar == trivial or not request.task.submission_path or not rows:
                raise ValueError("a bar that says nothing, no path or no labels")
            return cls(metric, bar, trivial, dict(rows))
        except (KeyError, ValueError, BadFile) as e:
            why = f"{request.instance.instance_id}: its labels, metric or bar are damaged ({e!r}); rebuild the set"
            raise TaskFault(why) from e


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    answers = Answers.read(request)
    data = request.changed.get(request.task.submission_path)
    try:
        # In a thread: a large file takes a moment, and others wait for their calls.
        score = await asyncio.to_thread(score_file, data, answers)
    except BadFile as e:
        failed = DEMANDS.index(e.component)
        components = {name: float(number < failed) for number, name in enumerate(DEMANDS)}
        return Grade(0.0, {**components, "progress": 0.0}, detail=f"{request.task.submission_path}: {e}")
    meets = answers.metric.meets(score, answers.bar)
    progress = answers.metric.progress(score, answers.trivial, answers.bar)
    components = {**dict.fromkeys(DEMANDS, 1.0), "score": score, "bar": answers.bar, "progress": progress}
    return Grade(progress if request.shaped else float(meets), components)


def score_file(data: bytes | None, answers: Answers) -> float:
    """The metric's value. Raises BadFile."""
    if data is None:
        raise BadFile("submitted", "there is no such file; links are not followed")
    if len(data) > MAX_BYTES:
        raise BadFile("readable", f"larger than {MAX_BYTES} bytes")
    try:
        rows = _rows(data.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise BadFile("readable", "is not UTF-8") from e
    predictions = dict(rows)
    if len(predictions) != len(rows):
        raise BadFile("complete", "an id occurs twice")
    missing, unknown = len(answers.labels.keys() - predictions.keys()), len(predictions.keys() - answers.labels.keys())
    if missing or unknown:
        raise BadFile("complete", f"{missing} ids are missing and {unknown} are not in the test set")
    metric, ids = answers.metric, list(answers.labels)
    labels = [answers.labels[i] for i in ids]
    if metric.predicts == "class":
        known = set(labels)
        bad = next((i for i in ids if predictions[i] not in known), None)
        if bad is not None:
            raise BadFile("valid", f"the prediction of id {bad[:20]} is none of the classes")
        return metric.score(labels, [predictions[i] for i in ids])
    numbers = [_number(i, predictions[i]) for i in ids]
    return metric.score([float(label) for label in labels] if metric.numeric_labels else labels, numbers)


def _rows(text: str) -> list[tuple[str, str]]:
    """(id, prediction) of every row, stripped. Raises BadFile."""
    try:
        lines = [row for row in csv.reader(text.splitlines(), strict=True) if row]
    except csv.Error as e:
        raise BadFile("readable", f"is not CSV: {e}") from e
    if not lines or [cell.strip() for cell in lines[0]] != HEADER:
        raise BadFile("readable", f"its first line is not {','.join(HEADER)}")
    if any(len(row) != len(HEADER) for row in lines):
        raise BadFile("readable", "a row has not two cells")
    return [(row[0].strip(), row[1].strip()) for row in lines[1:]]


def _number(row_id: str, text: str) -> float:
    value = float(text) if len(text) <= 400 and _NUMBER.fullmatch(text) else math.nan
    if not abs(value) <= _LARGEST:
        raise BadFile("valid", f"the prediction of id {row_id[:20]} is not a finite number")
    return value
