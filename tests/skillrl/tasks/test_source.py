import json
import shutil

import pytest

from sandbox_service.tasks import SCHEMA_VERSION, TaskSetWriter, read_task_set
from skillrl.tasks import source
from skillrl.tasks.source import TaskSetError, read_tasks
from skillrl.tasks.world import generate


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("set")
    writer = TaskSetWriter("tiny")
    for index in range(2):
        generate(0, index, 0, "train").add_to(writer)
    return path, writer.write(path)


@pytest.fixture
def damaged(built, tmp_path):
    """A copy to damage, and its tasks.jsonl as a list of objects to write back."""
    shutil.copytree(built[0], tmp_path / "copy")
    file = tmp_path / "copy" / "tasks.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return file, rows, lambda: file.write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_public_and_hidden_halves_agree(built):
    path, digest = built
    tasks = read_tasks(path)
    hidden = read_task_set(path)
    assert len(tasks) == 14
    assert {t.task_id for t in tasks} == hidden.tasks.keys()
    assert source.SCHEMA_VERSION == SCHEMA_VERSION
    assert {t.task_set for t in tasks} == {digest} == {hidden.digest}
    assert all(hidden.tasks[t.task_id].skill == t.skill for t in tasks)


def test_works_without_the_hidden_half(built, tmp_path):
    shutil.copytree(built[0], tmp_path / "public", ignore=shutil.ignore_patterns("hidden"))
    assert read_tasks(tmp_path / "public") == read_tasks(built[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(answer="birch/copper.py"), "unknown field 'answer'"),
        (lambda row: row.pop("skill"), "missing field 'skill'"),
        (lambda row: row.update(level="0"), "field 'level' must be int, not str"),
        (lambda row: row.update(level=True), "field 'level' must be int, not bool"),
        (lambda row: row.update(skill="poetry"), "unknown skill 'poetry'"),
        (lambda row: row.update(split="test"), "unknown split 'test'"),
        (lambda row: row["inputs"].update(patch="x"), "inputs of"),
        (lambda row: row.update(inputs={"issue": 3}), "every value of 'inputs' must be str"),
    ],
)
def test_a_wrong_record_names_its_line(damaged, change, message):
    file, rows, save = damaged
    change(rows[2])
    save()
    with pytest.raises(TaskSetError, match=f"tasks.jsonl:3: damaged task record: {message}.*; rebuild"):
        read_tasks(file.parent)


def test_damaged_json_repeated_ids_and_lost_lines(damaged):
    file, rows, save = damaged
    rows[3]["task_id"] = rows[0]["task_id"]
    save()
    with pytest.raises(TaskSetError, match=r"tasks.jsonl:4: .*already on line 1"):
        read_tasks(file.parent)
    del rows[3]
    save()
    with pytest.raises(TaskSetError, match="13 tasks, set.json says 14"):
        read_tasks(file.parent)
    file.write_text('{"task_id": \n')
    with pytest.raises(TaskSetError, match=r"tasks.jsonl:1"):
        read_tasks(file.parent)


def test_missing_or_foreign_sets_name_the_remedy(tmp_path, damaged):
    with pytest.raises(TaskSetError, match=r"no task set at .*python -m skillrl\.tasks\.world"):
        read_tasks(tmp_path / "nowhere")
    head = damaged[0].parent / "set.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "schema_version": 99}))
    with pytest.raises(TaskSetError, match="schema version 99"):
        read_tasks(head.parent)
    head.write_text("[]")
    with pytest.raises(TaskSetError, match="set.json"):
        read_tasks(head.parent)
