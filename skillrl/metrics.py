"""Named scalars of a run: one JSON line a step, the same values for TensorBoard."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from skillrl.types import UNGRADABLE_REASONS, Episode, Status

LOG_NAME = "metrics.jsonl"


class Metrics:
    """Writes `metrics.jsonl` and TensorBoard event files under a workdir.

    Opening it at a step drops what an interrupted run had written for that step and later ones, so that a resumed
    run leaves one line a step.
    """

    def __init__(self, workdir: Path, *, from_step: int = 0):
        from tensorboardX import SummaryWriter

        self._log = Path(workdir) / LOG_NAME
        kept = [row for row in read_metrics(workdir) if row["step"] < from_step]
        temporary = self._log.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        temporary.replace(self._log)
        self._board = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=from_step)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        row = {"step": step, **{name: float(value) for name, value in sorted(scalars.items())}}
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        for name, value in row.items():
            if name != "step" and math.isfinite(value):
                self._board.add_scalar(name, value, step)
        self._board.flush()

    def close(self) -> None:
        self._board.close()


def read_metrics(workdir: Path) -> list[dict]:
    """The rows of a workdir's log. A last line cut short by a crash is left out."""
    log = Path(workdir) / LOG_NAME
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def rollout_metrics(groups: Sequence[Sequence[Episode]], score) -> dict[str, float]:
    """Per-skill scalars of freshly collected groups.

    `score(episode)` maps a graded episode to [0, 1]. Names are `SKILL/reward`, `/score`, `/pass_rate` (share with the
    maximal reward), `/tokens`, `/turns`, `/truncated`, `/malformed`, `/ungradable` (shares of episodes) and
    `/zero_variance` (share of groups whose graded rewards are all equal). Of all skills: `episodes`, how many of them
    were `ungradable/REASON`, by reason, and how many `unsafe`: played and graded without proven isolation.
    """
    by_skill = defaultdict(list)
    for group in groups:
        by_skill[group[0].task.skill].append(group)
    scalars = {}
    for skill, skill_groups in by_skill.items():
        episodes = [e for group in skill_groups for e in group]
        graded = [e for e in episodes if e.outcome.graded]
        truncated = (Status.TRUNCATED_TOKENS, Status.TRUNCATED_TURNS, Status.TIMED_OUT)
        values = {
            "reward": _mean([e.outcome.reward for e in graded]),
            "score": _mean([score(e) for e in graded]),
            "pass_rate": _mean([score(e) >= 1.0 for e in graded]),
            "tokens": _mean([int(e.loss_mask.sum()) for e in episodes]),
            "turns": _mean([sum(t.role == "assistant" for t in e.turns) for e in episodes]),
            "truncated": _mean([e.status in truncated for e in episodes]),
            "malformed": _mean([e.status is Status.MALFORMED for e in episodes]),
            "ungradable": _mean([not e.outcome.graded for e in episodes]),
            "zero_variance": _mean([_zero_variance(group) for group in skill_groups]),
        }
        scalars.update({f"{skill}/{name}": value for name, value in values.items()})
    episodes = [e for group in groups for e in group]
    scalars["episodes"] = len(episodes)
    for reason in UNGRADABLE_REASONS:
        scalars[f"ungradable/{reason}"] = sum(e.outcome.reason == reason for e in episodes)
    scalars["unsafe"] = sum(e.outcome.unsafe for e in episodes)
    for part in ("sampling", "tools", "grading"):
        scalars[f"times/{part}_wait_s_per_episode"] = _mean([e.times_s.get(part, 0.0) for e in episodes])
    return scalars


def _zero_variance(group: Sequence[Episode]) -> bool:
    return len({e.outcome.reward for e in group if e.outcome.graded}) <= 1
