import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillrl.tasks.mixture import Mixture
from skillrl.types import SKILLS, Task

EQUAL = dict.fromkeys(SKILLS, 1.0)


def make_tasks(instances=5):
    return [
        Task(f"{skill}-{i}-{k}", skill, f"i{i}", "repo", "family", "train", 0, {})
        for skill in SKILLS
        for i in range(instances)
        for k in range(2 if skill == "review" else 1)
    ]


def draw(mixture, n):
    """Draws and admits."""
    tasks = []
    for _ in range(n):
        tasks.append(mixture.next_task())
        mixture.admit(tasks[-1].skill)
    return tasks


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=5, max_size=5), st.integers(1, 120))
def test_shares_follow_the_weights_at_every_moment(weights, n):
    mixture = Mixture(make_tasks(), dict(zip(SKILLS, weights, strict=True)))
    counts = Counter()
    for i in range(1, n + 1):
        counts[draw(mixture, 1)[0].skill] += 1
        for skill, weight in zip(SKILLS, weights, strict=True):
            assert abs(counts[skill] - weight / sum(weights) * i) < 2


def test_equal_weights_take_turns():
    assert [t.skill for t in draw(Mixture(make_tasks(), EQUAL), 10)] == list(SKILLS) * 2


def test_each_epoch_holds_every_task_once_in_a_new_order():
    mixture = Mixture(make_tasks(8), {"editing": 1})
    first, second = ([t.task_id for t in draw(mixture, 8)] for _ in range(2))
    assert sorted(first) == sorted(second) == sorted(f"editing-{i}-0" for i in range(8))
    assert first != second


def test_skills_are_shuffled_apart():
    tasks = draw(Mixture(make_tasks(8), EQUAL), 40)
    orders = {tuple(t.instance_id for t in tasks if t.skill == s) for s in ("localization", "editing", "unit_tests")}
    assert len(orders) == 3


def test_the_order_depends_on_the_seed_and_not_on_the_input_order():
    tasks = make_tasks(8)
    one, same, other = (draw(Mixture(t, EQUAL, seed), 20) for t, seed in ((tasks, 1), (tasks[::-1], 1), (tasks, 2)))
    assert one == same != other


def test_review_candidates_of_one_instance_follow_each_other():
    tasks = draw(Mixture(make_tasks(), {"review": 1, "editing": 1}), 40)
    review = [t for t in tasks if t.skill == "review"]
    for first, second in zip(review[::2], review[1::2], strict=True):
        assert first.instance_id == second.instance_id and first.task_id != second.task_id


@pytest.mark.parametrize("taken", [0, 1, 7, 23])
def test_restored_equals_uninterrupted(taken):
    def steps(mixture, n):
        """Several groups in flight, every third one of no use."""
        seen = []
        for i in range(n):
            tasks = [mixture.next_task() for _ in range(3)]
            for k, task in enumerate(tasks):
                (mixture.drop if (i + k) % 3 == 0 else mixture.admit)(task.skill)
            seen += tasks
        return seen

    whole, cut = Mixture(make_tasks(), EQUAL, 5), Mixture(make_tasks(), EQUAL, 5)
    steps(whole, taken), steps(cut, taken)
    state = json.loads(json.dumps(cut.state()))
    steps(cut, 4)  # work after the checkpoint, lost in the crash
    resumed = Mixture(make_tasks(), EQUAL, 5)
    resumed.restore(state)
    assert steps(resumed, 20) == steps(whole, 20)
    assert resumed.state() == whole.state()


def test_dropped_groups_are_refilled():
    """localization wastes two groups of three, and still gets its share of the admitted ones."""
    mixture = Mixture(make_tasks(), EQUAL)
    for i in range(700):
        skill = mixture.next_task().skill
        (mixture.drop if skill == "localization" and i % 3 else mixture.admit)(skill)
    assert mixture.requested_shares["localization"] == 0.2
    assert mixture.realised_shares["localization"] == pytest.approx(0.2, abs=0.01)


def test_a_skill_that_is_always_dropped_does_not_starve_the_rest():
    mixture = Mixture(make_tasks(), EQUAL, max_refills=4)
    drawn = Counter()
    for _ in range(100):
        skill = mixture.next_task().skill
        drawn[skill] += 1
        (mixture.drop if skill == "review" else mixture.admit)(skill)
    # Its fifth of the draws and the four refills that it is granted once.
    assert drawn["review"] == pytest.approx(100 / 5 + 4, abs=2)
    assert mixture.realised_shares["review"] == 0
    assert mixture.realised_shares["editing"] == pytest.approx(0.25, abs=0.02)


def test_groups_in_flight_count_towards_their_share():
    mixture = Mixture(make_tasks(), EQUAL)
    assert Counter(mixture.next_task().skill for _ in range(50)) == dict.fromkeys(SKILLS, 10)


def test_a_skill_can_be_asked_for():
    mixture = Mixture(make_tasks(), EQUAL)
    assert [mixture.next_task("review").skill for _ in range(3)] == ["review"] * 3
    assert mixture.next_task().skill == "localization"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"localisation": 1}, "unknown skill 'localisation'.*localization"),
        ({"editing": -1}, "at least 0"),
        ({"editing": float("nan")}, "finite"),
        ({"editing": 0}, "positive"),
        ({"bug_fixing": 1}, "no task of bug_fixing"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture(make_tasks(), weights)


def test_a_state_of_other_tasks_is_refused():
    state = Mixture(make_tasks(5), EQUAL).state()
    with pytest.raises(ValueError, match="new workdir"):
        Mixture(make_tasks(6), EQUAL).restore(state)


def test_settling_more_groups_than_were_drawn_is_an_error():
    with pytest.raises(ValueError, match="once for each drawn task"):
        Mixture(make_tasks(), EQUAL).admit("review")
