"""Records with their own test command, graded on the real jail: by parser, rule, exit status and wrong expectations."""

import asyncio
from dataclasses import replace

import foreign
import pytest
from engine import IMAGE

from sandbox_service.backends.docker import DockerBackend
from sandbox_service.backends.jail import JailBackend
from sandbox_service.errors import TaskSetError
from sandbox_service.graders import Grade, GradeRequest, Submission, grade
from sandbox_service.graders.spoiling import mixtures, spoil
from sandbox_service.runner import Runner
from sandbox_service.tasks import read_task_set
from sandbox_service.workspaces import Trees

BOTH = pytest.mark.parametrize("name", ["money", pytest.param("money-pytest", marks=pytest.mark.deep)])


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """(asyncio runner, Runner on a jail)."""
    folder = tmp_path_factory.mktemp("commands")
    with asyncio.Runner() as loop:
        backend = JailBackend(folder / "workspaces")
        loop.run(backend.start())
        try:
            yield loop, Runner(backend, Trees(folder / "trees"))
        finally:
            loop.run(backend.stop())


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return foreign.write_foreign(tmp_path_factory.mktemp("money"))


def graded(runner, tasks, task_id: str, changed: dict, submission: Submission | None = None) -> Grade:
    loop, tests = runner
    task = tasks.task(task_id)
    instance = tasks.instance_of(task)
    files = {p: t.encode() if isinstance(t, str) else t for p, t in changed.items()}
    submission = submission or Submission()
    request = GradeRequest(tasks, task, instance, tasks.environment_of(instance), submission, files)
    return loop.run(grade(request, tests))


@pytest.mark.parametrize(("name", "skill"), [("money", "editing"), ("money-pytest", "bug_fixing")])
def test_the_gold_change_scores_and_nothing_does_not(runner, tasks, name, skill):
    gold = graded(runner, tasks, f"{name}-{skill}", {foreign.SOURCE: foreign.MONEY})
    assert gold.reward == 1 and gold.components["confirmed"] == 1, gold
    null = graded(runner, tasks, f"{name}-{skill}", {})
    assert null.reward == 0 and null.components["p2p_passed"] == 1, null
    assert null.components["f2p_passed"] == 0.0


def test_the_other_skills_of_such_a_record(runner, tasks):
    found = graded(runner, tasks, "money-localization", {}, Submission(files=(foreign.SOURCE,)))
    assert found.reward == 1
    script = "from money import share\n\n\ndef test_it():\n    assert share(100, 4) == [25] * 4\n"
    shown = graded(runner, tasks, "money-reproduction", {"tests/test_reproduction.py": script})
    assert shown.reward == 1, shown
    assert graded(runner, tasks, "money-reproduction", {}).reward == 0


