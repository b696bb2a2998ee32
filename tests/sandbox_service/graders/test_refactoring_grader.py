"""Rules about the structure of a program, by hand; and the grader on real tests."""

import dataclasses
import json

import pytest
from suite_desk import desk_on, write_cases

from sandbox_service.graders import grade
from sandbox_service.graders.refactoring import structure
from sandbox_service.graders.structure import RULES, check
from sandbox_service.graders.structure_program import MAX_FILE_BYTES, MAX_FILES, Broken
from sandbox_service.tasks import Environment, Instance
from skillrl.tasks.suites import refactoring

START = {
    "shop/__init__.py": '"""A shop."""\n\nfrom shop.money import net, tax\nfrom shop.till import bill\n',
    "shop/money.py": (
        '"""Money."""\n\n\ndef tax(total, rate):\n    """Tax."""\n    return total * rate // 100\n\n\n'
        "def net(total):\n    return total - 5\n"
    ),
    "shop/till.py": (
        '"""The till."""\n\nfrom shop.money import net, tax\n\n\n'
        "def bill(total):\n    return net(total) + tax(total, 19)\n\n\n"
        "def count(items):\n    found = 0\n    for item in items:\n        found += item\n    return found * 340\n"
    ),
    "shop/stock.py": (
        '"""Stock."""\n\n\ndef size(items):\n    known = 0\n'
        "    for thing in items:\n        known += thing\n    return known + 340\n"
    ),
}
TILL, MONEY, STOCK = "shop/till.py", "shop/money.py", "shop/stock.py"
TAX = 'def tax(total, rate):\n    """Tax."""\n    return total * rate // 100\n'


def with_changes(files, *changes):
    """(path, old, new): the texts after replacing; a path alone is deleted."""
    made = dict(files)
    for path, *texts in changes:
        if not texts:
            del made[path]
        elif len(texts) == 1:
            made[path] = texts[0]
        else:
            assert texts[0] in made[path], (path, texts[0])
            made[path] = made[path].replace(*texts)
    return made


def broken(rule, given, files, correct):
    found = check({rule: json.dumps(given)}, *({p: t.encode() for p, t in f.items()} for f in (files, START, correct)))
    return {name for name, why in found.items() if why}


MOVED = [{"name": "tax", "old": MONEY, "new": "shop/fees.py"}]
AFTER_MOVE = with_changes(
    START,
    (MONEY, TAX + "\n\n", ""),
    ("shop/fees.py", f'"""Fees."""\n\n\n{TAX}'),
    (TILL, "from shop.money import net, tax", "from shop.fees import tax\nfrom shop.money import net"),
    ("shop/__init__.py", "from shop.money import net, tax", "from shop.fees import tax\nfrom shop.money import net"),
)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        [(TILL, "from shop.fees import tax", "from .fees import tax")],
        [(TILL, "from shop.fees import tax", "from shop import tax")],
        [(TILL, "from shop.fees import tax", "import shop.fees"), (TILL, "tax(total, 19)", "shop.fees.tax(total, 19)")],
        [("shop/fees.py", '    """Tax."""\n', "    # By law.\n")],
    ],
    ids=["gold", "relative", "from the package", "by module", "comment"],
)
def test_ways_to_move(changes):
    assert broken("moved", MOVED, with_changes(AFTER_MOVE, *changes), AFTER_MOVE) == set()


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ([(MONEY, '"""Money."""\n', '"""Money."""\n\nfrom shop.fees import tax\n')], {"moved"}),
        ([(MONEY, '"""Money."""\n', '"""Money."""\n\nimport shop.fees as f\n\ntax = f.tax\n')], {"moved"}),
        ([(MONEY, '"""Money."""\n', '"""Money."""\n\nfrom shop.fees import *\n')], {"moved"}),
        ([(MONEY, START[MONEY])], {"moved"}),
        ([(MONEY, START[MONEY].replace("def tax", "def _old"))], {"moved"}),
        ([("shop/fees.py", "from shop.money import tax\n"), (MONEY, START[MONEY])], {"moved"}),
        ([("shop/fees.py", "def tax(total, rate):\n    return total\n")], {"moved"}),
        ([(MONEY, AFTER_MOVE[MONEY] + "\n\ndef __getattr__(name):\n    return net\n")], {"plain"}),
        ([(MONEY, AFTER_MOVE[MONEY] + '\n\nglobals()["ta" + "x"] = net\n')], {"plain"}),
        ([(MONEY,), ("shop/money/__init__.py", START[MONEY])], {"moved"}),
        ([(TILL, "from shop.fees import tax", "from shop.money import tax")], {"moved"}),
        ([(TILL, "from shop.fees import tax", "from shop.fees import tax as levy")], {"moved"}),
        ([("shop/fees.py", AFTER_MOVE["shop/fees.py"] + "\n\ntax = str\n")], {"moved"}),
        ([("shop/fees.py", AFTER_MOVE["shop/fees.py"] + "\n\ndef f():\n    global tax\n    tax = 1\n")], {"moved"}),
        ([("shop/fees.py",)], {"moved"}),
    ],
)
def test_ways_to_pretend_a_move(changes, rules):
    assert broken("moved", MOVED, with_changes(AFTER_MOVE, *changes), AFTER_MOVE) == rules


