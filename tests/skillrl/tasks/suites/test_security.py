"""Generated flaws: two tasks each, nothing of the answer in sight, every variant drawn."""

import ast
import json
import pickletools
import random
import re

import pytest

from sandbox_service.graders.security import ATTACK, MAX_INPUT_BYTES, ORACLE, PROPER_USE
from sandbox_service.tasks import Instance, TaskSetWriter, apply_overlay, read_task_set
from skillrl.skills.composite import SECURITY
from skillrl.tasks import validate as validation
from skillrl.tasks.source import read_tasks
from skillrl.tasks.submissions import gold, leaks
from skillrl.tasks.suites import security
from skillrl.tasks.suites.case import GOLD_SUBMISSION, add
from skillrl.tasks.suites.security_checks import _OPEN
from skillrl.tasks.suites.security_injection import _COMMANDS, _LOOSE
from skillrl.tasks.suites.security_paths import _LEAKY
from skillrl.tasks.suites.security_saved import _pickled
from skillrl.tasks.suites.security_sizes import _KINDS
from skillrl.tasks.suites.security_sql import _FLAWED_SQL

SEED = 4
VARIANTS = {
    "path_traversal": len(_LEAKY),
    "missing_check": len(_OPEN),
    "sql_injection": len(_FLAWED_SQL),
    "command_injection": len(_COMMANDS),
    "code_injection": len(_LOOSE),
    "unsafe_deserialisation": 2,
    "overflow": len(_KINDS),
}


@pytest.fixture(scope="module")
def task_set(tmp_path_factory):
    folder, writer = tmp_path_factory.mktemp("security"), TaskSetWriter("security")
    for case in security.cases(SEED):
        add(writer, case, kind="security", seed=SEED, split="train")
    writer.write(folder)
    return read_task_set(folder)


def forms(name):
    return [case for case in security.cases(SEED) if case.name == name]


def test_two_tasks_a_flaw():
    made = security.cases(SEED)
    assert {(c.family, c.name) for c in made} == {(f, n) for f in VARIANTS for n in ("exploit", "repair")}
    assert security.cases(SEED) == made != security.cases(SEED + 1)


@pytest.mark.parametrize("family", VARIANTS)
def test_every_variant_is_drawn(family):
    """Kinds of expressions, and the marks in the attack, tell the flawed versions apart, whatever the names."""
    seen = set()
    for seed in range(40):
        flaw = security._flaw(family, seed)
        (text,) = flaw.flawed.values()
        nodes = [type(node).__name__ for node in ast.walk(ast.parse(text))]
        seen.add((*sorted(nodes), re.sub(r"\w", "", flaw.gold)))
    assert len(seen) >= VARIANTS[family]


def test_hidden_tests_and_oracles_stay_hidden(task_set):
    for task in read_tasks(task_set.path):
        hidden = task_set.task(task.task_id)
        instance = task_set.instance_of(hidden)
        files = task_set.tree_files(instance.tree)
        seen = apply_overlay(files, hidden.visible)
        assert "tests/test_use.py" in seen and not {"tests/test_attacks.py", "tests/test_edges.py"} & seen.keys()
        assert leaks(task, hidden, instance, files) == []
        known = instance.expected.get(GOLD_SUBMISSION) or instance.expected[ATTACK]
        shown = SECURITY.make_prompt(task) + "".join(data.decode() for data in seen.values())
        assert known not in shown and instance.expected[ORACLE] not in shown


def test_gold_submissions(task_set):
    for task in task_set.tasks.values():
        instance = task_set.instance_of(task)
        files = task_set.tree_files(instance.tree)
        changed = gold(task, instance, files).changed
        if task.submission_path:
            assert changed == {task.submission_path: instance.expected[GOLD_SUBMISSION].encode()}
            assert len(instance.expected[GOLD_SUBMISSION]) < MAX_INPUT_BYTES
        else:
            assert changed == {path: files[path] for path in instance.bug}
            assert {ORACLE, ATTACK, PROPER_USE} == instance.expected.keys()


def test_fail_to_pass_are_the_attacks_alone():
    for case in forms("repair"):
        assert {i.partition("::")[0] for i in case.fail_to_pass} == {"tests/test_attacks.py"}
        assert {i.partition("::")[0] for i in case.pass_to_pass} == {"tests/test_use.py", "tests/test_edges.py"}


def test_wrong_repairs_are_other_programs():
    for case in forms("repair"):
        instance = Instance(f"security__{case.family}.{SEED}.repair", "e", "t", {}, (), (), "", "")
        (path,) = case.undo
        given = dict(security.wrong(None, instance, case.files))
        assert len(given) >= 3
        for changed in given.values():
            assert changed[path] not in (case.files[path], case.undo[path].encode())
            ast.parse(changed[path])


def test_wrong_inputs_are_no_gold(task_set):
    for task in task_set.tasks.values():
        if task.submission_path:
            instance = task_set.instance_of(task)
            given = dict(security.wrong(task, instance, {}))
            assert len(given) == 6
            assert instance.expected[GOLD_SUBMISSION].encode() not in {c[task.submission_path] for c in given.values()}


def test_a_saved_object_by_hand():
    """Opcodes of pickle's protocol 2: a class, no arguments, a new object, its attributes."""
    operations = [(op.name, arg) for op, arg, _ in pickletools.genops(_pickled("shop.notes", "Note"))]
    assert operations == [
        ("PROTO", 2),
        ("GLOBAL", "shop.notes Note"),
        ("EMPTY_TUPLE", None),
        ("NEWOBJ", None),
        ("EMPTY_DICT", None),
        ("MARK", None),
        ("BINUNICODE", "title"),
        ("BINUNICODE", "a"),
        ("BINUNICODE", "lines"),
        ("EMPTY_LIST", None),
        ("BINUNICODE", "b"),
        ("APPEND", None),
        ("SETITEMS", None),
        ("BUILD", None),
        ("STOP", None),
    ]


@pytest.mark.parametrize("kind", _KINDS)
def test_attacks_on_sizes_wrap_below_the_limit(kind):
    """Of every attack the sound check says no, and the flawed one yes, for a text of 4 bytes in 2 KiB."""
    scope = {"len": lambda memory: 2048, "self": random, "received": 4}
    for header in kind.attacks:
        values = scope | dict(zip(kind.fields, header, strict=True))
        assert eval(kind.sound.replace("self._memory", "self"), {}, values)
        assert not eval(kind.flawed.replace("self._memory", "self"), {}, values)
    for header in kind.use:
        values = scope | dict(zip(kind.fields, header, strict=True))
        assert not eval(kind.sound.replace("self._memory", "self"), {}, values)


@pytest.mark.deep
def test_a_set_is_proven(task_set, capsys):
    assert validation.main([str(task_set.path), "--repeats=1"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["skills"]["security"]
    assert row["gold_max"] == row["null_min"] == row["tasks"] == 2 * len(VARIANTS)
    assert set(row["trivial"].values()) == {0.0} and len(row["trivial"]) == 10
