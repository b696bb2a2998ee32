"""Level 1: functions of a few lines, with loops, branches and early returns.

A body has slots; each slot has options, which are words and code. The words of the chosen options make the contract, so
that words still determine code. A planted bug, a mutant and a wrong fix choose another option of a slot.
"""

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from skillrl.tasks.world.words import VALUES


# Compared by identity: there is one object of each.
@dataclass(frozen=True, eq=False)
class Body:
    """Words and code with {slot} marks; options of a slot are (words, code) pairs."""

    words: str
    code: str
    slots: Mapping[str, tuple[tuple[str, str], ...]]

    def choices(self) -> tuple[tuple[int, ...], ...]:
        return tuple(product(*(range(len(options)) for options in self.slots.values())))

    def contract(self, choice: tuple[int, ...]) -> str:
        return self.words.format(**self._picked(choice, 0))

    def source(self, choice: tuple[int, ...]) -> str:
        """The lines of the function's body, indented by four."""
        return "".join(f"    {line}\n" for line in self.code.format(**self._picked(choice, 1)).splitlines())

    def _picked(self, choice: tuple[int, ...], side: int) -> dict[str, str]:
        return {slot: options[i][side] for (slot, options), i in zip(self.slots.items(), choice, strict=True)}


@dataclass(frozen=True, eq=False)
class BodyFamily:
    name: str
    parameters: tuple[str, ...]
    topic: str
    bodies: tuple[Body, ...]
    # Public functions over two others: words and code of the result, from {first} and {second}.
    facades: tuple[tuple[str, str], ...]


def _body(words: str, code: str, **slots: str) -> Body:
    """Options are written `words = code; words = code`."""

    def options(text: str) -> tuple[tuple[str, str], ...]:
        return tuple(tuple(part.strip() for part in option.split("=", 1)) for option in text.split(";"))

    return Body(words, code.strip("\n"), {slot: options(text) for slot, text in slots.items()})


_NUMBER_FACADES = (
    ("{first} plus {second}", "{first} + {second}"),
    ("{first} minus {second}", "{first} - {second}"),
    ("the larger of {first} and {second}", "max({first}, {second})"),
)
_STEPS = "plus one = + 1; plus two = + 2; minus one = - 1; times two = * 2"
_LIMITS = "above =>; below =<; at least =>=; at most =<="

