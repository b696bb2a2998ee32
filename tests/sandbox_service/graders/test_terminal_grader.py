import dataclasses

import pytest
from suite_desk import desk_on, write_cases

from sandbox_service.graders.terminal import MAX_FILES, compare
from sandbox_service.graders.terminal_probes import Ask, Probe, dumps, loads
from sandbox_service.tasks import Environment
from skillrl.tasks.suites.case import Case
from skillrl.tasks.suites.terminal_work import difference, encoded

ENVIRONMENT = Environment("", (), (), (), timeout_s=30.0)


def case(name, start, finished, **expected):
    start, finished = encoded(start), encoded(finished)
    undo = difference(finished, start)
    return Case(name, name, 0, finished, undo, {}, "do it", ENVIRONMENT, expected={"rule": "state", **expected})


# What the file `in` says, doubled; the server says it to everybody.
DOUBLE = "print(open('in').read().strip() * 2)\n"
PROBES = (
    Probe(("python3", "run.py"), stdout="abab\n"),
    Probe(("python3", "run.py"), files={"in": "x\n"}, stdout="xx\n"),
)
SERVER = """\
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.end_headers()
        self.wfile.write(b'{"b": 1, "a": [2]}' if self.path == "/x" else b"no")

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
ASKS = (
    Ask("GET", "/x", "", 200, "application/json", '{"a": [2], "b": 1}', is_json=True),
    Ask("GET", "/y", "", 200, "application/json", "no"),
)
BUILT = Probe(("bash", "make.sh"), files={"out/old": "x"}, exit_code=3, after={"out/new": "1\n", "out/old": None})
CASES = [
    case("state", {"a": "1\n", "b": "2\n", "keep": "k\n"}, {"b": "3\n", "c": "4\n", "keep": "k\n"}),
    case("nothing", {"a": "1\n"}, {"a": "1\n"}),
    case("rule", {"a": "1\n"}, {"a": "2\n"}, rule="luck"),
    case(
        "program",
        {"in": "ab\n", "run.py": ""},
        {"in": "ab\n", "run.py": DOUBLE},
        rule="programs",
        owned='["run.py", "lib/"]',
        probes=dumps(PROBES),
    ),
    case(
        "server",
        {"s.py": ""},
        {"s.py": SERVER},
        rule="programs",
        owned='["s.py"]',
        probes=dumps([Probe(("python3", "s.py"), asks=ASKS)]),
    ),
    case(
        "build",
        {"make.sh": ""},
        {"make.sh": "rm -rf out; mkdir out; echo 1 > out/new; exit 3\n"},
        rule="programs",
        owned='["make.sh"]',
        probes=dumps([BUILT]),
    ),
    dataclasses.replace(
        case("slow", {"a": ""}, {"a": "x=1"}, rule="programs", owned='["a"]', probes=dumps([Probe(("bash", "a"))])),
        environment=dataclasses.replace(ENVIRONMENT, timeout_s=5.0),
    ),
    case("faulty", {"a": ""}, {"a": "1"}, rule="programs", owned='["a"]', probes=dumps([Probe(("false",))])),
    case("damaged", {"a": ""}, {"a": "1"}, rule="programs", owned='["a"]', probes="[]"),
]


@pytest.fixture(scope="module")
def own(desk, tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    tasks = write_cases(folder / "set", "terminal", {0: CASES})
    return desk_on(desk, tasks, folder)


@pytest.fixture(scope="module")
def give(own):
    names = {t.instance_id.rpartition(".")[2]: i for i, t in own.tasks.tasks.items()}
    return lambda name, changed, **options: own.grade(names[name], changed, **options)


GOLD = {"a": None, "b": "3\n", "c": "4\n"}


def test_difference_by_hand():
    start, correct = {"a": b"1", "b": b"2", "k": b"k"}, {"b": b"3", "c": b"4", "k": b"k"}
    assert dataclasses.astuple(compare(start, correct, {})) == (3, 0, 0, "a")
    done = {"a": None, "b": b"3", "c": b"4"}
    assert dataclasses.astuple(compare(start, correct, done)) == (3, 3, 0, "")
    assert dataclasses.astuple(compare(start, correct, {**done, "k": None, "z": b""})) == (3, 3, 2, "k")


@pytest.mark.parametrize(
    ("changed", "share"),
    [
        (GOLD, 1.0),
        ({**GOLD, "keep": "k\n"}, 1.0),
        ({}, 0.0),
        ({"a": None}, 1 / 3),
        ({**GOLD, "b": "3"}, 2 / 3),
        ({**GOLD, "notes": ""}, 3 / 4),
        ({**GOLD, "keep": None}, 3 / 4),
        ({p: None for p in ("a", "b", "keep")}, 1 / 4),
    ],
)
def test_the_tree_must_be_the_finished_one(give, changed, share):
    assert give("state", changed).reward == float(share == 1)
    assert give("state", changed, reward_mode="shaped").reward == pytest.approx(share)


@pytest.mark.parametrize("name", ["nothing", "rule", "faulty", "damaged"])
def test_a_task_that_cannot_be_solved_is_our_fault(give, name):
    got = give(name, {"a": "2"})
    assert (got.reward, got.reason) == (None, "task")


@pytest.mark.parametrize(
    ("program", "share"),
    [
        (DOUBLE, 1.0),
        # Both pass or fail on their own: each has a workspace to itself.
        ("print('abab')\n", 0.5),
        ("", 0.0),
        (DOUBLE + "raise SystemExit(1)\n", 0.0),
        (DOUBLE + "print('passed')\n", 0.0),
        # What is told on standard error is not looked at.
        (DOUBLE + "import sys\nprint('note', file=sys.stderr)\n", 1.0),
        ("import lib.double\n", 0.0),
        (None, 0.0),
    ],
)
def test_programs_run_on_inputs_not_seen(give, program, share):
    assert give("program", {"run.py": program}).reward == float(share == 1)
    got = give("program", {"run.py": program}, reward_mode="shaped")
    assert got.reward == got.components["probes_passed"] == share


def test_only_owned_files_count(give):
    helper = {"run.py": "import lib.double\n", "lib/double.py": DOUBLE}
    got = give("program", {**helper, "in": "cd\n", "library": "x", "sitecustomize.py": "1/0"})
    assert got.reward == 1.0
    assert (got.components["owned_files"], got.components["ignored_files"]) == (2.0, 3.0)
    assert give("program", {"in": "ab\n"}).components["owned_files"] == 0.0


def test_too_much_or_what_does_not_fit_is_the_agents_failure(give):
    many = {f"lib/{n}.py": "" for n in range(MAX_FILES)}
    assert give("program", {"run.py": DOUBLE, **many}).reward == 0.0
    assert give("program", {"run.py": DOUBLE + "#" * (2 << 20)}).reward == 0.0
    assert "does not fit" in give("program", {"run.py": None, "run.py/x": "1", "lib/a": "1", "lib/a/b": "2"}).detail


def test_servers_are_asked(give):
    assert give("server", {"s.py": SERVER}).reward == 1.0
    for old, new in (("200", "201"), ("json;", "text;"), ('"b": 1', '"b": 2'), ('b"no"', 'b"yes"'), ('b"no"', "b''")):
        assert give("server", {"s.py": SERVER.replace(old, new)}).reward == 0.0, new
    for dead in ("", 'print(\'[200, "application/json", "no"]\')\n', "import os\nos.kill(os.getppid(), 9)\n"):
        got = give("server", {"s.py": dead})
        assert got.reward == 0.0, dead


def test_files_and_status_of_a_build(give):
    right = "rm -rf out; mkdir out; echo 1 > out/new; exit 3\n"
    assert give("build", {"make.sh": right}).reward == 1.0
    for old, new in (
        ("rm -rf out", ":"),
        ("exit 3", "exit 0"),
        ("echo 1", "echo 2"),
        ("echo 1 > out/new", "mkdir out/new"),
    ):
        assert give("build", {"make.sh": right.replace(old, new)}).reward == 0.0, new


@pytest.mark.deep
def test_what_does_not_end_is_the_agents_failure(give):
    got = give("slow", {"a": "sleep 99"})
    assert (got.reward, got.reason, got.detail) == (0.0, None, "ended as timeout")


def test_probes_survive_their_record():
    probes = (*PROBES, BUILT, Probe(("python3", "s.py"), asks=ASKS))
    assert loads(dumps(probes)) == probes
    with pytest.raises((TypeError, ValueError)):
        loads('[{"command": ["true"], "asks": [], "luck": 1}]')


@pytest.mark.parametrize(
    ("got", "fits"),
    [
        ([200, "application/json", '{"b":1,"a":[2]}'], True),
        ([200, "application/json", '{"b":1,"a":[2,3]}'], False),
        ([200, "text/plain", '{"b":1,"a":[2]}'], False),
        ([404, "application/json", '{"b":1,"a":[2]}'], False),
        ([200, "application/json", "{"], False),
        ([200, "application/json", "[" * 200_000], False),
        ([200, "application/json", 7], False),
        ([200, "application/json"], False),
        ("passed", False),
        (None, False),
    ],
)
def test_answers_by_hand(got, fits):
    assert ASKS[0].fits(got) is fits
