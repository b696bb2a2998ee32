import ast
import dataclasses
import json

import pytest
import shelf

from sandbox_service.tasks import HiddenTask, Instance, TaskSetWriter, apply_overlay, read_task_set
from skillrl.tasks import validate as validation
from skillrl.tasks.cheats import cheats
from skillrl.tasks.derive import unified_diff
from skillrl.tasks.proving import question
from skillrl.tasks.submissions import failing_tests, gold, leaks, null, removed_tests, trivial
from skillrl.tasks.world import generate
from skillrl.types import SKILLS, Task

FILES = {name: text.encode() for name, text in shelf.FILES.items()}
PRICES = "src/shelf/prices.py"


@pytest.fixture(scope="module")
def task_set(tmp_path_factory):
    return shelf.write_shelf(tmp_path_factory.mktemp("shelf"))


def names(text):
    return {n.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name.startswith("test")}


def hidden(task_set, skill, instance=shelf.LIMIT_ID):
    task = task_set.task(f"{instance}-{skill}")
    return task, task_set.instance_of(task)


def public(task, **inputs):
    return Task(task.task_id, task.skill, task.instance_id, "r", "f", "train", 0, inputs)


def test_gold_submissions(task_set):
    task, instance = hidden(task_set, "localization")
    assert gold(task, instance, FILES).submission.files == (PRICES,)
    for skill in ("editing", "bug_fixing"):
        task, instance = hidden(task_set, skill)
        assert gold(task, instance, FILES).changed == {PRICES: FILES[PRICES]}
    verdicts = [gold(*hidden(task_set, f"review-{n}"), FILES).submission.judgment for n in (0, 1)]
    assert verdicts == ["YES", "NO"]
    with pytest.raises(ValueError, match="no gold"):
        gold(dataclasses.replace(task, skill="dancing"), instance, FILES)


def test_gold_unit_tests_are_the_removed_ones(task_set):
    task, instance = hidden(task_set, "unit_tests")
    (path, text), *rest = gold(task, instance, FILES).changed.items()
    assert path == task.submission_path and not rest
    assert names(text.decode()) == {
        "test_small_orders_cost_what_they_cost",
        "test_discount_starts_at_the_limit",
        "test_discount_is_rounded",
    }


def test_removed_tests_of_two_files_become_one(task_set):
    """Of a plain test file and of a class, where one class loses one method."""
    task, instance = hidden(task_set, "unit_tests", shelf.CRASH_ID)
    assert names(removed_tests(task, instance, FILES)) == {
        "test_parcels",
        "test_parcels_need_a_size",
        "test_deliveries",
    }


def test_gold_reproduction_is_the_file_with_most_failing_tests(task_set):
    _, instance = hidden(task_set, "reproduction", shelf.CRASH_ID)
    assert names(failing_tests(instance, FILES)) == {"test_parcels"}
    _, instance = hidden(task_set, "reproduction")
    assert names(failing_tests(instance, FILES)) == {"test_discount_starts_at_the_limit"}


def test_editing_and_bug_fixing_of_an_instance_ask_the_same_of_the_grader(task_set):
    def asked(skill, submission=gold, instance=shelf.LIMIT_ID):
        task, found = hidden(task_set, skill, instance)
        handed = null(task) if submission is null else gold(task, found, FILES)
        return question(task_set, task, handed)

    assert asked("editing") == asked("bug_fixing")
    assert asked("editing", null) == asked("bug_fixing", null) != asked("editing")
    assert asked("editing", instance=shelf.CRASH_ID) != asked("editing")
    assert asked("review-0") != asked("review-1")
    # What the agent sees beside the submission decides about its tests.
    task, instance = hidden(task_set, "editing")
    others = dataclasses.replace(task, visible={**task.visible, "tests/test_more.py": ""})
    handed = gold(task, instance, FILES)
    assert question(task_set, task, handed) != question(task_set, others, handed)