_NUMBERS = BodyFamily(
    "numbers",
    ("count", "limit"),
    "Work with numbers",
    (
        _body(
            "count {step}, but {low} when count is {side} limit",
            """
if count {side} limit:
    return {low}
return count {step}""",
            step=_STEPS,
            side=_LIMITS,
            low="zero = 0; limit = limit; minus one = -1",
        ),
        _body(
            "the {agg} of the numbers from {start} up to {end} that are {side} limit",
            """
total = 0
for number in range({start}, {end}):
    if number {side} limit:
        total += {agg}
return total""",
            agg="sum = number; number = 1; sum of squares = number * number",
            start="zero = 0; one = 1; two = 2",
            end="count, included = count + 1; count, not included = count; limit, included = limit + 1",
            side=_LIMITS,
        ),
        _body(
            "how often {step} leads from count to a number {side} limit times {times}, at most nine times",
            """
for turn in range(9):
    if count {side} limit * {times}:
        return turn
    count = count {step}
return 9""",
            step="adding two = + 2; adding three = + 3; doubling = * 2",
            side="above =>; not below =>=",
            times="one = 1; two = 2; three = 3",
        ),
    ),
    _NUMBER_FACADES,
)
_LISTS = BodyFamily(
    "lists",
    ("items", "limit"),
    "Work with lists",
    (
        _body(
            "the {agg} of the items that are {side} limit",
            """
result = 0
for item in items:
    if item {side} limit:
        result = {agg}
return result""",
            agg="sum = result + item; number = result + 1; largest = max(result, item); last = item",
            side=_LIMITS,
        ),
        _body(
            "the position of the {which} item that is {side} limit, or {miss} if there is none",
            """
found = {miss}
for position, item in {which}:
    if item {side} limit:
        found = position
return found""",
            which="last = enumerate(items); first = reversed(list(enumerate(items)))",
            side=_LIMITS,
            miss="minus one = -1; the number of items = len(items); zero = 0",
        ),
        _body(
            "the {agg} of the items before the first that is {side} limit, plus {extra}",
            """
total = {extra}
for item in items:
    if item {side} limit:
        break
    total += {agg}
return total""",
            agg="sum = item; number = 1; doubled sum = 2 * item",
            side=_LIMITS,
            extra="zero = 0; limit = limit; one = 1",
        ),
    ),
    _NUMBER_FACADES,
)
_TEXT = BodyFamily(
    "text",
    ("word", "letter"),
    "Work with text",
    (
        _body(
            "word with each letter that {is_} letter {change}",
            """
parts = ""
for sign in word:
    if sign {is_} letter:
        sign = {change}
    parts += sign
return parts""",
            is_="is ===; differs from =!=; sorts before =<; sorts after =>",
            change='doubled = sign * 2; in upper case = sign.upper(); left out = ""; replaced by a dash = "-"',
        ),
        _body(
            "the part of word {side} the {which} letter, or {miss} if it is not there",
            """
place = word.{which}(letter)
if place < 0:
    return {miss}
return word[{side}]""",
            side="before =:place; after =place + 1:; up to and including =: place + 1; from and including = place:",
            which="first = find; last = rfind",
            miss='the empty text = ""; word = word; letter = letter',
        ),
        _body(
            "{put} when word has {size} letters, else {otherwise}",
            """
if len(word) {size}:
    return {put}
return {otherwise}""",
            put="word followed by letter = word + letter; letter followed by word = letter + word; "
            "word enclosed by letter = letter + word + letter",
            size="more than three => 3; more than four => 4; at most three =<= 3; exactly four === 4",
            otherwise="in upper case = word.upper(); backwards = word[::-1]; twice = word * 2",
        ),
    ),
    (
        ("{first} followed by {second}", "{first} + {second}"),
        ("{first} and {second} with a dash between", '{first} + "-" + {second}'),
        ("the one of {first} and {second} that sorts first", "min({first}, {second})"),
    ),
)
_FLAGS = BodyFamily(
    "flags",
    ("items", "limit"),
    "Answer questions about lists",
    (
        _body(
            "{found} if any item is {side} limit",
            """
for item in items:
    if item {side} limit:
        return {found}
return not {found}""",
            side="above =>; below =<; at least =>=; at most =<=; equal to ===",
            found="True = True; False = False",
        ),
        _body(
            "True if {amount} items are {side} limit",
            """
hits = 0
for item in items:
    if item {side} limit:
        hits += 1
return hits {amount}""",
            amount="two or more =>= 2; exactly one === 1; at most one =<= 1; all = == len(items)",
            side="above =>; below =<; at least =>=; at most =<=",
        ),
        _body(
            "True if each item is {side} the one before {shift}",
            """
for left, right in zip(items, items[1:]):
    if not right {side} left {shift}:
        return False
return True""",
            side="above =>; below =<; at least =>=; at most =<=",
            shift="plus limit = + limit; minus limit = - limit; times limit = * limit",
        ),
    ),
    (
        ("True if both {first} and {second} hold", "{first} and {second}"),
        ("True if {first} or {second} holds", "{first} or {second}"),
        ("True if {first} and {second} agree", "{first} == {second}"),
    ),
)
_RECORDS = BodyFamily(
    "records",
    ("stock", "name"),
    "Keep a stock of named amounts",
    (
        _body(
            "the {agg} of all amounts {side} that of name",
            """
own = stock.get(name, 0)
total = 0
for amount in stock.values():
    if amount {side} own:
        total += {agg}
return total""",
            agg="sum = amount; number = 1; sum of the surplus = amount - own",
            side=_LIMITS,
        ),
        _body(
            "the amount of name {step}, or {miss} when name is missing",
            """
if name not in stock:
    return {miss}
return stock[name] {step}""",
            step=_STEPS,
            miss="zero = 0; the number of names = len(stock); minus one = -1; one = 1",
        ),
        _body(
            "the {agg} of the amounts whose names sort {side} name",
            """
result = 0
for key, amount in stock.items():
    if key {side} name:
        result = {agg}
return result""",
            agg="sum = result + amount; number = result + 1; largest = max(result, amount)",
            side="before =<; after =>; not after =<=; not before =>=",
        ),
    ),
    _NUMBER_FACADES,
)
_UNITS = BodyFamily(
    "units",
    ("amount", "size"),
    "Pack and price goods",
    (
        _body(
            "the price of amount pieces at {price} each, with {off} off from size pieces on",
            """
price = {price} * amount
if amount >= size:
    price -= {off}
return price""",
            price="two = 2; three = 3; five = 5",
            off="one = 1; four = 4; size = size; amount = amount",
        ),
        _body(
            "the number of boxes of size pieces for amount pieces, {rest} box counted {extra}",
            """
boxes = amount // size
if amount % size {rest}:
    boxes += {extra}
return boxes""",
            rest="a started => 0; an exactly full === 0; a more than half full => size // 2",
            extra="once = 1; twice = 2; three times = 3",
        ),
        _body(
            "what is left of amount after taking size {times} times, {stop}",
            """
for turn in range({times}):
    if amount {stop}:
        break
    amount -= size
return amount""",
            times="two = 2; three = 3; four = 4",
            stop="but never below zero =< size; but only while above size =<= size; but only while above zero =<= 0",
        ),
    ),
    _NUMBER_FACADES,
)

