"""Competitions of MLE-bench: folders with the data that was prepared of Kaggle's."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from sandbox_service.graders.leaderboard_metrics import metric_of
from skillrl.tasks.readers.directories import folders_with, read_files, read_mapping, read_text
from skillrl.tasks.readers.record import Record, Unusable
from skillrl.tasks.readers.rows import ReaderError, Row

HAND_IN = (
    "The data is in /workspace/data. Write what you predict to /workspace/submission.csv, in the form of the sample "
    "submission there: the same columns, and one row for each id."
)


def mle_rows(source: str, *, split: str = "") -> Iterator[Row]:
    """One row a folder that holds config.yaml and description.md."""
    yield from folders_with(source, "config.yaml")


def read_mle_bench(row: Row) -> Record:
    """A Kaggle competition: the submitted predictions earn a medal by the leaderboard.

    Its data comes from Kaggle: what `mlebench prepare` made of it must stand beside config.yaml, as prepared/.
    """
    folder = Path(row.text("folder"))
    config = Row(read_mapping(folder / "config.yaml"), str(folder / "config.yaml"))
    name, metric = config.text("id"), config.mapping("grader").text("name")
    if metric_of(metric) is None:
        raise Unusable(f"its metric {metric!r} is not here")
    scores = _scores(folder / "leaderboard.csv")
    thresholds = dict(zip(("gold", "silver", "bronze"), (scores[r - 1] for r in medal_ranks(len(scores))), strict=True))
    dataset = config.mapping("dataset")
    answers, sample = (_prepared(folder, dataset.text(key)) for key in ("answers", "sample_submission"))
    shown = read_files(folder / "prepared/public", (".",))
    return Record(
        dataset="mle_bench",
        instance_id=name,
        repository=f"kaggle/{name}",
        base_commit="",
        issue=f"{read_text(folder / 'description.md').strip()}\n{HAND_IN}",
        patch="",
        hidden_files={p: (folder / p).read_bytes() for p in ("config.yaml", "leaderboard.csv")},
        shown_files={f"data/{p}": data for p, data in shown.items()},
        submission_path="submission.csv",
        image="mlebench-env",
        workdir="/home",
        rule="leaderboard",
        expected={
            "metric": metric,
            "better": "higher" if float(scores[0]) >= float(scores[-1]) else "lower",
            "gold_submission": _perfect(answers, sample),
            **thresholds,
        },
        timeout_s=24 * 3600.0,
        kind="ml_engineering",
    )


def _prepared(folder: Path, named: str) -> Path:
    """A file of the prepared data, by its name in config.yaml: ID/prepared/private/test.csv."""
    path = folder / "prepared" / named.partition("prepared/")[2]
    if not path.is_file():
        raise Unusable(f"no {path.relative_to(folder)}: run `mlebench prepare` and put its folder prepared/ here")
    return path


def _perfect(answers: Path, sample: Path) -> str:
    """The answers in the form of the sample submission."""
    (header, _), (columns, rows) = _table(sample), _table(answers)
    if len(header) < 2 or not rows:
        raise Unusable("its sample submission or its answers are empty")
    if missing := [column for column in header if column not in columns]:
        raise Unusable(f"its answers lack the column {missing[0]} of a submission: only its own grade.py can score it")
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *([row.text(c) for c in header] for row in rows)])
    return out.getvalue()


def medal_ranks(teams: int) -> tuple[int, int, int]:
    """The last places that earn gold, silver and bronze, by Kaggle's rule (openai/mle-bench)."""
    if teams < 100:
        ranks = 0.1 * teams, 0.2 * teams, 0.4 * teams
    elif teams < 250:
        ranks = 10, 0.2 * teams, 0.4 * teams
    elif teams < 1000:
        ranks = 10 + 0.002 * teams, 50, 100
    else:
        ranks = 10 + 0.002 * teams, 0.05 * teams, 0.1 * teams
    gold, silver, bronze = (max(1, int(rank)) for rank in ranks)
    return gold, silver, bronze


def _scores(path: Path) -> Sequence[str]:
    scores = []
    for row in _table(path)[1]:
        # A team may be there without one.
        if row.has("score"):
            scores.append(row.text("score"))
            if not _is_number(scores[-1]):
                raise row.damaged(f"column 'score' must be a number, not {scores[-1][:40]!r}")
    if not scores:
        raise ReaderError(f"{path}: damaged row: no column 'score' with a value")
    return scores


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _table(path: Path) -> tuple[Sequence[str], Sequence[Row]]:
    """Header and rows of a CSV file."""
    lines = csv.DictReader(io.StringIO(read_text(path), newline=""))
    rows: list[Row] = []
    try:
        for columns in lines:
            rows.append(Row(columns, f"{path}:{lines.line_num}"))
            if None in columns:
                raise rows[-1].damaged("more cells than the header")
    except csv.Error as e:
        raise ReaderError(f"{path}: damaged file after line {lines.line_num}: {e}") from e
    return lines.fieldnames or (), rows
