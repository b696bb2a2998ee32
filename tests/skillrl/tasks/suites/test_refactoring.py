"""Generated refactorings hold their own rules; everything short of them breaks a rule or a test."""

import json

import pytest

from sandbox_service.graders.structure import RULES, check
from sandbox_service.tasks import Instance, TaskSetWriter, apply_overlay, read_task_set
from skillrl.skills.composite import REFACTORING
from skillrl.tasks import validate as validation
from skillrl.tasks.source import read_tasks
from skillrl.tasks.suites import refactoring
from skillrl.tasks.suites.case import ORIGIN, add
from skillrl.tasks.suites.refactoring_shared import _imported
from skillrl.tasks.suites.refactoring_work import is_test, renamed, verdicts

SEED = 11


@pytest.fixture(scope="module")
def made():
    """Family -> its case."""
    return {case.family: case for case in refactoring.cases(SEED)}


def broken(case, files):
    """Rules that do not hold of a tree."""
    start = apply_overlay(case.files, case.undo)
    trees = ({p: d for p, d in tree.items() if not is_test(p)} for tree in (files, start, case.files))
    return {rule for rule, why in check(case.expected, *trees).items() if why}


def texts(files):
    return {path: data.decode() for path, data in files.items()}


def instance_of(case):
    name, tests = f"refactoring__{case.family}.{SEED}.work", (case.fail_to_pass, case.pass_to_pass)
    return Instance(name, "e", "t", case.undo, *tests, "", "", origin=ORIGIN, expected=case.expected)


def test_families(made):
    assert set(made) == set(refactoring.FAMILIES) and len(made) >= 4
    assert {rule for case in made.values() for rule in case.expected} == RULES.keys()
    assert refactoring.cases(SEED)[0] == made["rename_symbol"]
    others = {case.family: case for case in refactoring.cases(SEED + 1)}
    assert all(others[family].files != case.files for family, case in made.items())


def test_the_finished_tree_holds_the_rules_and_the_start_does_not(made):
    for case in made.values():
        assert broken(case, case.files) == set()
        assert broken(case, apply_overlay(case.files, case.undo)) == set(case.expected), case.family


def test_tests_before_and_after(made):
    """What the agent sees passes; hidden tests fail before and pass after."""
    for case in made.values():
        assert all(verdicts(texts(case.files)).values())
        before = verdicts(texts(apply_overlay(case.files, case.undo)))
        assert case.fail_to_pass and not any(before[i] for i in case.fail_to_pass)
        assert case.pass_to_pass and all(before[i] for i in case.pass_to_pass)
        seen = texts(apply_overlay(case.files, {**case.undo, **case.hide}))
        assert all(verdicts(seen).values()), case.family
        assert not {i.partition("::")[0] for i in case.fail_to_pass} & {
            p for p in seen if seen[p] == texts(case.files).get(p)
        }


def test_wrong_work_breaks_a_rule_or_a_test(made):
    for case in made.values():
        start = apply_overlay(case.files, case.undo)
        for name, changed in refactoring.wrong(None, instance_of(case), case.files):
            tree = {path: data for path, data in {**start, **changed}.items() if data is not None}
            tests = {path: data for path, data in case.files.items() if is_test(path)}
            if not broken(case, {**tree, **tests}):
                assert not all(verdicts(texts({**tree, **tests})).values()), (case.family, name)


def test_prompts_tell_what_is_asked_and_no_test(tmp_path, made):
    writer = TaskSetWriter("refactoring")
    for case in made.values():
        add(writer, case, kind="refactoring", seed=SEED, split="train")
    writer.write(tmp_path)
    tasks, hidden = read_tasks(tmp_path), read_task_set(tmp_path)
    assert len(tasks) == len(made)
    for task in tasks:
        prompt = REFACTORING.make_prompt(task)
        instance = hidden.instances[task.instance_id]
        assert "Refactoring. " in prompt and "assert" not in prompt
        assert all(test_id.partition("::")[2] not in prompt for test_id in instance.fail_to_pass)


def test_words_are_renamed_whole():
    assert renamed("tax taxes.tax _tax", "tax", "fee") == "fee taxes.fee _tax"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('"""A."""\n\n\nx = 1\n', '"""A."""\n\nfrom p.q import f\n\n\nx = 1\n'),
        ('"""A."""\n\nfrom a import b\n\n\nx = 1\n', '"""A."""\n\nfrom p.q import f\nfrom a import b\n\n\nx = 1\n'),
    ],
)
def test_an_import_is_added_below_the_docstring(text, wanted):
    assert _imported(text, "p/q.py", "f") == wanted


@pytest.mark.deep
def test_a_set_is_proven(tmp_path, capsys, made):
    writer = TaskSetWriter("refactoring")
    for case in made.values():
        add(writer, case, kind="refactoring", seed=SEED, split="train")
    writer.write(tmp_path)
    assert validation.main([str(tmp_path), "--repeats=1"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["skills"]["refactoring"]
    assert row["gold_max"] == row["null_min"] == row["tasks"] == len(made)
    assert set(row["trivial"].values()) == {0.0} and len(row["trivial"]) > 15
