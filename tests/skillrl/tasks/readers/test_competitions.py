"""Competitions with their prepared data: from the folder to graded submissions, and what is refused."""

import asyncio

import dataset_rows as rows
import pytest

from sandbox_service.tasks import read_task_set
from skillrl.tasks.readers.__main__ import main
from skillrl.tasks.source import read_tasks
from skillrl.tasks.validate import validate


def test_a_competition_is_proven(tmp_path):
    source = rows.write_mle(tmp_path / "source")
    assert main(["mle_bench", str(source), f"--out={tmp_path / 'set'}", "--image=local"]) == 0
    report = asyncio.run(validate(tmp_path / "set", repeats=1, attacks=99))
    seen = report.skills["ml_engineering"]
    assert not report.failures and (seen.gold_max, seen.null_min) == (1, 1)
    assert seen.attacks.total() == seen.attacks_min.total() == 5


def test_the_agent_gets_the_public_data_alone(tmp_path):
    source = rows.write_mle(tmp_path / "source")
    assert main(["mle_bench", str(source), f"--out={tmp_path / 'set'}", "--image=local"]) == 0
    tasks, (public,) = read_task_set(tmp_path / "set"), read_tasks(tmp_path / "set")
    (task,) = tasks.tasks.values()
    shown = tasks.tree_files(tasks.instance_of(task).tree).keys() - task.visible.keys()
    assert shown == {"data/train.csv", "data/test.csv", "data/sample_submission.csv"}
    assert "/workspace/submission.csv" in public.inputs["instruction"] and task.submission_path == "submission.csv"
    assert "3,1\n4,0\n5,1\n" not in (tmp_path / "set/tasks.jsonl").read_text()
    assert tasks.instance_of(task).expected["gold_submission"] == "id,spam\n3,1\n4,0\n5,1\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "prepared/private/test.csv").unlink(), "no prepared/private/test.csv: run `mlebench"),
        (
            lambda root: (root / "config.yaml").write_text(
                (root / "config.yaml").read_text().replace("name: auc", "name: dice")
            ),
            "its metric 'dice' is not here",
        ),
        (
            lambda root: (root / "prepared/private/test.csv").write_text("id,label\n3,1\n"),
            "its answers lack the column spam of a submission: only its own grade.py can score it",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path, capsys, change, message):
    source = rows.write_mle(tmp_path / "source")
    change(source / "spam-or-not")
    assert main(["mle_bench", str(source), f"--out={tmp_path / 'set'}"]) != 0
    assert message in capsys.readouterr().err
