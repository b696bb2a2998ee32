"""Metrics of predictions against labels, in plain Python: the service needs no numerical library.

All take two sequences of the same length, labels first, and are undefined for empty ones. Definitions as in the
scikit-learn user guide, "Metrics and scoring".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


def accuracy(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """Share of equal pairs."""
    return sum(a == b for a, b in zip(labels, predictions, strict=True)) / len(labels)


def f1(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """2 TP / (2 TP + FP + FN) of the class "1"; 0 when nothing is right."""
    pairs = list(zip(labels, predictions, strict=True))
    right = sum(a == b == "1" for a, b in pairs)
    wrong = sum((a == "1") != (b == "1") for a, b in pairs)
    return 2 * right / (2 * right + wrong) if right else 0.0


def auc(labels: Sequence[str], scores: Sequence[float]) -> float:
    """Probability that a "1" scores higher than a "0"; a tie counts half. Both classes must be there."""
    order = sorted(range(len(scores)), key=scores.__getitem__)
    positives = sum(label == "1" for label in labels)
    rank_sum, start = 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and scores[order[end]] == scores[order[start]]:
            end += 1
        # Ranks start + 1 .. end share their mean.
        rank_sum += (start + 1 + end) / 2 * sum(labels[i] == "1" for i in order[start:end])
        start = end
    return (rank_sum - positives * (positives + 1) / 2) / (positives * (len(order) - positives))


def rmse(labels: Sequence[float], predictions: Sequence[float]) -> float:
    """Square root of the mean squared difference."""
    # hypot neither overflows nor underflows on the way.
    return math.hypot(*(a - b for a, b in zip(labels, predictions, strict=True))) / math.sqrt(len(labels))


@dataclass(frozen=True)
class Metric:
    score: Callable[[Sequence, Sequence], float]
    higher_is_better: bool
    # What a prediction is: "class" (one of the labels that occur) or "number".
    predicts: str
    # Whether labels are numbers.
    numeric_labels: bool = False

    def meets(self, score: float, bar: float) -> bool:
        return score >= bar if self.higher_is_better else score <= bar

    def progress(self, score: float, trivial: float, bar: float) -> float:
        """0 at the trivial score or below, 1 at the bar or above, even in between."""
        return min(1.0, max(0.0, (score - trivial) / (bar - trivial)))


METRICS = {
    "accuracy": Metric(accuracy, True, "class"),
    "f1": Metric(f1, True, "class"),
    "auc": Metric(auc, True, "number"),
    "rmse": Metric(rmse, False, "number", numeric_labels=True),
}
