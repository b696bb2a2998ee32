"""What an issue, an instruction and a contract say, and the calls that they quote."""

import pytest
from till import SOURCE

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


def test_an_issue_quotes_methods_with_the_call_that_gives_their_object():
    version = Call("semver.version", "Version", ("1", "2"), ())
    calls = [
        Call("semver.version", "bump", (), (("part", "'minor'"),), receiver=version),
        Call("semver.version", "is_final", None, (), receiver=version),
    ]
    correct, buggy = [[Answer("returned", text, True)] * 2 for text in ("True", "False")]
    found = symptoms(calls, correct, buggy)
    assert [s.call.symbol for s in found] == ["Version.is_final", "Version.bump"]
    text = issue("semver", "is_final", found, ["t::a"], 0)
    assert "from semver import Version\n    Version(1, 2).bump(part='minor') gives False" in text
    assert "is_final" not in text


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
