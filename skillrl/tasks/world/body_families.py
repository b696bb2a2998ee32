"""The families of level 1: tables of bodies and of public functions over two of them."""

from skillrl.tasks.world.bodies import BodyFamily
from skillrl.tasks.world.bodies import make_body as _body

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
