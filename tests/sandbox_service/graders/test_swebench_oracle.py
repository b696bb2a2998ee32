"""The parsers and the rule against the swebench package, in an environment of its own; and where they are to differ.

The package is installed without its dependencies (docker, modal, datasets, ...): its parsers and its grading need none.
"""

import json
import random
import subprocess
import sys

import pytest
from logs import LOGS

from sandbox_service.graders.parsers import PARSERS, canonical
from sandbox_service.graders.rules import judge

PACKAGES = ("swebench==5.0.2", "unidiff==0.7.5")
# Run with the folder of the packages; reads and answers JSON lines.
ORACLE = """
import json, sys, tempfile, types
root = sys.argv[1]
sys.path.insert(0, root)
import swebench
# The package's own __init__ imports docker and modal.
harness = types.ModuleType("swebench.harness")
harness.__path__ = [f"{root}/swebench/harness"]
sys.modules["swebench.harness"] = harness
from swebench.harness import grading
from swebench.harness.constants import END_TEST_OUTPUT, START_TEST_OUTPUT, TEST_EXIT_CODE
from swebench.types import TestSpec
stdout, sys.stdout = sys.stdout, sys.stderr


def parse(parser, log):
    try:
        return grading.PARSER_REGISTRY[parser](log, None)
    except Exception as e:
        return {"": repr(e)}


def resolved(parser, log, exit_code, f2p, p2p):
    spec = TestSpec("a__b-1", "", [], "a/b", "1", f2p, p2p, parser, "pass_and_fail")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(f"{START_TEST_OUTPUT}\\n{log}\\n{END_TEST_OUTPUT}\\n{TEST_EXIT_CODE}: {exit_code}\\n")
        file.flush()
        report = grading.get_eval_report(spec, {"instance_id": "a__b-1", "model_patch": "x"}, file.name, False)
    return report["a__b-1"]["resolved"]


for line in sys.stdin:
    name, *arguments = json.loads(line)
    answer = sorted(grading.PARSER_REGISTRY) if name == "names" else {"parse": parse, "resolved": resolved}[name](*arguments)
    print(json.dumps(answer), file=stdout, flush=True)
"""  # noqa: E501
WORDS = {"passed": "PASSED", "failed": "FAILED", "error": "ERROR", "skipped": "SKIPPED", "xfailed": "XFAIL"}

pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """A function that asks the package; skipped where no package index can be reached."""
    folder = tmp_path_factory.mktemp("oracle")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *PACKAGES]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"pip cannot install {PACKAGES[0]}: {done.stderr.strip().splitlines()[-1]}")
    argv = [sys.executable, "-c", ORACLE, str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder) as process:

        def ask(*request):
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


@pytest.fixture(scope="module")
def names(oracle):
    """The package's names of the parsers that are here too."""
    return {name: canonical(name) for name in oracle("names") if canonical(name)}


def mixed_log(rng: random.Random, name: str) -> str:
    """Lines of this runner's log and of others, in any order."""
    logs = [LOGS[name][0]] * 2 + [LOGS[other][0] for other in rng.sample(sorted(LOGS), 3)]
    lines = [line for log in logs for line in log.split("\n")]
    rng.shuffle(lines)
    return "\n".join(lines[:40])


def test_the_languages_of_the_datasets_are_covered(oracle, names):
    """What is missing serves SWE-bench Multimodal, or is chosen by number while reading (readers/swebench.py)."""
    missing = {name.removeprefix("parse_log_") for name in oracle("names")} - {
        name.removeprefix("parse_log_") for name in names
    }
    by_number = {"immutable_js", "jekyll"}
    multimodal = {"calypso", "bpmn_js", "carbon", "eslint", "grommet", "lighthouse", "next", "openlayers", "prismjs"}
    multimodal |= {"quarto_cli", "chart_js", "marked", "p5js", "react_pdf"}
    assert missing == by_number | multimodal


def test_logs_worked_by_hand(oracle, names):
    for full, name in names.items():
        log, expected = LOGS[name]
        wanted = {i: WORDS[s] for i, s in expected.items()}
        assert oracle("parse", full, log) == wanted, full


def test_mixed_logs(oracle, names):
    """Equal, but for two wanted differences: a line that only begins with a status, and a log that makes it raise."""
    rng = random.Random(7)
    compared = 0
    for full, name in sorted(names.items()):
        for _ in range(40):
            log = mixed_log(rng, name)
            theirs = oracle("parse", full, log)
            if "" in theirs and "Error" in theirs[""]:
                assert PARSERS[name](log) is not None
                continue
            # "ERROR: setUpClass (...)" is no pytest result: its status would be "ERROR:".
            theirs = {i: s for i, s in theirs.items() if s in WORDS.values()}
            assert {i: WORDS[s] for i, s in PARSERS[name](log).items()} == theirs, (full, log)
            compared += 1
    assert compared > 30 * len(names)


def pytest_log(results: dict[str, str]) -> str:
    return "\n".join(f"{WORDS[status]} {test_id}" for test_id, status in results.items())


def test_the_rule(oracle):
    """The same verdict for results, exit statuses and lists of all kinds."""
    rng = random.Random(3)
    ids = ["t.py::a", "t.py::b", "t.py::c[1-2]", "t.py::c[1-3]", "t.py::c[1-", "t.py::d"]
    verdicts = []
    for _ in range(1500):
        results = {i: rng.choice(sorted(WORDS)) for i in ids[:4] + ids[5:] if rng.random() < 0.9}
        if rng.random() < 0.7:
            results = dict.fromkeys(results, "passed")
        f2p, p2p = rng.sample(ids, rng.randint(1, 2)), rng.sample(ids, rng.randint(0, 3))
        exit_code = rng.choice([0, 0, 1])
        mine = judge("pass_and_fail", results, exit_code, f2p, p2p).solved
        theirs = oracle("resolved", "parse_log_pytest", pytest_log(results), exit_code, f2p, p2p)
        assert mine == theirs, (results, exit_code, f2p, p2p)
        verdicts.append(mine)
    assert 200 < sum(verdicts) < 1300


WANTED_DIFFERENCES = {
    # A record without fail-to-pass tests shows nothing when it passes.
    "no fail-to-pass tests": ({"t.py::a": "passed"}, 0, [], ["t.py::a"], True),
}


@pytest.mark.parametrize("name", sorted(WANTED_DIFFERENCES))
def test_wanted_differences_of_the_rule(oracle, name):
    results, exit_code, f2p, p2p, theirs = WANTED_DIFFERENCES[name]
    assert oracle("resolved", "parse_log_pytest", pytest_log(results), exit_code, f2p, p2p) is theirs
    assert judge("pass_and_fail", results, exit_code, f2p, p2p).solved is not theirs


def test_printed_results_convince_the_package(oracle):
    """What code under test prints counts there, with exit status 0; test_commands.py has the attacks that fail here."""
    log = pytest_log({"t.py::a": "passed", "t.py::b": "passed"})
    assert oracle("resolved", "parse_log_pytest", log, 0, ["t.py::a"], ["t.py::b"])
