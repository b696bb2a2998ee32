"""Where the tasks of a run come from, and which of them it trains and evaluates on."""

import pytest
from configured import smoke as configured

from skillrl import task_sets
from skillrl.limits import ConfigError
from skillrl.tasks.source import TaskSetError
from skillrl.types import COMPOSITE_KINDS, SKILLS, Task


def task(skill, split):
    return Task(f"{skill}-{split}", skill, "i", "r", "f", split, 0, {})


def test_the_world_is_generated_once(tmp_path):
    config = configured(world__train=1, world__heldout_repositories=1, world__heldout_families=0)
    folder, tasks = task_sets.load_tasks(config, tmp_path)
    assert folder == tmp_path / "tasks"
    assert {t.split for t in tasks} == {"train", "heldout_repositories"}
    assert {t.skill for t in tasks} == {*SKILLS, "bug_fixing"}
    written = (folder / "set.json").stat().st_mtime_ns
    assert task_sets.load_tasks(config, tmp_path)[1] == tasks
    assert (folder / "set.json").stat().st_mtime_ns == written
    config.world.train = 2
    with pytest.raises(ConfigError, match=r"were made by .* --instances=train=1,.* not by .* --instances=train=2,"):
        task_sets.load_tasks(config, tmp_path)
    assert (folder / "set.json").stat().st_mtime_ns == written


def test_a_world_that_cannot_be_generated_is_one_clear_error(tmp_path, capfd):
    config = configured(world__levels=(9,))
    with pytest.raises(ConfigError, match="python -m skillrl.tasks.world --seed=0 .* made no tasks"):
        task_sets.load_tasks(config, tmp_path)
    assert "unknown '9'" in capfd.readouterr().err
    # Nothing was made, so that other values may follow.
    config = configured(world__train=1, world__heldout_repositories=0, world__heldout_families=0)
    assert task_sets.load_tasks(config, tmp_path)[1]


def test_a_missing_task_set_names_the_remedy(tmp_path):
    with pytest.raises(TaskSetError, match="python -m skillrl.tasks.world"):
        task_sets.load_tasks(configured(tasks__source=str(tmp_path / "none")), tmp_path)


def test_training_draws_weighted_skills_of_the_training_split():
    tasks = [task(skill, split) for skill in (*SKILLS, *COMPOSITE_KINDS) for split in ("train", "heldout_families")]
    config = configured()
    assert task_sets.training_tasks(tasks, config) == [t for t in tasks if t.split == "train" and t.skill in SKILLS]
    config.skills.review = 0.0
    assert {t.skill for t in task_sets.training_tasks(tasks, config)} == set(SKILLS) - {"review"}
    with pytest.raises(ConfigError, match="no training task of it; set --config.skills.review=0"):
        task_sets.training_tasks([t for t in tasks if t.skill != "review"], configured())


def test_evaluation_without_tasks_names_the_splits():
    tasks = [task("editing", "train")]
    with pytest.raises(ConfigError, match=r"its splits are \['train'\].*--config.eval.samples=0"):
        task_sets.evaluation_tasks(tasks, configured())
    assert task_sets.evaluation_tasks(tasks, configured(eval__samples=0)) == []
    assert task_sets.evaluation_tasks(tasks, configured(eval__suites=("train",))) == tasks
