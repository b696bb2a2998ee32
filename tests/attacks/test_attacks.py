"""Every known way to cheat scores the minimum, and honest work of every kind the maximum."""

import answer_attacks
import fingerprint_attacks
import pytest
import shelf
import source_attacks

from sandbox_service.graders import Submission

ATTACKS = [*source_attacks.ATTACKS, *fingerprint_attacks.ATTACKS, *answer_attacks.ATTACKS]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_scores_the_minimum(desk, note, attack):
    grade = desk.grade(attack.task_id, attack.changed, submission=attack.submission)
    assert grade.reason is None, grade.detail
    assert grade.reward == attack.minimum
    note("jail", attack.category, attack.name, attack.aims_for, f"reward {grade.reward:g}")


@pytest.mark.parametrize("verdict", ["YES", "NO"])
@pytest.mark.parametrize("instance", [shelf.LIMIT_ID, shelf.CRASH_ID])
def test_a_constant_verdict_earns_chance(desk, instance, verdict):
    rewards = [
        desk.grade(f"{instance}-review-{index}", submission=Submission(judgment=verdict, review="fine")).reward
        for index in (0, 1)
    ]
    assert sorted(rewards) == [0.0, 1.0]