_HELDOUT_FACADES = (
    ("twice {first} plus {second}", "2 * {first} + {second}"),
    ("the distance of {first} and {second}", "abs({first} - {second})"),
    ("the smaller of {first} and {second}", "min({first}, {second})"),
)
_GRIDS = BodyFamily(
    "grids",
    ("grid", "value"),
    "Work with grids",
    (
        _body(
            "the number of {what} of grid that hold a cell {side} value",
            """
count = 0
for line in {what}:
    if any(cell {side} value for cell in line):
        count += 1
return count""",
            what="rows = grid; columns = zip(*grid); rows but the first = grid[1:]",
            side="equal to ===; larger than =>; smaller than =<",
        ),
        _body(
            "the sum of the cells {where} the main diagonal, {step} for each that equals value",
            """
total = 0
for y, line in enumerate(grid):
    for x, cell in enumerate(line):
        if x {where} y:
            total += cell
        if cell == value:
            total {step}
return total""",
            where="on ===; right of =>; left of =<",
            step="plus one =+= 1; minus one =-= 1; plus two =+= 2",
        ),
    ),
    _HELDOUT_FACADES,
)
_SETS = BodyFamily(
    "sets",
    ("left", "right"),
    "Compare lists as sets",
    (
        _body(
            "the {agg} of the distinct items of left that are {member} right",
            """
seen = []
for item in left:
    if item {member} right and item not in seen:
        seen.append(item)
return {agg}""",
            agg="number = len(seen); sum = sum(seen); largest = max(seen, default=0)",
            member="also in = in; not in = not in",
        ),
        _body(
            "the number of {what} that left and right have {how}",
            """
hits = 0
for one, other in zip({what}):
    if one {how} other:
        hits += 1
return hits""",
            what="positions = left, right; positions counted from the end = left[::-1], right[::-1]; "
            "sorted positions = sorted(left), sorted(right)",
            how="in common ===; not in common =!=; in falling order =>",
        ),
    ),
    _HELDOUT_FACADES,
)

TRAIN_FAMILIES = (_NUMBERS, _LISTS, _TEXT, _FLAGS, _RECORDS, _UNITS)
HELDOUT_FAMILIES = (_GRIDS, _SETS)


@functools.cache
def domain(family: str) -> tuple[tuple, ...]:
    """The arguments that calls of the family's functions are drawn from."""
    rng = random.Random(family)

    def numbers(low, high):
        return [rng.randrange(10) for _ in range(rng.randint(low, high))]

    def grid():
        side = rng.randint(2, 3)
        return [[rng.randrange(6) for _ in range(side)] for _ in range(side)]

    make = {
        "numbers": lambda: (rng.randrange(12), rng.randrange(8)),
        "lists": lambda: (numbers(2, 5), rng.randrange(9)),
        "text": lambda: (rng.choice([w for w in VALUES if len(w) > 2]), rng.choice("aenoprst")),
        "flags": lambda: (numbers(2, 4), rng.randrange(4)),
        "records": lambda: ({k: rng.randrange(10) for k in sorted(rng.sample("abcxyz", 3))}, rng.choice("abcxyz")),
        "units": lambda: (rng.randrange(20), rng.randint(1, 6)),
        "grids": lambda: (grid(), rng.randrange(6)),
        "sets": lambda: (numbers(2, 4), numbers(2, 4)),
    }[family]
    return tuple(make() for _ in range(60))


@functools.cache
def outputs(family: BodyFamily, body: Body, choice: tuple[int, ...]) -> tuple:
    """Results on the whole domain."""
    namespace: dict = {}
    exec(f"def f({', '.join(family.parameters)}):\n{body.source(choice)}", namespace)
    return tuple(namespace["f"](*arguments) for arguments in domain(family.name))
