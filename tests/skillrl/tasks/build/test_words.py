"""What an issue, an instruction and a contract say, and the calls that they quote."""

import json
import subprocess
import sys

import pytest
from till import SOURCE

from skillrl.tasks.build import probe
from skillrl.tasks.build.issue_text import (
    Answer,
    Call,
    contract,
    docstring,
    find,
    first_sentence,
    instruction,
    issue,
    symptoms,
)


def test_symptoms_are_observed_differences_shortest_first():
    calls = [Call("shop.core", "price", (n,), ()) for n in ("1000", "3", "4", "5", "6")]
    correct = [Answer("returned", t) for t in ("2000", "6", "8", "<X at 0x7f>", "12")]
    buggy = [Answer("returned", "5"), Answer("raised", "TypeError: bad"), *correct[2:4], Answer("returned", "a\nb")]
    assert [s.call.expression for s in symptoms(calls, correct, buggy)] == ["price(3)", "price(1000)"]


def test_an_issue_gives_call_result_and_expectation_and_prefers_another_function():
    calls = [
        Call("shop.core", "price", ("3",), (("each", "2"),)),
        Call("shop.core", "bill_of_the_day", ("[3]",), ()),
    ]
    correct = [Answer("returned", "6", True), Answer("returned", "'6.00'", True)]
    buggy = [Answer("returned", "5", True), Answer("raised", "KeyError: 3", True)]
    text = issue("shop", "price", symptoms(calls, correct, buggy), ["t::a"], 0)
    assert "bill_of_the_day([3]) fails with KeyError: 3" in text and "'6.00'" in text
    assert "from shop import bill_of_the_day" in text
    assert "core" not in text and "price" not in text
    direct = issue("shop", "price", symptoms(calls[:1], correct[:1], buggy[:1]), ["t::a"], 0)
    assert "price(3, each=2) gives 5" in direct and "6" in direct


def test_an_issue_without_a_call_names_the_broken_behaviour():
    text = issue("shop", "add", [], ["tests/test_a.py::TestTill::test_addKeeps_order[1]", "t.py::test_add_twice"], 0)
    assert "- add keeps order" in text and "- add twice" in text and "test_" not in text


def test_instruction_and_contract():
    text = instruction("shop/core.py", "price", "line 8", "the comparison asks for less", SOURCE)
    assert text == (
        "Correct `price` in shop/core.py, line 8: the comparison asks for less. "
        "What the function is for: Total price of n things."
    )
    assert contract(SOURCE, "price", []).startswith("price(n, *, each: int=2) -> int\n\nTotal price of n things.")
    observed = [(Call("shop", "add", ("1",), ()), Answer("returned", "1"))]
    assert contract(SOURCE, "Till.add", observed) == "Till.add(self, amount)\n\n    add(1) gives 1"


def test_finding_functions():
    guarded = (
        "try:\n    import x\nexcept ImportError:\n    def f():\n        'Here.'\nclass A:\n    def f(self): pass\n"
    )
    assert docstring(guarded, "f") == "Here." and find(guarded, "A.f").args.args[0].arg == "self"
    with pytest.raises(KeyError):
        find(guarded, "A.g")
    assert first_sentence("Give it. Take it.\n\nMore.") == "Give it." and first_sentence("") == ""


def test_the_probe_records_calls_and_makes_them_again(tmp_path):
    """The script itself, on a package of our own, in a process of its own."""
    (tmp_path / "shop.py").write_text(
        "def price(n, *rest, each=2):\n    return _p(n) * each + sum(rest)\n\n\ndef _p(n):\n    return n\n\n\n"
        "def odd(x):\n    return x\n\n\ndef slow():\n    while True:\n        pass\n"
    )
    (tmp_path / "test_shop.py").write_text(
        "import shop\n\n\ndef test_a():\n    assert shop.price(3) == 6\n    shop.price(1, 2, each=3)\n\n\n"
        "def test_b():\n    shop.price(3)\n    shop.odd(object())\n"
    )

    def probed(**spec):
        spec_file, out = tmp_path / "spec.json", tmp_path / "out.json"
        spec_file.write_text(json.dumps({"root": str(tmp_path), "source_roots": ["."], **spec}))
        subprocess.run([sys.executable, probe.__file__, spec_file, out], check=True, capture_output=True, cwd=tmp_path)
        return json.loads(out.read_text())

    assert probed(mode="record", tests=["test_shop.py"]) == [
        ["shop", "price", ["3"], {"each": "2"}, ["test_shop.py::test_a", "test_shop.py::test_b"]],
        ["shop", "price", ["1", "2"], {"each": "3"}, ["test_shop.py::test_a"]],
    ]
    calls = [["shop", "price", ["3"], {}], ["shop", "price", ["'a'"], {"each": "[]"}], ["shop", "slow", [], {}]]
    answers = probed(mode="evaluate", calls=calls)
    assert answers[0] == ["returned", "6", True]
    assert answers[1][0] == "raised" and answers[1][1].startswith("TypeError: ")
    assert answers[2] == ["raised", "no result after 2 seconds", True]
