"""Avg@k with its standard error, per skill and suite, from graded episodes."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from skillrl.skills import get_skill
from skillrl.types import COMPOSITE_KINDS, SKILLS, Episode, Task

SUITES = ("heldout_repositories", "heldout_families")
# What `configs/eval.py:suite=NAME` knows: a composite kind, a held-out split, or everything.
ALL = "all"
EXAM_SUITES = (*COMPOSITE_KINDS, *SUITES, ALL)


@dataclass(frozen=True)
class TaskScore:
    """The k attempts at one task: their mean score in [0, 1], or None when none could be graded."""

    task_id: str
    skill: str
    suite: str
    # Tasks of one instance share a repository, so their scores are correlated.
    instance_id: str
    score: float | None
    graded: int
    ungradable: int


def score_of(episode: Episode) -> float:
    """A graded episode's reward on the scale from 0 (minimum) to 1 (maximum)."""
    return get_skill(episode.task.skill).score(episode.outcome.reward)


def task_scores(groups: Iterable[Sequence[Episode]]) -> list[TaskScore]:
    scores = []
    for group in groups:
        task: Task = group[0].task
        graded = [score_of(e) for e in group if e.outcome.graded]
        mean = float(np.mean(graded)) if graded else None
        ungradable = len(group) - len(graded)
        scores.append(TaskScore(task.task_id, task.skill, task.split, task.instance_id, mean, len(graded), ungradable))
    return scores


def clustered_stderr(contributions: Mapping[str, float]) -> float:
    """Standard error of a sum of independent clusters: sqrt(n / (n - 1) * sum((c - mean c)^2)).

    Scores of tasks from one instance are correlated, so an instance is one cluster; with one task a cluster and
    contributions score / n this is the usual standard error of the mean. NaN for fewer than two clusters.
    """
    values = np.array(list(contributions.values()))
    if len(values) < 2:
        return float("nan")
    return float(np.sqrt(len(values) / (len(values) - 1) * np.sum((values - values.mean()) ** 2)))


