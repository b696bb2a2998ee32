"""What a run shows, from the harness's report; and runs in real sandboxes."""

import json

import pytest
import shelf

from sandbox_service.backends.base import Ended, ExecResult, HarnessResult
from sandbox_service.runner import Place, read_report

ROWS = {"t.py::a": ["passed", "", "call", "", 0], "t.py::b": ["failed", "KeyError", "call", "src/x.py", 4]}


def outcome(report, exit_code=1, ended=Ended.EXITED) -> HarnessResult:
    data = report if report is None or isinstance(report, bytes) else json.dumps(report).encode()
    return HarnessResult(ExecResult(ended, exit_code, b"log", 0, 0.5), data)


def report(**changes) -> dict:
    return {"nonce": "n", "exit_code": 1, "collected": list(ROWS), "results": ROWS, **changes}


def test_report_is_read():
    run = read_report(outcome(report()), "n")
    assert run.reported and run.exit_code == 1 and run.wall_s == 0.5 and run.log == "log"
    assert run.results == {"t.py::a": "passed", "t.py::b": "failed"}
    assert run.failures == {"t.py::b": "KeyError"}
    assert run.places == {"t.py::b": Place("call", "src/x.py", 4)}
    assert run.passed(ROWS) == run.passed(["t.py::a", "t.py::gone"]) == 0.5
    assert run.passed([]) == 1.0


GOOD = {"t.py::a": ROWS["t.py::a"]}


@pytest.mark.parametrize(
    "result",
    [
        outcome(None),
        outcome(report(nonce="other")),
        outcome(report(), ended=Ended.TIMEOUT),
        outcome(report(), ended=Ended.OUT_OF_MEMORY),
        # The exit status tells another story than the report.
        outcome(report(), exit_code=0),
        outcome(report(exit_code=0), exit_code=0),
        outcome(report(results=GOOD), exit_code=1),
        outcome(report(results=GOOD, exit_code=3), exit_code=3),
        # Two reports, and things that are none.
        outcome(json.dumps(report()).encode() * 2),
        outcome(b"\xff"),
        outcome(b"[]"),
        outcome(b"[" * 100_000),
        outcome({"nonce": "n", "exit_code": 1}),
        outcome(report(results={"t.py::a": "passed"})),
        outcome(report(results={"t.py::a": [True, "", "call", "", 0]})),
        outcome(report(results=[])),
    ],
)
def test_doubtful_reports_give_no_results(result):
    run = read_report(result, "n")
    assert not run.reported and not run.results


def test_tests_run_on_the_tree_with_overlays_and_extra_files(desk):
    whole = desk.run_tests(test_paths=["tests"])
    assert set(whole.results) == {*shelf.PRICE_TESTS, *shelf.STOCK_TESTS} and whole.passed(whole.results) == 1
    for instance in desk.tasks.instances.values():
        run = desk.run_tests(instance.bug, test_paths=["tests"])
        assert {i for i, s in run.results.items() if s != "passed"} == set(instance.fail_to_pass)
        assert {i for i, s in run.results.items() if s == "passed"} == set(instance.pass_to_pass)
    extra = {"tests/test_new.py": b"def test_new():\n    pass\n", "tests/test_stock.py": None}
    run = desk.run_tests(test_paths=["tests"], extra_files=extra)
    assert set(run.results) == {*shelf.PRICE_TESTS, "tests/test_new.py::test_new"}


def test_runs_do_not_see_each_other(desk):
    text = (
        b"import pathlib\n\ndef test_first():\n    for p in ('/tmp/mark', 'mark'):\n        pathlib.Path(p).open('x')\n"
    )
    for _ in range(2):
        run = desk.run_tests(test_paths=["tests/test_mark.py"], extra_files={"tests/test_mark.py": text})
        assert list(run.results.values()) == ["passed"], run.log


def test_a_run_without_an_end_has_no_results(desk):
    loops = {"tests/test_loop.py": b"def test_loop():\n    while True:\n        pass\n"}
    run = desk.run_tests(test_paths=["tests/test_loop.py"], extra_files=loops, timeout_s=1.0)
    assert run.ended is Ended.TIMEOUT and not run.reported and not run.results


def test_a_run_out_of_memory_has_no_results(desk):
    hungry = {"tests/test_fat.py": b"def test_fat():\n    x = [bytearray(1 << 24) for _ in range(1000)]\n"}
    run = desk.run_tests(test_paths=["tests/test_fat.py"], extra_files=hungry)
    assert run.ended is Ended.OUT_OF_MEMORY or run.failures == {"tests/test_fat.py::test_fat": "MemoryError"}


def test_pristine_runs_are_made_once(desk):
    clock = b"import time\n\ndef test_clock():\n    raise ValueError(time.time_ns())\n"
    runs = [
        desk.run_tests(test_paths=["tests/test_c.py"], extra_files={"tests/test_c.py": clock}, pristine=pristine)
        for pristine in (True, True, False)
    ]
    assert runs[0] is runs[1]
    assert runs[0].log != runs[2].log
