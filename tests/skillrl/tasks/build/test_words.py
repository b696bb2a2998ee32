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
from skillrl.tasks.build.probe_excerpt import Excerpt


def shown(acts, correct, buggy):
    return symptoms(acts, correct, buggy, correct)


def test_symptoms_are_observed_differences_shortest_first():
    calls = [Call("shop.core", "price", (n,), ()) for n in ("1000", "3", "4", "5", "6")]
    correct = [Answer("returned", t) for t in ("2000", "6", "8", "9", "12")]
    correct[3] = Answer("unfit", "")
    buggy = [
        Answer("returned", "5"),
        Answer("raised", "TypeError: bad"),
        correct[2],
        Answer("returned", "9"),
        Answer("returned", "a\nb"),
    ]
    assert [s.act.expression for s in shown(calls, correct, buggy)] == ["price(3)", "price(1000)"]


def test_what_differs_by_itself_is_no_symptom():
    calls = [Call("shop", name, (), ()) for name in ("now", "price")]
    correct, buggy = (
        [Answer("returned", "1"), Answer("returned", "6")],
        [Answer("returned", "2"), Answer("returned", "5")],
    )
    (found,) = symptoms(calls, correct, buggy, [Answer("returned", "3"), Answer("returned", "6")])
    assert found.act.name == "price"


def test_an_issue_gives_call_result_and_expectation_and_prefers_another_function():
    calls = [
        Call("shop.core", "price", ("3",), (("each", "2"),)),
        Call("shop.core", "bill_of_the_day", ("[3]",), ()),
    ]
    correct = [Answer("returned", "6", True), Answer("returned", "'6.00'", True)]
    buggy = [Answer("returned", "5", True), Answer("raised", "KeyError: 3", True)]
    text = issue("shop", "price", shown(calls, correct, buggy), {"t::a": ""}, 0)
    assert "bill_of_the_day([3]) fails with KeyError: 3" in text and "'6.00'" in text
    assert "from shop import bill_of_the_day" in text
    assert "core" not in text and "price" not in text
    direct = issue("shop", "price", shown(calls[:1], correct[:1], buggy[:1]), {"t::a": ""}, 0)
    assert "price(3, each=2) gives 5" in direct and "6" in direct


def test_an_issue_quotes_methods_with_the_call_that_gives_their_object():
    version = Call("semver.version", "Version", ("1", "2"), ())
    calls = [
        Call("semver.version", "bump", (), (("part", "'minor'"),), receiver=version),
        Call("semver.version", "is_final", None, (), receiver=version),
    ]
    correct, buggy = [[Answer("returned", text, True)] * 2 for text in ("True", "False")]
    found = shown(calls, correct, buggy)
    assert [s.act.symbol for s in found] == ["Version.is_final", "Version.bump"]
    text = issue("semver", "is_final", found, {"t::a": ""}, 0)
    assert "from semver import Version\n    Version(1, 2).bump(part='minor') gives False" in text
    assert "is_final" not in text


def test_what_an_iterator_yields_and_a_message_that_names_the_place():
    call = Call("shop.core", "changes", ("3",), ())
    found = shown([call], [Answer("yielded", "[1, 2]")], [Answer("yielded", "[2]")])
    text = issue("shop", "_give", found, {"t::a": ""}, 0)
    assert "changes(3) yields [2]" in text and "[1, 2]" in text
    told = [Answer("raised", "TypeError: _give() takes 1 argument"), Answer("raised", "KeyError: 3")]
    one, other = (issue("shop", "_give", shown([call], [Answer("returned", "1")], [got]), {}, 0) for got in told)
    assert "changes(3) fails with TypeError\n" in one and "_give" not in one
    assert "changes(3) fails with KeyError: 3\n" in other
    # Nobody called it by that name; where the user did, the message stays.
    direct = shown([Call("shop.core", "_give", (), ())], [Answer("returned", "1")], [told[0]])
    assert "fails with TypeError: _give() takes 1 argument" in issue("shop", "_give", direct, {}, 0)


def test_an_issue_quotes_an_excerpt_and_prefers_one_that_does_not_name_the_place():
    acts = [
        Excerpt((), "add(1, 2)"),
        Excerpt(("from shop import Till", "till = Till()", "till.fill(3)"), "till.total"),
        Excerpt((), "Till(-1)"),
    ]
    correct = [Answer("returned", "3"), Answer("returned", "3"), Answer("raised", "ValueError: below 0")]
    buggy = [Answer("returned", "2"), Answer("raised", "KeyError: 3"), Answer("returned", "Till(-1)")]
    found = shown(acts, correct, buggy)
    assert [s.act.expression for s in found] == ["Till(-1)", "add(1, 2)", "till.total"]
    lines = "    from shop import Till\n    till = Till()\n    till.fill(3)\n    till.total fails with KeyError: 3\n\n"
    texts = {issue("shop", "add", found[1:], {"t::a": ""}, seed) for seed in range(20)}
    assert all(lines in text and "add" not in text for text in texts) and len(texts) > 3
    assert issue("shop", "add", found[1:], {"t::a": ""}, 5) == issue("shop", "add", found[1:], {"t::a": ""}, 5)
    failing = issue("shop", "add", found, {"t::a": ""}, 0)
    assert "    Till(-1) gives Till(-1)\n\nIt should fail with ValueError: below 0." in failing
    # Calls that should fail may have failed for being made out of their place.
    assert shown([Call("shop", "Till", ("-1",), ())], correct[2:], buggy[2:]) == []


def test_an_issue_without_an_example_names_the_broken_behaviour_and_not_the_place():
    names = ["tests/test_a.py::TestTill::test_fillKeeps_order[1]", "t.py::test_fill_twice", "t.py::test_fillet"]
    failing = dict.fromkeys(names, "")
    text = issue("shop", "add", [], failing, 0)
    assert "- fill keeps order" in text and "- fill twice" in text and "test_" not in text
    assert issue("shop", "fill", [], failing, 0).endswith("documented:\n\n- fillet")
    del failing["t.py::test_fillet"]
    assert (
        issue("shop", "fill", [], failing, 0) == "Some behaviour of shop is broken: it no longer works as documented."
    )
    assert "order" not in issue("shop", "keepsOrder", [], {"t.py::test_keeps_order_of_things": ""}, 0)


def test_what_tests_say_comes_first_unless_it_names_the_place():
    failing = {"t::test_a[1]": "", "t::test_a[2]": "1 != 2", "t::test_b": "KeyError: 'x'", "t::test_c": "add() is odd"}
    failing |= {f"t::test_{name}": "" for name in ("aa", "ab", "ac")}
    lines = ["- a: 1 != 2", "- b: KeyError: 'x'", "- aa", "- ab", "- ac"]
    assert issue("shop", "add", [], failing, 0).splitlines()[2:] == lines
    nameless = [lines[0], "- a case: KeyError: 'x'", "- c: add() is odd", "- aa", "- ab"]
    assert issue("shop", "b", [], failing, 0).splitlines()[2:] == nameless


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
