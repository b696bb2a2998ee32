"""The harness as the sandbox runs it: in a process of its own, on a tree, reporting over a descriptor."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CALL = (
    "import sys; from sandbox_service import harness; sys.exit(harness.main(sys.stdin.buffer.read(), int(sys.argv[1])))"
)


def run_harness(root: Path, tree: dict[str, str], **spec) -> dict:
    """The report, or {} when none came, with `status` (of the process) and `log` added."""
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    defaults = {"nonce": "n1", "root": str(root), "source_roots": ["src"], "test_paths": ["tests"], "test_ids": []}
    full = {**defaults, "files": {}, "mtime": 1577836800, "conftest": False, **spec}
    read, write = os.pipe()
    with open(read, "rb") as reports:
        command = [sys.executable, "-c", CALL, str(write)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, input=json.dumps(full).encode(), pass_fds=[write], capture_output=True, env=environment
        )
        os.close(write)
        data = reports.read()
    report = json.loads(data) if data else {}
    return {**report, "status": done.returncode, "log": done.stdout.decode() + done.stderr.decode()}


EVERY_OUTCOME = """
import unittest

import pytest

from pkg import double


def test_passes():
    assert double(1) == 2


def test_fails():
    assert double(1) == 3


@pytest.mark.parametrize("x", [1, 2])
def test_cases(x):
    assert double(x) == 2


def test_does_not_raise():
    with pytest.raises(ValueError):
        double(1)


def test_raises_in_the_source():
    double(None)


@pytest.mark.xfail
def test_expected_to_fail():
    assert False


def test_skipped():
    pytest.skip("reason")


@pytest.fixture
def broken():
    raise KeyError("x")


def test_broken_fixture(broken):
    pass


class Own(AssertionError):
    pass


def test_own_type():
    raise Own


class Cases(unittest.TestCase):
    def test_equal(self):
        self.assertEqual(double(2), 5)

    def test_parts(self):
        for i in (0, 1):
            with self.subTest(i=i):
                self.assertEqual(double(i), 0)