def test_the_start_is_not_the_end():
    assert broken("moved", MOVED, START, AFTER_MOVE) == {"moved"}


def test_gone():
    assert broken("gone", [STOCK], with_changes(START, (STOCK,)), START) == set()
    assert broken("gone", [STOCK], START, START) == {"gone"}
    beside = with_changes(START, (STOCK,), ("shop/stock/__init__.py", ""))
    assert broken("gone", [STOCK], beside, START) == {"gone"}


RENAMED = {"old": "tax", "new": "levy", "path": MONEY}
AFTER_RENAME = {path: text.replace("tax", "levy") for path, text in START.items()}


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ([], set()),
        ([(MONEY, "# tax was its name\n" + AFTER_RENAME[MONEY])], set()),
        ([(MONEY, AFTER_RENAME[MONEY] + "\n\ntax = levy\n")], {"renamed"}),
        ([(MONEY, AFTER_RENAME[MONEY] + '\n\nOLD = {"tax": levy}\n')], {"renamed"}),
        ([("shop/__init__.py", AFTER_RENAME["shop/__init__.py"] + "\nimport shop.money as tax\n")], {"renamed"}),
        ([(MONEY, START[MONEY] + "\n\nlevy = tax\n")], {"renamed"}),
        ([(MONEY, AFTER_RENAME[MONEY] + "\n\ndef levy(*values):\n    return net(*values)\n")], {"renamed"}),
        ([(TILL, START[TILL])], {"renamed"}),
        ([(MONEY, AFTER_RENAME[MONEY] + "\n\ndef pay(tax=1):\n    return tax\n")], {"renamed"}),
    ],
)
def test_renames(changes, rules):
    assert broken("renamed", RENAMED, with_changes(AFTER_RENAME, *changes), AFTER_RENAME) == rules


SIGNATURE = {"name": "tax", "path": MONEY, "positional": ["total"], "keyword_only": ["rate"]}
AFTER_SIGNATURE = with_changes(
    START, (MONEY, "(total, rate)", "(total, *, rate)"), (TILL, "(total, 19)", "(total, rate=19)")
)


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ([], set()),
        ([(TILL, "tax(total, rate=19)", "tax(rate=19, total=total)")], set()),
        ([(TILL, START[TILL])], {"signature"}),
        ([(MONEY, START[MONEY])], {"signature"}),
        ([(MONEY, "(total, *, rate)", "(total, *values, rate=0)")], {"signature"}),
        ([(MONEY, "(total, *, rate)", "(total, *, rate, **named)")], {"signature"}),
        ([(MONEY, "(total, *, rate)", "(total, more=None, *, rate)")], {"signature"}),
        ([(MONEY, "def tax", "def loose(f):\n    return f\n\n\n@loose\ndef tax")], {"signature"}),
        ([(MONEY, "def net", "def outer(*v):\n    return 1\n\n\ntax = outer\n\n\ndef net")], {"signature"}),
        ([(TILL, "tax(total, rate=19)", "tax(*[total], rate=19)")], {"signature"}),
        ([(TILL, "tax(total, rate=19)", 'tax(total, **{"rate": 19})')], {"signature"}),
        ([(TILL, "tax(total, rate=19)", "(lambda f: f(total, 19))(tax)")], {"signature"}),
    ],
)
def test_signatures(changes, rules):
    assert broken("signature", SIGNATURE, with_changes(AFTER_SIGNATURE, *changes), AFTER_SIGNATURE) == rules


