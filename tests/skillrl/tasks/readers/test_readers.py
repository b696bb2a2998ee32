"""Every dataset's published schema becomes tasks; what is wrong with a row is said, with its place."""

import json

import dataset_rows as rows
import foreign
import pytest
from reading import read

from sandbox_service.errors import TaskSetError
from sandbox_service.tasks import read_task_set
from skillrl.skills import get_skill
from skillrl.tasks.readers import READERS
from skillrl.tasks.readers.__main__ import main
from skillrl.tasks.readers.rows import Row
from skillrl.tasks.source import read_tasks

FOUR = {"localization", "editing", "bug_fixing", "reproduction"}
IMAGE = "x86_64.acme_1776_money-7"
# Reader -> the skills that its row gives without a tree, image, parser, rule and (part of) the test command.
DATASETS: dict[str, tuple[set[str], str, str, str, str]] = {
    "swebench": (
        FOUR, f"swebench/sweb.eval.{IMAGE}:latest", "unittest", "pass_and_fail",
        f"set -x\n{foreign.UNITTEST_COMMAND}",
    ),
    "swt_bench": (
        FOUR, f"swebench/sweb.eval.{IMAGE}:latest", "unittest", "pass_and_fail",
        foreign.UNITTEST_COMMAND,
    ),
    "loc_bench": (
        {"localization"}, f"swebench/sweb.eval.{IMAGE}:latest", "", "pass_and_fail", "",
    ),
    "sec_bench": (
        {"security"}, "skillrl/sec-tool.cve-2024-1:aeca9df3451d", "",
        "sanitizer", "secb build",
    ),
    "swe_smith": (
        FOUR, "jyangballin/swesmith.x86_64.acme_1776_money.0123abcd", "pytest_verbose",
        "pass_and_fail", "--tb=no --verbose tests/test_money.py",
    ),
    "swe_gym": (
        FOUR,
        "xingyaoww/sweb.eval.x86_64.acme_s_money-7", "pytest", "pass_and_fail", "pytest -n0 -rA tests/test_money.py",
    ),
    "r2e": (
        FOUR, "namanjain12/pandas_final:" + "a" * 40, "pytest_names", "exact_map", "-m pytest -rA r2e_tests",
    ),
    "swe_rebench": (
        FOUR, f"swerebench/sweb.eval.{IMAGE}", "pytest", "pass_and_fail",
        "pytest --no-header -rA --tb=line tests/test_money.py",
    ),
    "swe_rebench_v2": (
        FOUR, "docker.io/swerebenchv2/acme-money:7-ad6bff3", "pytest", "passed_set",
        "set -e\ncd .\npytest -rA tests/test_money.py",
    ),
    "nemo_gym": (
        FOUR, "xingyaoww/sweb.eval.x86_64.acme_s_money-7", "pytest", "pass_and_fail", "pytest -n0 -rA",
    ),
}  # fmt: skip
FOLDERS = {"harbor": (rows.write_harbor, "terminal"), "mle_bench": (rows.write_mle, "ml_engineering")}


def test_every_reader_has_a_fixture():
    assert DATASETS.keys() == rows.MAKE.keys() and DATASETS.keys() | FOLDERS.keys() == READERS.keys()


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_row_becomes_tasks(tmp_path, name):
    skills, image, parser, rule, command = DATASETS[name]
    _, tasks, public, summary = read(tmp_path, name, rows.MAKE[name]())
    assert {t.skill for t in public} == skills and summary["tasks"] == dict.fromkeys(sorted(skills), 1)
    (environment,), (instance,) = tasks.environments.values(), tasks.instances.values()
    assert (environment.image, environment.parser, environment.rule) == (image, parser, rule)
    assert command in instance.test_command and instance.origin == name
    assert summary["unread_columns"] == {}
    assert {t.split for t in public} == {"heldout_repositories" if READERS[name].is_evaluation else "train"}


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_no_gold_line_reaches_a_prompt(tmp_path, name):
    _, tasks, public, _ = read(tmp_path, name, rows.MAKE[name]())
    fix = "if i < rest else 0" if name != "sec_bench" else "strlen(s) > 9"
    assert any(fix in i.gold_patch for i in tasks.instances.values())
    hidden = [fix, "Look at i <= rest", foreign.TESTS.splitlines()[-1].strip(), "[25, 25, 25, 25]"]
    for task in public:
        prompt = get_skill(task.skill).make_prompt(task)
        assert not [text for text in hidden if text in prompt]
    assert not [text for text in hidden if text in (tmp_path / "set/tasks.jsonl").read_text()]


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_folder_becomes_a_task_of_its_kind(tmp_path, name):
    write, kind = FOLDERS[name]
    source = write(tmp_path / "source")
    assert main([name, str(source), f"--out={tmp_path / 'set'}"]) == 0
    tasks, (public,) = read_task_set(tmp_path / "set"), read_tasks(tmp_path / "set")
    assert public.skill == kind
    (instance,), (environment,) = tasks.instances.values(), tasks.environments.values()
    files = tasks.tree_files(instance.tree)
    # Tests, solution and answers stay with the service.
    hidden = {path for path in files if not path.startswith("data/")}
    assert hidden and set(tasks.task(public.task_id).visible.items()) == {(path, None) for path in hidden}
    assert not [path for path in files if "private" in path]
    assert environment.image and environment.rule in ("reward_file", "leaderboard")


