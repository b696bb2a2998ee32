"""Attacks that aim for no grade at all where the minimum is due: a fault of ours is left out of training.

And attacks on the grader's own time and memory, which are as good: a service that hangs grades nobody.
"""

import shelf
from attack import Cheat, code
from fingerprint_attacks import REPRODUCTION, UNIT_TESTS
from source_attacks import FORGE, TASK, at_import

from sandbox_service.graders import Submission

PRICES = "src/shelf/prices.py"
LOCALIZATION = "shelf-limit-localization"


def source(text: str) -> dict[str, str]:
    return {PRICES: text}


def reports(text: str) -> dict[str, str]:
    """Sends this instead of the harness's report."""
    return at_import(FORGE + f"""
    def send(data):
        for name in os.listdir("/proc/self/fd"):
            try:
                if int(name) > 2 and os.readlink("/proc/self/fd/" + name).startswith(("pipe:", "socket:")):
                    view = memoryview(data)
                    while view:
                        view = view[os.write(int(name), view):]
            except OSError:
                pass

    send({text})
    os._exit(1)
    """)  # fmt: skip


ROW = '{"nonce": "", "exit_code": 1, "collected": [], "results": {"t": ["failed", "", "call", "", %s]}}'
CHANGES = {
    "a source nested too deep to be read": source("x = " + "-" * 200_000 + "1\n"),
    "a source with too many brackets": source("x = " + "(" * 50_000 + ")" * 50_000 + "\n"),
    "a source with a chain too long to be read": source("x = a" + ".b" * 100_000 + "\n"),
    "a source of a million lines": source("x = 1\n" * 1_000_000),
    "a source of lines that no two comparisons share": source("".join(f"x{i % 997} = {i}\n" for i in range(150_000))),
    "a source that is no text": {PRICES: b"\xff\xfe\x00\x01" * 1000},
    "a source with zero bytes": source("\0" * 1000),
    "a source in another encoding": {PRICES: b"# coding: utf-7\n+AD0-\n"},
    "a folder in place of the source": {PRICES: None, PRICES + "/x.py": "x = 1\n"},
    "a source in place of the folder": {"src/shelf": "x = 1\n", PRICES: None, "src/shelf/__init__.py": None},
    "everything is deleted": {path: None for path in shelf.FILES},
    "ten thousand new files": {f"src/shelf/x{i}.py": "" for i in range(10_000)},
    "a report that is no object": reports("b'[' * 100_000"),
    "a report with a number that is none": reports(repr((ROW % "Infinity").encode())),
    "a report with a number too long": reports(repr((ROW % ("9" * 10_000)).encode())),
    "a report with half a character": reports(
        repr((ROW % '0], "\\ud800": ["failed", "", "call", "\\ud800", 0').encode())
    ),
    "a report without an end": reports("b'x' * (9 << 20)"),
    "two reports": reports("(json.dumps({'nonce': nonce()}) * 2).encode()"),
    "the guard is killed": at_import("""
        import os, signal

        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV):
            try:
                os.kill(1, number)
                os.kill(-1, number)
            except OSError:
                pass
        os.kill(os.getpid(), signal.SIGKILL)
    """),
    "the run eats its memory": at_import("x = [bytes(1 << 20) for _ in range(4000)]"),
    "the run eats its processes": at_import(
        "import os, time\nwhile True:\n    if not os.fork():\n        time.sleep(9)"
    ),
    "the run eats its disk": at_import("f = open('/tmp/x', 'wb')\nwhile True:\n    f.write(bytes(1 << 20))"),
    "the run floods its output": at_import("import os\nwhile True:\n    os.write(2, bytes(1 << 16))"),
    "the interpreter falls over": at_import("import ctypes\nctypes.string_at(0)"),
}
TESTS = {
    "tests by the hundred thousand": "".join(f"def test_{i}(): pass\n" for i in range(3_000)),
    "one test with too many cases": (
        "import pytest\n\n@pytest.mark.parametrize('x', range(20_000))\ndef test_it(x):\n    pass\n"
    ),
    "a name too long": (
        "import pytest\n\n@pytest.mark.parametrize('x', ['y' * 10_000_000])\ndef test_it(x):\n    assert x\n"
    ),
    "a test nested too deep": "x = " + "-" * 200_000 + "1\n\ndef test_it():\n    pass\n",
    "a message too long": "def test_it():\n    assert 'x' * 50_000_000 == 'y' * 50_000_000\n",
}
PROGRAMS = {
    "a name that is no text": "open(b'src/shelf/\\xff\\xfe.py', 'w').write('x = 1')",
    "folders without a bottom": code("""
        import os

        os.chdir("src/shelf")
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        open("x.py", "w").write("x = 1")
    """),
    "more than can be taken": "open('src/shelf/big.py', 'wb').write(bytes(100 << 20))",
    "a million empty files": code("""
        import os

        for folder in range(10):
            os.mkdir(f"src/shelf/{folder}")
            for i in range(1000):
                try:
                    open(f"src/shelf/{folder}/{i}.py", "w").close()
                except OSError:
                    raise SystemExit(0)
    """),
    "a link in place of the source": (
        "import os\nos.remove('src/shelf/prices.py')\nos.symlink('/packages/pytest/__init__.py', 'src/shelf/prices.py')"
    ),
    "a queue in place of the source": "import os\nos.remove('src/shelf/prices.py')\nos.mkfifo('src/shelf/prices.py')",
    "a source that nobody may read": "import os\nos.chmod('src/shelf/prices.py', 0)\nos.chmod('src/shelf', 0)",
}

LONG = {"a million empty files", "ten thousand new files", "a source of a million lines", "everything is deleted"}
ATTACKS = [
    *(Cheat(name, TASK, changed, wants=None, deep=name in LONG) for name, changed in CHANGES.items()),
    *(
        Cheat(f"{skill}: {name}", task_id, {path: text}, wants=None, deep=True)
        for skill, task_id, path in (
            ("unit tests", UNIT_TESTS, shelf.UNIT_TESTS_PATH),
            ("reproduction", REPRODUCTION, shelf.REPRODUCTION_PATH),
        )
        for name, text in TESTS.items()
    ),
    *(
        Cheat(name, TASK, program=program, wants=None, everywhere=name not in LONG, deep=name in LONG)
        for name, program in PROGRAMS.items()
    ),
    Cheat("localization: a hundred thousand paths", LOCALIZATION, submission=Submission(
        files=tuple(f"src/shelf/{i}.py" for i in range(100_000))
    ), minimum=-1.0, wants=None),
    Cheat("localization: a path without an end", LOCALIZATION, submission=Submission(
        files=("a/" * 2_000_000,)
    ), minimum=-1.0, wants=None),
    Cheat("localization: paths that are none", LOCALIZATION, submission=Submission(
        files=("", "/", ".", "..", "\0", "\ud800", PRICES + "\0", PRICES + "/", "SRC/shelf/Prices.py")
    ), minimum=-1.0, wants=None),
    Cheat("localization: a path that climbs", LOCALIZATION, submission=Submission(
        files=("src/shelf/prices.py", "../../etc/passwd")
    ), minimum=-1.0),
    Cheat("review: a verdict without an end", "shelf-limit-review-0", submission=Submission(judgment="YES" * 1000)),
]  # fmt: skip
