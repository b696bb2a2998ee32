"""Records are read by their declared types; what is damaged is named with file and line."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import foreign
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_service.errors import TaskSetError
from sandbox_service.records import decode
from sandbox_service.tasks import (
    VALIDATION,
    Candidate,
    Environment,
    HiddenTask,
    Instance,
    TaskSetWriter,
    Validation,
    read_task_set,
    read_validations,
    write_validations,
)

TEXTS = st.text(max_size=8)
OVERLAYS = st.dictionaries(TEXTS, st.one_of(st.none(), TEXTS), max_size=3)
IDS = st.lists(TEXTS, max_size=3).map(tuple)
INSTANCES = st.builds(
    Instance, TEXTS, TEXTS, TEXTS, OVERLAYS, IDS, IDS, TEXTS, TEXTS, st.lists(OVERLAYS, max_size=2).map(tuple),
    st.lists(st.builds(Candidate, OVERLAYS, st.booleans()), max_size=2).map(tuple),
    expected=st.dictionaries(TEXTS, TEXTS, max_size=2), test_files=IDS,
)  # fmt: skip


@given(INSTANCES)
def test_what_is_written_is_read_back(instance):
    assert decode(Instance, json.loads(json.dumps(asdict(instance)))) == instance


GOOD = json.loads(json.dumps(asdict(foreign.instance("0" * 64))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tree": 5}, "tree must be text, not an integer"),
        ({"fail_to_pass": "a"}, "fail_to_pass must be a list, not text"),
        ({"fail_to_pass": [1]}, r"fail_to_pass\[0\] must be text, not an integer"),
        ({"bug": {"a.py": 1}}, r"bug\['a.py'\] must be text, not an integer"),
        ({"bug": []}, "bug must be an object, not a list"),
        (
            {"candidates": [{"overlay": {}, "correct": "yes"}]},
            r"candidates\[0\].correct must be true or false, not text",
        ),
        ({"candidates": [{"overlay": {}}]}, r"missing field 'correct' in candidates\[0\]"),
        ({"mutants": [{"a": None}, None]}, r"mutants\[1\] must be an object, not null"),
        ({"surprise": 1}, "unknown field 'surprise'"),
    ],
)
def test_wrong_fields_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        decode(Instance, GOOD | change)


def test_numbers_and_missing_fields():
    row = asdict(foreign.UNITTEST) | {"timeout_s": 5}
    row = {k: list(v) if isinstance(v, tuple) else v for k, v in row.items()}
    assert decode(Environment, row).timeout_s == 5.0
    for value in (True, "5", None):
        with pytest.raises(ValueError, match="timeout_s must be a number"):
            decode(Environment, row | {"timeout_s": value})
    with pytest.raises(ValueError, match="missing field 'packages'"):
        decode(Environment, {k: v for k, v in row.items() if k != "packages"})
    with pytest.raises(ValueError, match="the line must be an object, not a list"):
        decode(Environment, [])


def damage(path: Path, name: str, change) -> None:
    lines = (path / name).read_text().splitlines()
    (path / name).write_text("".join(f"{line}\n" for line in change(lines)))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("instances", lambda lines: [lines[0], lines[0]], "instances.jsonl:2: .*instance_id 'money' is there twice"),
        ("environments", lambda lines: lines[1:], "instances.jsonl:1: .*environment_id 'money' is not in the set"),
        ("instances", lambda lines: lines[:1], r"tasks.jsonl:5: .*instance_id 'money-pytest' is not in the set"),
        ("tasks", lambda lines: [*lines[:2], "[]"], "tasks.jsonl:3: damaged HiddenTask record: the line must be"),
        ("tasks", lambda lines: [*lines, ""], "tasks.jsonl:9: damaged HiddenTask record"),
        ("tasks", lambda lines: ["[" * 100_000], "tasks.jsonl:1: damaged HiddenTask record: nested too deeply"),
        ("tasks", lambda lines: lines[:-1], "contents do not match the digest"),
    ],
)
def test_a_damaged_set_names_file_and_line(tmp_path, name, change, message):
    foreign.write_foreign(tmp_path)
    damage(tmp_path, f"hidden/{name}.jsonl", change)
    with pytest.raises(TaskSetError, match=message):
        read_task_set(tmp_path)


def test_separators_within_a_text_end_no_record(tmp_path):
    def change(environment, instance):
        return replace(environment, setup="a\u2028b\x85c\x0bd"), instance

    tasks = foreign.write_foreign(tmp_path, change=change)
    assert tasks.environments["money"].setup == "a\u2028b\x85c\x0bd"


def test_validations_stand_beside_the_digest(tmp_path):
    tasks = foreign.write_foreign(tmp_path)
    assert read_validations(tmp_path) == {}
    seen = Validation("money-editing", (1.0,), (0.0,), {"first file": (0.0,)}, (), (), 1.5, "0", "3", "2026-01-01")
    write_validations(tmp_path, [seen])
    assert read_validations(tmp_path) == {"money-editing": seen}
    assert read_task_set(tmp_path).digest == tasks.digest
    (tmp_path / VALIDATION).write_text("{}\n")
    with pytest.raises(TaskSetError, match="validation.jsonl:1: damaged Validation record: missing field 'date'"):
        read_validations(tmp_path)


def test_the_hidden_half_is_for_its_owner_alone(tmp_path):
    foreign.write_foreign(tmp_path / "set")
    assert (tmp_path / "set/hidden").stat().st_mode & 0o777 == 0o700


def test_the_head_of_a_set_is_replaced_as_a_whole(tmp_path):
    TaskSetWriter("first").write(tmp_path)
    with (tmp_path / "set.json").open() as before:
        TaskSetWriter("second").write(tmp_path)
        # A stop between the two leaves this one.
        assert json.load(before)["name"] == "first"
    assert json.loads((tmp_path / "set.json").read_text())["name"] == "second"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hidden", "set.json", "tasks.jsonl"]


def test_a_task_names_what_it_lacks(tmp_path):
    tasks = foreign.write_foreign(tmp_path)
    instance = replace(tasks.instances["money"], tree="")
    with pytest.raises(TaskSetError, match="container image alone.*--repositories=DIR"):
        tasks.tree_files(instance.tree)
    assert decode(HiddenTask, json.loads(json.dumps(asdict(tasks.task("money-editing"))))).skill == "editing"
