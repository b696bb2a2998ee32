"""Every known way to cheat in refactoring and security work scores the minimum."""

import json

import pytest
import refactoring_attacks
import security_attacks
from attack import rows
from suite_desk import desk_on, play, write_cases

from sandbox_service.tasks import gold_overlay
from skillrl.tasks.suites import KINDS
from skillrl.tasks.suites.case import GOLD_SUBMISSION

SEED = 5


@pytest.fixture(scope="module")
def desks(desk, tmp_path_factory):
    """Kind -> a desk on all tasks of one seed, and the ids of the tasks by family (and form)."""
    made = {}
    for kind in ("refactoring", "security"):
        folder = tmp_path_factory.mktemp(kind)
        cases = KINDS[kind].cases(SEED)
        work = desk_on(desk, write_cases(folder / "set", kind, {SEED: cases}), folder)
        ids = {}
        for name, task in work.tasks.tasks.items():
            family, _, form = task.instance_id.partition("__")[2].split(".")
            ids[family if kind == "refactoring" else f"{family}.{form}"] = name
        made[kind] = work, ids
    return made


@pytest.mark.parametrize("attack", rows(refactoring_attacks, security_attacks))
def test_attack_scores_the_minimum(desks, note, attack):
    family, _, kind = attack.task_id.partition("-")
    desk, ids = desks[kind]
    task = desk.tasks.task(ids[family])
    instance = desk.tasks.instance_of(task)
    gold = gold_overlay(instance.bug, desk.tasks.tree_files(instance.tree))
    if GOLD_SUBMISSION in instance.expected:
        gold = {task.submission_path: instance.expected[GOLD_SUBMISSION]}
    rules = {rule: json.loads(text) for rule, text in instance.expected.items()} if kind == "refactoring" else {}
    words = {"GOLD": gold, "RULES": rules, "PATH": task.submission_path}
    program = attack.program
    for word, value in words.items():
        program = program.replace(f"= {word}\n", f"= {value!r}\n")
    grade = desk.loop.run(play(desk, task.task_id, program))
    assert grade.reason is None, grade.detail
    assert grade.reward == attack.minimum
    note("jail", attack.category, attack.name, attack.aims_for, f"reward {grade.reward:g}")
