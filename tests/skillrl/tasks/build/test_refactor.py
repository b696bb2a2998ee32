"""Refactoring tasks of a small package, and that they are proven once."""

import asyncio
import json

import pytest
import shelf

from sandbox_service.graders.refactoring import structure
from sandbox_service.tasks import apply_overlay, gold_overlay, read_task_set
from skillrl.tasks.build.manifest import Entry
from skillrl.tasks.build.package import Builder
from skillrl.tasks.build.refactor import renamed_id
from skillrl.tasks.cheats import cheats
from skillrl.tasks.proving import proving_ground
from skillrl.tasks.source import read_tasks
from skillrl.tasks.suites import refactoring
from skillrl.tasks.validate import validate

LABEL = '''\
"""Labels."""


def make_label(name):
    """make_label("Tea") is "[tea]"."""
    return f"[{name.lower()}]"
'''
SHELVES = """\
from shelf.labels import make_label


def sign(names):
    return " ".join(make_label(name) for name in names)
"""
TESTS = """\
import pytest

from shelf.labels import make_label
from shelf.shelves import sign


@pytest.mark.parametrize("function", [make_label])
def test_label(function):
    assert function("Tea") == "[tea]"
    assert make_label("") == "[]"
"""
SIGNS = 'from shelf.shelves import sign\n\n\ndef test_sign():\n    assert sign(["Tea", "Jam"]) == "[tea] [jam]"\n'
FILES = shelf.FILES | {
    "pyproject.toml": '[project]\nname = "shelf"\nlicense = "MIT"\n',
    "src/shelf/labels.py": LABEL,
    "src/shelf/shelves.py": SHELVES,
    "tests/test_labels.py": TESTS,
    "tests/test_signs.py": SIGNS,
}


async def builds(folder, outs):
    """Builds with one ledger; returns the summaries."""
    entry, summaries = Entry(repo=str(folder / "shelf"), instances=1, split="heldout_families"), []
    async with proving_ground(2) as ground:
        for out in outs:
            builder = Builder(entry.read(), ground, entry, jobs=2)
            await builder.build(folder / out, folder / "ledger")
            summaries.append(builder.summary)
    return summaries


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refactor")
    for path, text in FILES.items():
        (folder / "shelf" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "shelf" / path).write_text(text)
    return folder, asyncio.run(builds(folder, ["a", "b"]))


@pytest.mark.deep
def test_a_name_of_the_package_becomes_a_task(built):
    folder, (summary, _) = built
    assert summary.tasks["refactoring"] == 1
    # `discount` and `parcels` are words of their own documentation.
    assert dict(summary.left_out["refactoring"]) == {"a text has the name as a word": 2}
    (public,) = [task for task in read_tasks(folder / "a") if task.skill == "refactoring"]
    assert (public.split, public.repository, public.family) == ("heldout_families", "repo:shelf", "shelf")
    told = "Rename the function make_label of src/shelf/labels.py to build_label in all Python files of the source"
    assert public.inputs["instruction"].startswith(told)
    task_set = read_task_set(folder / "a")
    task = task_set.task(public.task_id)
    instance = task_set.instance_of(task)
    files = task_set.tree_files(instance.tree)
    assert json.loads(instance.expected["renamed"]) == {
        "old": "make_label",
        "new": "build_label",
        "path": "shelf/labels.py",
    }
    assert instance.fail_to_pass == ("tests/test_labels.py::test_label[build_label]",)
    assert "tests/test_signs.py::test_sign" in instance.pass_to_pass and len(instance.pass_to_pass) > 9
    # The agent gets the package as it is; of the finished tree every use is another.
    assert apply_overlay(files, task.visible) == {path: text.encode() for path, text in FILES.items()}
    assert gold_overlay(instance.bug, files) == {
        "src/shelf/labels.py": LABEL.replace("make_label", "build_label"),
        "src/shelf/shelves.py": SHELVES.replace("make_label", "build_label"),
    }
    assert files["tests/test_labels.py"].decode() == TESTS.replace("make_label", "build_label")


@pytest.mark.deep
def test_only_the_whole_renaming_holds_the_structure(built):
    folder, _ = built
    task_set = read_task_set(folder / "a")
    (task,) = [task for task in task_set.tasks.values() if task.skill == "refactoring"]
    instance = task_set.instance_of(task)
    environment, files = task_set.environment_of(instance), task_set.tree_files(instance.tree)

    def broken(changed):
        return {rule for rule, why in structure(instance, environment, changed, files).items() if why}

    gold = {path: text.encode() for path, text in gold_overlay(instance.bug, files).items()}
    assert broken(gold) == set()
    wrong = dict(refactoring.wrong(task, instance, files))
    assert {name: broken(changed) for name, changed in wrong.items()} == {
        "definition alone": {"renamed"},
        "new name as an alias": {"renamed"},
        "old name kept as an alias": {"renamed"},
        "new name around the old one": {"renamed"},
        "new name on demand": {"renamed", "plain"},
        "one file left": {"renamed"},
        "behaviour deleted": {"renamed"},
        "tests changed": {"renamed"},
    }
    # What only behaviour can find out.
    forged = dict(cheats(task, instance, files))
    assert len(forged) == 3 and all(broken(handed.changed) == set() for handed in forged.values())


@pytest.mark.deep
def test_what_is_proven_is_not_run_again(built):
    folder, (first, second) = built
    assert read_task_set(folder / "a").digest == read_task_set(folder / "b").digest
    assert first.suite_runs > 9 and second.suite_runs == 0


@pytest.mark.deep
def test_gold_scores_and_everything_short_of_it_does_not(built):
    folder, _ = built
    report = asyncio.run(validate(folder / "a", repeats=2, attacks=99))
    assert report.failures == {}
    seen = report.as_json()["skills"]["refactoring"]
    assert (seen["gold_max"], seen["null_min"], seen["attacks_min"], len(seen["trivial"])) == (1, 1, 3, 8)


def test_ids_of_cases_follow_the_name():
    assert renamed_id("tests/test_f.py::test_f[f-1]", "f", "g") == "tests/test_f.py::test_f[g-1]"
    assert renamed_id("tests/f.py::TestF::test_f", "f", "g") == "tests/f.py::TestF::test_f"
