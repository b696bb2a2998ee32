"""Level 0: functions of one expression. Each family is a group of templates with one signature and one kind of result.

A template's words and code map one-to-one, {a} and {b} stand for the parameters. Planted bugs, mutants and wrong fixes
put a sibling's code in place of the right one. The domain of a signature is the fixed list of arguments from which
calls in issues and tests are drawn; every template is total on it.
"""

import functools
import random
from dataclasses import dataclass

from skillrl.tasks.world.words import VALUES


@dataclass(frozen=True)
class Expression:
    """One function body `return CODE` and what it returns, in words ("Return WORDS.")."""

    words: str
    code: str


@dataclass(frozen=True)
class Family:
    name: str
    signature: str
    # Docstring of the modules.
    topic: str
    expressions: tuple[Expression, ...]
    # Functions that call another one: {call} is the call of a function of this family.
    callers: tuple[Expression, ...]


def _family(name: str, signature: str, topic: str, table: str, callers: str) -> Family:
    def rows(text):
        return tuple(Expression(*map(str.strip, line.split(" | ", 1))) for line in text.strip().splitlines())

    return Family(name, signature, topic, rows(table), rows(callers))


_INT_CALLERS = """
one more than {call} | {call} + 1
twice {call} | 2 * {call}
"""

TRAIN_FAMILIES = (
    _family(
        "numbers",
        "ii",
        "Work with numbers",
        """
        {a} plus {b} | {a} + {b}
        {a} minus {b} | {a} - {b}
        {b} minus {a} | {b} - {a}
        {a} times {b} | {a} * {b}
        the larger of {a} and {b} | max({a}, {b})
        the smaller of {a} and {b} | min({a}, {b})
        the distance of {a} and {b} | abs({a} - {b})
        twice {a} plus {b} | 2 * {a} + {b}
        {a} plus twice {b} | {a} + 2 * {b}
        the square of {a} plus {b} | {a} * {a} + {b}
        """,
        _INT_CALLERS,
    ),
    _family(
        "lists",
        "l",
        "Work with lists",
        """
        the first item of {a} | {a}[0]
        the second item of {a} | {a}[1]
        the last item of {a} | {a}[-1]
        the largest item of {a} | max({a})
        the smallest item of {a} | min({a})
        the sum of {a} | sum({a})
        the length of {a} | len({a})
        the first plus the last item of {a} | {a}[0] + {a}[-1]
        the range of {a} | max({a}) - min({a})
        the number of distinct items of {a} | len(set({a}))
        """,
        _INT_CALLERS,
    ),
    _family(
        "text",
        "s",
        "Work with text",
        """
        {a} in upper case | {a}.upper()
        {a} with a capital | {a}.title()
        the first letter of {a} | {a}[0]
        the last letter of {a} | {a}[-1]
        {a} backwards | {a}[::-1]
        {a} twice | {a} * 2
        {a} without its first letter | {a}[1:]
        {a} without its last letter | {a}[:-1]
        the first two letters of {a} | {a}[:2]
        the last two letters of {a} | {a}[-2:]
        """,
        """
        {call} with a dot | {call} + "."
        {call} with a star | "*" + {call}
        """,
    ),
    _family(
        "flags",
        "ii",
        "Answer questions about numbers",
        """
        True if {a} is below {b} | {a} < {b}
        True if {a} is above {b} | {a} > {b}
        True if {a} is at most {b} | {a} <= {b}
        True if {a} is at least {b} | {a} >= {b}
        True if {a} equals {b} | {a} == {b}
        True if {a} differs from {b} | {a} != {b}
        True if {a} and {b} are positive | {a} > 0 and {b} > 0
        True if {a} or {b} is zero | {a} == 0 or {b} == 0
        True if {a} is twice {b} | {a} == 2 * {b}
        """,
        """
        the opposite of {call} | not {call}
        {call} as a number | int({call})
        """,
    ),
    _family(
        "baskets",
        "li",
        "Work with baskets of items",
        """
        how often {b} is in {a} | {a}.count({b})
        the sum of {a} plus {b} | sum({a}) + {b}
        the sum of {a} minus {b} | sum({a}) - {b}
        the length of {a} plus {b} | len({a}) + {b}
        the first item of {a} plus {b} | {a}[0] + {b}
        the first item of {a} times {b} | {a}[0] * {b}
        the last item of {a} minus {b} | {a}[-1] - {b}
        the last item of {a} times {b} | {a}[-1] * {b}
        the largest item of {a} plus {b} | max({a}) + {b}
        the smallest item of {a} plus {b} | min({a}) + {b}
        """,
        _INT_CALLERS,
    ),
    _family(
        "records",
        "d",
        "Work with records",
        """
        the number of keys of {a} | len({a})
        twice the number of keys of {a} | 2 * len({a})
        the sum of the values of {a} | sum({a}.values())
        the largest value of {a} | max({a}.values())
        the smallest value of {a} | min({a}.values())
        the value of the first key of {a} | {a}[min({a})]
        the value of the last key of {a} | {a}[max({a})]
        the value of x in {a} or zero | {a}.get("x", 0)
        the value of y in {a} or zero | {a}.get("y", 0)
        the value of x in {a} or one | {a}.get("x", 1)
        """,
        _INT_CALLERS,
    ),
    _family(
        "units",
        "ip",
        "Convert units",
        """
        {a} weeks and {b} days in days | 7 * {a} + {b}
        {a} tens and {b} ones | 10 * {a} + {b}
        {a} dozens and {b} pieces in pieces | 12 * {a} + {b}
        {a} minutes and {b} seconds in seconds | 60 * {a} + {b}
        {a} pieces and {b} dozens in pieces | {a} + 12 * {b}
        {a} days and {b} weeks in days | {a} + 7 * {b}
        {a} shared by {b} | {a} // {b}
        the rest of {a} shared by {b} | {a} % {b}
        half of {a} and {b} | {a} // 2 + {b}
        {a} and half of {b} | {a} + {b} // 2
        """,
        _INT_CALLERS,
    ),
)

