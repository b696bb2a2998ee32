"""Predictions that need no model, and files that are out of form: none of them may earn anything."""

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import date

from sandbox_service.graders.ml_engineering_metrics import METRICS

Rows = Sequence[dict[str, str]]
BINS = 10


def guesses(train: Rows, test: Rows, metric: str, rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """(policy, a prediction for every row of `test`). The target is the last column of `train`."""
    target = list(train[0])[-1]
    labels, count = [row[target] for row in train], len(test)
    is_number = METRICS[metric].predicts == "number"
    if is_number:
        yield "constant 0", ["0"] * count
        yield "mean", [repr(_mean(labels))] * count
        yield "ids", [row["id"] for row in test]
    else:
        for label in sorted(set(labels)):
            yield f"always {label}", [label] * count
    yield "random", [rng.choice(labels) for _ in range(count)]
    yield "training labels in order", [labels[i % len(labels)] for i in range(count)]
    yield "last training labels", [labels[i % count - count] for i in range(count)]
    yield "best column", best_column(train, test, metric)
    if "date" in test[0]:
        latest = {_weekday(row): row[target] for row in train}
        yield "last week again", [latest[_weekday(row)] for row in test]


def best_column(train: Rows, test: Rows, metric: str) -> list[str]:
    """Each value (numbers in ten bins) of one column gets what its rows in `train` have; the column that does best."""
    target = list(train[0])[-1]
    labels = [row[target] for row in train]
    columns = [name for name in test[0] if name != "id"]
    tables = [_Column(name, train, labels, metric) for name in columns]
    sign = 1 if METRICS[metric].higher_is_better else -1
    return max(tables, key=lambda table: sign * table.score(train, labels)).predict(test)


class _Column:
    """A rule that looks at one column."""

    def __init__(self, name: str, train: Rows, labels: Sequence[str], metric: str):
        self._name, self._metric = name, METRICS[metric]
        cells = sorted({row[name] for row in train})
        numbers = sorted(float(row[name]) for row in train if _is_number(row[name]))
        is_fine = min(len(cells), len(numbers)) > 2 * BINS
        self._edges = [numbers[len(numbers) * i // BINS] for i in range(1, BINS)] if is_fine else []
        grouped: dict[object, list[str]] = {}
        for row, label in zip(train, labels, strict=True):
            grouped.setdefault(self._bin(row), []).append(label)
        summary = self._summary(labels)
        self._default, self._rule = summary(labels), {key: summary(group) for key, group in grouped.items()}

    def _summary(self, labels: Sequence[str]) -> Callable[[list[str]], str]:
        if self._metric.predicts == "number":
            return lambda group: repr(_mean(group))
        if set(labels) == {"0", "1"}:
            # With a rare class a majority would always be the other one.
            share = _mean(labels)
            return lambda group: "1" if _mean(group) > 2 * share else "0"
        return lambda group: max(sorted(set(group)), key=group.count)

    def _bin(self, row: dict[str, str]) -> object:
        cell = row[self._name]
        return sum(float(cell) >= edge for edge in self._edges) if self._edges and _is_number(cell) else cell

    def predict(self, rows: Rows) -> list[str]:
        return [self._rule.get(self._bin(row), self._default) for row in rows]

    def score(self, rows: Rows, labels: Sequence[str]) -> float:
        predictions = self.predict(rows)
        first = [float(label) for label in labels] if self._metric.numeric_labels else labels
        second = [float(p) for p in predictions] if self._metric.predicts == "number" else predictions
        return self._metric.score(first, second)


def bad_files(gold: str) -> Iterator[tuple[str, bytes]]:
    """(fault, file): the right answers in a file that the instruction does not allow."""
    head, *lines = gold.splitlines(keepends=True)
    body, (first, label) = "".join(lines[1:]), lines[0].strip().split(",")
    others = [line.strip().split(",")[1] for line in lines[1:]] + [label]
    shifted = zip((line.split(",")[0] for line in lines), others, strict=True)
    yield "empty file", b""
    yield "header alone", head.encode()
    yield "no header", "".join(lines).encode()
    yield "another header", ("id,label\n" + "".join(lines)).encode()
    yield "an id is missing", (head + body).encode()
    yield "an id twice", (gold + lines[0]).encode()
    yield "an id too many", (gold + f"9{first},{label}\n").encode()
    yield "shifted by a row", (head + "".join(f"{i},{value}\n" for i, value in shifted)).encode()
    for name, cell in (("no value", ""), ("NaN", "nan"), ("infinity", "inf"), ("overflow", "1e999"), ("text", "?")):
        yield f"{name} in a row", f"{head}{first},{cell}\n{body}".encode()
    yield "a formula", f"{head}{first},=1+{label}\n{body}".encode()
    yield "a third cell", f"{head}{first},{label},{label}\n{body}".encode()
    yield "not UTF-8", gold.encode("utf-16")
    yield "NUL bytes", (head + f"{first},{label}\0\n" + body).encode()
    yield "open quote", (head + f'{first},"{label}\n' + body).encode()
    yield "huge", gold.encode() + b"\n" * (5 << 20)


def _weekday(row: dict[str, str]) -> tuple[str, int]:
    return row["shop"], date.fromisoformat(row["date"]).weekday()


def _mean(labels: Sequence[str]) -> float:
    return sum(map(float, labels)) / len(labels)


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).removeprefix("-").isdigit()