"""
PKG = {"src/pkg/__init__.py": "def double(x):\n    return x * 2\n"}


def test_every_kind_of_outcome(tmp_path):
    tree = {**PKG, "tests/test_all.py": EVERY_OUTCOME, "tests/test_import.py": "import absent\n"}
    report = run_harness(tmp_path, {**tree, "tests/test_syntax.py": "def (\n"})
    assert report["nonce"] == "n1"
    assert report["exit_code"] == report["status"] == 1
    found = {i.rpartition("::")[2]: row[:3] for i, row in report["results"].items()}
    assert found == {
        "test_passes": ["passed", "", "call"],
        "test_fails": ["failed", "AssertionError", "call"],
        "test_cases[1]": ["passed", "", "call"],
        "test_cases[2]": ["failed", "AssertionError", "call"],
        "test_does_not_raise": ["failed", "Failed", "call"],
        "test_raises_in_the_source": ["failed", "TypeError", "call"],
        "test_expected_to_fail": ["xfailed", "AssertionError", "call"],
        "test_skipped": ["skipped", "Skipped", "call"],
        "test_broken_fixture": ["error", "KeyError", "setup"],
        "test_own_type": ["failed", "test_all.Own", "call"],
        "test_equal": ["failed", "AssertionError", "call"],
        "test_parts": ["failed", "AssertionError", "call"],
        "tests/test_import.py": ["error", "ModuleNotFoundError", "collect"],
        "tests/test_syntax.py": ["error", "SyntaxError", "collect"],
    }
    fails, raises = (report["results"][f"tests/test_all.py::{t}"] for t in ("test_fails", "test_raises_in_the_source"))
    assert fails[3:] == ["tests/test_all.py", EVERY_OUTCOME[: EVERY_OUTCOME.index("== 3")].count("\n") + 1]
    assert raises[3] == "src/pkg/__init__.py"


def test_leaves_no_bytecode_and_reads_no_configuration(tmp_path):
    hostile = {"pytest.ini": "[pytest]\naddopts = --nonsense\n", "conftest.py": "raise SystemExit(3)\n"}
    report = run_harness(
        tmp_path, {**PKG, **hostile, "tests/test_a.py": "from pkg import double\n\ndef test_a():\n    pass\n"}
    )
    assert report["exit_code"] == 0
    assert not list(tmp_path.rglob("__pycache__")) + list(tmp_path.rglob(".pytest_cache"))


@pytest.mark.parametrize("conftest", [True, False])
def test_conftest_counts_only_when_asked_for(tmp_path, conftest):
    tree = {
        "tests/conftest.py": "import pytest\n\n@pytest.fixture\ndef seven():\n    return 7\n",
        "tests/test_a.py": "def test_a(seven):\n    assert seven == 7\n",
    }
    report = run_harness(tmp_path, tree, conftest=conftest)
    assert report["results"]["tests/test_a.py::test_a"][0] == ("passed" if conftest else "error")


def importing(statement: str) -> str:
    return f"{statement}\n\n\ndef test_a():\n    assert x == 1\n"


LAYOUTS = {
    "flat, tests are a package": (
        ["."],
        {
            "pkg.py": "x = 1\n",
            "tests/__init__.py": "",
            "tests/help.py": "y = 1\n",
            "tests/test_a.py": importing("from pkg import x\nfrom tests.help import y"),
        },
    ),
    "src, tests import their neighbour": (
        ["src"],
        {
            "src/pkg.py": "x = 1\n",
            "tests/help.py": "y = 1\n",
            "tests/test_a.py": importing("from pkg import x\nfrom help import y"),
        },
    ),
    "name of an installed distribution": (
        ["src"],
        {"src/numpy.py": "x = 1\n", "tests/test_a.py": importing("from numpy import x")},
    ),
    "the standard library cannot be shadowed": (
        ["src"],
        {"src/colorsys.py": "1 / 0\n", "tests/test_a.py": importing("import colorsys\nx = 1")},
    ),
}


@pytest.mark.parametrize("roots, tree", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path, roots, tree):
    report = run_harness(tmp_path, tree, source_roots=roots)
    assert report["results"] == {"tests/test_a.py::test_a": ["passed", "", "call", "", 0]}, report["log"]


@pytest.mark.parametrize(
    "script, status, kind",
    [
        ("from pkg import double\ndouble(1)\n", "passed", ""),
        ("import sys\nsys.exit(0)\n", "passed", ""),
        ("import sys\nsys.exit(1)\n", "failed", "AssertionError"),
        ("raise SystemExit('Issue reproduced')\n", "failed", "AssertionError"),
        ("import sys\nsys.exit(2)\n", "failed", "RuntimeError"),
        ("from pkg import double\nassert double(1) == 3\n", "failed", "AssertionError"),
        ("import absent\n", "failed", "ModuleNotFoundError"),
        ("print(1\n", "failed", "SyntaxError"),
    ],
)
def test_plain_scripts(tmp_path, script, status, kind):
    report = run_harness(tmp_path, {**PKG, "reproduce.py": script}, test_paths=["reproduce.py"])
    assert report["results"]["reproduce.py::script"][:2] == [status, kind]
    assert report["exit_code"] == (status == "failed")


def test_files_are_written_and_deleted_before_the_run(tmp_path):
    new = "def test_b():\n    import os\n\n    assert os.stat(__file__).st_mtime == 1577836800\n"
    files = {"tests/test_a.py": None, "tests/deep/test_b.py": base64.b64encode(new.encode()).decode()}
    report = run_harness(tmp_path, {"tests/test_a.py": "def test_a():\n    pass\n"}, files=files)
    assert {i: row[0] for i, row in report["results"].items()} == {"tests/deep/test_b.py::test_b": "passed"}


def test_files_cannot_lead_out_of_the_workspace(tmp_path):
    (tmp_path / "in").mkdir()
    report = run_harness(tmp_path / "in", {}, files={"../out.py": ""})
    assert "leads out of the workspace" in report["log"] and "nonce" not in report
    assert not (tmp_path / "out.py").exists()


def test_ids_narrow_the_run_and_absent_paths_do_no_harm(tmp_path):
    tree = {"tests/test_a.py": "def test_a():\n    pass\n\n\ndef test_b():\n    pass\n"}
    wanted = ["tests/test_a.py::test_b", "tests/test_a.py::test_c"]
    report = run_harness(tmp_path, tree, test_paths=["tests/test_a.py", "tests/gone.py"], test_ids=wanted)
    assert list(report["results"]) == report["collected"] == ["tests/test_a.py::test_b"]
    assert run_harness(tmp_path, tree, test_paths=["tests/gone.py"])["exit_code"] == 5


def test_plugins_and_options_of_the_environment_are_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--nonsense")
    monkeypatch.setenv("PYTEST_PLUGINS", "absent_plugin")
    assert run_harness(tmp_path, {"tests/test_a.py": "def test_a():\n    pass\n"})["exit_code"] == 0


def test_a_run_that_is_cut_short_says_so(tmp_path):
    tree = {"tests/test_a.py": "def test_a():\n    pass\n", "tests/test_b.py": "raise SystemExit(0)\n"}
    assert run_harness(tmp_path, tree)["exit_code"] not in (0, 1, 5)
