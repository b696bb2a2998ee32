"""What is wrong with a row is said with file and line by every reader; a column that none knows is left alone."""

import json

import dataset_rows as rows
import pytest
from reading import read, read_source, written

from skillrl.tasks.readers.rows import ReaderError, Row

LINE = "rows.jsonl:2: damaged row: column "
NEITHER = "holds neither a list nor an object: "
# Reader -> (a damage, what is said of it): a wrong type, a broken list or object in a text, and a missing column.
DAMAGED = {
    "swebench": [
        ({"repo": 5}, f"{LINE}'repo' must be text, not an integer"),
        ({"FAIL_TO_PASS": "not a list"}, f"{LINE}'FAIL_TO_PASS' {NEITHER}'not a list'"),
        ({"patch": None}, f"{LINE}'patch' is missing"),
        ({"FAIL_TO_PASS": [1]}, f"{LINE}'FAIL_TO_PASS[]' must be text, not an integer"),
        ({"PASS_TO_PASS": '{"a": 1}'}, f"{LINE}'PASS_TO_PASS' must be a list, not an object"),
    ],
    "swt_bench": [
        ({"test_patch": True}, f"{LINE}'test_patch' must be text, not true or false"),
        ({"FAIL_TO_PASS": '["a", '}, f"{LINE}'FAIL_TO_PASS' {NEITHER}'[\"a\", '"),
        ({"test_patch": None}, f"{LINE}'test_patch' is missing"),
    ],
    "loc_bench": [
        ({"edit_functions": {"money.py": 1}}, f"{LINE}'edit_functions' must be a list, not an object"),
        ({"edit_functions": "[money.py:share"}, f"{LINE}'edit_functions' {NEITHER}'[money.py:share'"),
        ({"edit_functions": None}, f"{LINE}'edit_functions' is missing"),
        ({"edit_functions": ["money.py"]}, f"{LINE}'edit_functions[]' must be path:function, not 'money.py'"),
    ],
    "sec_bench": [
        ({"exit_code": "1"}, f"{LINE}'exit_code' must be an integer, not text"),
        ({"exit_code": [1]}, f"{LINE}'exit_code' must be an integer, not a list"),
        ({"build_sh": None}, f"{LINE}'build_sh' is missing"),
    ],
    "swe_smith": [
        ({"patch": ["x"]}, f"{LINE}'patch' must be text, not a list"),
        ({"FAIL_TO_PASS": "[" * 100_000}, f"{LINE}'FAIL_TO_PASS' {NEITHER}'[[["),
        ({"repo": None}, f"{LINE}'repo' is missing"),
    ],
    "swe_gym": [
        ({"base_commit": 1.5}, f"{LINE}'base_commit' must be text, not a number"),
        ({"PASS_TO_PASS": "[a, b]"}, f"{LINE}'PASS_TO_PASS' {NEITHER}'[a, b]'"),
        ({"problem_statement": None}, f"{LINE}'problem_statement' is missing"),
    ],
    "r2e": [
        ({"problem_statement": {}}, f"{LINE}'problem_statement' must be text, not an object"),
        ({"expected_output_json": "{'a'"}, f"{LINE}'expected_output_json' {NEITHER}\"{{'a'\""),
        ({"commit_hash": None}, f"{LINE}'commit_hash' is missing"),
        ({"expected_output_json": "[]"}, f"{LINE}'expected_output_json' must be an object, not a list"),
        ({"execution_result_content": {"test_file_codes": ["a"], "test_file_names": []}}, "row: 0 test_file_names but"),
    ],
    "swe_rebench": [
        ({"install_config": ["pytest"]}, f"{LINE}'install_config' must be an object, not a list"),
        ({"install_config": "{[]: 1}"}, f"{LINE}'install_config' {NEITHER}'{{[]: 1}}'"),
        ({"install_config": {}}, "rows.jsonl:2: install_config: damaged row: column 'test_cmd' is missing"),
    ],
    "swe_rebench_v2": [
        ({"language": 3}, f"{LINE}'language' must be text, not an integer"),
        ({"FAIL_TO_PASS": "('a'"}, f"{LINE}'FAIL_TO_PASS' {NEITHER}\"('a'\""),
        ({"install_config": None}, f"{LINE}'install_config' is missing"),
    ],
    "nemo_gym": [
        ({"responses_create_params": []}, f"{LINE}'responses_create_params' must be an object, not a list"),
        (
            {"responses_create_params": {"metadata": {"dataset_name": "SWE-Gym", "instance_dict": "{"}}},
            "rows.jsonl:2: responses_create_params: metadata: damaged row: column 'instance_dict' holds neither",
        ),
        ({"responses_create_params": {}}, "rows.jsonl:2: responses_create_params: damaged row: column 'metadata' is"),
    ],
}
CASES = [(name, change, message) for name, cases in DAMAGED.items() for change, message in cases]


