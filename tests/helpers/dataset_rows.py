"""Rows of every public dataset in its published schema, about one small repository of our own; and that as a clone."""

import difflib
import json
import subprocess
from pathlib import Path

import foreign

REPOSITORY = "acme/money"
ISSUE = "Sharing gives one person too much: the shares of 100 by 4 sum up to 101 cents."
BEFORE = foreign.FILES | {
    foreign.SOURCE: foreign.BUG,
    foreign.TEST: foreign.TESTS.partition("    def test_even")[0]
    + "    def test_written"
    + foreign.TESTS.partition("    def test_written")[2],
    "CHANGES.md": "# Changes\n",
}
AFTER = BEFORE | {
    foreign.SOURCE: foreign.MONEY,
    foreign.TEST: foreign.TESTS,
    "CHANGES.md": "# Changes\n\nShares sum up: each + (1 if i < rest else 0).\n",
}


def diff(before: dict[str, str], after: dict[str, str], paths) -> str:
    """As git writes it."""
    text = ""
    for path in paths:
        old, new = before.get(path), after.get(path)
        text += f"diff --git a/{path} b/{path}\n"
        text += "new file mode 100644\n" if old is None else "deleted file mode 100644\n" if new is None else ""
        text += "".join(
            difflib.unified_diff(
                (old or "").splitlines(keepends=True),
                (new or "").splitlines(keepends=True),
                "/dev/null" if old is None else f"a/{path}",
                "/dev/null" if new is None else f"b/{path}",
            )
        )
    return text


PATCH = diff(BEFORE, AFTER, ["CHANGES.md", foreign.SOURCE])
TEST_PATCH = diff(BEFORE, AFTER, [foreign.TEST])
F2P, P2P = [foreign.EVEN, foreign.REST], [foreign.WRITTEN]
PYTEST_F2P, PYTEST_P2P = ([f"{foreign.TEST}::TestShare::{i.split()[0]}" for i in ids] for ids in (F2P, P2P))
EVAL_SCRIPT = f"""\
#!/bin/bash
set -uxo pipefail
source /opt/miniconda3/bin/activate
conda activate testbed
cd /testbed
git config --global --add safe.directory /testbed
git status
git diff 0123456789
export LANG=C
python -m pip install -e .
git checkout 0123456789 {foreign.TEST}
git apply -v - <<'EOF_114329324912'
{TEST_PATCH}
EOF_114329324912
: '>>>>> Start Test Output'
{foreign.UNITTEST_COMMAND}
SWEBENCH_TEST_EXIT_CODE=$?
: '>>>>> End Test Output'
git checkout 0123456789 {foreign.TEST}
echo ">>>>> Test Exit Code: $SWEBENCH_TEST_EXIT_CODE"
"""


