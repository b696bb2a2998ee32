"""Every known way to cheat in ML engineering and terminal work scores the minimum."""

import dataclasses

import ml_engineering_attacks
import pytest
import terminal_attacks
from attack import rows
from suite_desk import desk_on, family_tasks, play, write_cases

from sandbox_service.tasks import gold_overlay
from skillrl.tasks.suites import KINDS

SEED = 5


@pytest.fixture(scope="module")
def desks(desk, tmp_path_factory):
    """Kind -> a desk on one task of each of its families."""

    def make(kind):
        folder = tmp_path_factory.mktemp(kind)
        # No attack needs what is installed for the work, and a sandbox with scikit-learn takes seconds to make.
        cases = [
            dataclasses.replace(case, environment=dataclasses.replace(case.environment, packages=()))
            for case in KINDS[kind].cases(SEED)
        ]
        return desk_on(desk, write_cases(folder / "set", kind, {SEED: cases}), folder)

    return {kind: make(kind) for kind in ("ml_engineering", "terminal")}


@pytest.mark.parametrize("attack", rows(ml_engineering_attacks, terminal_attacks))
def test_attack_scores_the_minimum(desks, note, attack):
    family, _, kind = attack.task_id.partition("-")
    desk = desks[kind]
    task_id = family_tasks(desk.tasks)[family]
    instance = desk.tasks.instance_of(desk.tasks.task(task_id))
    gold = gold_overlay(instance.bug, desk.tasks.tree_files(instance.tree))
    grade = desk.loop.run(play(desk, task_id, attack.program.replace("GOLD", repr(gold))))
    assert grade.reason is None, grade.detail
    assert grade.reward == attack.minimum
    note("jail", attack.category, attack.name, attack.aims_for, f"reward {grade.reward:g}")
