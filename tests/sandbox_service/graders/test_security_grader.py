"""An input earns its reward by what comes back from two programs; a repair also by what it does where no test runs."""

import dataclasses
import json
import re

import pytest
from suite_desk import desk_on, write_cases

from sandbox_service.graders import grade
from sandbox_service.graders.security import ATTACK, GOLD, MAX_INPUT_BYTES, ORACLE, PROPER_USE
from sandbox_service.tasks import Environment
from skillrl.tasks.suites import security
from skillrl.tasks.suites.case import Case

PROGRAM = """\
OPEN = False


def answer(word):
    return "secret" if OPEN and word == "open" else word
"""
FLAWED = PROGRAM.replace("OPEN = False", "OPEN = True")
USE = 'from shop import answer\n\n\ndef test_use():\n    assert answer("tea") == "tea"\n'
ATTACKS = 'from shop import answer\n\n\ndef test_attack():\n    assert answer("open") == "open"\n'
# An input of these words does what it says; all others are given to the program.
ORACLE_TEXT = """\
import sys, time
from shop import answer
with open(sys.argv[1], "rb") as file:
    word = file.read().decode("utf-8", "replace")
flawed = answer("open") == "secret"
if word == "both" or flawed and word in ("open", "crash", "hang"):
    print(sys.argv[2])
elif word == "crash":
    sys.exit(3)
elif word == "hang":
    time.sleep(60)
else:
    print(answer(word))
"""
ENVIRONMENT = Environment("", packages=(), source_roots=(".",), test_roots=("tests",), timeout_s=60.0)


def case(name, expected, path=""):
    files = {"shop/__init__.py": PROGRAM, "tests/test_use.py": USE, "tests/test_attacks.py": ATTACKS}
    return Case(
        name=name,
        family="door",
        level=0,
        files={p: text.encode() for p, text in files.items()},
        undo={"shop/__init__.py": FLAWED},
        hide={"tests/test_attacks.py": None},
        instruction="x",
        environment=ENVIRONMENT,
        fail_to_pass=("tests/test_attacks.py::test_attack",),
        pass_to_pass=("tests/test_use.py::test_use",),
        expected={ORACLE: ORACLE_TEXT, **expected},
        submission_path=path,
    )


@pytest.fixture(scope="module")
def door(desk, tmp_path_factory):
    folder = tmp_path_factory.mktemp("door")
    few = [case("exploit", {GOLD: "open"}, "in.txt"), case("repair", {ATTACK: "open", PROPER_USE: "tea"})]
    return desk_on(desk, write_cases(folder / "set", "security", {0: few}), folder)


def task_id(door, name):
    return next(t.task_id for t in door.tasks.tasks.values() if t.instance_id.endswith(name))


def shown(door, changed):
    result = door.grade(task_id(door, "exploit"), changed)
    assert result.reason is None, result.detail
    return result.reward, result.components["shows_flaw"], result.components["spares_repaired"]


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        (b"open", (1.0, 1.0, 1.0)),
        (b"shut", (0.0, 0.0, 1.0)),
        (b"", (0.0, 0.0, 1.0)),
        (b"\xff\0", (0.0, 0.0, 1.0)),
        (b"both", (0.0, 1.0, 0.0)),
        (b"crash", (0.0, 1.0, 0.0)),
    ],
)
def test_an_input_shows_the_flaw_and_spares_the_repaired_program(door, word, wanted):
    assert shown(door, {"in.txt": word}) == wanted


@pytest.mark.deep
def test_a_program_that_hangs_is_not_spared(door):
    request = door.request(task_id(door, "exploit"), {"in.txt": "hang"})
    request = dataclasses.replace(request, environment=dataclasses.replace(request.environment, timeout_s=8.0))
    result = door.loop.run(grade(request, door.runner))
    assert (result.reward, result.components["shows_flaw"], result.components["spares_repaired"]) == (0.0, 1.0, 0.0)


