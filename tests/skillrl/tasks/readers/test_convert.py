"""Records with their repository at hand: trees, what is hidden, and the proof of every task in the sandbox."""

import json

import dataset_rows as rows
import foreign
import pytest

from sandbox_service.tasks import apply_overlay, read_task_set, read_validations
from skillrl.tasks import validate
from skillrl.tasks.readers.__main__ import main
from skillrl.tasks.readers.record import Unusable
from skillrl.tasks.readers.repositories import find_clone, tree_of
from skillrl.tasks.source import read_tasks
from skillrl.tasks.submissions import leaks

ALL = {"localization", "editing", "unit_tests", "reproduction", "bug_fixing"}


@pytest.fixture(scope="module")
def clones(tmp_path_factory):
    """(folder of clones, first commit)."""
    folder = tmp_path_factory.mktemp("clones")
    return folder, rows.write_clone(folder)


@pytest.fixture
def convert(tmp_path, clones):
    """Reads rows with the clone; returns the task set and the public tasks."""

    def run(name: str, *made: dict, options=("--image=local",)):
        source = tmp_path / f"{name}.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in made))
        out = tmp_path / f"{name}-set"
        assert main([name, str(source), f"--out={out}", f"--repositories={clones[0]}", *options]) == 0
        return read_task_set(out), read_tasks(out)

    return run


def smith(commit: str) -> dict:
    """The mirror's main branch has no bug."""
    return rows.swe_smith("main")


def r2e(commit: str) -> dict:
    """The second commit is the fix; the image stands at its parent."""
    return rows.r2e() | {"repo_name": rows.REPOSITORY, "commit_hash": "main"}


MAKE = {"swebench": rows.swebench_new, "swe_smith": smith, "r2e": r2e}


@pytest.mark.parametrize("name", sorted(MAKE))
def test_the_agents_tree_is_the_base_without_the_tests(convert, clones, name):
    tasks, public = convert(name, MAKE[name](clones[1]))
    (instance,) = tasks.instances.values()
    assert {t.skill for t in public} == ALL - {"localization"}  # the repository has one source file
    correct = tasks.tree_files(instance.tree)
    assert correct[foreign.SOURCE] == foreign.MONEY.encode() and instance.bug == {foreign.SOURCE: foreign.BUG}
    for task in public:
        tree = apply_overlay(correct, tasks.task(task.task_id).visible)
        source = foreign.MONEY if task.skill == "unit_tests" else foreign.BUG
        assert tree[foreign.SOURCE] == source.encode()
        # Documents stay as they were: they would tell.
        assert tree["CHANGES.md"] == b"# Changes\n" or name == "swe_smith"
        assert not [p for p in tree if ".git" in p]
        shown = b"".join(tree.values())
        assert b"test_even" not in shown and b"[25, 25, 25, 25]" not in shown
        assert leaks(task, tasks.task(task.task_id), instance, correct) == []


def test_the_base_may_hold_the_bug_or_not(convert, clones):
    """SWE-smith's commit is the mirror's main branch, or the instance's own."""
    with_bug, _ = convert("swe_smith", rows.swe_smith("bug"))
    correct, _ = convert("nemo_gym", rows.nemo_gym(rows.swe_smith("main"), "SWE-bench/SWE-smith"))
    (first,), (second,) = with_bug.instances.values(), correct.instances.values()
    assert first.bug == second.bug == {foreign.SOURCE: foreign.BUG} and first.tree == second.tree


def test_an_image_is_kept_with_the_tree(convert, clones):
    tasks, _ = convert("swebench", rows.swebench_new(clones[1]), options=())
    (environment,), (instance,) = tasks.environments.values(), tasks.instances.values()
    assert environment.image.startswith("swebench/") and environment.workdir == "/testbed"
    assert instance.tree and instance.gold_patch == instance.test_patch == ""


def test_a_diff_that_does_not_fit_is_counted(convert, clones, tmp_path):
    odd = rows.swebench_new(clones[1]) | {"instance_id": "b", "patch": rows.PATCH.replace("-    return", "-    exit")}
    gone = rows.swebench_new("f" * 40) | {"instance_id": "c"}
    other = rows.swebench_new(clones[1]) | {"instance_id": "d", "repo": "acme/none"}
    tasks, _ = convert("swebench", rows.swebench_new(clones[1]), odd, gone, other)
    dropped = json.loads((tasks.path / "set.json").read_text())["summary"]["dropped"]
    assert dropped == {
        "its diff does not fit its base commit": 1,
        "its commit is not in the clone": 1,
        "no clone of its repository in --repositories": 1,
    }


def test_clones_are_found_by_the_usual_names(clones, tmp_path):
    folder, commit = clones
    assert find_clone(folder, rows.REPOSITORY) == folder / "acme/money"
    (tmp_path / "acme__money.git").mkdir()
    (tmp_path / "acme__money.git/HEAD").touch()
    assert find_clone(tmp_path, rows.REPOSITORY) == tmp_path / "acme__money.git"
    assert find_clone(tmp_path, "acme/other") is None
    assert tree_of(folder, rows.REPOSITORY, commit) == {p: t.encode() for p, t in rows.BEFORE.items()}
    with pytest.raises(Unusable, match="damaged commit"):
        tree_of(folder, rows.REPOSITORY, "--output=x")


def test_trees_are_written_as_they_come_and_content_addressed(convert, clones, tmp_path):
    two = [rows.swebench_new(clones[1]) | {"instance_id": f"acme__money-{n}"} for n in (1, 2)]
    first, _ = convert("swebench", *two)
    assert len(list((first.path / "hidden/trees").iterdir())) == 1
    assert (first.path / "hidden").stat().st_mode & 0o077 == 0
    again = tmp_path / "again"
    arguments = ["swebench", str(tmp_path / "swebench.jsonl"), f"--repositories={clones[0]}", "--image=local"]
    assert main([*arguments, f"--out={again}"]) == 0
    assert read_task_set(again).digest == first.digest


@pytest.mark.deep
@pytest.mark.parametrize("name", ["swebench", "swe_smith"])
def test_every_task_is_proven_in_the_sandbox(convert, clones, name, capsys):
    """Gold scores the maximum and nothing the minimum, by the record's own command, parser and rule."""
    tasks, public = convert(name, MAKE[name](clones[1]))
    assert validate.main([str(tasks.path), "--repeats=2", "--record"]) == 0, capsys.readouterr().out
    seen = read_validations(tasks.path)
    assert seen.keys() == {t.task_id for t in public}
    assert all(v.gold_rewards == (1.0, 1.0) and v.null_rewards == (0.0, 0.0) for v in seen.values())
    assert not any(v.failures or v.leaks for v in seen.values())
    # What was seen is kept beside the digest.
    assert read_task_set(tasks.path).digest == tasks.digest


@pytest.mark.deep
def test_what_cannot_be_run_is_a_failure_of_its_task_and_no_reward(convert, clones, capsys):
    tasks, public = convert("swebench", rows.swebench_new(clones[1]), options=())
    assert validate.main([str(tasks.path), "--repeats=1", "--record"]) == 1
    assert "needs the image swebench/sweb.eval" in capsys.readouterr().out
    assert all(v.gold_rewards == () and "--image=local" in v.failures[0] for v in read_validations(tasks.path).values())
