import json
import math
from dataclasses import replace

import numpy as np
import pytest
from episodes import make_episode

from skillrl import evaluate
from skillrl.evaluate import TaskScore, clustered_stderr, compare, evaluation_tasks, summarise, task_scores
from skillrl.types import Outcome, Task

INFRA = Outcome(None, reason="infra")


def group(skill, outcomes, **task):
    made = [make_episode([1], [True], number=i, skill=skill, outcome=o) for i, o in enumerate(outcomes)]
    return [replace(e, task=replace(e.task, **task)) for e in made]


def score(task_id, skill, instance, value, *, suite="heldout_repositories", ungradable=0):
    return TaskScore(task_id, skill, suite, instance, value, 3 - ungradable, ungradable)


@pytest.mark.parametrize(
    ("skill", "reward", "expected"),
    [("localization", -1.0, 0.0), ("localization", 1.0, 1.0), ("editing", 0.0, 0.0), ("bug_fixing", 1.0, 1.0)],
)
def test_scores_lie_between_minimum_and_maximum(skill, reward, expected):
    assert evaluate.score_of(make_episode([1], [True], skill=skill, outcome=Outcome(reward))) == expected


def test_avg_at_3_leaves_ungradable_attempts_out():
    groups = [
        group("localization", [Outcome(1.0), Outcome(-1.0), Outcome(-1.0)], task_id="a", split="heldout_families"),
        group("editing", [Outcome(1.0), INFRA, Outcome(0.0)], task_id="b", instance_id="j"),
        group("review", [INFRA, INFRA, INFRA], task_id="c"),
    ]
    a, b, c = task_scores(groups)
    assert a == TaskScore("a", "localization", "heldout_families", "i", 1 / 3, 3, 0)
    assert b == TaskScore("b", "editing", "train", "j", 0.5, 2, 1)
    assert (c.score, c.graded, c.ungradable) == (None, 0, 3)


def test_standard_error_of_single_tasks_is_the_usual_one():
    # Scores 0, 1, 1, 0: variance 1/3 with n - 1, so the mean's standard error is sqrt(1/3 / 4).
    contributions = {name: value / 4 for name, value in zip("abcd", [0, 1, 1, 0], strict=True)}
    assert clustered_stderr(contributions) == pytest.approx(math.sqrt(1 / 12))
    values = np.random.default_rng(0).random(9)
    by_task = {str(i): v / 9 for i, v in enumerate(values)}
    assert clustered_stderr(by_task) == pytest.approx(values.std(ddof=1) / 3)


def test_repeating_the_tasks_of_an_instance_makes_nothing_surer():
    def compared(repeats):
        tasks = [(f"{x}{i}", x, v) for x, v in (("a", 1.0), ("b", 0.0)) for i in range(repeats)]
        before = [score(task_id, "editing", instance, 0.0) for task_id, instance, _ in tasks]
        after = [score(task_id, "editing", instance, value) for task_id, instance, value in tasks]
        return compare(before, after, ["editing"])

    once, often = compared(1), compared(5)
    assert (once["skills"]["editing"]["n"], often["skills"]["editing"]["n"]) == (2, 10)
    assert often["mean_stderr"] == pytest.approx(once["mean_stderr"]) == pytest.approx(0.5)


BEFORE = [
    score("e1", "editing", "A", 0.0),
    score("e2", "editing", "B", 1 / 3),
    score("e3", "editing", "B", 1.0),
    score("r1", "review", "A", 0.5),
    score("r2", "review", "A", 0.5),
    score("r3", "review", "B", 1.0),
    score("gone", "review", "B", 1.0),
]
AFTER = [
    # In another order: pairs are made by task.
    score("r3", "review", "B", 0.5, ungradable=1),
    score("r2", "review", "A", 0.5),
    score("r1", "review", "A", 1.0),
    score("e3", "editing", "B", None, ungradable=3),
    score("e2", "editing", "B", 1 / 3),
    score("e1", "editing", "A", 1.0),
    score("new", "editing", "A", 1.0),
]