SUM = "def total(items):\n    found = 0\n    for item in items:\n        found += item\n    return found\n"
SHARED = {"name": "total", "path": "shop/sums.py", "users": [[TILL, "count"], [STOCK, "size"]], "block": SUM}
AFTER_SHARED = with_changes(
    START,
    ("shop/sums.py", SUM),
    (TILL, "    found = 0\n    for item in items:\n        found += item\n    return found", "    return total(items)"),
    (TILL, '"""The till."""\n\n', '"""The till."""\n\nfrom shop.sums import total\n'),
    (
        STOCK,
        "    known = 0\n    for thing in items:\n        known += thing\n    return known",
        "    return total(items)",
    ),
    (STOCK, '"""Stock."""\n', '"""Stock."""\n\nfrom shop.sums import total\n'),
)
COPY = "\n\ndef spare(values):\n    a = 0\n    for b in values:\n        a += b\n    return a\n"


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ([], set()),
        ([("shop/sums.py", "def total(items):\n    return sum(items)\n")], set()),
        ([(STOCK, START[STOCK])], {"shared"}),
        ([(STOCK, AFTER_SHARED[STOCK] + COPY)], {"shared"}),
        ([(STOCK, "    return total(items)", "    total(items)\n    return sum(i for i in items)")], {"shared"}),
        ([(STOCK, "    return total(items)", "    return sum(items)")], {"shared"}),
        ([("shop/sums.py", "from shop.till import count as total\n")], {"shared"}),
    ],
)
def test_shared_code(changes, rules):
    assert broken("shared", SHARED, with_changes(AFTER_SHARED, *changes), AFTER_SHARED) == rules


CONSTANT = {"name": "CRATE", "path": "shop/sizes.py", "value": 340, "users": [[TILL, "count"], [STOCK, "size"]]}
AFTER_CONSTANT = with_changes(
    START,
    ("shop/sizes.py", "CRATE = 340\n"),
    (TILL, "* 340", "* CRATE"),
    (TILL, '"""The till."""\n\n', '"""The till."""\n\nfrom shop.sizes import CRATE\n'),
    (STOCK, "+ 340", "+ sizes.CRATE"),
    (STOCK, '"""Stock."""\n', '"""Stock."""\n\nfrom shop import sizes\n'),
)


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ([], set()),
        ([("shop/sizes.py", "CRATE: int = 340\n")], set()),
        ([(TILL, "* CRATE", "* 340")], {"constant"}),
        ([(TILL, "* CRATE", "* 339")], {"constant"}),
        ([("shop/sizes.py", "CRATE = 170 * 2\n")], {"constant"}),
        ([("shop/sizes.py", "CRATE = 341\n")], {"constant"}),
        ([("shop/sizes.py", "CRATE = 340\nCRATE = 340\n")], {"constant"}),
        ([(STOCK, '"""Stock."""\n', '"""Stock."""\n\nCRATE = 3\n')], {"constant"}),
    ],
)
def test_constants(changes, rules):
    assert broken("constant", CONSTANT, with_changes(AFTER_CONSTANT, *changes), AFTER_CONSTANT) == rules


@pytest.mark.parametrize(
    "text",
    [
        b"(" * 9000,
        b"-" * 60000 + b"1",
        b"x = " + b"[" * 150 + b"]" * 150 + b"\ny = " + b"(" * 250,
        b"a" + b".a" * 30000,
        b"def f(:",
        b"\0",
        b"\xff\xfe",
        b"# coding: nothing\n",
        b"x" * (MAX_FILE_BYTES + 1),
    ],
)
def test_a_text_that_breaks_parsers_breaks_the_rules_at_most(text):
    """Whatever it does, it ends in a verdict, and a file that cannot be read is refused."""
    files = {p: t.encode() for p, t in AFTER_MOVE.items()}
    correct = dict(files)
    found = check({"moved": json.dumps(MOVED)}, {**files, "shop/more.py": text}, correct, correct)
    assert set(found) == {"plain", "moved"}
    if not text.startswith(b"a."):
        assert found["moved"]


