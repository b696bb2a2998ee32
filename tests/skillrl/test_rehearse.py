"""Gold and null agents over a whole set of the generated world, and a set whose truth is wrong."""

import json

import pytest

from skillrl.rehearse import main
from skillrl.tasks.world import write_set
from skillrl.types import SKILLS

pytestmark = pytest.mark.slow


def test_gold_scores_the_maximum_and_null_the_minimum(tmp_path, capsys):
    write_set(tmp_path / "tasks", seed=3, levels=(0,), counts={"train": 1})
    assert main([str(tmp_path / "tasks"), "--jobs=4"]) == 0
    played = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert played["failures"] == [] and played["skills"].keys() >= set(SKILLS)
    assert all(s["gold_max"] == s["null_min"] == s["tasks"] for s in played["skills"].values())


def test_a_set_that_is_not_there_is_an_error_with_its_name(tmp_path, capsys):
    assert main([str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err
