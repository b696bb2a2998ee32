import dataclasses
import subprocess

import pytest

from sandbox_service.tasks import TaskSetWriter, apply_overlay
from skillrl.tasks.derive import changed_lines, derive, submission_path, unified_diff, why_not_localization
from skillrl.tasks.source import INPUTS
from skillrl.tasks.world import generate
from skillrl.tasks.world.instance import ENVIRONMENT


def test_unified_diff_applies_with_patch(tmp_path):
    before = {"a/x.py": b"one\ntwo\nthree", "a/gone.py": b"x\n", "a/y.py": b"1\n2\n"}
    overlay = {"a/x.py": "one\n2\nthree\n", "a/gone.py": None, "a/new.py": "fresh\n", "a/y.py": "1\n2"}
    for path, data in before.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    diff = unified_diff(before, overlay)
    subprocess.run(["patch", "-p1", "-s"], input=diff.encode(), cwd=tmp_path, check=True)
    after = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert after == apply_overlay(before, overlay)


def test_changed_lines_are_those_with_content():
    before = {"m.py": b"def f(a):\n    return a\n"}
    assert changed_lines(before, {"m.py": "def f(a):\n    if a:\n        return None\n    return a + 12\n"}) == {
        "return a + 12"
    }


@pytest.fixture
def derived():
    generated = generate(3, 0, 0, "train")
    writer = TaskSetWriter("one")
    generated.add_to(writer)
    return generated, writer


def test_one_instance_gives_every_skill_and_a_review_pair(derived):
    generated, writer = derived
    skills = sorted(t["skill"] for t in writer.public)
    assert skills == ["bug_fixing", "editing", "localization", "reproduction", "review", "review", "unit_tests"]
    assert [t["task_id"] for t in writer.public] == [t.task_id for t in writer.tasks]
    assert all(t["inputs"].keys() == INPUTS[t["skill"]] for t in writer.public)
    assert sorted(t.candidate for t in writer.tasks if t.skill == "review") == [0, 1]
    assert {t.submission_path for t in writer.tasks if t.skill == "unit_tests"} == {"tests/test_submission.py"}
    assert {t.submission_path for t in writer.tasks if t.skill == "reproduction"} == {"tests/test_reproduction.py"}


@pytest.mark.parametrize(
    ("test_roots", "folder"),
    [
        (("tests",), "tests"),
        (("test",), "test"),
        (("test_a.py", "testing", "tests"), "tests"),
        (("test_a.py",), "tests"),
        (("toolz/tests",), "tests"),
        ((".",), "tests"),
    ],
)
def test_submissions_lie_among_the_projects_own_tests(test_roots, folder):
    assert submission_path("unit_tests", test_roots) == f"{folder}/test_submission.py"
    assert submission_path("reproduction", test_roots) == f"{folder}/test_reproduction.py"


def test_review_candidates_apply_to_what_the_agent_sees(derived, tmp_path):
    generated, writer = derived
    instance = generated.instance
    for number, task in enumerate(t for t in writer.tasks if t.skill == "review"):
        root = tmp_path / str(number)
        for path, data in apply_overlay(generated.files, task.visible).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        subprocess.run(["patch", "-p1", "-s", "-i", "candidate.diff"], cwd=root, check=True)
        expected = apply_overlay(generated.files, instance.bug, instance.candidates[task.candidate].overlay)
        assert (root / instance.target_path).read_bytes() == expected[instance.target_path]


def test_a_text_that_quotes_the_fix_is_refused(derived):
    generated, _ = derived
    gold = generated.solution.edits[0].new.strip()
    kwargs = {"environment": ENVIRONMENT, "repository": "r", "family": "f", "split": "train", "level": 0}
    texts = dataclasses.replace(generated.texts, instruction=f"Write {gold} there.")
    with pytest.raises(ValueError, match="instruction of editing quotes the gold change"):
        derive(TaskSetWriter("x"), generated.instance, generated.files, texts, **kwargs)


def test_a_foreign_tree_and_an_incomplete_pair_are_refused(derived):
    generated, _ = derived
    kwargs = {"environment": ENVIRONMENT, "repository": "r", "family": "f", "split": "train", "level": 0}
    with pytest.raises(ValueError, match="not the instance's tree"):
        derive(TaskSetWriter("x"), generated.instance, {}, generated.texts, **kwargs)
    half = dataclasses.replace(generated.instance, candidates=generated.instance.candidates[:1])
    with pytest.raises(ValueError, match="one correct and one wrong"):
        derive(TaskSetWriter("x"), half, generated.files, generated.texts, **kwargs)
    writer = TaskSetWriter("x")
    derive(writer, half, generated.files, generated.texts, **kwargs, skills=("localization", "editing"))
    assert sorted(t.skill for t in writer.tasks) == ["editing", "localization"]


@pytest.mark.parametrize(
    ("truth", "choices", "why"),
    [
        ({"a.py"}, {"a.py", "b.py"}, ""),
        ({"a.py"}, None, ""),
        ({"a.py"}, {"a.py"}, "its repository has no other source file"),
        ({"a.py"}, {"a.py", "p/__init__.py", "b.txt"}, "its repository has no other source file"),
        ({"a.py", "b.py"}, {"a.py", "b.py"}, "its repository has no other source file"),
        ({"p/__init__.py"}, {"a.py", "p/__init__.py"}, ""),
        ((), {"a.py"}, "no or more than 5 source files"),
        ([f"{n}.py" for n in range(6)], None, "no or more than 5 source files"),
    ],
)
def test_localization_needs_something_to_choose_from(truth, choices, why):
    assert why_not_localization(truth, choices) == why
