"""Where rows come from: files, folders, Parquet and the hub give the same rows; what cannot be read is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dataset_rows as rows
import pytest
from reading import read, read_source

from sandbox_service.tasks import read_task_set
from skillrl.tasks.readers import READERS
from skillrl.tasks.readers.rows import EXTRA

ROOT = Path(__file__).parents[4]
# Reader -> where its dataset's rows are on the hub.
PUBLISHED = {
    "swebench": "test",
    "swt_bench": "test",
    "loc_bench": "test",
    "sec_bench": "eval",
    "swe_smith": "train",
    "swe_gym": "train",
    "r2e": "train",
    "swe_rebench": "test",
    "swe_rebench_v2": "train",
    "nemo_gym": "train",
}
# Stands in for the package, which asks the network: it answers and refuses as that does.
DATASETS = """
import json, pathlib

def load_dataset(path, *, split):
    splits = json.loads(pathlib.Path("hub.json").read_text())[path]
    if split not in splits:
        raise ValueError(f'Unknown split "{split}". Should be one of {list(splits)}.')
    return iter(splits[split])
"""
# Every command of a list, one after the other; prints their exit statuses.
COMMANDS = """
import json, sys
from skillrl.tasks.readers.__main__ import main
print(json.dumps([main(arguments) for arguments in json.loads(sys.argv[1])]))
"""


def write_parquet(path: Path, *made: dict) -> Path:
    import pyarrow.parquet

    columns = {name: [row.get(name) for row in made] for row in made for name in row}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("name", sorted(rows.MAKE))
def test_parquet_gives_what_json_lines_give(tmp_path, name):
    """Lists, objects, and the same as JSON in a text."""
    row = rows.MAKE[name]()
    as_texts = {c: json.dumps(v) if isinstance(v, list | dict) else v for c, v in row.items()}
    _, plain, _, known = read(tmp_path, name, row)
    for number, made in enumerate((row, as_texts)):
        folder = tmp_path / str(number)
        folder.mkdir()
        _, tasks, _, summary = read_source(folder, name, write_parquet(folder / "rows.parquet", made))
        assert tasks.digest == plain.digest and summary == known


def test_a_column_that_a_row_of_parquet_lacks_is_null(tmp_path):
    """Half of the rows are of the old schema, half of the new one: the table has the columns of both."""
    old = rows.swebench_old() | {"repo": "pallets/flask", "FAIL_TO_PASS": rows.PYTEST_F2P, "PASS_TO_PASS": []}
    source = write_parquet(tmp_path / "rows.parquet", rows.swebench_new(), old)
    found = [READERS["swebench"].read(row) for row in READERS["swebench"].rows(str(source))]
    assert [r.parser for r in found] == ["unittest", "pytest"]
    assert [r.fail_to_pass for r in found] == [tuple(rows.F2P), tuple(rows.PYTEST_F2P)]


def test_a_damaged_row_of_parquet_is_named(tmp_path, capsys):
    good, bad = rows.swebench_new(), rows.swebench_new() | {"patch": None}
    assert read_source(tmp_path, "swebench", write_parquet(tmp_path / "rows.parquet", good, bad))[0] == 2
    assert "rows.parquet: row 2: damaged row: column 'patch' is missing" in capsys.readouterr().err


def test_a_damaged_file_of_parquet_is_named(tmp_path, capsys):
    path = write_parquet(tmp_path / "rows.parquet", rows.swebench_new())
    path.write_bytes(path.read_bytes()[:100])
    assert read_source(tmp_path, "swebench", path)[0] == 2
    assert "rows.parquet: damaged file after row 0: " in capsys.readouterr().err


def run(folder: Path, *commands: list[str]) -> tuple[list[int], str]:
    """Exit statuses of the commands and their errors, in a process of its own where the modules in `folder` come first.

    The sets are made in folder/0, folder/1 and so on.
    """
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    given = [[*command, f"--out={n}"] for n, command in enumerate(commands)]
    argv = [sys.executable, "-c", COMMANDS, json.dumps(given)]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(argv, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_what_reads_a_source_may_be_missing(tmp_path):
    for module in ("pyarrow", "datasets"):
        (tmp_path / f"{module}.py").write_text(f"raise ImportError('no {module}')\n")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    statuses, errors = run(tmp_path, ["swebench", "rows.parquet"], ["swebench", "acme/none"])
    parquet, hub = errors.splitlines()
    assert statuses == [2, 2] and EXTRA in parquet and EXTRA in hub
    assert "rows.parquet: Parquet needs pyarrow" in parquet
    assert "there is no file acme/none; a dataset of the hub needs the package datasets" in hub


def publish(folder: Path, hub: dict[str, dict[str, list[dict]]]) -> None:
    """`hub` maps names to splits to rows."""
    (folder / "datasets.py").write_text(DATASETS)
    (folder / "hub.json").write_text(json.dumps(hub))


def test_the_hub_is_asked_for_the_published_split(tmp_path):
    assert PUBLISHED.keys() == rows.MAKE.keys()
    publish(tmp_path, {f"acme/{name}": {split: [rows.MAKE[name]()]} for name, split in PUBLISHED.items()})
    statuses, errors = run(tmp_path, *([name, f"acme/{name}"] for name in PUBLISHED))
    assert statuses == [0] * len(PUBLISHED), errors
    for number, name in enumerate(PUBLISHED):
        local = tmp_path / name
        local.mkdir()
        assert read_task_set(tmp_path / str(number)).digest == read(local, name, rows.MAKE[name]())[1].digest


def test_another_split_of_the_hub_is_asked_for_by_name(tmp_path):
    publish(tmp_path, {"acme/money": {"dev": [rows.swebench_new(), rows.swebench_new() | {"patch": 7}]}})
    command = ["swebench", "acme/money"]
    statuses, errors = run(tmp_path, command, [*command, "--part=dev"], [*command, "--part=dev", "--skip_damaged"])
    unknown, damaged, read_all = errors.splitlines()
    assert statuses == [2, 2, 0]
    assert "acme/money with split 'test'; --part=SPLIT names another: ValueError: Unknown split" in unknown
    assert "acme/money (dev): row 2: damaged row: column 'patch' must be text, not an integer" in damaged
    assert read_all.startswith("reading rows, 1 instances: 2/?, ")
    head = json.loads((tmp_path / "2/set.json").read_text())
    assert head["summary"]["dropped"] == {"damaged": 1}


def test_a_folder_is_read_before_the_hub_is_asked(tmp_path, monkeypatch):
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme/money").mkdir()
    (tmp_path / "acme/money/train.json").write_text(json.dumps([rows.swebench_new()]))
    monkeypatch.chdir(tmp_path)
    code, tasks, _, _ = read_source(tmp_path, "swebench", "acme/money")
    assert code == 0 and list(tasks.instances) == ["swebench__acme__money-7"]


def test_a_folder_of_parts(tmp_path):
    source = tmp_path / "data"
    source.mkdir()
    (source / "train-0.json").write_text(json.dumps([rows.swebench_new()]))
    write_parquet(source / "test-0.parquet", rows.swebench_new() | {"instance_id": "acme__money-9"})
    _, tasks, _, _ = read_source(tmp_path, "swebench", source, "--part=test")
    assert list(tasks.instances) == ["swebench__acme__money-9"]
    (tmp_path / "all").mkdir()
    _, tasks, _, _ = read_source(tmp_path / "all", "swebench", source)
    assert sorted(tasks.instances) == ["swebench__acme__money-7", "swebench__acme__money-9"]


def test_sources_that_cannot_be_read(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for source, message in [
        (tmp_path / "none.jsonl", "there is no"),
        (tmp_path / "empty", "holds no .jsonl, .json, .parquet file"),
        (__file__, "not a dataset file"),
    ]:
        assert read_source(tmp_path, "swebench", source)[0] == 2
        assert message in capsys.readouterr().err