def test_medals_of_a_competition(tmp_path):
    assert main(["mle_bench", str(rows.write_mle(tmp_path / "source")), f"--out={tmp_path / 'set'}"]) == 0
    (instance,) = read_task_set(tmp_path / "set").instances.values()
    # 150 teams: places 10, 30 and 60; scores fall by 0.001 a place.
    assert [instance.expected[m] for m in ("gold", "silver", "bronze")] == ["0.991", "0.971", "0.941"]
    assert instance.expected["better"] == "higher"


def test_old_and_new_rows_say_the_same(tmp_path):
    old = READERS["swebench"].read(Row(rows.swebench_old() | {"repo": "pallets/flask"}, "a"))
    new = READERS["swebench"].read(Row(rows.swebench_new() | {"repo": "pallets/flask"}, "b"))
    assert old.test_command == "pytest -rA tests/test_money.py" and old.parser == "pytest"
    assert (old.patch, old.issue, old.image) == (new.patch, new.issue, new.image)
    assert old.fail_to_pass == tuple(rows.PYTEST_F2P) and new.fail_to_pass == tuple(rows.F2P)


def test_an_evaluation_script_is_taken_apart():
    record = READERS["swebench"].read(Row(rows.swebench_new(), "a"))
    assert record.test_command == f"set -x\n{foreign.UNITTEST_COMMAND}"
    assert record.setup.splitlines() == [
        "source /opt/miniconda3/bin/activate", "conda activate testbed", "export LANG=C", "python -m pip install -e .",
    ]  # fmt: skip


def test_a_task_repository_is_read_as_its_rows(tmp_path):
    source = rows.write_task_repository(tmp_path / "source", "0" * 40)
    assert main(["swebench", str(source), f"--out={tmp_path / 'set'}"]) == 0
    tasks = read_task_set(tmp_path / "set")
    (environment,), (instance,) = tasks.environments.values(), tasks.instances.values()
    assert environment.image == "" and environment.setup == "export LANG=C"
    assert instance.fail_to_pass == tuple(rows.F2P)


def test_nemo_gym_reads_the_inner_dataset(tmp_path):
    smith = READERS["nemo_gym"].read(Row(rows.nemo_gym(rows.swe_smith(), "SWE-bench/SWE-smith"), "a"))
    assert smith.base_is_correct and smith.dataset == "nemo_gym"
    second = READERS["nemo_gym"].read(Row(rows.nemo_gym(rows.swe_rebench_v2(), "nebius/SWE-rebench-V2"), "a"))
    assert second.rule == "passed_set"


def test_copies_of_swt_bench_with_a_prompt_say_the_same():
    """On the hub the diffs have changed places: the tests are what is asked for."""
    row = rows.swebench_new()
    copy = row | {"text": "Write tests.", "test_patch": row["patch"].rstrip("\n")}
    copy["patch"] = f"<patch>\n{row['test_patch']}\n</patch>"
    tagged = row | {"patch": f"<patch>\n{row['patch']}\n</patch>"}
    found = [READERS["swt_bench"].read(Row(made, "a")) for made in (row, copy, tagged)]
    assert found[0] == found[1] == found[2] and found[0].patch == rows.PATCH


def test_functions_of_loc_bench_are_kept_with_the_service(tmp_path):
    name = f"{foreign.SOURCE}:share"
    _, tasks, public, _ = read(tmp_path, "loc_bench", rows.loc_bench())
    (instance,) = tasks.instances.values()
    assert json.loads(instance.expected["edit_functions"]) == [name]
    assert public and name not in (tmp_path / "set/tasks.jsonl").read_text()


