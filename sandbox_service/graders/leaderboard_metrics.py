"""Metrics of competitions, by the names that their records use. Plain Python; definitions as in scikit-learn's guide.

Each takes labels and predictions as columns: one sequence of numbers or classes for each column of the submission.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sandbox_service.graders import ml_engineering_metrics as single

Columns = Sequence[Sequence]
# As scikit-learn clips probabilities of 64 bits.
_TINY = 2.0**-52


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _by_column(score: Callable[[Sequence, Sequence], float]) -> Callable[[Columns, Columns], float]:
    """The mean over the columns."""
    return lambda labels, predictions: _mean([score(a, b) for a, b in zip(labels, predictions, strict=True)])


def mae(labels: Sequence[float], predictions: Sequence[float]) -> float:
    """Mean of the absolute differences."""
    return _mean([abs(a - b) for a, b in zip(labels, predictions, strict=True)])


def rmsle(labels: Sequence[float], predictions: Sequence[float]) -> float:
    """RMSE of log(1 + x); what is below 0 counts as 0."""
    return single.rmse(*([math.log1p(max(0.0, x)) for x in side] for side in (labels, predictions)))


def r2(labels: Sequence[float], predictions: Sequence[float]) -> float:
    """1 less the squared error's share in the labels' spread; 0 without a spread, unless all are right."""
    mean = _mean(labels)
    error = math.fsum((a - b) ** 2 for a, b in zip(labels, predictions, strict=True))
    spread = math.fsum((a - mean) ** 2 for a in labels)
    return 1 - error / spread if spread else float(error == 0)


def binary_log_loss(labels: Sequence[str], predictions: Sequence[float]) -> float:
    """Mean of -log of the probability given to what is so; predictions are probabilities of "1"."""
    chances = [min(1 - _TINY, max(_TINY, p)) for p in predictions]
    return _mean([-math.log(p if label == "1" else 1 - p) for label, p in zip(labels, chances, strict=True)])


def log_loss(labels: Columns, predictions: Columns) -> float:
    """One column: of the probability of "1". More: a column for each class, rows scaled to the sum 1."""
    if len(labels) == 1:
        return binary_log_loss([_bit(x) for x in labels[0]], predictions[0])
    losses = []
    for truth, row in zip(zip(*labels, strict=True), zip(*predictions, strict=True), strict=True):
        chances = [min(1 - _TINY, max(_TINY, p)) for p in row]
        losses.append(-math.fsum(t * math.log(p / math.fsum(chances)) for t, p in zip(truth, chances, strict=True)))
    return _mean(losses)


def auc(labels: Sequence[float], predictions: Sequence[float]) -> float:
    """Area under the ROC curve."""
    return single.auc([_bit(x) for x in labels], predictions)


def macro_f1(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """Mean over the classes of labels and predictions of 2 TP / (2 TP + FP + FN)."""
    right = Counter(a for a, b in zip(labels, predictions, strict=True) if a == b)
    seen = Counter(labels) + Counter(predictions)
    return _mean([2 * right[c] / seen[c] for c in seen])


def kappa(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """Cohen's kappa with quadratic weights of whole numbers; 1 when all is right, also without a spread."""
    pairs = [(int(float(a)), int(float(b))) for a, b in zip(labels, predictions, strict=True)]
    ours, theirs = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = math.fsum((a - b) ** 2 for a, b in pairs)
    expected = math.fsum((a - b) ** 2 * n * m for a, n in ours.items() for b, m in theirs.items()) / len(pairs)
    return 1 - observed / expected if expected else float(observed == 0)


def _bit(value: float) -> str:
    return "1" if float(value) == 1 else "0"


@dataclass(frozen=True)
class Metric:
    score: Callable[[Columns, Columns], float]
    higher_is_better: bool
    # Whether cells are numbers; else classes, one of those that occur among the labels.
    is_numeric: bool


_KNOWN = {
    "accuracy": Metric(_by_column(single.accuracy), True, False),
    "f1": Metric(_by_column(single.f1), True, False),
    "macro_f1": Metric(_by_column(macro_f1), True, False),
    "kappa": Metric(_by_column(kappa), True, False),
    "auc": Metric(_by_column(auc), True, True),
    "log_loss": Metric(log_loss, False, True),
    "mean_log_loss": Metric(
        _by_column(lambda labels, predictions: binary_log_loss([_bit(x) for x in labels], predictions)), False, True
    ),
    "rmse": Metric(_by_column(single.rmse), False, True),
    "mae": Metric(_by_column(mae), False, True),
    "rmsle": Metric(_by_column(rmsle), False, True),
    "r2": Metric(_by_column(r2), True, True),
}
# Names that stand for these, without all but letters and digits.
_NAMES = {
    "accuracy": ("accuracy", "accuracyscore", "categorizationaccuracy"),
    "f1": ("f1", "f1score", "f1binary"),
    "macro_f1": ("macrof1", "macrof1score", "f1macro"),
    "kappa": ("quadraticweightedkappa", "quadratickappa", "qwk", "weightedkappa"),
    "auc": ("auc", "aucroc", "rocauc", "rocaucscore", "areaunderroc", "meancolumnwiseauc", "columnwiserocauc"),
    "log_loss": ("logloss", "multiclasslogloss", "binarylogloss", "crossentropy", "multiclassloss"),
    "mean_log_loss": ("meancolumnwiselogloss", "columnwiselogloss"),
    "rmse": ("rmse", "rootmeansquarederror", "mcrmse", "meancolumnwiserootmeansquarederror"),
    "mae": ("mae", "meanabsoluteerror"),
    "rmsle": ("rmsle", "rootmeansquaredlogarithmicerror", "rootmeansquaredlogerror", "columnwisermsle"),
    "r2": ("r2", "r2score", "coefficientofdetermination"),
}
METRICS = {name: _KNOWN[kind] for kind, names in _NAMES.items() for name in names}


def metric_of(name: str) -> Metric | None:
    """The metric that a record's name stands for; None when it is not here."""
    return METRICS.get(re.sub(r"[^a-z0-9]", "", name.lower()))
