"""Budgets that follow from a task set's prompts."""

from types import SimpleNamespace

import pytest

from configs import tiny
from skillrl.limits import ConfigError
from skillrl.prompts import fit_prompts
from skillrl.skills import get_skill
from skillrl.types import Task


class LettersChat:
    """A token is a letter."""

    def render_prompt(self, prompt):
        return [ord(letter) for letter in prompt]


def task(number, tokens, split="train", skill="editing"):
    """A task whose prompt has so many letters."""

    def made(instruction):
        return Task(f"t{number}", skill, f"i{number}", "r", "f", split, 0, {"instruction": instruction})

    return made("x" * (tokens - len(get_skill(skill).make_prompt(made("")))))


def fitted(lengths, held_out=(300,), positions=4096, **rollout):
    """The config's two budgets after, and which training tasks are left."""
    config = tiny.get_config()
    for name in config.skills:
        config.skills[name] = float(name == "editing")
    config.rollout.update(dict(room_tokens=256) | rollout)
    config.packing.row_tokens = config.rollout.max_tokens
    tasks = [task(n, tokens) for n, tokens in enumerate(lengths)]
    tasks += [task(f"-held-out-{n}", tokens, "heldout_repositories") for n, tokens in enumerate(held_out)]
    policy = SimpleNamespace(chat=LettersChat(), cfg=SimpleNamespace(max_positions=positions))
    made, training = fit_prompts(config, policy, tasks)
    return made.rollout.max_tokens, made.packing.row_tokens, [t.task_id for t in training]


def test_prompts_that_leave_room_change_nothing(capsys):
    """256 of 512 tokens may be prompt."""
    assert fitted([100, 256], held_out=[256], max_tokens=512) == (512, 512, ["t0", "t1"])
    assert capsys.readouterr().out == ""


def test_a_longer_prompt_raises_both_budgets(capsys):
    """257 + 256 = 513 tokens, in steps of 256."""
    assert fitted([100, 257], held_out=[200], max_tokens=512) == (768, 768, ["t0", "t1"])
    assert "longest prompt has 257 tokens: rollout.max_tokens is raised from 512 to 768" in capsys.readouterr().out
    # Those of the evaluation count too.
    assert fitted([100], held_out=[1000], max_tokens=512) == (1280, 1280, ["t0"])


def test_budgets_stay_within_the_policys_positions(capsys):
    """Of 600 positions, the prompts below 600 tokens have some; a prompt of 600 has none."""
    assert fitted([599, 600, 601], held_out=[600, 100], positions=600, max_tokens=512) == (600, 600, ["t0"])
    said = capsys.readouterr().out
    assert "is raised from 512 to 600" in said
    assert "training: 2 of 3 tasks of editing have a prompt of rollout.max_tokens=600 or more, the longest 601" in said
    assert "evaluation: 1 of 2 tasks of editing have a prompt of rollout.max_tokens=600 or more" in said


def test_without_room_the_budget_stays(capsys):
    assert fitted([100, 512, 511], room_tokens=0, max_tokens=512) == (512, 512, ["t0", "t2"])
    assert "training: 1 of 3 tasks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lengths", "held_out", "named"),
    [([600, 700], [100], "no training task of editing .* of t1, has 700"), ([90], [512], "no evaluation task of ed")],
)
def test_a_skill_without_a_prompt_that_fits_is_refused(lengths, held_out, named):
    remedy = "raise --config.rollout.max_tokens and --config.packing.row_tokens"
    with pytest.raises(ConfigError, match=f"{named}.*{remedy}"):
        fitted(lengths, held_out, room_tokens=0, max_tokens=512)
