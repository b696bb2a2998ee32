"""A small repository with two planted bugs, as a task set: real enough for every skill, small enough to read."""

from pathlib import Path

from sandbox_service.tasks import Candidate, Environment, HiddenTask, Instance, TaskSet, TaskSetWriter, read_task_set

PRICES = '''\
"""Prices of an order."""

LIMIT = 100


def discount(total, percent):
    """The total after a discount, which orders of LIMIT and more get."""
    if total >= LIMIT:
        return round(total * (100 - percent) / 100, 2)
    return total


def parcels(count, size):
    """How many parcels of `size` items hold `count` items."""
    if size < 1:
        raise ValueError("size must be at least 1")
    full, rest = divmod(count, size)
    return full + (1 if rest else 0)
'''

STOCK = '''\
"""What is on the shelf."""

from shelf.prices import parcels


class Stock:
    """Items by name."""

    def __init__(self):
        self._items = {}

    def add(self, name, count=1):
        """Puts items on the shelf; the name is kept in lower case."""
        key = name.strip().lower()
        self._items[key] = self._items.get(key, 0) + count

    def count(self, name):
        """How many there are; 0 for what was never added."""
        return self._items.get(name.strip().lower(), 0)

    def deliveries(self, name, size):
        """Parcels needed to send all of one item."""
        return parcels(self.count(name), size)
'''

FILES = {
    "README.md": "# shelf\n",
    "src/shelf/__init__.py": '"""A shop\'s shelf."""\n\nfrom shelf.prices import discount\n',
    "src/shelf/prices.py": PRICES,
    "src/shelf/stock.py": STOCK,
    "tests/conftest.py": "import pytest\n\n\n@pytest.fixture\ndef percent():\n    return 10\n",
    "tests/test_prices.py": """\
import pytest

from shelf.prices import discount, parcels


def test_small_orders_cost_what_they_cost(percent):
    assert discount(99, percent) == 99


def test_discount_starts_at_the_limit(percent):
    assert discount(100, percent) == 90.0
    assert discount(250, 20) == 200.0


def test_discount_is_rounded():
    assert discount(333, 33) == 223.11


@pytest.mark.parametrize("count, size, expected", [(10, 5, 2), (11, 5, 3), (0, 3, 0), (1, 1, 1)])
def test_parcels(count, size, expected):
    assert parcels(count, size) == expected


def test_parcels_need_a_size():
    with pytest.raises(ValueError):
        parcels(3, 0)
""",
    "tests/test_stock.py": """\
import unittest

from shelf.stock import Stock


class TestStock(unittest.TestCase):
    def setUp(self):
        self.stock = Stock()

    def test_counts_add_up(self):
        self.stock.add("Tea", 2)
        self.stock.add("tea ")
        self.assertEqual(self.stock.count("TEA"), 3)

    def test_nothing_was_added(self):
        self.assertEqual(self.stock.count("coffee"), 0)

    def test_deliveries(self):
        self.stock.add("tea", 7)
        self.assertEqual(self.stock.deliveries("tea", 3), 3)
""",
}

ENVIRONMENT = Environment("shelf", packages=(), source_roots=("src",), test_roots=("tests",), timeout_s=20.0)
UNIT_TESTS_PATH, REPRODUCTION_PATH = "tests/test_submission.py", "tests/test_reproduction.py"
SKILLS = ("localization", "editing", "unit_tests", "reproduction", "review", "bug_fixing")

T = "tests/test_prices.py"
PRICE_TESTS = (
    f"{T}::test_small_orders_cost_what_they_cost",
    f"{T}::test_discount_starts_at_the_limit",
    f"{T}::test_discount_is_rounded",
    *(f"{T}::test_parcels[{case}]" for case in ("10-5-2", "11-5-3", "0-3-0", "1-1-1")),
    f"{T}::test_parcels_need_a_size",
)
S = "tests/test_stock.py::TestStock"
STOCK_TESTS = (f"{S}::test_counts_add_up", f"{S}::test_nothing_was_added", f"{S}::test_deliveries")