def test_comparison_by_hand():
    """Editing: differences 1 (A), 0 (B), contributions 1/2 and 0, so sqrt(2 (1/16 + 1/16)) = 1/2.

    Review: 1/2, 0 (A), -1/2 (B), contributions 1/6 and -1/6, so sqrt(2 (1/36 + 1/36)) = 1/3. The mean of both:
    A (1/2 + 1/6)/2 = 1/3, B -1/12, around 1/8, so sqrt(2 * 2 * (5/24)^2) = 5/12.
    """
    result = compare(BEFORE, AFTER, ["editing", "review", "localization"])
    assert result["skills"].keys() == {"editing", "review"}
    editing, review = result["skills"]["editing"], result["skills"]["review"]
    assert editing == pytest.approx({"before": 1 / 6, "after": 2 / 3, "stderr": 1 / 2, "n": 2, "ungradable": 3})
    assert review == pytest.approx({"before": 2 / 3, "after": 2 / 3, "stderr": 1 / 3, "n": 3, "ungradable": 1})
    assert result["mean_before"] == pytest.approx(5 / 12)
    assert result["mean_after"] == pytest.approx(2 / 3)
    assert result["mean_stderr"] == pytest.approx(5 / 12)


def test_what_cannot_be_computed_is_none_and_valid_json():
    rows = [score("e1", "editing", "A", None, ungradable=3), score("r1", "review", "A", 1.0)]
    result = compare(rows, rows, ["editing", "review"])
    assert result["skills"]["editing"] == {"before": None, "after": None, "stderr": None, "n": 0, "ungradable": 6}
    assert result["skills"]["review"]["stderr"] is None
    assert (result["mean_before"], result["mean_stderr"]) == (None, None)
    json.dumps(result, allow_nan=False)


def test_summary_keeps_suites_and_composite_kinds_apart():
    rows = [
        (skill, suite, f"{skill}-{suite}-{i}", f"{suite}-{i}", value)
        for suite, value in (("heldout_repositories", 0.5), ("heldout_families", 0.25), ("train", 1.0))
        for skill in ("editing", "bug_fixing")
        for i in range(2)
    ]
    before = [score(t, s, i, 0.0, suite=suite) for s, suite, t, i, _ in rows]
    after = [score(t, s, i, value, suite=suite) for s, suite, t, i, value in rows]
    summary = summarise(before, after)
    assert summary.keys() == {
        "skills", "composite", "mean_before", "mean_after", "mean_stderr", "heldout_families", "train",
    }  # fmt: skip
    assert summary["skills"].keys() == {"editing"}
    assert summary["composite"].keys() == {"bug_fixing"}
    assert [summary["mean_after"], summary["heldout_families"]["mean_after"]] == [0.5, 0.25]
    assert summary["train"]["composite"]["bug_fixing"]["after"] == 1.0
    text = evaluate.table(summary)
    assert [line for line in text.splitlines() if not line.startswith(("  ", "Avg"))] == [
        "heldout repositories", "heldout families", "train",
    ]  # fmt: skip
    assert "  mean of the skills                 0.000   0.500   +0.500  0.000      2" in text.splitlines()


def test_a_summary_without_heldout_tasks_has_every_key():
    summary = summarise([], [])
    assert summary["skills"] == summary["composite"] == summary["heldout_families"]["skills"] == {}
    assert summary["mean_before"] is summary["heldout_families"]["mean_stderr"] is None
    assert evaluate.table(summary).count("\n") == 0


def test_evaluation_takes_the_suites_and_kinds_asked_for():
    tasks = [
        Task(f"{split}-{skill}-{i}", skill, "i", "r", "f", split, 0, {})
        for split in ("train", "heldout_repositories", "heldout_families")
        for skill in ("editing", "bug_fixing")
        for i in range(3)
    ]
    chosen = evaluation_tasks(tasks, evaluate.SUITES, ("bug_fixing",))
    assert {t.split for t in chosen} == set(evaluate.SUITES)
    assert len(chosen) == 12
    assert [t.task_id for t in evaluation_tasks(tasks, ("train",), (), max_tasks=2)] == [
        "train-editing-0", "train-editing-1",
    ]  # fmt: skip


def test_scores_survive_the_disk(tmp_path):
    evaluate.write_scores(tmp_path / "eval" / "before.json", BEFORE)
    assert evaluate.read_scores(tmp_path / "eval" / "before.json") == BEFORE


