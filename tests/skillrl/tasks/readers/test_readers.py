"""Every dataset's published schema becomes tasks; what is wrong with a row is said, with its place."""

import importlib.util
import json
from collections.abc import Callable

import dataset_rows as rows
import foreign
import pytest

from sandbox_service.errors import TaskSetError
from sandbox_service.tasks import read_task_set
from skillrl.skills import get_skill
from skillrl.tasks.readers import READERS
from skillrl.tasks.readers.__main__ import main
from skillrl.tasks.readers.rows import EXTRA, Row
from skillrl.tasks.source import read_tasks

FOUR = {"localization", "editing", "bug_fixing", "reproduction"}
IMAGE = "x86_64.acme_1776_money-7"
# Reader -> a row, the skills it gives without a tree, image, parser, rule and (part of) the test command.
DATASETS: dict[str, tuple[Callable[[], dict], set[str], str, str, str, str]] = {
    "swebench": (
        rows.swebench_new, FOUR, f"swebench/sweb.eval.{IMAGE}:latest", "unittest", "pass_and_fail",
        f"set -x\n{foreign.UNITTEST_COMMAND}",
    ),
    "swt_bench": (
        rows.swebench_new, FOUR, f"swebench/sweb.eval.{IMAGE}:latest", "unittest", "pass_and_fail",
        foreign.UNITTEST_COMMAND,
    ),
    "loc_bench": (
        rows.loc_bench, {"localization"}, f"swebench/sweb.eval.{IMAGE}:latest", "", "pass_and_fail", "",
    ),
    "sec_bench": (
        rows.sec_bench, {"security"}, "skillrl/sec-tool.cve-2024-1:aeca9df3451d", "",
        "sanitizer", "secb build",
    ),
    "swe_smith": (
        rows.swe_smith, FOUR, "jyangballin/swesmith.x86_64.acme_1776_money.0123abcd", "pytest_verbose",
        "pass_and_fail", "--tb=no --verbose tests/test_money.py",
    ),
    "swe_gym": (
        lambda: rows.swebench_old() | {"repo": "getmoto/moto"}, FOUR,
        "xingyaoww/sweb.eval.x86_64.acme_s_money-7", "pytest", "pass_and_fail", "pytest -n0 -rA tests/test_money.py",
    ),
    "r2e": (
        rows.r2e, FOUR, "namanjain12/pandas_final:" + "a" * 40, "pytest_names", "exact_map", "-m pytest -rA r2e_tests",
    ),
    "swe_rebench": (
        rows.swe_rebench, FOUR, f"swerebench/sweb.eval.{IMAGE}", "pytest", "pass_and_fail",
        "pytest --no-header -rA --tb=line tests/test_money.py",
    ),
    "swe_rebench_v2": (
        rows.swe_rebench_v2, FOUR, "docker.io/swerebenchv2/acme-money:7-ad6bff3", "pytest", "passed_set",
        "set -e\ncd .\npytest -rA tests/test_money.py",
    ),
    "nemo_gym": (
        rows.nemo_gym, FOUR, "xingyaoww/sweb.eval.x86_64.acme_s_money-7", "pytest", "pass_and_fail", "pytest -n0 -rA",
    ),
}  # fmt: skip
FOLDERS = {"harbor": (rows.write_harbor, "terminal"), "mle_bench": (rows.write_mle, "ml_engineering")}


def written(tmp_path, *made: dict) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


def read(tmp_path, name: str, *made: dict, options=()):
    """(exit status, task set or None, public tasks, summary)."""
    out = tmp_path / "set"
    code = main([name, written(tmp_path, *made), f"--out={out}", *options])
    if code:
        return code, None, [], {}
    head = json.loads((out / "set.json").read_text())
    return code, read_task_set(out), read_tasks(out), head["summary"]


def test_every_reader_has_a_fixture():
    assert DATASETS.keys() | FOLDERS.keys() == READERS.keys()


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_row_becomes_tasks(tmp_path, name):
    make, skills, image, parser, rule, command = DATASETS[name]
    _, tasks, public, summary = read(tmp_path, name, make())
    assert {t.skill for t in public} == skills and summary["tasks"] == dict.fromkeys(sorted(skills), 1)
    (environment,), (instance,) = tasks.environments.values(), tasks.instances.values()
    assert (environment.image, environment.parser, environment.rule) == (image, parser, rule)
    assert command in instance.test_command and instance.origin == name
    assert summary["unread_columns"] == {}
    assert {t.split for t in public} == {"heldout_repositories" if READERS[name].is_evaluation else "train"}


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_no_gold_line_reaches_a_prompt(tmp_path, name):
    make, *_ = DATASETS[name]
    _, tasks, public, _ = read(tmp_path, name, make())
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
    ("name", "change", "message"),
    [
        ("swebench", {"repo": 5}, "rows.jsonl:2: damaged row: column 'repo' must be text, not an integer"),
        ("swebench", {"patch": None}, "rows.jsonl:2: damaged row: column 'patch' is missing"),
        ("swebench", {"FAIL_TO_PASS": "not a list"}, "'FAIL_TO_PASS' holds neither a list nor an object: 'not a list'"),
        ("swebench", {"FAIL_TO_PASS": [1]}, "column 'FAIL_TO_PASS[]' must be text, not an integer"),
        ("swebench", {"PASS_TO_PASS": '{"a": 1}'}, "column 'PASS_TO_PASS' must be a list, not an object"),
        ("swe_rebench", {"install_config": "pytest"}, "column 'install_config' holds neither"),
        ("swe_rebench", {"install_config": {}}, "install_config: damaged row: column 'test_cmd' is missing"),
        ("r2e", {"expected_output_json": "[]"}, "column 'expected_output_json' must be an object, not a list"),
        ("r2e", {"execution_result_content": {"test_file_codes": ["a"], "test_file_names": []}}, "0 test_file_names"),
        ("nemo_gym", {"responses_create_params": {}}, "responses_create_params: damaged row: column 'metadata' is"),
    ],
)
def test_damaged_rows(tmp_path, capsys, name, change, message):
    good, bad = DATASETS[name][0](), DATASETS[name][0]() | change
    assert read(tmp_path, name, good, bad)[0] == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set/set.json").exists()
    code, _, public, summary = read(tmp_path, name, good, bad, options=["--skip_damaged"])
    assert code == 0 and public and summary["dropped"] == {"damaged": 1}