def test_trivial_policies(task_set):
    def policies(skill):
        task, instance = hidden(task_set, skill)
        return {name: (handed, wrong) for name, handed, wrong in trivial(task, instance, FILES, shelf.ENVIRONMENT)}

    localization = policies("localization")
    assert localization["first file"][0].submission.files == ("src/shelf/__init__.py",)
    assert not localization["first file"][1] and localization["all files"][1]
    assert all(not p.startswith("tests/") for p in localization["all files"][0].submission.files)
    assert {n: wrong for n, (_, wrong) in policies("unit_tests").items()} == {"empty file": True, "assert True": True}
    assert set(policies("reproduction")) == {"assert False", "import missing"}
    assert {h.submission.judgment for h, _ in policies("review-0").values()} == {"YES", "NO"}
    assert policies("editing") == {}


@pytest.mark.parametrize("skill", [*SKILLS[:4], "review-0", "bug_fixing"])
def test_null_submissions_change_nothing(task_set, skill):
    handed = null(hidden(task_set, skill)[0])
    assert handed.changed == {}
    assert handed.submission.missing == (skill in ("localization", "review-0"))


LINE = "    return round(total * (100 - percent) / 100, 2)\n"


@pytest.fixture
def long_line_bug(task_set):
    """An instance whose gold change is a line long enough to be recognised."""
    task, instance = hidden(task_set, "editing")
    bug = {PRICES: shelf.PRICES.replace("100 - percent", "100 + percent")}
    return dataclasses.replace(task, visible=bug), dataclasses.replace(instance, bug=bug)


def test_no_leak_in_a_clean_task(long_line_bug):
    task, instance = long_line_bug
    assert leaks(public(task, instruction="make it cheaper"), task, instance, FILES) == []


def test_a_quoted_gold_line_is_a_leak(long_line_bug):
    task, instance = long_line_bug
    (found,) = leaks(public(task, instruction=f"write {LINE.strip()}"), task, instance, FILES)
    assert "input instruction" in found and LINE.strip() in found


def test_a_gold_line_in_the_tree_is_a_leak(long_line_bug):
    task, instance = long_line_bug
    visible = {**task.visible, "build/prices.txt": LINE}
    (found,) = leaks(public(task), dataclasses.replace(task, visible=visible), instance, FILES)
    assert "file build/prices.txt" in found


def test_a_line_that_stands_elsewhere_too_is_no_leak(long_line_bug):
    task, instance = long_line_bug
    twice = {**FILES, "src/shelf/other.py": LINE.encode()}
    assert leaks(public(task), task, instance, twice) == []


def test_what_review_and_unit_tests_show_is_no_leak(long_line_bug):
    task, instance = long_line_bug
    diff = unified_diff(apply_overlay(FILES, instance.bug), {PRICES: shelf.PRICES})
    visible = {**task.visible, "candidate.diff": diff}
    review = dataclasses.replace(task, skill="review", visible=visible)
    assert leaks(public(review, issue="x", diff=diff), review, instance, FILES) == []
    unit_tests = dataclasses.replace(task, skill="unit_tests", visible={})
    assert leaks(public(unit_tests, contract="x"), unit_tests, instance, FILES) == []


def test_a_sample_takes_turns_over_the_skills():
    tasks = [Task(f"{s}{i}", s, "i", "r", "f", "train", 0, {}) for s in SKILLS for i in range(4)]
    chosen = validation.choose(tasks, 10, seed=1)
    assert chosen == validation.choose(tasks, 10, seed=1)
    assert {s: sum(t.skill == s for t in chosen) for s in SKILLS} == dict.fromkeys(SKILLS, 2)
    assert validation.choose(tasks, None, 0) == validation.choose(tasks, 99, 0) == tasks


def test_bad_input_gives_one_clear_line(tmp_path, capsys):
    assert validation.main([str(tmp_path)]) == 2
    assert "build one with" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        validation.main([str(tmp_path), "--repeats=0"])
    assert "at least 1" in capsys.readouterr().err


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    writer = TaskSetWriter("world")
    for index in range(2):
        generate(5, index, 0, "train").add_to(writer)
    folder = tmp_path_factory.mktemp("world")
    writer.write(folder)
    return folder


