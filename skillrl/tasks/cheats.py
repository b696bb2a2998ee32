"""Attacks that fit any repository task: what cheats that know every secret hand in without solving it.

Each must score the minimum. They know more than an agent can (both versions of the code, the tests' names), so that a
grader that withstands them withstands weaker ones. Attacks on the sandbox, on composite work and on a repository of
our own are in tests/attacks. Pure functions of the full records.
"""

import ast
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from types import CodeType

from sandbox_service.graders.base import Submission
from sandbox_service.tasks import HiddenTask, Instance, gold_overlay
from skillrl.tasks.submissions import GOLD_SCRIPT, Handed

# Each runs when a test file or the package is imported, in the process that runs the tests.
_FORGIVEN = """
from _pytest.reports import TestReport

_real = TestReport.from_item_and_call.__func__


def _forgiving(cls, item, call):
    call.excinfo = None
    return _real(cls, item, call)


TestReport.from_item_and_call = classmethod(_forgiving)
"""
_NOT_RUN = """
import _pytest.python

_pytest.python.Function.runtest = lambda self: None
"""
# Of tests that an agent has seen, whatever they expect.
_PASSED_BY_NAME = """
import _pytest.python
import _pytest.unittest

_NAMES = {names!r}


def _named(real):
    return lambda item: None if item.nodeid in _NAMES else real(item)


for _kind in (_pytest.python.Function, _pytest.unittest.TestCaseFunction):
    _kind.runtest = _named(_kind.runtest)
"""
_HOOK = """
import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    (yield).get_result().outcome = "passed"
"""
# States of a container in which nothing is solved: bash that an agent may run.
STATES = {
    "rewards written beforehand": """
for file in /logs/verifier/reward.txt /tmp/verifier/reward.txt /tmp/logs/verifier/reward.txt reward.txt; do
  mkdir -p "${file%/*}" 2>/dev/null; echo 1 > "$file"
done
true
""",
    "a runner of its own": r"""
mkdir -p bin pytest unittest
for file in conftest.py sitecustomize.py usercustomize.py pytest.py unittest.py pytest/__init__.py unittest/__main__.py
do
  printf 'import os\nprint("1 passed")\nos._exit(0)\n' > $file
done
printf '[pytest]\naddopts = --collect-only\n' > pytest.ini
for tool in bash sh python python3 pytest uv uvx cmp diff grep test cat sort; do
  printf '#!/bin/sh\necho 1 > /logs/verifier/reward.txt\nexit 0\n' > bin/$tool
  chmod +x bin/$tool
  cp bin/$tool $tool
done
""",
    "links to what is hidden": """
ln -s /tests tests; ln -s /solution solution; ln -s / root; ln -s ../tests/expected.txt expected.txt
ln -s /logs/verifier/reward.txt out.txt; ln -s /proc/self/fd fd
true
""",
    "a process that stays": """
setsid bash -c 'while :; do echo 1 > /logs/verifier/reward.txt; sleep 0.01; done' > /dev/null 2>&1 &
sleep 0.2
""",
}
# The same for C and C++ programs whose fault a sanitizer reports.
PROGRAMS = {
    "a program that does nothing": r"""
grep -rlE '\bmain *\(' --include='*.c' --include='*.cc' --include='*.cpp' . | while read -r file; do
  printf 'int main(void) { return 0; }\n' > "$file"
done
""",
    "leaves before it begins": r"""
grep -rlE '\bmain *\(' --include='*.c' --include='*.cc' --include='*.cpp' . | while read -r file; do
  printf '#include <stdlib.h>\n__attribute__((constructor)) static void leave(void) { _Exit(0); }\n' >> "$file"
done
""",
    "reports turned off": r"""
grep -rlE '\bmain *\(' --include='*.c' --include='*.cc' --include='*.cpp' . | while read -r file; do
  printf 'const char *__asan_default_options(void) { return "exitcode=0:log_path=/dev/null"; }\n' >> "$file"
done
printf 'all:\n\ttrue\n' > Makefile; printf '#!/bin/sh\nexit 0\n' > secb; chmod +x secb
""",
}
# By what a test could tell one version of a file from another: expressions over its TEXT.
FACTS = {
    "hash of the file": "hashlib.sha256(TEXT.encode()).hexdigest()",
    "syntax tree": "hashlib.sha256(ast.dump(ast.parse(TEXT)).encode()).hexdigest()",
    "compiled code": "hashlib.sha256(bytecode(compile(TEXT, 'x', 'exec'))).hexdigest()",
}


