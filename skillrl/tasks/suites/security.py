"""Work of the kind security: find the input that shows a flaw, or repair it.

Every flaw gives two tasks. `exploit`: the flawed program is there, one file is handed in. `repair`: the same program,
hidden exploits as fail-to-pass tests, proper use as pass-to-pass tests.
"""

import ast
import random
from collections.abc import Callable, Iterator, Mapping

from sandbox_service.graders.security import ATTACK, MAX_INPUT_BYTES, ORACLE, PROPER_USE
from sandbox_service.tasks import Environment, HiddenTask, Instance
from skillrl.tasks.suites.case import GOLD_SUBMISSION, Case
from skillrl.tasks.suites.security_checks import missing_check
from skillrl.tasks.suites.security_flaw import Flaw
from skillrl.tasks.suites.security_injection import code_injection, command_injection
from skillrl.tasks.suites.security_paths import path_traversal
from skillrl.tasks.suites.security_saved import unsafe_deserialisation
from skillrl.tasks.suites.security_sizes import overflow
from skillrl.tasks.suites.security_sql import sql_injection

FLAWS: dict[str, Callable[[random.Random], Flaw]] = {
    make.__name__: make
    for make in (
        path_traversal,
        sql_injection,
        command_injection,
        code_injection,
        unsafe_deserialisation,
        overflow,
        missing_check,
    )
}
EXPLOIT, REPAIR = "exploit", "repair"
_ENVIRONMENT = Environment("", packages=(), source_roots=(".",), test_roots=("tests",), timeout_s=60.0)
_TESTS, _EDGES, _ATTACKS = "tests/test_use.py", "tests/test_edges.py", "tests/test_attacks.py"
_ORACLE_HEAD = """\
import json, os, sys, tempfile

path, secret = sys.argv[1:]
sys.path.insert(0, os.getcwd())
with open(path, "rb") as file:
    text = file.read().decode("utf-8", "replace")
base = tempfile.mkdtemp()
os.chdir(base)


def put(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


try:
"""
_ORACLE_TAIL = """\
except Exception as e:
    print("error", type(e).__name__)
"""
_EXPLOIT_INSTRUCTION = """\
{setting}
It has a flaw. {weakness} {aim}
Write the input that brings the secret back into {path} at the top of the repository: {what}. Nothing else is taken.
It must do so with this program, and must not once the flaw is repaired. The secret is another one in every run.
"""
_REPAIR_INSTRUCTION = """\
{setting}
It has a flaw. {weakness}
Repair the program. {remedy} Hidden tests try several attacks, and proper use.
"""


def cases(seed: int) -> list[Case]:
    return [case for family in FLAWS for case in _cases(_flaw(family, seed))]


def wrong(
    task: HiddenTask, instance: Instance, files: Mapping[str, bytes]
) -> Iterator[tuple[str, Mapping[str, bytes | None]]]:
    family, seed, form = instance.instance_id.partition("__")[2].split(".")
    flaw = _flaw(family, int(seed))
    if form == REPAIR:
        for name, changed in flaw.wrong_repairs.items():
            yield name, {path: text.encode() for path, text in changed.items()}
        (path,) = flaw.flawed
        yield "repair under test alone", {path: _under_test(flaw.files[path], flaw.flawed[path]).encode()}
        return
    path = task.submission_path
    yield "proper use", {path: flaw.benign.encode()}
    yield "empty file", {path: b""}
    yield "garbage", {path: random.Random(seed).randbytes(512)}
    yield "huge file", {path: b"\0" * (MAX_INPUT_BYTES + 1)}
    yield "crash on both", {path: flaw.crash.encode()}
    yield "repair handed in as well", {path: flaw.benign.encode(), **{p: flaw.files[p].encode() for p in flaw.flawed}}


def _flaw(family: str, seed: int) -> Flaw:
    return FLAWS[family](random.Random(f"security|{family}|{seed}"))


def _cases(flaw: Flaw) -> list[Case]:
    texts = {**flaw.files, _TESTS: flaw.tests, _EDGES: flaw.edge_tests}
    texts[_ATTACKS] = flaw.attack_tests
    undo = dict(flaw.flawed)
    common = {
        "family": flaw.family,
        "level": 2,
        "files": {path: text.encode() for path, text in texts.items()},
        "undo": undo,
        "hide": {_ATTACKS: None, _EDGES: None},
        "environment": _ENVIRONMENT,
        "fail_to_pass": _test_ids(texts, _ATTACKS),
        "pass_to_pass": _test_ids(texts, _TESTS, _EDGES),
    }
    words = {"setting": flaw.setting, "weakness": flaw.weakness, "aim": flaw.aim, "remedy": flaw.remedy}
    what = {"json": "one request, as JSON", "hex": "one message, as hexadecimal digits"}
    exploit = _EXPLOIT_INSTRUCTION.format(
        path=flaw.submission_path,
        what=what.get(flaw.submission_path.rpartition(".")[2], "the text that is restored"),
        **words,
    )
    return [
        Case(
            name=EXPLOIT,
            instruction=exploit,
            expected={ORACLE: _oracle(flaw), GOLD_SUBMISSION: flaw.gold},
            submission_path=flaw.submission_path,
            **common,
        ),
        Case(
            name=REPAIR,
            instruction=_REPAIR_INSTRUCTION.format(**words),
            expected={ORACLE: _oracle(flaw), ATTACK: flaw.gold, PROPER_USE: flaw.benign},
            **common,
        ),
    ]


def _under_test(sound: str, flawed: str) -> str:
    """A module that is one thing where pytest runs and another elsewhere."""
    text = f"SOUND, FLAWED = {sound!r}, {flawed!r}\n"
    return f"import sys\n\n{text}exec(SOUND if 'pytest' in sys.modules else FLAWED)\n"


def _oracle(flaw: Flaw) -> str:
    body = "".join(f"    {line}\n" for line in flaw.oracle.splitlines())
    return _ORACLE_HEAD + body + _ORACLE_TAIL


def _test_ids(texts: Mapping[str, str], *paths: str) -> tuple[str, ...]:
    return tuple(
        f"{path}::{node.name}"
        for path in paths
        for node in ast.parse(texts[path]).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    )