def compare(before: Sequence[TaskScore], after: Sequence[TaskScore], names: Sequence[str]) -> dict:
    """Avg@k before and after for each skill in `names`, and their mean.

    `stderr` and `mean_stderr` are of the difference after - before, paired by task and clustered by instance.
    A task that could not be graded in one of the two is left out of both; `ungradable` counts ungradable episodes.
    What cannot be computed (a mean of no task, a standard error of one instance) is None.
    """
    first = {s.task_id: s for s in before}
    pairs = [(first[s.task_id], s) for s in after if s.task_id in first]
    skills, total = {}, defaultdict(float)
    present = [name for name in names if any(s.skill == name for _, s in pairs)]
    for name in present:
        rows = [(b, a) for b, a in pairs if a.skill == name]
        graded = [(b, a) for b, a in rows if b.score is not None and a.score is not None]
        clusters = defaultdict(float)
        for b, a in graded:
            clusters[a.instance_id] += (a.score - b.score) / len(graded)
            total[a.instance_id] += (a.score - b.score) / len(graded) / len(present)
        skills[name] = {
            "before": _mean(b.score for b, _ in graded),
            "after": _mean(a.score for _, a in graded),
            "stderr": _or_none(clustered_stderr(clusters)),
            "n": len(graded),
            "ungradable": sum(b.ungradable + a.ungradable for b, a in rows),
        }
    return {
        "skills": skills,
        "mean_before": _mean(s["before"] for s in skills.values()),
        "mean_after": _mean(s["after"] for s in skills.values()),
        "mean_stderr": _or_none(clustered_stderr(total)),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values and None not in values else None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def summarise(before: Sequence[TaskScore], after: Sequence[TaskScore]) -> dict:
    """The contents of summary.json: skills and composite kinds on held-out repositories; other suites apart."""

    def on(suite: str) -> dict:
        pair = [[s for s in scores if s.suite == suite] for scores in (before, after)]
        return compare(*pair, SKILLS) | {"composite": compare(*pair, COMPOSITE_KINDS)["skills"]}

    others = {s.suite for s in after} - set(SUITES)
    first, *rest = SUITES
    return on(first) | {suite: on(suite) for suite in (*rest, *sorted(others))}


def evaluation_tasks(
    tasks: Sequence[Task], suites: Sequence[str], kinds: Sequence[str], max_tasks: int = 0
) -> list[Task]:
    """The suites' tasks of the five skills and of the given composite kinds; at most `max_tasks` of each and suite."""
    chosen, taken = [], defaultdict(int)
    for task in tasks:
        if task.split not in suites or task.skill not in (*SKILLS, *kinds):
            continue
        taken[task.split, task.skill] += 1
        if not max_tasks or taken[task.split, task.skill] <= max_tasks:
            chosen.append(task)
    return chosen


def exam_tasks(tasks: Sequence[Task], names: Sequence[str], max_tasks: int = 0) -> list[Task]:
    """The tasks of the EXAM_SUITES named, at most `max_tasks` of each split and skill.

    Training tasks count only in a set that has no others, and then as if each were held out.
    """
    held_out = [t for t in tasks if t.split in SUITES]
    whole = ALL in names or (not held_out and bool(set(SUITES) & set(names)))
    chosen, taken = [], defaultdict(int)
    for task in held_out or tasks:
        if whole or task.skill in names or task.split in names:
            taken[task.split, task.skill] += 1
            if not max_tasks or taken[task.split, task.skill] <= max_tasks:
                chosen.append(task)
    return chosen


def standing(scores: Sequence[TaskScore]) -> dict:
    """Avg@k of one policy: split -> its skills, composite kinds and the mean of the skills.

    `stderr` is clustered by instance. `n` counts tasks with a score, `ungradable` counts episodes without one. What
    cannot be computed is None.
    """
    parts = {}
    for split in sorted({s.suite for s in scores}, key=lambda name: (*SUITES, name).index(name)):
        rows = [s for s in scores if s.suite == split]
        by_skill = {name: [s for s in rows if s.skill == name] for name in (*SKILLS, *COMPOSITE_KINDS)}
        skills, composite = (
            {name: _standing(by_skill[name]) for name in names if by_skill[name]} for names in (SKILLS, COMPOSITE_KINDS)
        )
        parts[split] = {"skills": skills, "composite": composite}
        if skills:
            parts[split]["mean"] = _mean_standing([s for s in rows if s.skill in SKILLS], skills)
    return parts


def _standing(rows: Sequence[TaskScore]) -> dict:
    graded, clusters = [s for s in rows if s.score is not None], defaultdict(float)
    for s in graded:
        clusters[s.instance_id] += s.score / len(graded)
    return {
        "score": _mean(s.score for s in graded),
        "stderr": _or_none(clustered_stderr(clusters)),
        "n": len(graded),
        "ungradable": sum(s.ungradable for s in rows),
    }


def _mean_standing(rows: Sequence[TaskScore], skills: Mapping[str, Mapping]) -> dict:
    """Of the means of the skills, each with the same weight."""
    clusters = defaultdict(float)
    for s in rows:
        if s.score is not None:
            clusters[s.instance_id] += s.score / skills[s.skill]["n"] / len(skills)
    score = _mean(part["score"] for part in skills.values())
    return {
        "score": score,
        "stderr": None if score is None else _or_none(clustered_stderr(clusters)),
        **{key: sum(part[key] for part in skills.values()) for key in ("n", "ungradable")},
    }


def standing_table(parts: Mapping, samples: int) -> str:
    """`standing` as text."""
    lines = [f"{f'Avg@{samples} (0 to 1)':34}{'score':>8}{'s.e.':>8}{'tasks':>8}{'ungradable':>12}"]
    for split, part in parts.items():
        lines.append(split.replace("_", " "))
        rows = part["skills"] | ({"mean of the skills": part["mean"]} if "mean" in part else {}) | part["composite"]
        for name, s in rows.items():
            numbers = f"{show_score(s['score']):>8}{show_score(s['stderr']):>8}{s['n']:8}{s['ungradable']:12}"
            lines.append(f"  {name:32}{numbers}")
    return "\n".join(lines)


def write_scores(path: Path, scores: Sequence[TaskScore]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps([asdict(s) for s in scores], indent=1), encoding="utf-8")
    temporary.replace(path)


def read_scores(path: Path) -> list[TaskScore]:
    return [TaskScore(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def suites_of(summary: Mapping) -> dict[str, Mapping]:
    """Title -> the part of a summary that `compare` made, for each suite that has tasks."""
    parts = {SUITES[0]: summary} | {name: s for name, s in summary.items() if isinstance(s, dict) and "skills" in s}
    return {name.replace("_", " "): part for name, part in parts.items() if part["skills"] or part["composite"]}


def show_score(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else f"{value:{form}}"


def change_of(scores: Mapping) -> float | None:
    before, after = scores["before"], scores["after"]
    return None if before is None or after is None else after - before


def mean_row(part: Mapping) -> dict:
    """The mean over the skills, in the form of one skill's scores."""
    n, ungradable = (sum(s[key] for s in part["skills"].values()) for key in ("n", "ungradable"))
    return {key: part[f"mean_{key}"] for key in ("before", "after", "stderr")} | {"n": n, "ungradable": ungradable}


def table(summary: Mapping) -> str:
    """The before/after table of summary.json as text."""
    lines = [f"{'Avg@k (0 to 1)':34}{'before':>8}{'after':>8}{'change':>9}{'s.e.':>7}{'tasks':>7}"]
    for title, part in suites_of(summary).items():
        lines.append(title)
        for name, s in (part["skills"] | part["composite"] | {"mean of the skills": mean_row(part)}).items():
            change = show_score(change_of(s), "+.3f")
            numbers = f"{show_score(s['before']):>8}{show_score(s['after']):>8}{change:>9}{show_score(s['stderr']):>7}"
            lines.append(f"  {name:32}{numbers}{s['n']:7}")
    return "\n".join(lines)