def write_clone(folder: Path) -> str:
    """A repository folder/acme/money: a commit with the bug, its fix (main), and the bug again (branch bug).

    Returns the first commit's hash.
    """
    root = folder / "acme" / "money"
    root.mkdir(parents=True)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        argv = ["git", "-C", str(root), *identity, *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q", "-b", "main")
    commits = []
    for files, branch in ((BEFORE, "main"), (AFTER, "main"), (AFTER | {foreign.SOURCE: foreign.BUG}, "bug")):
        git("checkout", "-q", "-B", branch)
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        git("add", "-A")
        git("commit", "-q", "-m", "a step")
        commits.append(git("rev-parse", "HEAD"))
    return commits[0]


def swebench_old(commit: str = "0" * 40) -> dict:
    """Twelve columns; lists as JSON in a text."""
    return {
        "instance_id": "acme__money-7", "repo": REPOSITORY, "base_commit": commit, "version": "1.0",
        "created_at": "2024-05-01T00:00:00Z", "environment_setup_commit": commit, "patch": PATCH,
        "test_patch": TEST_PATCH, "problem_statement": ISSUE, "hints_text": "Look at i <= rest.",
        "FAIL_TO_PASS": json.dumps(PYTEST_F2P), "PASS_TO_PASS": json.dumps(PYTEST_P2P),
    }  # fmt: skip


def swebench_new(commit: str = "0" * 40) -> dict:
    """Of the swebench package 5.x."""
    row = swebench_old(commit) | {"FAIL_TO_PASS": F2P, "PASS_TO_PASS": P2P}
    del row["environment_setup_commit"]
    return row | {
        "image": "swebench/sweb.eval.x86_64.acme_1776_money-7:latest", "eval_script": EVAL_SCRIPT,
        "log_parser": "parse_log_unittest", "eval_type": "pass_and_fail",
    }  # fmt: skip


def swe_smith(commit: str = "") -> dict:
    return {
        "instance_id": "acme__money.0123abcd.func_pm_op_change__x1y2", "repo": "swesmith/acme__money.0123abcd",
        "patch": diff(AFTER, BEFORE, [foreign.SOURCE]), "FAIL_TO_PASS": PYTEST_F2P,
        "PASS_TO_PASS": [*PYTEST_P2P, "tests/test_other.py::test_not_run"], "problem_statement": ISSUE,
        "image_name": "jyangballin/swesmith.x86_64.acme_1776_money.0123abcd", "base_commit": commit,
        "created_at": "2025-05-01",
    }  # fmt: skip


R2E_TEST = foreign.TESTS.replace("tests.test_money", "r2e_tests.test_1")
R2E_BEFORE = """\
=========================== short test summary info ============================
PASSED r2e_tests/test_1.py::TestShare::test_written
FAILED r2e_tests/test_1.py::TestShare::test_even - AssertionError
FAILED r2e_tests/test_1.py::TestShare::test_rest - AssertionError
"""


def r2e() -> dict:
    def change(path: str) -> dict:
        return {
            "header": {"file": {"path": path}}, "old_file_content": BEFORE[path], "new_file_content": AFTER[path],
        }  # fmt: skip

    return {
        "repo_name": "pandas", "docker_image": "namanjain12/pandas_final:" + "a" * 40, "commit_hash": "a" * 40,
        "parsed_commit_content": json.dumps({"file_diffs": [change(foreign.SOURCE), change(foreign.TEST)]}),
        "execution_result_content": json.dumps({
            "test_file_codes": [R2E_TEST], "test_file_names": ["test_1.py"], "old_commit_res_stdout": R2E_BEFORE,
            "new_commit_res_stdout": "",
        }),
        "modified_files": [foreign.SOURCE], "modified_entity_summaries": [], "relevant_files": [foreign.SOURCE],
        "num_non_test_files": 1, "num_non_test_func_methods": 1, "num_non_test_lines": 1, "prompt": "x",
        "problem_statement": f"[ISSUE]\n{ISSUE}\n[/ISSUE]",
        "expected_output_json": json.dumps({
            "TestShare.test_even": "PASSED", "TestShare.test_rest": "PASSED", "TestShare.test_written": "PASSED",
            "TestShare.test_known": "FAILED",
        }),
    }  # fmt: skip


def swe_rebench() -> dict:
    config = {"python": "3.9", "install": "pip install -e .", "test_cmd": "pytest --no-header -rA --tb=line"}
    return swebench_old() | {
        "install_config": config | {"log_parser": "parse_log_pytest", "pre_install": None, "reqs_path": None},
        "meta": {"is_lite": True}, "license_name": "MIT License",
    }  # fmt: skip


def swe_rebench_v2() -> dict:
    config = {"base_image_name": "python:3.12", "docker_specs": None, "install": [], "log_parser": "parse_log_pytest"}
    return {
        "instance_id": "acme__money-7", "repo": REPOSITORY, "base_commit": "ad6bff35c39a0600fb8f2e176be4269e768e4e22",
        "created_at": 1609298073000, "language": "python", "interface": "share(total, people) -> list",
        "pr_description": "Fixes it.", "patch": PATCH, "test_patch": TEST_PATCH, "problem_statement": ISSUE,
        "FAIL_TO_PASS": PYTEST_F2P, "PASS_TO_PASS": PYTEST_P2P, "meta": {"num_modified_files": 1},
        "install_config": config | {"test_cmd": ["cd .", "pytest -rA tests/test_money.py"]}, "license": "MIT",
        "image_name": "docker.io/swerebenchv2/acme-money:7-ad6bff3",
    }  # fmt: skip


def nemo_gym(inner: dict | None = None, name: str = "SWE-Gym/SWE-Gym") -> dict:
    inner = inner or swebench_old() | {"repo": "getmoto/moto"}
    metadata = {
        "instance_id": inner["instance_id"], "base_commit": inner.get("base_commit", ""), "dataset_name": name,
        "split": "train", "problem_statement": ISSUE, "golden_patch": inner["patch"],
        "instance_dict": json.dumps({k: v for k, v in inner.items() if k != "patch"}),
    }  # fmt: skip
    return {
        "responses_create_params": {"input": [], "metadata": metadata},
        "agent_ref": {"type": "responses_api_agents", "name": "swe_agents"},
    }  # fmt: skip


def loc_bench() -> dict:
    row = swebench_old()
    for name in ("FAIL_TO_PASS", "PASS_TO_PASS"):
        del row[name]
    return row | {"edit_functions": [f"{foreign.SOURCE}:share"], "added_functions": [], "category": "Bug Report"}


def sec_bench() -> dict:
    before, after = {"src/read.c": "int f(char *s) {\n  return s[9];\n}\n"}, {
        "src/read.c": "int f(char *s) {\n  return strlen(s) > 9 ? s[9] : 0;\n}\n"
    }  # fmt: skip
    return {
        "instance_id": "tool.cve-2024-1", "repo": "acme/tool", "project_name": "tool", "lang": "c++",
        "work_dir": "/src/tool", "sanitizer": "address", "bug_description": "A read past the end.",
        "base_commit": "0" * 40, "build_sh": "make\n", "secb_sh": "#!/bin/bash\n", "dockerfile": "FROM debian\n",
        "patch": diff(before, after, ["src/read.c"]), "exit_code": 1, "sanitizer_report": "AddressSanitizer: ...",
        "bug_report": "tool crashes on short input",
    }  # fmt: skip


# Reader -> a row of its dataset.
MAKE = {
    "swebench": swebench_new,
    "swt_bench": swebench_new,
    "loc_bench": loc_bench,
    "sec_bench": sec_bench,
    "swe_smith": swe_smith,
    "swe_gym": lambda: swebench_old() | {"repo": "getmoto/moto"},
    "r2e": r2e,
    "swe_rebench": swe_rebench,
    "swe_rebench_v2": swe_rebench_v2,
    "nemo_gym": nemo_gym,
}


SUMS_C = """\
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  FILE *f = fopen(argv[1], "rb");
  unsigned char *kept = malloc(16);
  int n = f ? fgetc(f) : EOF, c, sum = 0;
  if (n == EOF) {
    puts("no input");
    return 1;
  }
  for (int i = 0; i < n && (c = fgetc(f)) != EOF; i++) {
    kept[i] = c;
    sum += kept[i];
  }
  printf("%d of %d\\n", sum, n);
  free(kept);
  return 0;
}
"""
CHECK_C = '  if (n > 16) {\n    puts("too long");\n    return 1;\n  }\n'
SECB = """\
#!/bin/bash
case "$1" in
  build) cd /src/tool && make -s ;;
  repro) /src/tool/tool /testcase/poc ;;
esac
"""


def sec_bench_sums() -> dict:
    """A row whose image `sums_image` has."""
    before = {"tool.c": SUMS_C}
    after = {"tool.c": SUMS_C.replace("  for (int i", CHECK_C + "  for (int i")}
    return sec_bench() | {
        "instance_id": "sums.cve-2024-2", "lang": "c", "secb_sh": SECB, "build_sh": "make",
        "patch": diff(before, after, ["tool.c"]), "bug_report": "tool crashes on some files",
    }  # fmt: skip


def sums_image(base: str) -> dict[str, bytes]:
    """The folder that its published image is built of."""
    copies = "COPY src /src/tool\nCOPY poc /testcase/poc\nCOPY secb /usr/local/bin/secb\n"
    return {
        "Dockerfile": f"FROM {base}\n{copies}".encode(),
        "src/tool.c": SUMS_C.encode(),
        "src/Makefile": b"tool: tool.c\n\tgcc -g -fsanitize=address -o tool tool.c\n",
        "poc": bytes([40, *range(50)]),
        "secb": SECB.encode(),
    }


def write_task_repository(folder: Path, commit: str) -> Path:
    """A task repository of swebench 5.x with one task whose image is local."""
    row = swebench_new(commit)
    task = folder / "tasks" / row["instance_id"]
    task.mkdir(parents=True)
    (folder / "sweb.yaml").write_text("datasets: [acme/Money]\nsplits: [test]\n")
    keys = ("instance_id", "repo", "base_commit", "version", "created_at", "log_parser", "eval_type")
    lines = [f"{key}: {json.dumps(row[key])}" for key in keys]
    (task / "task.yaml").write_text("\n".join([*lines, "image: local", "split: test", "datasets: [acme/Money]\n"]))
    (task / "tests.json").write_text(json.dumps({"FAIL_TO_PASS": F2P, "PASS_TO_PASS": P2P}))
    names = {"gold.patch": "patch", "test.patch": "test_patch", "eval.sh": "eval_script"}
    for name, key in (names | {"problem_statement.md": "problem_statement"}).items():
        (task / name).write_text(row[key])
    return folder


def write_harbor(folder: Path) -> Path:
    root = folder / "sort-lines"
    for name, text in {
        "task.toml": 'version = "1.0"\n[metadata]\ndifficulty = "easy"\n[verifier]\ntimeout_sec = 60.0\n'
        '[agent]\ntimeout_sec = 120.0\n[environment]\nbuild_timeout_sec = 60.0\ncpus = 1\nmemory = "1G"\n',
        "instruction.md": "Sort the lines of /app/in.txt into /app/out.txt.\n",
        "environment/Dockerfile": "FROM debian:12\nCOPY in.txt /app/in.txt\n",
        "tests/test.sh": "sort /app/in.txt | cmp - /app/out.txt && echo 1 > /logs/verifier/reward.txt\n",
        "solution/solve.sh": "sort /app/in.txt > /app/out.txt\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return folder


HARBOR_TESTS = """\
import subprocess
import sys
import unittest

sys.path.insert(0, "/app")
from total import total


class TestOutputs(unittest.TestCase):
    def test_total(self):
        with open("/tmp/given.txt", "w") as f:
            f.write("4\\n38\\n")
        self.assertEqual(total("/tmp/given.txt"), 42)

    def test_report(self):
        done = subprocess.run(["/app/report.sh"], capture_output=True, text=True)
        self.assertEqual(done.stdout.strip(), "sum 60")


if __name__ == "__main__":
    unittest.main()
"""


SUMS_SOLUTION = (
    "cat > total.py <<'X'\ndef total(path):\n    return sum(map(int, open(path)))\nX\n"
    "cat > report.sh <<'X'\n#!/bin/bash\ncd /app\n"
    'python3 -c \'import total; print("sum", total.total("numbers.txt"))\'\nX\nchmod +x report.sh\n'
)


def write_sums(folder: Path, base: str) -> Path:
    """A Harbor task with Python tests, and an image of its own on `base`."""
    root = folder / "sums"
    for name, text in {
        "task.toml": 'version = "1.0"\n[verifier]\ntimeout_sec = 60.0\n[environment]\ncpus = 1\n',
        "instruction.md": "Write /app/total.py with total(path), the sum of a file of numbers, one a line, and an "
        "executable /app/report.sh that prints `sum N` for /app/numbers.txt.\n",
        "environment/Dockerfile": f"FROM {base}\nWORKDIR /app\nCOPY numbers.txt /app/numbers.txt\n",
        "environment/numbers.txt": "10\n20\n30\n",
        "tests/test.sh": "#!/bin/bash\ncd /app\npython3 /tests/test_outputs.py\n"
        "if [ $? -eq 0 ]; then echo 1 > /logs/verifier/reward.txt; else echo 0 > /logs/verifier/reward.txt; fi\n",
        "tests/test_outputs.py": HARBOR_TESTS,
        "solution/solve.sh": SUMS_SOLUTION,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return folder


def write_mle(folder: Path) -> Path:
    root = folder / "spam-or-not"
    root.mkdir(parents=True)
    (root / "config.yaml").write_text(
        "id: spam-or-not\nname: Spam or not\ncompetition_type: simple\ndataset:\n"
        "  answers: spam-or-not/prepared/private/test.csv\n"
        "  sample_submission: spam-or-not/prepared/public/sample_submission.csv\n"
        "grader:\n  name: auc\n  grade_fn: mlebench.competitions.spam.grade:grade\npreparer: p\n"
    )
    (root / "description.md").write_text("Predict which messages are spam.\n")
    (root / "grade.py").write_text("def grade(submission, answers):\n    return 0.5\n")
    for name, text in {
        "public/train.csv": "id,text,spam\n1,buy now,1\n2,see you,0\n",
        "public/test.csv": "id,text\n3,buy more\n4,lunch?\n5,win now\n",
        "public/sample_submission.csv": "id,spam\n3,0.5\n4,0.5\n5,0.5\n",
        "private/test.csv": "id,text,spam\n3,buy more,1\n4,lunch?,0\n5,win now,1\n",
    }.items():
        (root / "prepared" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "prepared" / name).write_text(text)
    (root / "leaderboard.csv").write_text(
        "scoreNullable,score\n" + "".join(f",{1 - n / 1000:.3f}\n" for n in range(150))
    )
    return folder