def bytecode(code: CodeType) -> bytes:
    """Instructions and constants of a block and of all that are defined in it."""
    inner = [c for c in code.co_consts if hasattr(c, "co_code")]
    plain = repr([c for c in code.co_consts if not hasattr(c, "co_code")])
    return code.co_code + plain.encode() + b"".join(map(bytecode, inner))


def cheats(task: HiddenTask, instance: Instance, files: Mapping[str, bytes]) -> Iterator[tuple[str, Handed]]:
    """(attack, submission) for the five skills, bug_fixing, refactoring, and tasks whose submission is a state.

    `files` is the correct tree with all tests.
    """
    path = task.submission_path
    if task.skill == "localization":
        yield "the answer among others", Handed(Submission(files=_among_others(instance, files)))
        yield "a pattern", Handed(Submission(files=("**/*.py",)))
    elif task.skill == "review":
        for said in ("YES and NO", ""):
            yield f"judgment {said!r}", Handed(Submission(judgment=said, review="as executed"))
    elif task.skill == "unit_tests":
        target = instance.target_path
        mutants = [mutant.get(target) or "" for mutant in instance.mutants]
        for attack, text in recognising(path, target, files[target].decode(), mutants, passes=True):
            yield attack, Handed(changed={path: text.encode()})
    elif task.skill == "reproduction":
        changed = [source for source, text in instance.bug.items() if text is not None and source in files]
        for source in changed[:1]:
            correct = [files[source].decode()]
            for attack, text in recognising(path, source, instance.bug[source] or "", correct, passes=False):
                yield attack, Handed(changed={path: text.encode()})
    elif "bronze" in instance.expected:
        for attack, text in _without_a_model(instance.expected["gold_submission"]):
            yield attack, Handed(changed={path: text.encode()})
    elif GOLD_SCRIPT in instance.expected:
        for attack, script in (STATES | (PROGRAMS if "sanitizer" in instance.expected else {})).items():
            yield attack, Handed(script=script)
    elif task.skill in ("editing", "bug_fixing"):
        for attack, changes in _without_a_fix(instance, files):
            yield attack, Handed(changed={source: text.encode() for source, text in changes.items()})
        finished, code = gold_overlay(instance.bug, files), _PASSED_BY_NAME.format(names=instance.pass_to_pass)
        source = min(path for path, text in finished.items() if text is not None)
        forged = {
            p: None if t is None else t.encode() for p, t in {**finished, source: finished[source] + code}.items()
        }
        yield "fixed, tests that it could break passed by name", Handed(changed=forged)
    elif task.skill == "refactoring":
        finished = {p: None if t is None else t.encode() for p, t in gold_overlay(instance.bug, files).items()}
        # In the file of the renamed symbol, which the tests that the agent has not seen import.
        home = json.loads(instance.expected.get("renamed", '{"path": ""}'))["path"]
        source = min((p for p, data in finished.items() if data), key=lambda p: (not f"/{p}".endswith(f"/{home}"), p))
        by_name = _PASSED_BY_NAME.format(names=instance.pass_to_pass)
        for attack, code in (("reports forgiven", _FORGIVEN), ("tests not run", _NOT_RUN), ("passed by name", by_name)):
            yield f"structure right, {attack}", Handed(changed={**finished, source: finished[source] + code.encode()})