def changed(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def _without(text: str, *names: str) -> str:
    """The test file without these test functions."""
    blocks = text.split("\n\n\n")
    return "\n\n\n".join(b for b in blocks if not any(f"def {n}(" in b for n in names)).rstrip("\n") + "\n"


LIMIT_BUG = changed(PRICES, ("total >= LIMIT", "total > LIMIT"))
LIMIT_MUTANTS = tuple(
    {"src/shelf/prices.py": changed(PRICES, change)}
    for change in (
        ("total >= LIMIT", "total > LIMIT"),
        ("(100 - percent)", "(100 + percent)"),
        ("/ 100, 2)", "/ 100, 0)"),
        ("/ 100, 2)", "/ 101, 2)"),
        ("    return total\n", "    return None\n"),
        ("total >= LIMIT", "total <= LIMIT"),
    )
)
# A wrong value: one test fails by an assertion.
LIMIT_ID, CRASH_ID, ADDED_ID = "shelf-limit", "shelf-crash", "shelf-added"
CRASH_BUG = changed(STOCK, ("self._items.get(name.strip().lower(), 0)", "self._items[name.strip().lower()]"))
CRASH_PRICES = changed(PRICES, ("(1 if rest else 0)", "1"))


def _limit(tree: str) -> Instance:
    f2p = (f"{T}::test_discount_starts_at_the_limit",)
    candidates = (
        Candidate({"src/shelf/prices.py": PRICES}, True),
        Candidate({"src/shelf/prices.py": changed(PRICES, ("total >= LIMIT", "total != LIMIT"))}, False),
    )
    p2p = tuple(i for i in PRICE_TESTS + STOCK_TESTS if i not in f2p)
    return Instance(
        LIMIT_ID, "shelf", tree, {"src/shelf/prices.py": LIMIT_BUG}, f2p, p2p, "src/shelf/prices.py", "discount",
        LIMIT_MUTANTS, candidates,
    )  # fmt: skip


def _crash(tree: str) -> Instance:
    """Two files; one test sees an exception from the repository's code."""
    bug = {"src/shelf/stock.py": CRASH_BUG, "src/shelf/prices.py": CRASH_PRICES}
    f2p = (f"{S}::test_nothing_was_added", f"{T}::test_parcels[10-5-2]", f"{T}::test_parcels[0-3-0]")
    f2p += (f"{T}::test_parcels[1-1-1]",)
    candidates = (
        Candidate({"src/shelf/stock.py": STOCK, "src/shelf/prices.py": PRICES}, True),
        Candidate({"src/shelf/stock.py": STOCK}, False),
    )
    p2p = tuple(i for i in PRICE_TESTS + STOCK_TESTS if i not in f2p)
    mutants = (
        {"src/shelf/prices.py": changed(PRICES, ("(1 if rest else 0)", "1"))},
        {"src/shelf/prices.py": changed(PRICES, ("size < 1", "size < 0"))},
        {"src/shelf/prices.py": changed(PRICES, ("full + (", "full - ("))},
    )
    return Instance(CRASH_ID, "shelf", tree, bug, f2p, p2p, "src/shelf/prices.py", "parcels", mutants, candidates)


ROUNDING = "def to_cents(amount):\n    return round(amount, 2)\n"
ADDED_PRICES = changed(
    PRICES,
    ("LIMIT = 100\n", "from shelf.rounding import to_cents\n\nLIMIT = 100\n"),
    ("round(total * (100 - percent) / 100, 2)", "to_cents(total * (100 - percent) / 100)"),
)


def _added(tree: str) -> Instance:
    """The gold change makes a new file."""
    bug = {"src/shelf/prices.py": changed(PRICES, ("/ 100, 2)", "/ 100, 0)")), "src/shelf/rounding.py": None}
    f2p = (f"{T}::test_discount_is_rounded",)
    p2p = tuple(i for i in PRICE_TESTS + STOCK_TESTS if i not in f2p)
    return Instance(ADDED_ID, "shelf", tree, bug, f2p, p2p, "src/shelf/prices.py", "discount")


def _visible(skill: str, instance: Instance) -> dict[str, str | None]:
    hidden = {i.partition("[")[0].rpartition("::")[2] for i in instance.fail_to_pass}
    if skill == "unit_tests":
        target = "discount" if instance.instance_id == LIMIT_ID else "parcels"
        hidden = {n for n in FILES[T].replace("(", " ").split() if n.startswith("test_") and target in n}
        hidden |= {"test_small_orders_cost_what_they_cost"} if target == "discount" else {"test_deliveries"}
    visible = {T: _without(FILES[T], *hidden)}
    stock = "tests/test_stock.py"
    methods = FILES[stock].split("\n\n    def ")
    kept = [m for m in methods if not any(m.startswith(f"{n}(") for n in hidden)]
    visible[stock] = "\n\n    def ".join(kept).rstrip("\n") + "\n"
    return visible if skill == "unit_tests" else {**instance.bug, **visible}


def write_shelf(path: Path) -> TaskSet:
    """Writes the task set into `path` and reads it back. Task ids are INSTANCE-SKILL, review-0 and review-1."""
    writer = TaskSetWriter("shelf")
    tree = writer.add_tree({name: text.encode() for name, text in FILES.items()})
    added = {**FILES, "src/shelf/prices.py": ADDED_PRICES, "src/shelf/rounding.py": ROUNDING}
    added_tree = writer.add_tree({name: text.encode() for name, text in added.items()})
    writer.environments["shelf"] = ENVIRONMENT
    paths = {"unit_tests": UNIT_TESTS_PATH, "reproduction": REPRODUCTION_PATH}
    for instance in (_limit(tree), _crash(tree), _added(added_tree)):
        writer.instances.append(instance)
        for skill in SKILLS if instance.candidates else ("editing", "reproduction"):
            for candidate in (0, 1) if skill == "review" else (-1,):
                name = f"{instance.instance_id}-{skill}" + (f"-{candidate}" if candidate >= 0 else "")
                hidden = HiddenTask(
                    name, skill, instance.instance_id, _visible(skill, instance), paths.get(skill, ""), candidate
                )
                writer.tasks.append(hidden)
                writer.public.append({"task_id": name, "skill": skill})
    writer.write(path)
    return read_task_set(path)