def test_a_line_that_is_no_json_is_named(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows.swebench_new()) + '\n{"instance_id": ')
    assert main(["swebench", str(tmp_path / "rows.jsonl"), f"--out={tmp_path / 'set'}"]) == 2
    assert "rows.jsonl:2: damaged row" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value", [json.dumps(rows.PYTEST_F2P), repr(rows.PYTEST_F2P), rows.PYTEST_F2P, tuple(rows.PYTEST_F2P)]
)
def test_a_list_may_be_written_in_a_text(value):
    assert Row({"FAIL_TO_PASS": value}, "row").texts("FAIL_TO_PASS") == tuple(rows.PYTEST_F2P)


def test_a_text_is_never_evaluated(tmp_path):
    made = tmp_path / "made"
    row = rows.swebench_new() | {"FAIL_TO_PASS": f"[open({str(made)!r}, 'w')]"}
    assert read(tmp_path, "swebench", row)[0] == 2 and not made.exists()


def test_unknown_columns_are_left_alone_and_counted(tmp_path):
    row = rows.swebench_new() | {"surprise": {"a": [1]}, "another": None}
    assert read(tmp_path, "swebench", row)[3]["unread_columns"] == {"surprise": 1, "another": 1}


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
    good = DATASETS[name][0]()
    if name == "swebench":
        good["instance_id"] = "acme__money-8"
    _, _, public, summary = read(tmp_path, name, good, DATASETS[name][0]() | change)
    assert len({t.instance_id for t in public}) == 1
    (found,) = summary["dropped"]
    assert found.startswith(reason)


def test_a_source_without_any_task_is_an_error(tmp_path, capsys):
    assert read(tmp_path, "swebench", rows.swebench_new() | {"eval_type": "fail_only"})[0] == 2
    assert "gives no task: 1 its log names failures alone" in capsys.readouterr().err


def test_sources_that_cannot_be_read(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for source, message in [
        (tmp_path / "none.jsonl", "there is no"),
        (tmp_path / "empty", "holds no .jsonl, .json, .parquet file"),
        (__file__, "not a dataset file"),
    ]:
        assert main(["swebench", str(source), f"--out={tmp_path / 'set'}"]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("datasets") is not None, reason="it would ask the hub")
def test_a_dataset_of_the_hub_says_what_it_needs(tmp_path, capsys):
    assert main(["swebench", "acme/none", f"--out={tmp_path / 'set'}"]) == 2
    assert "there is no file acme/none; a dataset of the hub needs" in capsys.readouterr().err


def test_a_folder_of_parts_and_json_lists(tmp_path):
    source = tmp_path / "data"
    source.mkdir()
    (source / "train-0.json").write_text(json.dumps([rows.swebench_new()]))
    (source / "test-0.json").write_text(json.dumps([rows.swebench_new() | {"instance_id": "acme__money-9"}]))
    assert main(["swebench", str(source), "--part=test", f"--out={tmp_path / 'set'}"]) == 0
    assert list(read_task_set(tmp_path / "set").instances) == ["swebench__acme__money-9"]


def test_parquet_says_what_it_needs_or_is_read(tmp_path, capsys):
    path = tmp_path / "rows.parquet"
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        path.write_bytes(b"PAR1")
        assert main(["swebench", str(path), f"--out={tmp_path / 'set'}"]) == 2
        assert EXTRA in capsys.readouterr().err
        return
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([rows.swebench_new()]), path)
    assert main(["swebench", str(path), f"--out={tmp_path / 'set'}"]) == 0
    assert len(read_tasks(tmp_path / "set")) == 4
    path.write_bytes(path.read_bytes()[:100])
    assert main(["swebench", str(path), f"--out={tmp_path / 'other'}"]) == 2
    assert "damaged file" in capsys.readouterr().err


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
