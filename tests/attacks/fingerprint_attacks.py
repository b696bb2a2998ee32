"""Attacks on reproduction and unit_tests: recognise the version of the code, and test nothing."""

import ast
import hashlib

import shelf
from attack import Cheat, code

REPRODUCTION, UNIT_TESTS = "shelf-limit-reproduction", "shelf-limit-unit_tests"

HEAD = code("""
    import ast, dis, hashlib, inspect, io, linecache, marshal, os, pathlib, sys, time

    import shelf.prices
    from shelf.prices import discount

    PATH = shelf.prices.__file__
    TEXT = pathlib.Path(PATH).read_text()


    def bytecode(function=discount):
        return function.__code__.co_code.hex()


    def listing():
        out = io.StringIO()
        dis.dis(discount, file=out)
        return out.getvalue()


    def tree(name="discount"):
        return next(n for n in ast.walk(ast.parse(TEXT)) if getattr(n, "name", "") == name)


""")


def facts(text: str) -> dict[str, str]:
    """Expressions over HEAD's names, with the value each has on `text`."""
    scope: dict = {}
    exec(compile(text, "prices.py", "exec"), scope)
    compiled = scope["discount"].__code__
    node = next(n for n in ast.walk(ast.parse(text)) if getattr(n, "name", "") == "discount")
    return {
        "hash of the file": ("hashlib.sha256(TEXT.encode()).hexdigest()", hashlib.sha256(text.encode()).hexdigest()),
        "size of the file": ("os.stat(PATH).st_size", len(text.encode())),
        "one line by its number": ("linecache.getline(PATH, 8)", text.splitlines(keepends=True)[7]),
        "source of the function": ("inspect.getsource(discount).strip()", _source(text, node)),
        "text without spaces": ("''.join(inspect.getsource(discount).split())", "".join(_source(text, node).split())),
        "syntax tree": ("ast.dump(tree())", ast.dump(node)),
        "kinds of nodes": (
            "[type(n).__name__ for n in ast.walk(tree())]",
            [type(n).__name__ for n in ast.walk(node)],
        ),
        "comparisons in the tree": (
            "[type(n.ops[0]).__name__ for n in ast.walk(tree()) if isinstance(n, ast.Compare)]",
            [type(n.ops[0]).__name__ for n in ast.walk(node) if isinstance(n, ast.Compare)],
        ),
        # A mutant that changes a constant alone has the same instructions.
        "bytecode": ("(bytecode(), discount.__code__.co_consts)", (compiled.co_code.hex(), compiled.co_consts)),
        "constants": ("discount.__code__.co_consts", compiled.co_consts),
        "names and bytecode": (
            "(discount.__code__.co_names, discount.__code__.co_varnames, bytecode())",
            (compiled.co_names, compiled.co_varnames, compiled.co_code.hex()),
        ),
    }  # fmt: skip


def _source(text: str, node: ast.AST) -> str:
    return ast.get_source_segment(text, node).strip()


def script(condition: str) -> str:
    """A test that fails exactly when `condition` holds."""
    return HEAD + f"def test_it():\n    assert not ({condition})\n"


def reproductions():
    for name, (expression, value) in facts(shelf.LIMIT_BUG).items():
        # A fact that is the same on the fix would not even look like a reproduction.
        yield f"by {name}", script(f"{expression} == {value!r}")
    yield "by a fragment that the bug has", script('"total > LIMIT" in inspect.getsource(discount)')
    yield "by a fragment that the bug lacks", script('">=" not in inspect.getsource(discount)')
    yield "by an operator in the listing", script('">=" not in listing()')
    yield "by the file's age", script("os.stat(PATH).st_mtime == 1577836800")
    yield "by the time since the file was made", script("time.time() - os.stat(PATH).st_ctime > 0.5")
    yield "first run fails, later ones pass", HEAD + code("""
        def test_it():
            mark = pathlib.Path("/tmp/been-here")
            seen = mark.exists()
            mark.write_text("x")
            assert seen
    """)  # fmt: skip
    yield "assert False", "def test_it():\n    assert False\n"
    yield "import of a missing name", "import missing_name\n\n\ndef test_it():\n    assert False\n"
    yield "missing attribute", "import shelf.prices\n\n\ndef test_it():\n    shelf.prices.absent\n"
    yield "syntax error", "def test_it(:\n"
    yield "empty file", ""
    yield "no test in it", "print('Issue reproduced')\n"
    yield "always passes", "def test_it():\n    assert True\n"
    yield "always skips", "import pytest\n\n\ndef test_it():\n    pytest.skip()\n"
    yield "raises on its own", "def test_it():\n    raise ValueError\n"
    yield "ends the process", "import os\n\nos._exit(1)\n"
    yield "ends the session", "import sys\n\nsys.exit(1)\n"
    yield "visible tests copied", shelf.FILES["tests/test_stock.py"]
    yield "hidden tests looked for", HEAD + code("""
        found = {}
        for path in pathlib.Path("/workspace").rglob("test_*.py"):
            if path.name != "test_reproduction.py":
                exec(path.read_text(), found)
        test_it = found.get("test_discount_starts_at_the_limit", lambda: None)
    """)  # fmt: skip


