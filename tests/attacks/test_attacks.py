"""Every known way to cheat scores the minimum, and honest work of every kind the maximum."""

import answer_attacks
import evading_attacks
import fingerprint_attacks
import forging_attacks
import pytest
import shelf
import source_attacks
import telling_attacks
from attack import rows

from sandbox_service.graders import Submission

ATTACKS = rows(source_attacks, fingerprint_attacks, answer_attacks, telling_attacks, forging_attacks, evading_attacks)


def attempt(desk, attack) -> str:
    """What the attack got: the minimum."""
    if attack.program:
        grade = desk.play(attack.task_id, attack.program, attack.submission)
    else:
        grade = desk.grade(attack.task_id, attack.changed, submission=attack.submission)
    assert grade.reason is None, grade.detail
    assert grade.reward == attack.minimum
    assert grade.components | attack.components == grade.components, grade.detail
    return f"reward {grade.reward:g}"


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_scores_the_minimum(desk, note, attack):
    note("jail", attack.category, attack.name, attack.aims_for, attempt(desk, attack))


@pytest.mark.parametrize("fact", ["hash of the file", "syntax tree", "bytecode"])
def test_without_the_controls_a_fingerprint_would_win(fact):
    """It tells the correct code from the bug and from every mutant, and the table holds it to both skills' controls."""
    correct, bug, *mutants = (
        fingerprint_attacks.facts(text)[fact]
        for text in (shelf.PRICES, shelf.LIMIT_BUG, *(m["src/shelf/prices.py"] for m in shelf.LIMIT_MUTANTS))
    )
    assert correct not in (bug, *mutants)
    held = {a.name: a.components for a in fingerprint_attacks.ATTACKS if a.name.endswith(f": by {fact}")}
    assert held == {
        f"reproduction: by {fact}": {"shows_bug": 1.0, "passes_on_fix": 1.0, "controls_hold": 0.0},
        f"unit tests: by {fact}": {"passes_on_gold": 1.0, "controls_hold": 0.0},
    }


@pytest.mark.parametrize("verdict", ["YES", "NO"])
@pytest.mark.parametrize("instance", [shelf.LIMIT_ID, shelf.CRASH_ID])
def test_a_constant_verdict_earns_chance(desk, instance, verdict):
    rewards = [
        desk.grade(f"{instance}-review-{index}", submission=Submission(judgment=verdict, review="fine")).reward
        for index in (0, 1)
    ]
    assert sorted(rewards) == [0.0, 1.0]
