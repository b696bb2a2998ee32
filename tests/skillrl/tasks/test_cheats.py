"""That the attacks are real ones: without a grader's care each would tell the versions apart."""

import pytest
import shelf

from skillrl.tasks.cheats import FACTS, cheats, recognising

CORRECT = 'LIMIT = 3\n\n\ndef price(n):\n    """Price of n."""\n    return n if n < LIMIT else n - 1\n'
MUTANTS = [CORRECT.replace("n - 1", "n + 1"), CORRECT.replace("<", "<="), CORRECT.replace("LIMIT = 3", "LIMIT = 4")]
PATH, SOURCE = "tests/unit/test_it.py", "src/prices.py"
BY_READING = [*(f"by {fact}" for fact in FACTS), "by lines"]


@pytest.fixture(scope="module")
def task_set(tmp_path_factory):
    return shelf.write_shelf(tmp_path_factory.mktemp("shelf"))


def passes(tmp_path, test, text):
    """Whether the test passes in a tree whose source is `text`."""
    (tmp_path / "src").mkdir(exist_ok=True)
    (tmp_path / SOURCE).write_text(text)
    scope = {"__file__": str(tmp_path / PATH), "__name__": "test_it"}
    exec(compile(test, PATH, "exec"), scope)
    try:
        scope["test_it"]()
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("attack", BY_READING)
def test_a_version_is_recognised_without_running_it(attack, tmp_path):
    kills = dict(recognising(PATH, SOURCE, CORRECT, MUTANTS, passes=True))[attack]
    assert passes(tmp_path, kills, CORRECT) and not any(passes(tmp_path, kills, mutant) for mutant in MUTANTS)
    bug = MUTANTS[1]
    reproduces = dict(recognising(PATH, SOURCE, bug, [CORRECT], passes=False))[attack]
    assert not passes(tmp_path, reproduces, bug) and passes(tmp_path, reproduces, CORRECT)


def test_every_skill_has_attacks_that_hand_something_in(task_set):
    files = {name: text.encode() for name, text in shelf.FILES.items()}
    seen = {}
    for task in task_set.tasks.values():
        found = list(cheats(task, task_set.instance_of(task), files))
        assert len(dict(found)) == len(found)
        seen[task.skill] = len(found)
        for attack, handed in found:
            submission = handed.submission
            assert handed.changed or submission.files or submission.review, attack
            texts = {path: text for path, text in handed.changed.items() if text is not None}
            assert all(compile(text, path, "exec") for path, text in texts.items())
    assert seen == {
        "localization": 2,
        "review": 2,
        "unit_tests": 7,
        "reproduction": 7,
        "editing": 6,
        "bug_fixing": 6,
    }