def test_too_many_files():
    files = {p: t.encode() for p, t in AFTER_MOVE.items()}
    many = {f"shop/m{n}.py": b"" for n in range(MAX_FILES)}
    assert "more than" in check({"moved": json.dumps(MOVED)}, {**files, **many}, files, files)["moved"]


def test_a_task_without_rules_or_with_sources_that_cannot_be_read_is_at_fault():
    files = {p: t.encode() for p, t in START.items()}
    with pytest.raises(Broken, match="no rule"):
        check({"move": "[]"}, files, files, files)
    with pytest.raises(Broken, match="cannot be parsed"):
        check({"gone": "[]"}, files, files, {"a.py": b"def"})
    assert set(RULES) == {"moved", "gone", "renamed", "signature", "shared", "constant"}


@pytest.mark.parametrize("root", [".", "src", "src/"])
def test_rules_are_about_modules_as_they_are_imported(root):
    prefix = "" if root == "." else "src/"
    environment = Environment("e", (), (root,), ("tests",))
    correct = {f"{prefix}{path}": text.encode() for path, text in AFTER_RENAME.items()}
    start = {f"{prefix}{path}": text for path, text in START.items()}
    bug = {path: text for path, text in start.items() if correct[path] != text.encode()}
    instance = Instance("i", "e", "t", bug, (), (), "", "", expected={"renamed": json.dumps(RENAMED)})
    gold = {path: correct[path] for path in bug}
    assert b"from shop.money import" in gold[f"{prefix}{TILL}"]
    assert set(structure(instance, environment, gold, correct).values()) == {""}
    left = gold | {f"{prefix}{TILL}": start[f"{prefix}{TILL}"].encode()}
    assert structure(instance, environment, left, correct)["renamed"] == f"{TILL} still has tax"
    assert structure(instance, environment, {}, correct)["renamed"]


@pytest.fixture(scope="module")
def task(desk, tmp_path_factory):
    """A desk on one generated task, and its gold submission."""
    folder = tmp_path_factory.mktemp("refactoring")
    (case,) = [case for case in refactoring.cases(3) if case.family == "name_constant"]
    made = desk_on(desk, write_cases(folder / "set", "refactoring", {3: [case]}), folder)
    (hidden,) = made.tasks.tasks.values()
    gold = {path: case.files.get(path) for path in case.undo}
    wrong = dict(refactoring.wrong(hidden, made.tasks.instance_of(hidden), case.files))
    return made, hidden.task_id, gold, wrong


def test_a_grade_needs_behaviour_and_structure(task):
    desk, task_id, gold, wrong = task
    result = desk.grade(task_id, gold)
    assert result.reward == 1.0
    named = ("behaviour", "structure", "structure_plain", "structure_constant", "confirmed", "f2p_passed")
    assert all(result.components[name] == 1.0 for name in named)
    # The number stands nowhere else, and yet it decides.
    result = desk.grade(task_id, wrong["number as a sum"])
    assert (result.reward, result.components["behaviour"], result.components["structure"]) == (0.0, 0.0, 1.0)
    # All tests pass: the number is left where nothing reads it.
    (path,) = [path for path, data in gold.items() if b" = " in data and b"def " not in data]
    spare = {"spare.py": b"SPARE" + gold[path][gold[path].index(b" = ") :]}
    result = desk.grade(task_id, {**gold, **spare})
    assert (result.reward, result.components["behaviour"], result.components["structure_constant"]) == (0.0, 1.0, 0.0)
    assert "has the value" in result.detail


def test_a_record_without_rules_is_ungradable(task):
    desk, task_id, gold, _ = task
    request = desk.request(task_id, gold)
    for expected in ({}, {"moved": "["}, {"moved": "[{}]"}):
        instance = dataclasses.replace(request.instance, expected=expected)
        result = desk.loop.run(grade(dataclasses.replace(request, instance=instance), desk.runner))
        assert (result.reward, result.reason) == (None, "task"), expected
