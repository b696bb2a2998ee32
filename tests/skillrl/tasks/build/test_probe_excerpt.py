"""What an excerpt of a failing test holds: the lines that a reader needs, and nothing that only the test knows."""

import pytest

from skillrl.tasks.build.probe_excerpt import KEEP, LOCAL, MAX_LINES, Excerpt, Known, excerpts

HERE = "# <-- fails"
TELLS = {
    "Till": Known(1, "Till", "from shop import Till", "shop", own=True),
    "price": Known(1, "price", module="shop.core", own=True),
    "shop.price": Known(2, "price", "from shop import price", "shop", own=True),
    "self.price": Known(2, "price", "from shop import price", "shop", own=True),
    "floor": Known(1, "floor", "from math import floor", "math"),
    "n": Known(1, "3"),
    "items": Known(1, "[1, 2]"),
    **{name: Known(1, KEEP) for name in ("len", "list", "sum", "isinstance", "int", "ValueError")},
    **{name: Known(1, LOCAL) for name in ("till", "self", "other", "handle")},
    "result": Known(1, "5"),
}


def resolve(parts):
    return next(
        (TELLS[d] for i in range(1, len(parts) + 1) if (d := ".".join(parts[:i])) in TELLS and d != "self"), None
    )


def taken(body):
    lines = ["class Tests:", "    def test_it(self):", *("        " + line for line in body.splitlines())]
    line = next(n for n, text in enumerate(lines, 1) if text.endswith(HERE))
    return list(excerpts("\n".join(lines), "test_it", line, resolve))


def only(body):
    (found,) = taken(body)
    return found


def test_the_side_that_does_something_is_looked_at_and_values_stand_for_names():
    assert only(f"assert shop.price(n) == 6  {HERE}") == Excerpt(
        ("from shop import price",), "price(3)", "price(3) == 6", (("price", "shop"),)
    )
    assert only(f"assert n == price(each=n)  {HERE}") == Excerpt(
        (), "price(each=3)", "3 == price(each=3)", (("price", "shop.core"),)
    )
    assert only(f"assert price(n) == sum(items) + len(items)  {HERE}").expression == "price(3)"
    assert only(f"assert not price(n)  {HERE}").expression == "price(3)"
    assert only(f"assert price(n) == price(2)  {HERE}").expression == "price(3) == price(2)"
    assert only(f"self.assertEqual(6, self.price(n), 'why')  {HERE}").expression == "price(3)"
    assert only(f"self.assertIn(6, price(n))  {HERE}").expression == "6 in price(3)"
    assert only(f"self.assertFalse(price(n))  {HERE}") == only(f"assert not price(n)  {HERE}")


def test_a_statement_that_fails_and_one_that_should_have_failed():
    assert only(f"result = price(n)  {HERE}") == Excerpt((), "price(3)", "", (("price", "shop.core"),))
    raises = f"with pytest.raises(ValueError):  {HERE}\n    price(n)"
    assert only(raises) == only(f"result = price(n)  {HERE}")
    assert taken(f"with pytest.raises(ValueError):  {HERE}\n    till.open()\n    price(n)") == []
    assert taken(f"with till.open():  {HERE}\n    price(n)") == []


def test_earlier_lines_that_make_or_change_the_value_are_told_and_no_others():
    body = f"""till = Till(n)
other = Till(1)
for x in items:
    till.add(x)
other.add(2)
if n:
    till.close()
    assert till.total == 6  {HERE}
"""
    assert only(body) == Excerpt(
        ("from shop import Till", "till = Till(3)", "for x in [1, 2]:", "    till.add(x)", "till.close()"),
        "till.total",
        "till.total == 6",
        (("Till", "shop"),),
    )


def test_a_second_excerpt_holds_calls_of_earlier_assertions():
    body = f"till = Till()\nassert till.pop() == 3\nassert n == 3\nassert len(till) == 0  {HERE}"
    first, second = taken(body)
    assert first.lines == ("from shop import Till", "till = Till()")
    assert second.lines == (*first.lines, "till.pop()") and second.expression == first.expression == "len(till)"


def test_a_list_is_told_by_how_it_came_about():
    body = f"items = []\nprice(items)\nassert len(items) == 2  {HERE}"
    assert only(body).lines == ("items = []", "price(items)") and only(body).expression == "len(items)"
    assert only(f"assert price(items) == 2  {HERE}").expression == "price([1, 2])"
    unchanged = only(f"items = [1, 2]\nassert price(n) == items  {HERE}")
    assert unchanged.lines == () and unchanged.expression == "price(3)"


def test_what_only_the_claim_names_is_not_told():
    assert only(f"assert price(n) == floor(6.5)  {HERE}") == Excerpt(
        (), "price(3)", "price(3) == floor(6.5)", (("floor", "math"), ("price", "shop.core"))
    )


def test_a_result_is_told_by_the_call_that_gave_it():
    body = f"result = price(n)\nassert result == 6  {HERE}"
    assert only(body) == Excerpt(("result = price(3)",), "result", "result == 6", (("price", "shop.core"),))


def test_parameters_and_comprehensions_keep_their_names():
    body = f"till = Till(lambda n: n + 1)\nassert till.all([n for n in items]) == 1  {HERE}"
    assert only(body).lines[1] == "till = Till(lambda n: n + 1)"
    assert only(body).expression == "till.all([n for n in [1, 2]])"


@pytest.mark.parametrize(
    "body",
    [
        f"assert unknown(n) == 6  {HERE}",
        # Made by a fixture, or an attribute of the test's class.
        f"assert handle.total == 6  {HERE}",
        f"assert self.till.total == 6  {HERE}",
        f"assert price(n)._secret == 6  {HERE}",
        f"with till.open() as handle:\n    assert handle.total == 6  {HERE}",
        f"assert price({'1 + ' * 60}n) == 6  {HERE}",
        "till = Till()\n" + "till.add(n)\n" * MAX_LINES + f"assert till.total == 6  {HERE}",
        # It looks at nothing of the package.
        f"assert n == 6  {HERE}",
        f"assert sum(items) == 6  {HERE}",
        f"def inner():\n    if n:\n        pass  {HERE}",
    ],
)
def test_what_means_nothing_outside_the_test_is_left_out(body):
    assert taken(body) == []
