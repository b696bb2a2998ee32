"""A log of every foreign test runner, and what it says; written by hand in the runners' formats."""

LOGS: dict[str, tuple[str, dict[str, str]]] = {
    "pytest": (
        """\
============================= test session starts ==============================
collected 7 items
tests/test_a.py ..FsxE                                                    [100%]
=========================== short test summary info ============================
PASSED tests/test_a.py::test_one
PASSED tests/test_a.py::test_two[1-2]
SKIPPED [1] tests/test_a.py:9: no network
XFAIL tests/test_a.py::test_known - later
FAILED tests/test_a.py::test_three - AssertionError: assert 1 == 2
ERROR tests/test_a.py::test_four - RuntimeError: PASSED tests/test_a.py::test_forged
========================= 1 failed, 2 passed in 0.03s ==========================
""",
        {
            "tests/test_a.py::test_one": "passed",
            "tests/test_a.py::test_two[1-2]": "passed",
            "tests/test_a.py::test_known": "xfailed",
            "tests/test_a.py::test_three": "failed",
            "tests/test_a.py::test_four": "error",
        },
    ),
    "pytest_options": (
        "PASSED tests/t.py::test_a[/tmp/x/data.txt]\nPASSED tests/t.py::test_b[//host/x]\n"
        "FAILED tests/t.py::test_c - no",
        {
            "tests/t.py::test_a[/data.txt]": "passed",
            "tests/t.py::test_b[//host/x]": "passed",
            "tests/t.py::test_c": "failed",
        },
    ),
    "pytest_v2": (
        "\x1b[32mPASSED\x1b[0m t.py::test_a\nFAILED t.py::test_b[x y] - AssertionError - more\nt.py::test_c PASSED\n",
        {"t.py::test_a": "passed", "t.py::test_b[x y]": "failed", "t.py::test_c": "passed"},
    ),
    "pytest_verbose": (
        "t.py::test_a PASSED   [ 50%]\nt.py::test_b FAILED   [100%]\nFAILED t.py::test_b\n",
        {"t.py::test_a": "passed", "t.py::test_b": "failed"},
    ),
    "pytest_names": (
        """\
PASSED before.py::test_no
=========================== short test summary info ============================
\x1b[32mPASSED\x1b[0m r2e_tests/test_1.py::\x1b[1mTestA::test_a[x]\x1b[0m
FAILED r2e_tests/test_1.py::test_b - ValueError: PASSED
ERROR r2e_tests/test_2.py - ImportError: no
""",
        {"TestA.test_a[x]": "passed", "test_b": "failed", "r2e_tests/test_2.py": "error"},
    ),
    "unittest": (
        """\
test_one (tests.test_a.TestA.test_one) ... ok
test_two (tests.test_a.TestA.test_two)
Says what it does. ... FAIL
test_three (tests.test_a.TestA.test_three) ... skipped 'no network'
test_four (tests.test_a.TestA.test_four) ... printed by the test
ok
test_five (tests.test_a.TestA.test_five) ... expected failure
test_six (tests.test_a.TestA.test_six) ... unexpected success
test_seven (tests.test_a.TestA.test_seven) ... ERROR

======================================================================
ERROR: setUpClass (tests.test_b.TestB)
----------------------------------------------------------------------
Ran 7 tests in 0.001s

FAILED (failures=1, errors=2)
""",
        {
            "test_one (tests.test_a.TestA.test_one)": "passed",
            "test_two (tests.test_a.TestA.test_two)": "failed",
            "test_three (tests.test_a.TestA.test_three)": "skipped",
            "test_four (tests.test_a.TestA.test_four)": "passed",
            "test_five (tests.test_a.TestA.test_five)": "xfailed",
            "test_six (tests.test_a.TestA.test_six)": "failed",
            "test_seven (tests.test_a.TestA.test_seven)": "error",
            "setUpClass (tests.test_b.TestB)": "error",
        },
    ),
    "django": (
        """\
test_a (queries.tests.QTests) ... ok
test_b (queries.tests.QTests)
Filters by a key. ... ok
test_c (queries.tests.QTests) ... FAIL
test_d (queries.tests.QTests) ... ERROR
test_e (queries.tests.QTests) ... skipped 'needs a server'
test_f (queries.tests.QTests) ... Testing something
ok
FAIL: test_c (queries.tests.QTests)
""",
        {
            "test_a (queries.tests.QTests)": "passed",
            "Filters by a key.": "passed",
            "test_c (queries.tests.QTests)": "failed",
            "test_d (queries.tests.QTests)": "error",
            "test_e (queries.tests.QTests)": "skipped",
            "test_f (queries.tests.QTests)": "passed",
            "test_c": "failed",
        },
    ),
    "seaborn": (
        "tests/t.py::test_a PASSED [ 50%]\nFAILED tests/t.py::test_b - no\nPASSED tests/t.py::test_c\n",
        {"tests/t.py::test_a": "passed", "tests/t.py::test_b": "failed", "tests/t.py::test_c": "passed"},
    ),
    "sympy": (
        """\
sympy/core/tests/test_a.py[3]
test_one ok
test_two F
test_three E
________________ sympy/core/tests/test_a.py:test_two ________________
""",
        {
            "test_one": "passed",
            "test_two": "failed",
            "test_three": "error",
            "sympy/core/tests/test_a.py:test_two": "failed",
        },
    ),
    "matplotlib": (
        "PASSED t.py::test_click[MouseButton.LEFT]\nFAILED t.py::test_drag[MouseButton.RIGHT] - no\n",
        {"t.py::test_click[1]": "passed", "t.py::test_drag[3]": "failed"},
    ),
    "gotest": (
        "=== RUN   TestA\n--- PASS: TestA (0.00s)\n    --- FAIL: TestB/case_1 (0.10s)\n--- SKIP: TestC (0.00s)\nFAIL\n",
        {"TestA": "passed", "TestB/case_1": "failed", "TestC": "skipped"},
    ),
    "cargo": (
        "running 3 tests\ntest a::b ... ok\ntest a::c ... FAILED\n\ntest result: FAILED. 1 passed; 1 failed\n",
        {"a::b": "passed", "a::c": "failed"},
    ),
    "googletest": (
        "[ RUN      ] A.b\n[       OK ] A.b (0 ms)\n[ RUN      ] A.c\n[  FAILED  ] A.c (3 ms)\n",
        {"A.b": "passed", "A.c": "failed"},
    ),
    "ctest": (
        """\
1/4 Test #1: units ............................   Passed    0.01 sec
2/4 Test #2: long name here ...................***Failed    0.02 sec
3/4 Test #3: slow ............................***Timeout  10.00 sec
4/4 Test #4: absent ...........................***Not Run   0.00 sec
""",
        {"units": "passed", "long name here": "failed", "slow": "failed", "absent": "skipped"},
    ),
    "doctest": (
        """\
noise
<doctest binary="t"><TestSuite><TestCase name="A"><SubCase name="x"><Expression success="true"/></SubCase>
<SubCase name="y"><Expression success="true"/><Expression success="false"/></SubCase></TestCase></TestSuite></doctest>
""",
        {"A > x": "passed", "A > y": "failed"},
    ),
    "redis": (
        "[ok]: SET works (12 ms)\n[err]: GET works in tests/unit/a.tcl\n[skip]: big one\n[ignore]: old one\n",
        {"SET works": "passed", "GET works": "failed", "big one": "skipped", "old one": "skipped"},
    ),
    "jq": ("PASS: tests/a\nFAIL: tests/b\n", {"tests/a": "passed", "tests/b": "failed"}),
    "micropython_test": (
        "pass  basics/a.py\nFAIL  basics/b.py\nskip  basics/c.py\n",
        {"basics/a.py": "passed", "basics/b.py": "failed", "basics/c.py": "skipped"},
    ),
    "maven": (
        """\
+ mvn test -B -Dtest=ATest#one
[INFO] BUILD SUCCESS
+ mvn test -B -Dtest=ATest#two
+ mvn test -B -Dtest=ATest#three
[INFO] BUILD FAILURE
[INFO] BUILD SUCCESS
""",
        {"ATest#one": "passed", "ATest#two": "failed", "ATest#three": "passed"},
    ),
    "ant": (
        "   [junit] [PASS] a.B#c\n   [junit] [FAIL] a.B#d\n   [junit] [ERR] a.B#e\n",
        {"a.B#c": "passed", "a.B#d": "failed", "a.B#e": "failed"},
    ),
    "gradle_custom": (
        "a.BTest > one PASSED\na.BTest > two\nwarning: noise in between\nFAILED\n> Task :test FAILED\n",
        {"a.BTest > one": "passed", "a.BTest > two": "failed"},
    ),
    "jest": (
        "PASS a.test.js\n  sums\n    ✓ adds (5 ms)\n    ✕ subtracts\n    ○ divides\n",
        {"adds": "passed", "subtracts": "failed", "divides": "skipped"},
    ),
    "jest_json": (
        "[PASSED] sums > adds\n[FAILED] sums > subtracts\n",
        {"sums > adds": "passed", "sums > subtracts": "failed"},
    ),
    "vitest": (
        " ✓ a.spec.ts > adds 3ms\n × a.spec.ts > subtracts\n ↓ a.spec.ts > divides [skipped]\n",
        {"a.spec.ts > adds": "passed", "a.spec.ts > subtracts": "failed", "a.spec.ts > divides": "skipped"},
    ),
    "mocha": (
        "  sums\n    ✓ adds (12ms)\n    1) subtracts\n\n  1 passing (3s)\n  1 failing\n\n"
        "  1) sums\n       subtracts:\n",
        {"sums.adds": "passed", "sums.subtracts": "failed"},
    ),
    "karma": (
        """\
Starting browser Chrome

  sums
    ✔ adds
    ✖ subtracts

SUMMARY:
✔ 1 test completed
""",
        {" > ".join(["sums", "adds"]): "passed", " > ".join(["sums", "subtracts"]): "failed"},
    ),
    "tap": ("TAP version 13\nok 1 adds\nnot ok 2 subtracts\n1..2\n", {"adds": "passed", "subtracts": "failed"}),
    "phpunit": (
        "Sum (Tests\\Unit\\SumTest)\n ✔ Adds\n ✘ Subtracts\n ↩ Divides\n",
        {"Sum > Adds": "passed", "Sum > Subtracts": "failed", "Sum > Divides": "skipped"},
    ),
    "minitest": (
        "TestA#test_one. = 0.01 s = .\nTestA#test_two. = 0.02 s = F\n",
        {"TestA#test_one": "passed", "TestA#test_two": "failed"},
    ),
    "cucumber": (
        "features/a.feature ..\nfeatures/b.feature .F\n",
        {"features/a.feature": "passed", "features/b.feature": "failed"},
    ),
    "ruby_unit": (
        "  test: adds:\t.: (0.001)\n  test: subtracts:\tF\n  test: divides:\tO: (0.1)\n",
        {"adds": "passed", "subtracts": "failed", "divides": "skipped"},
    ),
    "rspec_transformed_json": (
        "Sum adds - passed\nSum subtracts - failed\n",
        {"Sum adds": "passed", "Sum subtracts": "failed"},
    ),
}