def test_r2e_statuses_before_and_after():
    record = READERS["r2e"].read(Row(rows.r2e(), "a"))
    assert record.fail_to_pass == ("TestShare.test_even", "TestShare.test_rest")
    assert record.pass_to_pass == ("TestShare.test_written",) and record.expected == {"TestShare.test_known": "failed"}
    assert record.test_texts["r2e_tests/test_1.py"] == rows.R2E_TEST
    assert foreign.TEST not in record.patch and record.issue == rows.ISSUE
    assert record.repository == "pandas-dev/pandas" and record.base_commit.endswith("a^")


def test_swe_smith_wants_only_what_it_runs():
    record = READERS["swe_smith"].read(Row(rows.swe_smith(), "a"))
    assert record.pass_to_pass == tuple(rows.PYTEST_P2P) and record.repository == "acme/money"


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("swebench", {"eval_type": "fail_only"}, "its log names failures alone"),
        ("swebench", {"log_parser": "parse_log_calypso"}, "no parser calypso here"),
        ("swebench", {"eval_script": "pytest"}, "no test output marked in its eval_script"),
        ("swebench", {"eval_script": None}, "no test command: neither in the row nor known for its repository"),
        ("swebench", {"image_assets": ["a.png"]}, "its tests need files that a diff cannot carry"),
        ("swebench", {"patch": "@@ what"}, "a damaged diff"),
        (
            "swebench",
            {"patch": rows.diff({}, {"README.md": "x\n"}, ["README.md"])},
            "its gold change touches no source",
        ),
        ("swebench", {"patch": rows.diff({}, {"setup.py": "x\n"}, ["setup.py"])}, "its gold change needs setup.py"),
        ("swebench", {"problem_statement": f"Use {foreign.MONEY}"}, "its text quotes the gold change"),
        ("swebench", {"instance_id": "acme__money-8"}, "its id is there twice"),
        ("swe_smith", {"problem_statement": ""}, "no problem statement"),
        ("r2e", {"repo_name": "sympy"}, "its repository is in SWE-bench"),
    ],
)
def test_rows_that_give_no_task(tmp_path, name, change, reason):
    good = rows.MAKE[name]()
    if name == "swebench":
        good["instance_id"] = "acme__money-8"
    _, _, public, summary = read(tmp_path, name, good, rows.MAKE[name]() | change)
    assert len({t.instance_id for t in public}) == 1
    (found,) = summary["dropped"]
    assert found.startswith(reason)


def test_a_source_without_any_task_is_an_error(tmp_path, capsys):
    assert read(tmp_path, "swebench", rows.swebench_new() | {"eval_type": "fail_only"})[0] == 2
    assert "gives no task: 1 its log names failures alone" in capsys.readouterr().err


def test_an_image_is_refused_by_name_with_the_remedy(tmp_path):
    _, tasks, public, _ = read(tmp_path, "swebench", rows.swebench_new())
    instance = tasks.instance_of(tasks.task(public[0].task_id))
    with pytest.raises(TaskSetError, match=r"needs the image swebench/sweb\.eval.*--image=local"):
        tasks.environment_of(instance)
    with pytest.raises(TaskSetError, match="--repositories=DIR"):
        tasks.tree_files(instance.tree)


def test_a_place_does_not_quote_the_gold_change(tmp_path):
    """The second hunk of a bug's diff stands in the function whose first line the bug changed."""
    correct = "def share_of_each(total, people, rest=0):\n" + "    pass\n" * 20 + "    return total\n"
    bug = correct.replace("rest=0", "rest=1").replace("return total", "return rest")
    place = "@@ -19,4 +19,4 @@"
    patch = rows.diff({"m.py": correct}, {"m.py": bug}, ["m.py"])
    patch = patch.replace(place, f"{place} def share_of_each(total, people, rest=0):")
    _, _, public, _ = read(tmp_path, "swe_smith", rows.swe_smith() | {"patch": patch})
    (editing,) = [t for t in public if t.skill == "editing"]
    assert "share_of_each" not in editing.inputs["instruction"]
    assert "- m.py, lines 19 to 22\n" in editing.inputs["instruction"] + "\n"


def test_only_the_wanted_skills(tmp_path):
    _, _, public, _ = read(tmp_path, "swebench", rows.swebench_new(), options=["--skills=localization,bug_fixing"])
    assert {t.skill for t in public} == {"localization", "bug_fixing"}