def test_every_reader_of_rows_has_its_damages():
    assert DAMAGED.keys() == rows.MAKE.keys() and all(len(cases) >= 3 for cases in DAMAGED.values())


@pytest.mark.parametrize(("name", "change", "message"), CASES, ids=[f"{n}-{'-'.join(c)}" for n, c, _ in CASES])
def test_a_damaged_row_is_named_or_counted(tmp_path, capsys, name, change, message):
    good, bad = rows.MAKE[name](), rows.MAKE[name]() | change
    assert read(tmp_path, name, good, bad)[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "set/set.json").exists()
    code, _, public, summary = read(tmp_path, name, good, bad, options=["--skip_damaged"])
    assert code == 0 and public and summary["dropped"] == {"damaged": 1}


@pytest.mark.parametrize("name", sorted(rows.MAKE))
def test_unknown_columns_are_left_alone_and_counted(tmp_path, name):
    (tmp_path / "plain").mkdir()
    _, plain, _, _ = read(tmp_path / "plain", name, rows.MAKE[name]())
    row = rows.MAKE[name]() | {"surprise": {"a": [1]}, "another": None}
    _, tasks, _, summary = read(tmp_path, name, row)
    assert summary["unread_columns"] == {"surprise": 1, "another": 1}
    assert tasks.digest == plain.digest


@pytest.mark.parametrize(
    "value", [json.dumps(rows.PYTEST_F2P), repr(rows.PYTEST_F2P), rows.PYTEST_F2P, tuple(rows.PYTEST_F2P)]
)
def test_a_list_may_be_written_in_a_text(value):
    assert Row({"FAIL_TO_PASS": value}, "row").texts("FAIL_TO_PASS") == tuple(rows.PYTEST_F2P)


def test_a_text_is_never_evaluated(tmp_path):
    made = tmp_path / "made"
    row = rows.swebench_new() | {"FAIL_TO_PASS": f"[open({str(made)!r}, 'w')]"}
    assert read(tmp_path, "swebench", row)[0] == 2 and not made.exists()


@pytest.mark.parametrize(("value", "number"), [(3, 3.0), (2.5, 2.5), (-1, -1.0)])
def test_a_number_is_an_integer_or_not(value, number):
    found = Row({"n": value}, "row").number("n")
    assert found == number and type(found) is float


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("3", "column 'n' must be a number, not text"),
        (True, "column 'n' must be a number, not true or false"),
        (float("nan"), "column 'n' must be a finite number, not nan"),
        (None, "column 'n' is missing"),
    ],
)
def test_what_is_no_number(value, message):
    with pytest.raises(ReaderError, match=f"row: damaged row: {message}"):
        Row({"n": value}, "row").number("n")


def edit(name: str, old: str, new: str):
    """A change of a file: in the first place where `old` stands."""

    def change(root):
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


def remove(name: str):
    return lambda root: (root / name).unlink()