@pytest.mark.slow
def test_a_sound_set_is_proven(world, capsys):
    assert validation.main([str(world), "--repeats=2"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["tasks"] == len(read_task_set(world).tasks) == 14 and report["failures"] == {}
    for skill, row in report["skills"].items():
        assert row["gold_max"] == row["null_min"] == row["tasks"] == (4 if skill == "review" else 2)
        # Its tasks take turns, so two of them try two.
        assert sum(row["attacks"].values()) == row["attacks_min"] == row["tasks"] and len(row["attacks"]) == 2
    # Paired candidates: a constant verdict earns exactly chance.
    assert report["skills"]["review"]["trivial"] == {"always YES": 0.5, "always NO": 0.5}


@pytest.mark.slow
@pytest.mark.deep
def test_a_sound_set_withstands_every_attack(world, capsys):
    assert validation.main([str(world), "--repeats=1", "--attacks=99"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    task_set = read_task_set(world)
    for skill, row in report["skills"].items():
        tasks = [task for task in task_set.tasks.values() if task.skill == skill]
        instance = task_set.instance_of(tasks[0])
        known = dict(cheats(tasks[0], instance, FILES | generate(5, 0, 0, "train").files))
        assert row["attacks"] == dict.fromkeys(known, len(tasks)) and row["attacks_min"] == len(known) * len(tasks)


@pytest.mark.slow
def test_an_unsound_set_is_refused_and_the_tasks_named(tmp_path, capsys):
    """The bug does not fail its test, and no mutant is one."""
    writer = TaskSetWriter("unsound")
    generated = generate(5, 0, 0, "train")
    generated.add_to(writer)
    (instance,) = writer.instances
    correct = {path: generated.files[path].decode() for path in instance.bug}
    writer.instances = [dataclasses.replace(instance, bug=correct, mutants=(correct,))]
    writer.write(tmp_path)
    assert validation.main([str(tmp_path), "--repeats=1"]) == 1
    out = capsys.readouterr().out.splitlines()
    failed = {t.skill for t in map(read_task_set(tmp_path).task, json.loads(out[-1])["failures"])}
    assert {"editing", "bug_fixing", "unit_tests", "reproduction"} <= failed
    assert all(any(line.startswith(f"{task_id}: ") for line in out) for task_id in json.loads(out[-1])["failures"])


def test_a_set_whose_sandbox_holds_the_code_under_test_is_refused(tmp_path, capsys):
    """A repository with a module that the runner's own packages have too; two tasks, neither of which runs anything."""
    writer = TaskSetWriter("twice")
    path, correct = "src/pluggy/__init__.py", "def f():\n    return 1\n"
    tree = writer.add_tree({path: correct.encode(), "src/pluggy/other.py": b"", "tests/test_f.py": b""})
    writer.environments["e"] = dataclasses.replace(shelf.ENVIRONMENT, environment_id="e")
    bug = {path: correct.replace("1", "2")}
    for name, wrong in (("own", bug), ("world", {"src/pluggy/other.py": "x = 1\n"})):
        writer.instances.append(Instance(name, "e", tree, wrong, ("tests/test_f.py::test_f",), (), path, "f"))
        writer.tasks.append(HiddenTask(name, "localization", name, wrong))
        row = dict(task_id=name, skill="localization", instance_id=name, repository="r", family="f", split="train")
        writer.public.append(row | {"level": 0, "inputs": {"issue": "it is wrong"}})
    writer.write(tmp_path)
    assert validation.main([str(tmp_path), "--repeats=1"]) == 1
    failures = json.loads(capsys.readouterr().out.splitlines()[-1])["failures"]
    assert failures == dict.fromkeys(("own", "world"), ["leak: packages hold the repository's own pluggy/__init__.py"])