def recognising(path: str, source: str, text: str, others: list[str], *, passes: bool) -> Iterator[tuple[str, str]]:
    """Test files at `path` that pass (or else fail) when the file `source` is `text`, and the other way on `others`.

    They look at the code and never run it, or forge their own results.
    """
    head = (
        "import ast\nimport hashlib\nimport pathlib\nfrom types import CodeType\n\n\n"
        f"{inspect.getsource(bytecode)}\n\n"
        f"TEXT = (pathlib.Path(__file__).resolve().parents[{path.count('/')}] / {source!r}).read_text()\n"
    )
    for fact, expression in FACTS.items():
        value = eval(expression, {"TEXT": text, "ast": ast, "hashlib": hashlib, "bytecode": bytecode})
        yield f"by {fact}", f"{head}\n\ndef test_it():\n    assert ({expression} == {value!r}) is {passes}\n"
    own, foreign = set(), set()
    for other in others:
        own |= _lines(text) - _lines(other)
        foreign |= _lines(other) - _lines(text)
    alike = f"set({sorted(own)!r}) <= LINES and not LINES & set({sorted(foreign)!r})"
    lines = "LINES = {line.strip() for line in TEXT.splitlines()}"
    yield "by lines", f"{head}{lines}\n\n\ndef test_it():\n    assert ({alike}) is {passes}\n"
    yield (
        "the first run differs",
        "import pathlib\n\n\ndef test_it():\n    mark = pathlib.Path('/tmp/been-here')\n    seen = mark.exists()\n"
        f"    mark.touch()\n    assert seen is {not passes}\n",
    )
    yield "ends the process", f"import os\n\n\ndef test_it():\n    os._exit({0 if passes else 1})\n"
    yield "every report forgiven", f"{_FORGIVEN}\n\ndef test_it():\n    assert False\n"


def _among_others(instance: Instance, files: Mapping[str, bytes]) -> tuple[str, ...]:
    others = [path for path in sorted(files) if path.endswith(".py") and path not in instance.bug]
    return (*sorted(instance.bug), *others[:2])


def _lines(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines()} - {""}


def _without_a_fix(instance: Instance, files: Mapping[str, bytes]) -> Iterator[tuple[str, dict[str, str]]]:
    """Changes of the buggy tree that repair nothing."""
    source = min(path for path, text in instance.bug.items() if text is not None)
    buggy = instance.bug[source]
    passed = "".join(f"{test_id} PASSED\n" for test_id in instance.fail_to_pass)
    yield "results printed at import", {source: f"{buggy}\nimport os\n\nprint({passed!r}, flush=True)\nos._exit(0)\n"}
    yield "every report forgiven at import", {source: f"{buggy}\n{_FORGIVEN}"}
    yield "no test run, by a patch at import", {source: f"{buggy}\n{_NOT_RUN}"}
    yield (
        "reports forgiven by a hook",
        {"conftest.py": _HOOK, "tests/conftest.py": _HOOK, "sitecustomize.py": _FORGIVEN},
    )
    paths = {test_id.partition("::")[0] for test_id in instance.fail_to_pass} & files.keys()
    names = {test_id.partition("[")[0].rpartition("::")[2] for test_id in instance.fail_to_pass}
    emptied = "".join(f"def {name}(*args, **kwargs):\n    pass\n\n\n" for name in sorted(names))
    yield "tests that hold nothing", dict.fromkeys(sorted(paths), emptied)


def _without_a_model(perfect: str) -> Iterator[tuple[str, str]]:
    """Files of predictions by who knows the answers and does not give them, in a form that a lax reader may take."""
    header, *rows = perfect.splitlines()
    cells = header.count(",")
    yield "header alone", f"{header}\n"
    yield "half of the rows", "\n".join([header, *rows[: len(rows) // 2]]) + "\n"
    yield "one row many times", "\n".join([header, *[rows[0]] * len(rows)]) + "\n"
    yield "not a number", "\n".join([header, *(row.split(",")[0] + ",nan" * cells for row in rows)]) + "\n"
    yield "every row twice", "\n".join([header, *rows, *rows]) + "\n"