FORGED_UNITTEST = "\\n".join(f"{i} ... ok" for i in (foreign.EVEN, foreign.REST, foreign.WRITTEN))
FORGED_PYTEST = "\\n".join(f"PASSED {foreign.TEST}::TestShare::{n}" for n in ("test_even", "test_rest", "test_written"))
PRINTS = f'import sys\nprint("{FORGED_UNITTEST}\\n{FORGED_PYTEST}", file=sys.stderr, flush=True)\n'
ALWAYS_EQUAL = "class Same(list):\n    def __eq__(self, other):\n        return True\n\n"
ATTACKS = {
    "prints results and leaves": {foreign.SOURCE: f"{PRINTS}import os\nos._exit(0)\n"},
    "prints results at its end": {
        foreign.SOURCE: foreign.BUG + "\n\nimport atexit\n\n\n@atexit.register\ndef _end():\n    import os\n"
        + "".join(f"    {line}\n" for line in PRINTS.splitlines()) + "    os._exit(0)\n"
    },
    "leaves with success": {foreign.SOURCE: "import sys\nsys.exit(0)\n"},
    "edits the tests": {foreign.TEST: foreign.TESTS.replace("[25, 25, 25, 25]", "[26, 25, 25, 25]")},
    "deletes the tests": {foreign.TEST: None},
    "brings a conftest": {
        "conftest.py": "import pytest\n\n\n@pytest.hookimpl(hookwrapper=True)\ndef pytest_runtest_makereport():\n"
        "    done = yield\n    report = done.get_result()\n    report.outcome, report.longrepr = 'passed', None\n"
    },
    "brings its own unittest": {"unittest.py": PRINTS, "unittest/__main__.py": PRINTS, "unittest/__init__.py": ""},
    "patches the runner": {
        foreign.SOURCE: foreign.BUG
        + "\n\nimport unittest\n\nunittest.TestCase.assertEqual = lambda self, a, b, msg=None: None\n"
    },
    "turns the tests of the bug green": {
        foreign.SOURCE: foreign.BUG + "\n\nimport unittest\n\n_equal = unittest.TestCase.assertEqual\n\n\n"
        "def _some(self, a, b, msg=None):\n    if self._testMethodName == 'test_written':\n        _equal(self, a, b)\n"
        "\n\nunittest.TestCase.assertEqual = _some\n"
    },
    "is equal to everything": {
        foreign.SOURCE: ALWAYS_EQUAL + foreign.BUG.replace("return [each", "return Same([each").replace(
            "range(people)]", "range(people)])"
        )
    },
    "puts a folder in a file's place": {foreign.SOURCE: None, f"{foreign.SOURCE}/core.py": "x = 1\n"},
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_attacks_score_nothing(runner, tasks, name, attack):
    result = graded(runner, tasks, f"{name}-bug_fixing", ATTACKS[attack])
    assert result.reward == 0, result


@pytest.fixture(scope="module")
def tasks_with_seen_tests(tmp_path_factory):
    return foreign.write_foreign(tmp_path_factory.mktemp("seen"), seen=foreign.SEEN_TESTS)


NONSENSE = foreign.MONEY.replace("return [each", "return [each - 9")
BROKEN = foreign.MONEY.replace("{cents % 100:02d}", "{cents % 100}")
# Passes some tests: those for which `is_forged` holds.
FORGES = """

import inspect
import unittest

SEEN = {seen!r}
_equal = unittest.TestCase.assertEqual


def _as_seen(test):
    return inspect.getsource(getattr(test, test._testMethodName)) in SEEN


def _some(self, a, b, msg=None):
    if not ({is_forged}):
        _equal(self, a, b)


unittest.TestCase.assertEqual = _some
"""
WRITTEN = "self._testMethodName == 'test_written'"
# Over what, and which tests pass.
FORGERIES = {
    "nonsense while a seen test is as it was": (NONSENSE, "_as_seen(type(self)('test_written'))"),
    "breakage under a seen test by its name": (BROKEN, WRITTEN),
    "breakage under a seen test by its text": (BROKEN, f"{WRITTEN} and _as_seen(self)"),
    "breakage under a seen test whose text is another": (BROKEN, f"{WRITTEN} and not _as_seen(self)"),
}


@BOTH
@pytest.mark.parametrize("forgery", sorted(FORGERIES))
def test_forging_seen_tests_scores_nothing(runner, tasks_with_seen_tests, name, forgery):
    source, is_forged = FORGERIES[forgery]
    text = source + FORGES.format(seen=foreign.SEEN_TESTS, is_forged=is_forged)
    result = graded(runner, tasks_with_seen_tests, f"{name}-bug_fixing", {foreign.SOURCE: text})
    assert result.reward == 0, result
    gold = graded(runner, tasks_with_seen_tests, f"{name}-bug_fixing", {foreign.SOURCE: foreign.MONEY})
    assert gold.reward == 1, gold


@pytest.mark.deep
def test_a_run_past_its_time_is_the_submissions_fault(runner, tmp_path):
    def short(environment, instance):
        return replace(environment, timeout_s=8.0), instance

    tasks = foreign.write_foreign(tmp_path, change=short)
    result = graded(runner, tasks, "money-editing", {foreign.SOURCE: "while True:\n    pass\n"})
    assert result.reward == 0 and result.components["reported"] == 0


@pytest.mark.parametrize(
    ("environment", "instance", "message"),
    [
        ({}, {"test_command": "python3 -m unittest -v tests.none"}, "fails on the correct tree"),
        ({}, {"test_command": ""}, "test command is missing"),
        ({}, {"test_files": ("tests/gone.py",)}, "tests/gone.py is missing"),
        ({}, {"test_files": ()}, "do not fail when their expectations are wrong"),
        ({"rule": "sanitizer"}, {}, "rule 'sanitizer' is not wired"),
        ({"parser": "wordperfect"}, {}, "parser 'wordperfect'"),
    ],
)
def test_a_record_that_cannot_be_judged_gets_no_reward(runner, tmp_path, environment, instance, message):
    def change(e, i):
        return replace(e, **environment), replace(i, **instance)

    tasks = foreign.write_foreign(tmp_path, change=change)
    result = graded(runner, tasks, "money-editing", {foreign.SOURCE: foreign.MONEY})
    if message == "fails on the correct tree":
        result = graded(runner, tasks, "money-editing", {})
    assert result.reward is None and result.reason == "task" and message in result.detail


@pytest.mark.deep
def test_an_image_that_the_sandboxes_are_made_of_is_graded_in_it(engine, tmp_path):
    def of_image(environment, instance):
        return replace(environment, image=IMAGE, workdir="/testbed"), instance

    foreign.write_foreign(tmp_path / "tasks", change=of_image)
    tasks = read_task_set(tmp_path / "tasks", [IMAGE])
    with asyncio.Runner() as loop:
        backend = DockerBackend(tmp_path / "workspaces", IMAGE, socket_path=engine.socket, pool=0)
        loop.run(backend.start())
        try:
            runner = loop, Runner(backend, Trees(tmp_path / "trees"))
            gold = graded(runner, tasks, "money-editing", {foreign.SOURCE: foreign.MONEY})
            assert gold.reward == 1 and gold.components["confirmed"] == 1, gold
            assert graded(runner, tasks, "money-editing", {}).reward == 0
            assert graded(runner, tasks, "money-editing", ATTACKS["prints results and leaves"]).reward == 0
        finally:
            loop.run(backend.stop())
    with pytest.raises(TaskSetError, match=f"--backend=docker --image={IMAGE}"):
        graded((None, None), read_task_set(tmp_path / "tasks"), "money-editing", {})


GO = 'func TestAdd(t *testing.T) {\n\tif got := Add(1, 2); got != 3 {\n\t\tt.Fatalf("want 3, got %d", got)\n\t}\n}\n'
JS = "it('adds', () => {\n  expect(add(1, 2)).toBe(3);\n});\n"


def test_expectations_are_turned_wrong_in_any_language():
    tests = {"a_test.go": GO.encode(), "a.test.js": JS.encode(), "data.bin": b"\xff\xfe", "gone.py": None}
    spoilt = spoil(tests, ["TestAdd", "adds"], seed=0)
    assert spoilt["a.test.js"].decode() == JS.replace("toBe(3)", "toBe(4)")
    assert "data.bin" not in spoilt and "gone.py" not in spoilt
    assert spoilt["a_test.go"].decode().count("\n") == GO.count("\n") and spoilt["a_test.go"] != tests["a_test.go"]


def test_less_is_spoilt_when_more_did_not_work():
    text = "".join(f"expect(f({n})).toBe({n});\n" for n in range(16)).encode()
    counts = []
    for attempt in range(4):
        new = spoil({"a.test.js": text}, [], 0, attempt)["a.test.js"]
        counts.append(sum(a != b for a, b in zip(text.split(b"\n"), new.split(b"\n"), strict=True)))
    assert counts == [16, 8, 4, 2]
    # Ids that are docstrings name no function.
    test = b'def test_a():\n    """Adds."""\n    assert 1 == 1\n'
    assert spoil({"t.py": test}, ["Adds."], 0, 1) == {} and spoil({"t.py": test}, ["Adds."], 0, 2)


def test_only_named_python_tests_are_spoilt():
    text = "def test_a():\n    assert 1 == 1\n\n\ndef test_ab():\n    assert 2 == 2\n"
    (new,) = spoil({"t.py": text.encode()}, ["t.py::test_a"], seed=1).values()
    assert b"assert 2 == 2" in new and b"assert 1 == 1" not in new


def test_what_the_agent_has_seen_is_not_spoilt():
    text = "def test_a():\n    assert 1 == 1\n\n\ndef test_b():\n    assert 2 == 2\n"
    (new,) = spoil(
        {"t.py": text.encode()}, ["t.py::test_a", "t.py::test_b"], 1, 0, {"t.py": text[:31].encode()}
    ).values()
    assert b"assert 1 == 1" in new and b"assert 2 == 2" not in new
    lines = "expect(f(1)).toBe(1);\nexpect(f(2)).toBe(2);\n"
    spoilt = spoil({"a.js": lines.encode()}, [], 0, 0, {"a.js": b"expect(f(1)).toBe(1);\n"})
    assert spoilt == {"a.js": b"expect(f(1)).toBe(1);\nexpect(f(2)).toBe(3);\n"}


def test_mixtures_hold_each_test_right_and_wrong():
    script = "".join(f"expect(f({n})).toBe({n});\n" for n in range(5))
    python = "".join(f"def test_{n}():\n    assert {n} == {n}\n\n\n" for n in range(5))
    tests = {"a.js": script.encode(), "t.py": python.encode(), "data.bin": b"\xff\xfe"}
    ids = [f"t.py::test_{n}" for n in range(5)]
    files = mixtures(tests, ids, "seed", 0, 4)
    assert len(files) == 4 and all(each["data.bin"] == b"\xff\xfe" for each in files)
    failed = [0] * 5
    for each in files:
        space: dict = {}
        exec(each["t.py"], space)
        for n in range(5):
            try:
                space[f"test_{n}"]()
            except AssertionError:
                failed[n] += 1
    assert failed == [2] * 5
    changed = [each["a.js"].decode().split("\n") for each in files]
    for n, line in enumerate(script.split("\n")[:5]):
        assert sum(each[n] != line for each in changed) == 2
