"""Work of the kind ml_engineering: train a small model, predict the rows of a test set, meet a bar.

The workspace holds README.md, train.csv with the target and test.csv without; the labels of the test set are in the
hidden half alone. The bar of a family lies between what needs no model and what an ordinary one reaches.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping

import numpy as np

from sandbox_service.graders.ml_engineering_metrics import METRICS
from sandbox_service.tasks import Environment, HiddenTask, Instance
from skillrl.tasks.suites.case import GOLD_SUBMISSION, Case
from skillrl.tasks.suites.ml_engineering_data import FAMILIES, Family, Row, Table
from skillrl.tasks.suites.ml_engineering_policies import bad_files, guesses

PREDICTIONS = "predictions.csv"
# Brings numpy, scipy, joblib and threadpoolctl. One version, so that a set is the same whoever writes it.
PACKAGES = ("scikit-learn==1.8.0",)
TIMEOUT_S = 60.0
_METRIC_WORDS = {
    "auc": "The area under the ROC curve (AUC) must be at least {bar}",
    "accuracy": "The accuracy (share of right predictions) must be at least {bar}",
    "f1": "The F1 score of class 1 must be at least {bar}",
    "rmse": "The root mean squared error (RMSE) must be at most {bar}",
}
_INSTRUCTION = """\
The data are {about}. Train a small model on train.csv, which has the column {target} ({meaning}), and predict it for \
the rows of test.csv, which lacks it. README.md describes the columns. numpy and scikit-learn are installed; there is \
no network.
Write {path} with the header id,prediction and one row for every id of test.csv, each id once, in any order. The \
prediction is {prediction}.
{bar} on the true values of test.csv, which you do not have: hold back a part of train.csv to see where you stand.
Time limit: a model that trains in less than {limit} seconds on one core is enough. A command that runs longer may be \
stopped. Only {path} is graded."""


def cases(seed: int) -> list[Case]:
    return [_case(name, family, seed) for name, family in FAMILIES.items()]


def _case(name: str, family: Family, seed: int) -> Case:
    key = hashlib.sha256(f"ml_engineering|{name}|{seed}".encode()).digest()
    table = family.make(np.random.Generator(np.random.PCG64(int.from_bytes(key[:16]))))
    rows, ids = table.rows(), [str(1000 + i) for i in range(len(table.labels))]
    names = list(table.columns)
    known = [i for i, column in enumerate(names) if column not in family.late]
    train = [[ids[i], *rows[i], table.labels[i]] for i in range(table.train)]
    test = [[ids[i], *(rows[i][k] for k in known)] for i in range(table.train, len(rows))]
    answers = [[ids[i], table.labels[i]] for i in range(table.train, len(rows))]
    words = {
        "about": family.about,
        "target": family.target,
        "meaning": family.meaning,
        "prediction": family.prediction,
        "path": PREDICTIONS,
        "bar": _METRIC_WORDS[family.metric].format(bar=family.bar),
        "limit": f"{TIMEOUT_S:.0f}",
    }
    files = {
        "README.md": _readme(family, words),
        "train.csv": _csv([["id", *names, family.target], *train]),
        "test.csv": _csv([["id", *(names[k] for k in known)], *test]),
    }
    return Case(
        name=name,
        family=name,
        level=family.level,
        files={path: text.encode() for path, text in files.items()},
        undo={},
        hide={},
        instruction=_INSTRUCTION.format(**words),
        environment=Environment("", PACKAGES, source_roots=(), test_roots=(), timeout_s=TIMEOUT_S),
        expected={
            "metric": family.metric,
            "bar": repr(family.bar),
            "trivial": repr(_trivial(family, table)),
            GOLD_SUBMISSION: _csv([["id", "prediction"], *answers]),
        },
        submission_path=PREDICTIONS,
    )


def _trivial(family: Family, table: Table) -> float:
    """The score of the best constant, rounded."""
    metric, learned, asked = METRICS[family.metric], table.labels[: table.train], table.labels[table.train :]
    if family.metric == "auc":
        return 0.5
    if metric.numeric_labels:
        mean = sum(map(float, learned)) / len(learned)
        return round(metric.score([float(label) for label in asked], [mean] * len(asked)), 4)
    return round(max(metric.score(asked, [label] * len(asked)) for label in sorted(set(learned))), 4)


def _readme(family: Family, words: Mapping[str, str]) -> str:
    known = [f"- {name}: {meaning}" for name, meaning in family.columns.items() if name not in family.late]
    late = [f"- {name}: {family.columns[name]} (train.csv alone)" for name in family.late]
    head = ["# Data", "", f"The rows are {family.about}.", "", "- id: number of the row"]
    end = [f"- {family.target}: {family.meaning} (train.csv alone)", "", f"{words['bar']}.", ""]
    return "\n".join([*head, *known, *late, *end])


def _csv(rows: list[Row]) -> str:
    """No cell holds a comma or a quote."""
    return "".join(",".join(row) + "\n" for row in rows)


def wrong(
    task: HiddenTask, instance: Instance, files: Mapping[str, bytes]
) -> Iterator[tuple[str, Mapping[str, bytes | None]]]:
    """What needs no model, and files that are out of form."""
    rng = random.Random(instance.instance_id)
    train, test = (_read(files[name]) for name in ("train.csv", "test.csv"))
    for policy, predictions in guesses(train, test, instance.expected["metric"], rng):
        rows = [["id", "prediction"], *([row["id"], p] for row, p in zip(test, predictions, strict=True))]
        yield policy, {task.submission_path: _csv(rows).encode()}
    gold = instance.expected[GOLD_SUBMISSION]
    for fault, data in bad_files(gold):
        yield fault, {task.submission_path: data}
    yield "another path", {f"answers/{task.submission_path}": gold.encode()}
    yield "all deleted", dict.fromkeys(files)


def _read(data: bytes) -> list[dict[str, str]]:
    head, *lines = data.decode().splitlines()
    return [dict(zip(head.split(","), line.split(","), strict=True)) for line in lines]