# One policy alone.


def test_standing_by_hand():
    """Editing: A 0, B (1/3 + 1)/3 around 2/9, so sqrt(2 * 2 * (2/9)^2) = 4/9. Review: A 1/3, B 1/3, error 0.

    The mean of both: A 1/6, B (4/9 + 1/3)/2 = 7/18, around 5/18, so sqrt(2 * 2 * (1/9)^2) = 2/9.
    """
    rows = [replace(s, suite="heldout_families") for s in BEFORE]
    rows += [score("gone-2", "editing", "C", None, ungradable=3, suite="heldout_families")]
    rows += [score("b1", "bug_fixing", "A", 0.5, ungradable=1)]
    parts = evaluate.standing([s for s in rows if s.task_id != "gone"])
    assert list(parts) == ["heldout_repositories", "heldout_families"]
    part = parts["heldout_families"]
    assert part["skills"]["editing"] == pytest.approx({"score": 4 / 9, "stderr": 4 / 9, "n": 3, "ungradable": 3})
    assert part["skills"]["review"] == pytest.approx({"score": 2 / 3, "stderr": 0, "n": 3, "ungradable": 0})
    assert part["mean"] == pytest.approx({"score": 5 / 9, "stderr": 2 / 9, "n": 6, "ungradable": 3})
    assert parts["heldout_repositories"] == {
        "skills": {}, "composite": {"bug_fixing": {"score": 0.5, "stderr": None, "n": 1, "ungradable": 1}},
    }  # fmt: skip
    json.dumps(parts, allow_nan=False)
    assert evaluate.standing_table(parts, 3).splitlines() == [
        "Avg@3 (0 to 1)                       score    s.e.   tasks  ungradable",
        "heldout repositories",
        "  bug_fixing                         0.500       -       1           1",
        "heldout families",
        "  editing                            0.444   0.444       3           3",
        "  review                             0.667   0.000       3           0",
        "  mean of the skills                 0.556   0.222       6           3",
    ]


def test_the_standing_of_nothing_gradable_is_none():
    parts = evaluate.standing([score("a", "editing", "A", None, ungradable=3)])
    row = {"score": None, "stderr": None, "n": 0, "ungradable": 3}
    assert parts == {"heldout_repositories": {"skills": {"editing": row}, "composite": {}, "mean": row}}
    assert evaluate.standing([]) == {}


def exam_set(*splits):
    return [
        Task(f"{split}-{skill}-{i}", skill, "i", "r", "f", split, 0, {})
        for split in splits
        for skill in ("editing", "bug_fixing", "terminal")
        for i in range(3)
    ]


@pytest.mark.parametrize(
    ("names", "count", "skills", "splits"),
    [
        (("all",), 18, {"editing", "bug_fixing", "terminal"}, set(evaluate.SUITES)),
        (("bug_fixing",), 6, {"bug_fixing"}, set(evaluate.SUITES)),
        (("bug_fixing", "terminal"), 12, {"bug_fixing", "terminal"}, set(evaluate.SUITES)),
        (("heldout_families",), 9, {"editing", "bug_fixing", "terminal"}, {"heldout_families"}),
        (("security",), 0, set(), set()),
    ],
)
def test_an_exam_takes_what_its_suites_name(names, count, skills, splits):
    chosen = evaluate.exam_tasks(exam_set("train", *evaluate.SUITES), names)
    assert (len(chosen), {t.skill for t in chosen}, {t.split for t in chosen}) == (count, skills, splits)


def test_an_exam_takes_training_tasks_where_there_are_no_others():
    tasks = exam_set("train")
    assert evaluate.exam_tasks(tasks, ("all",)) == evaluate.exam_tasks(tasks, ("heldout_families",)) == tasks
    assert {t.skill for t in evaluate.exam_tasks(tasks, ("bug_fixing",))} == {"bug_fixing"}
    assert [t.task_id for t in evaluate.exam_tasks(tasks, ("all",), max_tasks=1)] == [
        "train-editing-0", "train-bug_fixing-0", "train-terminal-0",
    ]  # fmt: skip
