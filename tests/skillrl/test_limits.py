"""A config's names and numbers, looked at before anything runs."""

import pytest

from configs import sft, tiny
from skillrl.limits import ABOVE_ZERO, CHOICES, LEAST, SHARES, ConfigError, check, is_due


def changed(name, value, config=None):
    config = config or tiny.get_config("smoke")
    section, _, key = name.rpartition(".")
    with config.ignore_type():
        (config[section] if section else config)[key] = value
    return config


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("reward.mode", "papre", "reward.mode='papre'; one of paper, shaped"),
        ("reward.truncated", "drop", "reward.truncated='drop'; one of keep, mask"),
        ("advantages.estimator", "gae", "advantages.estimator='gae'; one of mean"),
        ("packing.denominator", "token", "packing.denominator='token'; one of skill_token_mean"),
        ("tasks.kinds", ("cooking",), r"tasks.kinds has \['cooking'\]; known are bug_fixing"),
        ("packing.row_tokens", 256, "max_tokens=512 does not fit into a row of packing.row_tokens=256"),
        # Each of these ended in a traceback, or never, after episodes had been played.
        ("rollout.group_size", 0, "rollout.group_size=0; give at least 2"),
        ("rollout.group_size", 1, "rollout.group_size=1; give at least 2"),
        ("rollout.max_observation_tokens", 8, "rollout.max_observation_tokens=8; give at least 32"),
        ("rollout.temperature", 0.0, "rollout.temperature=0.0; give a number above 0"),
        ("rollout.temperature", float("nan"), "rollout.temperature=nan; give a number above 0"),
        ("sandbox.max_in_flight", 0, "sandbox.max_in_flight=0; give at least 1"),
        ("sandbox.max_infra_share", 1.5, "sandbox.max_infra_share=1.5 is a share; give at most 1"),
        ("checkpoint.every_steps", -1, "checkpoint.every_steps=-1; give at least 0"),
        ("num_steps", -1, "num_steps=-1; give at least 0"),
    ],
)
def test_what_cannot_run_is_named(name, value, message):
    check(tiny.get_config("smoke"))
    with pytest.raises(ConfigError, match=f"^{message}|an episode of .*{message}"):
        check(changed(name, value))


@pytest.mark.parametrize("name", [*LEAST, *ABOVE_ZERO])
def test_every_number_has_its_edge(name):
    """Below it there is an error with its name; the edge itself is allowed, but for a number above 0."""
    at_zero = name in ABOVE_ZERO
    with pytest.raises(ConfigError, match=f"^{name}="):
        check(changed(name, 0 if at_zero else LEAST[name] - 1))
    if not at_zero and name not in ("packing.row_tokens",):
        check(changed(name, LEAST[name]))


def test_every_name_is_a_field():
    for name in (*CHOICES, *LEAST, *ABOVE_ZERO, *SHARES):
        section, _, key = name.rpartition(".")
        config = tiny.get_config()
        assert key in (config[section] if section else config)


def test_checkpoints_may_be_kept_at_the_end_alone():
    check(changed("checkpoint.every_steps", 0))
    assert [step for step in range(13) if is_due(step, 0)] == []
    assert [step for step in range(13) if is_due(step, 5)] == [5, 10]
    assert [step for step in range(13) if is_due(step, 0, 4, 6)] == [4, 6, 8, 12]


def test_supervised_learning_has_no_reference():
    check(sft.get_config())
    with pytest.raises(ConfigError, match="loss.kl_coef=0.1: supervised learning has no reference policy"):
        check(changed("loss.kl_coef", 0.1, sft.get_config()))
    with pytest.raises(ConfigError, match="packing.rows=0, which the warm-up"):
        check(changed("packing.rows", 0, sft.get_config()))