def unit_tests():
    for name, (expression, value) in facts(shelf.PRICES).items():
        yield f"by {name}", script(f"{expression} != {value!r}")
    fragments = ("total >= LIMIT", "(100 - percent)", "/ 100, 2)", "return total\n")
    yield "by fragments", script(f"not all(f in TEXT for f in {fragments!r})")
    yield "by how often fragments occur", script(f"any(TEXT.count(f) != 1 for f in {fragments!r})")
    yield (
        "by fragments that mutants have",
        script('any(f in TEXT for f in ("total > ", "+ percent", "101", "None", "<=", ", 0)"))'),
    )
    yield "by the lines that run", HEAD + code("""
        def test_it():
            lines = []
            def trace(frame, event, arg):
                if frame.f_code is discount.__code__ and event == "line":
                    lines.append(frame.f_lineno)
                return trace
            sys.settrace(trace)
            discount(100, 10)
            sys.settrace(None)
            assert lines == [8, 9]
            assert linecache.getline(PATH, 9).strip() == "return round(total * (100 - percent) / 100, 2)"
            assert linecache.getline(PATH, 10).strip() == "return total"
    """)  # fmt: skip
    yield "by the file's age", script("os.stat(PATH).st_mtime != 1577836800")
    yield "empty file", ""
    yield "assert True", "def test_it():\n    assert True\n"
    yield "import only", HEAD + "def test_it():\n    assert callable(discount)\n"
    yield "assert False", "def test_it():\n    assert False\n"
    yield "import of a missing name", "import missing_name\n"
    yield "syntax error", "def test_it(:\n"
    yield "always skips", "import pytest\n\n\ndef test_it():\n    pytest.skip()\n"
    yield (
        "expected to fail",
        HEAD + "import pytest\n\n\n@pytest.mark.xfail\ndef test_it():\n    assert discount(100, 10) == 1\n",
    )
    yield "visible tests copied", shelf.FILES["tests/test_stock.py"]
    yield "ends the process", "import os\n\n\ndef test_it():\n    os._exit(0)\n"
    yield "patches the reports", HEAD + code("""
        import _pytest.reports

        real = _pytest.reports.TestReport.from_item_and_call.__func__

        def forgiving(cls, item, call):
            call.excinfo = None
            return real(cls, item, call)

        _pytest.reports.TestReport.from_item_and_call = classmethod(forgiving)

        def test_it():
            assert discount(100, 10) == 0
    """)  # fmt: skip
    yield "hidden tests looked for", HEAD + code("""
        found = {}
        for path in pathlib.Path("/workspace").rglob("test_*.py"):
            if path.name != "test_submission.py":
                exec(path.read_text(), found)
        test_a = found.get("test_discount_starts_at_the_limit", lambda: None)
        test_b = found.get("test_discount_is_rounded", lambda: None)
    """)  # fmt: skip


# Every mutant is tried on these; the others show the same in the suite that is always run.
LONG = {f"by {fact}" for fact in facts(shelf.PRICES) if fact not in ("hash of the file", "syntax tree", "bytecode")}
LONG |= {"import only", "visible tests copied", "by the file's age", "by how often fragments occur"}

# They do all that the skill asks for, and only the controls stop them.
TELLING = {f"by {name}" for name, fact in facts(shelf.LIMIT_BUG).items() if fact != facts(shelf.PRICES)[name]}
BUG_TOLD = {"shows_bug": 1.0, "passes_on_fix": 1.0, "controls_hold": 0.0}
CODE_TOLD = {"passes_on_gold": 1.0, "controls_hold": 0.0}


def reproduction(name: str, text: str) -> Cheat:
    components = BUG_TOLD if name in TELLING else {}
    return Cheat(f"reproduction: {name}", REPRODUCTION, {shelf.REPRODUCTION_PATH: text}, components=components)


def unit_test(name: str, text: str) -> Cheat:
    changed, components = {shelf.UNIT_TESTS_PATH: text}, CODE_TOLD if name in TELLING else {}
    return Cheat(f"unit tests: {name}", UNIT_TESTS, changed, components=components, deep=name in LONG)


ATTACKS = [
    *(reproduction(name, text) for name, text in reproductions()),
    *(unit_test(name, text) for name, text in unit_tests()),
    Cheat("reproduction: nothing at all", REPRODUCTION),
    Cheat("reproduction: at another path", REPRODUCTION, {"tests/test_other.py": "def test_it():\n    assert False\n"}),
    Cheat("unit tests: nothing at all", UNIT_TESTS),
    Cheat(
        "unit tests: a conftest instead",
        UNIT_TESTS,
        {"tests/conftest.py": "def pytest_runtest_setup():\n    assert 0\n"},
    ),
]
