import json
import math
from dataclasses import replace

import numpy as np
import pytest
from board import scalars
from episodes import make_episode

from skillrl.evaluate import score_of
from skillrl.metrics import LOG_NAME, Metrics, read_metrics, rollout_metrics
from skillrl.types import Outcome, Status, Turn


def test_a_resumed_log_has_one_line_a_step(tmp_path):
    metrics = Metrics(tmp_path)
    for step in range(4):
        metrics.write(step, {"loss": step / 2})
    metrics.close()
    # Killed while it wrote step 4, and the last checkpoint is of step 2.
    with (tmp_path / LOG_NAME).open("a") as log:
        log.write('{"step": 4, "lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2, 3]
    metrics = Metrics(tmp_path, from_step=2)
    for step in (2, 3):
        metrics.write(step, {"loss": 10.0 + step})
    metrics.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(0, 0.0), (1, 0.5), (2, 12.0), (3, 13.0)]
    assert (tmp_path / LOG_NAME).read_text().count("\n") == 4


def test_tensorboard_has_the_same_values(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.write(3, {"b": 1, "a": float("nan"), "editing/reward": 0.1})
    metrics.write(4, {"b": -2.5, "c": float("inf")})
    metrics.close()
    first, second = read_metrics(tmp_path)
    assert json.dumps(first) == '{"step": 3, "a": NaN, "b": 1.0, "editing/reward": 0.1}'
    assert second == {"step": 4, "b": -2.5, "c": math.inf}
    # Every finite value, and nothing else.
    assert scalars(tmp_path / "tensorboard") == {
        ("b", 3): 1.0,
        ("editing/reward", 3): np.float32(0.1),
        ("b", 4): -2.5,
    }


def test_no_log_is_an_empty_one(tmp_path):
    assert read_metrics(tmp_path) == []


def test_scalars_of_a_skill_by_hand():
    def episode(number, outcome, tokens, *, status=Status.SUBMITTED, assistant_turns=1, **fields):
        turns = tuple(Turn(role, 0, 0, "") for role in ("user", *["assistant", "tool"] * assistant_turns))
        played = make_episode([0] * (tokens + 2), [False, False] + [True] * tokens, number=number, outcome=outcome,
                            skill="localization", status=status, **fields)  # fmt: skip
        return replace(played, turns=turns)

    first = [
        episode(0, Outcome(1.0), 4, assistant_turns=3, times_s={"tools": 2.0, "grading": 1.0}),
        episode(1, Outcome(-1.0), 8, status=Status.TRUNCATED_TOKENS),
    ]
    second = [
        episode(2, Outcome(-1.0, unsafe=True), 0, status=Status.MALFORMED, times_s={"tools": 4.0}),
        episode(3, Outcome(None, reason="infra"), 0, status=Status.INFRA_ERROR),
    ]
    made = rollout_metrics([first, second], score_of)
    assert made == pytest.approx(
        {
            "localization/reward": -1 / 3,
            "localization/score": 1 / 3,
            "localization/pass_rate": 1 / 3,
            "localization/tokens": 3.0,
            "localization/turns": 1.5,
            "localization/truncated": 0.25,
            "localization/malformed": 0.25,
            "localization/ungradable": 0.25,
            # The second group has one graded reward.
            "localization/zero_variance": 0.5,
            "episodes": 4,
            "ungradable/infra": 1,
            "ungradable/task": 0,
            "ungradable/grader": 0,
            "unsafe": 1,
            "times/sampling_wait_s_per_episode": 0.0,
            "times/tools_wait_s_per_episode": 1.5,
            "times/grading_wait_s_per_episode": 0.25,
        }
    )