_HELDOUT_CALLERS = """
one less than {call} | {call} - 1
three times {call} | 3 * {call}
"""

HELDOUT_FAMILIES = (
    _family(
        "grids",
        "g",
        "Work with grids",
        """
        the top left cell of {a} | {a}[0][0]
        the top right cell of {a} | {a}[0][-1]
        the bottom left cell of {a} | {a}[-1][0]
        the bottom right cell of {a} | {a}[-1][-1]
        the sum of the top row of {a} | sum({a}[0])
        the sum of the bottom row of {a} | sum({a}[-1])
        the largest cell of the top row of {a} | max({a}[0])
        the smallest cell of the bottom row of {a} | min({a}[-1])
        the width of {a} | len({a}[0])
        """,
        _HELDOUT_CALLERS,
    ),
    _family(
        "sets",
        "ll",
        "Compare lists as sets",
        """
        the number of items in both {a} and {b} | len(set({a}) & set({b}))
        the number of items in {a} or {b} | len(set({a}) | set({b}))
        the number of items in {a} but not in {b} | len(set({a}) - set({b}))
        the number of items in {b} but not in {a} | len(set({b}) - set({a}))
        the number of items in one of {a} and {b} only | len(set({a}) ^ set({b}))
        the length of {a} and {b} together | len({a} + {b})
        the sum of {a} and {b} together | sum({a} + {b})
        the largest item of {a} and {b} together | max({a} + {b})
        the smallest item of {a} and {b} together | min({a} + {b})
        """,
        _HELDOUT_CALLERS,
    ),
)

FAMILIES = {f.name: f for f in TRAIN_FAMILIES + HELDOUT_FAMILIES}

# Two calls with distinct, larger values, and one with small, equal ones: how well do they tell siblings apart?
PROBES = {
    "ii": (((7, 3), (2, 9)), (2, 2)),
    "ip": (((7, 3), (2, 9)), (2, 2)),
    "l": ((([7, 3, 5],), ([2, 9, 4, 9],)), ([2, 2],)),
    "s": ((("river",), ("stone",)), ("aa",)),
    "li": ((([7, 3, 5], 4), ([2, 9, 2], 2)), ([2, 2], 2)),
    "d": ((({"x": 7, "y": 3, "z": 5},), ({"y": 4, "z": 9},)), ({"x": 2},)),
    "g": ((([[7, 3, 4], [5, 9, 8]],), ([[2, 6], [1, 4]],)), ([[2, 2], [2, 2]],)),
    "ll": ((([7, 3, 5], [3, 1]), ([2, 9, 4], [4, 9, 8])), ([2, 2], [2, 2])),
}


@functools.cache
def domain(signature: str) -> tuple[tuple, ...]:
    """The arguments that calls of this signature are drawn from."""
    rng = random.Random(signature)

    def numbers(low, high):
        return [rng.randrange(10) for _ in range(rng.randint(low, high))]

    def record():
        return {key: rng.randrange(10) for key in sorted(rng.sample("xyz", rng.randint(1, 3)))}

    def grid():
        width = rng.randint(1, 3)
        return [[rng.randrange(10) for _ in range(width)] for _ in range(2)]

    make = {
        "ii": lambda: [(a, b) for a in range(10) for b in range(10)],
        "ip": lambda: [(a, b) for a in range(10) for b in range(1, 10)],
        "s": lambda: [(word,) for word in VALUES],
        "l": lambda: [(numbers(2, 3),) for _ in range(120)],
        "li": lambda: [(numbers(1, 3), rng.randrange(5)) for _ in range(160)],
        "d": lambda: [(record(),) for _ in range(120)],
        "g": lambda: [(grid(),) for _ in range(120)],
        "ll": lambda: [(numbers(1, 3), numbers(1, 3)) for _ in range(160)],
    }
    return tuple(make[signature]())


def parameters(signature: str) -> int:
    return 1 if signature in ("l", "s", "d", "g") else 2


@functools.cache
def function(code: str):
    """The template's code as a function of a and b."""
    return eval(f"lambda a, b=None: {code.format(a='a', b='b')}")


@functools.cache
def outputs(signature: str, code: str) -> tuple:
    """Results on the whole domain."""
    return tuple(function(code)(*arguments) for arguments in domain(signature))
