"""MLE-bench's rule: 1 when the submitted file earns a medal by the private answers and the leaderboard, else 0.

The answers stand in the record, in the form of a perfect submission; nothing of them is in any sandbox. The file is
read by this program alone, no code of the agent runs. Any medal earns 1, the benchmark's headline; with
reward_mode="shaped" a bronze medal earns 1/3, a silver one 2/3.
"""

import asyncio
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.graders.leaderboard_metrics import METRICS, Metric, metric_of
from sandbox_service.runner import Runner

MEDALS = ("gold", "silver", "bronze")
MAX_BYTES = 32 << 20
# Larger numbers only serve to make sums overflow.
_LARGEST = 1e100


class BadFile(Exception):
    """A submission that cannot be scored; the text says why."""


@dataclass(frozen=True)
class Answers:
    """What the record expects: columns of labels in the order of `ids`."""

    metric: Metric
    header: tuple[str, ...]
    ids: tuple[str, ...]
    labels: tuple[tuple, ...]
    # Medal -> the last score that earns it.
    medals: Mapping[str, float]


def read_answers(name: str, expected: Mapping[str, str]) -> Answers:
    """Raises TaskFault naming what is missing or damaged."""
    metric = metric_of(expected.get("metric", ""))
    if metric is None:
        raise TaskFault(
            f"{name}: its metric {expected.get('metric')!r} is not one of {', '.join(sorted(METRICS))}; leave it out"
        )
    try:
        medals = {medal: float(expected[medal]) for medal in MEDALS}
        header, rows = _rows(expected["gold_submission"])
        ids, labels = tuple(rows), tuple(zip(*(_cells(metric, i, row) for i, row in rows.items()), strict=True))
        if not ids or not all(map(math.isfinite, medals.values())):
            raise ValueError("no rows, or a medal without a score")
    except (KeyError, ValueError, BadFile) as e:
        raise TaskFault(f"{name}: its answers or medals are damaged ({e}); read the dataset again") from e
    if (expected.get("better") == "higher") != metric.higher_is_better:
        raise TaskFault(f"{name}: its leaderboard says that {expected.get('better')} is better, its metric does not")
    return Answers(metric, header, ids, labels, medals)


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    answers = read_answers(request.instance.instance_id, request.instance.expected)
    await asyncio.to_thread(_check_gold, request, answers)
    try:
        # In a thread: a large file takes a moment, and others wait for their calls.
        score = await asyncio.to_thread(score_file, request.changed.get(request.task.submission_path), answers)
    except BadFile as e:
        components = {"valid": 0.0, **dict.fromkeys(MEDALS, 0.0)}
        return Grade(0.0, components, detail=f"{request.task.submission_path}: {e}")
    earned = medals_of(score, answers)
    share = sum(earned.values()) / len(MEDALS)
    components = {"valid": 1.0, "score": score, **{medal: float(won) for medal, won in earned.items()}}
    return Grade(share if request.shaped else float(share > 0), components)


def _check_gold(request: GradeRequest, answers: Answers) -> None:
    name = request.instance.instance_id
    try:
        best = score_file(request.instance.expected["gold_submission"].encode(), answers)
    except (BadFile, ArithmeticError, ValueError) as e:
        raise TaskFault(f"{name}: its metric is not defined for its own answers ({e}); leave it out") from e
    if not medals_of(best, answers)["gold"]:
        raise TaskFault(f"{name}: its own answers earn no gold medal (score {best:g}); leave it out")


def medals_of(score: float, answers: Answers) -> dict[str, bool]:
    """Which medals a score is good enough for."""
    if answers.metric.higher_is_better:
        return {medal: score >= bar for medal, bar in answers.medals.items()}
    return {medal: score <= bar for medal, bar in answers.medals.items()}


def score_file(data: bytes | None, answers: Answers) -> float:
    """The metric's value. Raises BadFile."""
    if data is None:
        raise BadFile("there is no such file; links are not followed")
    if len(data) > MAX_BYTES:
        raise BadFile(f"larger than {MAX_BYTES} bytes")
    try:
        header, rows = _rows(data.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise BadFile("is not UTF-8") from e
    if header != answers.header:
        raise BadFile(f"its first line is not {','.join(answers.header)[:200]}")
    if rows.keys() != set(answers.ids):
        missing = len(set(answers.ids) - rows.keys())
        raise BadFile(f"{missing} ids are missing and {len(rows.keys() - set(answers.ids))} are not asked for")
    columns = tuple(zip(*(_cells(answers.metric, i, rows[i]) for i in answers.ids), strict=True))
    if not answers.metric.is_numeric:
        for labels, predictions in zip(answers.labels, columns, strict=True):
            if unknown := set(predictions) - set(labels):
                raise BadFile(f"{sorted(unknown)[0][:20]!r} is none of the classes")
    return answers.metric.score(answers.labels, columns)


def _rows(text: str) -> tuple[tuple[str, ...], dict[str, Sequence[str]]]:
    """Header, and id -> cells. Raises BadFile."""
    try:
        lines = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as e:
        raise BadFile(f"is not CSV: {e}") from e
    if not lines or len(lines[0]) < 2:
        raise BadFile("has no header of an id and a prediction")
    rows = {line[0]: line[1:] for line in lines[1:]}
    if len(rows) != len(lines) - 1:
        raise BadFile("an id occurs twice")
    if any(len(line) != len(lines[0]) for line in lines):
        raise BadFile("a row has more or fewer cells than the header")
    return tuple(lines[0]), rows


def _cells(metric: Metric, row_id: str, row: Sequence[str]) -> tuple:
    """The row's labels or predictions. Raises BadFile."""
    if not metric.is_numeric:
        return tuple(row)
    try:
        numbers = tuple(float(cell) if len(cell) <= 400 else math.nan for cell in row)
    except ValueError:
        numbers = (math.nan,)
    if not all(abs(n) <= _LARGEST for n in numbers):
        raise BadFile(f"the prediction of id {row_id[:20]} is not a finite number")
    return numbers