HARBOR = [
    (edit("task.toml", "60.0", '"60"'), "task.toml: verifier: damaged row: column 'timeout_sec' must be a number, not"),
    (edit("task.toml", "60.0", "inf"), "column 'timeout_sec' must be a finite number, not inf"),
    (edit("task.toml", "60.0", "-1"), "task.toml: verifier: damaged row: column 'timeout_sec' must be above 0"),
    (edit("task.toml", "[environment]", "[environment]\ndocker_image = 3"), "column 'docker_image' must be text, not"),
    (
        edit("task.toml", "[verifier]", "[verifier"),
        "task.toml: Expected ']' at the end of a table declaration (at line",
    ),
    (remove("instruction.md"), "instruction.md: damaged row: No such file"),
    (remove("tests/test.sh"), "sort-lines: damaged row: tests/test.sh is missing"),
]
MLE = [
    (edit("leaderboard.csv", ",0.999\n", ",best\n"), "leaderboard.csv:3: damaged row: column 'score' must be a number"),
    (edit("leaderboard.csv", ",0.999\n", ",nan\n"), "leaderboard.csv:3: damaged row: column 'score' must be a number"),
    (edit("leaderboard.csv", ",0.999\n", ",0.999,a\n"), "leaderboard.csv:3: damaged row: more cells than the header"),
    (edit("leaderboard.csv", ",score\n", ",points\n"), "leaderboard.csv: damaged row: no column 'score' with a value"),
    (
        edit("leaderboard.csv", ",0.999\n", f",{'9' * 200_000}\n"),
        "leaderboard.csv: damaged file after line 2: field larger",
    ),
    (edit("config.yaml", "name: auc", "name: [auc]"), "config.yaml: grader: damaged row: column 'name' must be text"),
    (edit("config.yaml", "id: spam-or-not\n", ""), "config.yaml: damaged row: column 'id' is missing"),
    (edit("config.yaml", "id: spam", "id: [spam"), "config.yaml: damaged row: "),
    (edit("prepared/private/test.csv", "4,lunch?,0", "4,lunch?"), "test.csv:3: damaged row: column 'spam' is missing"),
    (remove("description.md"), "description.md: damaged row: No such file"),
]
SWEBENCH = [
    (edit("tests.json", '"test_even', "test_even"), "tests.json: damaged row: Expecting value: line 1"),
    (edit("task.yaml", "version: ", "version: ["), "task.yaml: damaged row: "),
    (remove("gold.patch"), "gold.patch: damaged row: No such file"),
]


FOLDERS = {"harbor": HARBOR, "mle_bench": MLE, "swebench": SWEBENCH}


def folders(name: str, folder):
    """A source of one task of this reader, and the task's own folder."""
    if name == "swebench":
        return rows.write_task_repository(folder, "0" * 40), folder / "tasks/acme__money-7"
    made = {"harbor": rows.write_harbor, "mle_bench": rows.write_mle}[name](folder)
    return made, next(p for p in made.iterdir())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [(name, *case) for name, cases in FOLDERS.items() for case in cases],
)
def test_a_damaged_folder_is_named(tmp_path, capsys, name, change, message):
    source, root = folders(name, tmp_path / "source")
    change(root)
    assert read_source(tmp_path, name, source)[0] == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {root}") and message in error
    assert not (tmp_path / "set/set.json").exists()


@pytest.mark.parametrize(("name", "change"), [("harbor", HARBOR[0][0]), ("mle_bench", MLE[0][0])])
def test_a_damaged_folder_is_counted(tmp_path, name, change):
    _, bad = folders(name, tmp_path / "source/bad")
    folders(name, tmp_path / "source/good")
    change(bad)
    code, _, public, summary = read_source(tmp_path, name, tmp_path / "source", "--skip_damaged")
    assert code == 0 and len(public) == 1 and summary["dropped"] == {"damaged": 1}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("harbor", edit("task.toml", "[verifier]", 'surprise = "x"\n[verifier]\nsurprise = [1]')),
        ("mle_bench", edit("config.yaml", "preparer: p", "preparer: p\nsurprise: {a: 1}")),
        ("mle_bench", edit("leaderboard.csv", "scoreNullable", "surprise")),
    ],
)
def test_unknown_keys_of_a_folder_are_left_alone(tmp_path, name, change):
    source, root = folders(name, tmp_path / "source")
    change(root)
    code, _, public, _ = read_source(tmp_path, name, source)
    assert code == 0 and len(public) == 1


def test_a_team_without_a_score_takes_no_place(tmp_path):
    source, root = folders("mle_bench", tmp_path / "source")
    with (root / "leaderboard.csv").open("a") as file:
        file.write("0.5,\n" * 1000)
    _, tasks, _, _ = read_source(tmp_path, "mle_bench", source)
    (instance,) = tasks.instances.values()
    assert instance.expected["gold"] == "0.991"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"instance_id": ', "Expecting value"),
        ("[" * 100_000, "maximum recursion depth"),
        ("[1]", "it must be an object, not a list"),
        ("7", "it must be an object, not an integer"),
        ("null", "it must be an object, not null"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, capsys, line, message):
    source = written(tmp_path, rows.swebench_new())
    with open(source, "a") as file:
        file.write(line + "\n")
    assert read_source(tmp_path, "swebench", source)[0] == 2
    assert f"rows.jsonl:2: damaged row: {message}" in capsys.readouterr().err