def test_no_input_and_one_that_is_too_large(door):
    result = door.grade(task_id(door, "exploit"), {})
    assert (result.reward, result.components["submitted"]) == (0.0, 0.0)
    result = door.grade(task_id(door, "exploit"), {"in.txt": b"x" * (MAX_INPUT_BYTES + 1)})
    assert (result.reward, result.components["submitted"], result.components["small"]) == (0.0, 1.0, 0.0)
    assert "larger" in result.detail


def test_only_the_input_is_taken(door):
    """A program that tells all, a module that Python would import first: neither is there when it counts."""
    changed = {"in.txt": "shut", "shop/__init__.py": "import sys\n\nprint(sys.argv)\n", "time.py": "print(1)\n"}
    assert shown(door, changed) == (0.0, 0.0, 1.0)


def test_a_known_input_that_shows_nothing_is_the_tasks_fault(door):
    request = door.request(task_id(door, "exploit"), {"in.txt": "shut"})
    instance = dataclasses.replace(request.instance, instance_id="other", expected={ORACLE: ORACLE_TEXT, GOLD: "tea"})
    result = door.loop.run(grade(dataclasses.replace(request, instance=instance), door.runner))
    assert (result.reward, result.reason) == (None, "task") and "known input" in result.detail


def test_a_repair(door):
    result = door.grade(task_id(door, "repair"), {"shop/__init__.py": PROGRAM})
    assert result.reward == result.components["holds_untested"] == result.components["confirmed"] == 1.0
    result = door.grade(task_id(door, "repair"))
    assert result.reward == result.components["holds_untested"] == result.components["f2p_passed"] == 0.0


@pytest.mark.parametrize(
    "elsewhere",
    [
        "OPEN = True\n",
        pytest.param("answer = lambda word: 'no'\n", marks=pytest.mark.deep),
        pytest.param("raise SystemExit\n", marks=pytest.mark.deep),
    ],
    ids=["flawed", "refuses", "ends"],
)
def test_a_repair_under_test_alone_is_none(door, elsewhere):
    text = f"{PROGRAM}\n\nimport sys\n\nif 'pytest' not in sys.modules:\n    {elsewhere}"
    result = door.grade(task_id(door, "repair"), {"shop/__init__.py": text})
    assert result.components["confirmed"] == 1.0
    assert result.reward == result.components["holds_untested"] == 0.0 and "no test runs" in result.detail


OTHER_CHECK = """\
    place = (pathlib.Path(root) / unquote(name)).resolve()
    if not place.is_relative_to(pathlib.Path(root).resolve()):
        raise {refused}(name)
    return str(place)
"""


@pytest.fixture(scope="module")
def folder_tasks(desk, tmp_path_factory):
    """A desk on a generated path traversal without any check, and its case."""
    folder = tmp_path_factory.mktemp("paths")
    few = [c for c in security.cases(6) if c.family == "path_traversal"]
    return desk_on(desk, write_cases(folder / "set", "security", {6: few}), folder), few[0]


def test_a_repair_written_differently_is_a_repair(folder_tasks):
    desk, made = folder_tasks
    ((path, flawed),) = made.undo.items()
    refused = re.search(r"import (\w+)\n\n\ndef", flawed)[1]
    before, head, after = re.split(r'(\n    """Return the place.*\n)', flawed)
    text = before.replace("import os\n", "import os\nimport pathlib\n") + head + OTHER_CHECK.format(refused=refused)
    text += "\n\n" + after[after.index("def ") :]
    result = desk.grade(task_id(desk, "repair"), {path: text})
    assert result.reward == result.components["holds_untested"] == 1.0, result


@pytest.mark.parametrize(("way", "reward"), [("/proc/self/cwd/", 1.0), ("", 0.0), ("/nowhere/../", 0.0)])
def test_another_way_out_is_an_exploit_too(folder_tasks, way, reward):
    desk, made = folder_tasks
    known = json.loads(made.expected[GOLD])["name"]
    name = way + "/".join(known.split("/")[-2:])
    request = json.dumps({"action": "read", "name": name})
    assert desk.grade(task_id(desk, "exploit"), {"exploit.json": request}).reward == reward
