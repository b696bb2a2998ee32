"""A renaming changes exactly the symbol's uses, and refuses what the text alone does not explain."""

import pytest

from skillrl.tasks.rename import Symbol, Unresolved, new_name, renamed, symbols

MONEY = '''\
"""Money: `add_tax` is what shops need. See also money.add_tax()."""

RATE = 2  # add_tax uses it


def add_tax(price):
    """add_tax(3) is 5; add_tax_free is another."""
    return price + RATE


def add_tax_free(price):
    return price
'''
SHOP = '''\
"""A shop."""

import till.money
import till.money as m
from till import money
from till.money import (
    RATE,
    add_tax as add_tax,
)


class Shop:
    def total(self, price):
        return "é" + str(add_tax(price)), money.add_tax, m . add_tax(price), till.money.add_tax(price)

    def all(self, prices): return ["ü", *map(add_tax, prices)]
'''
TESTS = """\
import till
from till.shop import Shop


def test_add_tax():
    assert till.add_tax(3) == 5


def test_shop():
    assert Shop().all([3]) == ["ü", 5]
"""
FILES = {
    "README.md": "till.add_tax(3) gives 5.\n",
    "src/till/__init__.py": 'from .money import add_tax\nfrom .shop import Shop\n\n__all__ = ["Shop", "add_tax"]\n',
    "src/till/money.py": MONEY,
    "src/till/shop.py": SHOP,
    "tests/test_till.py": TESTS,
}
SYMBOL = Symbol("src/till/money.py", "add_tax")
ROOTS = ("src",)


def test_every_use_is_renamed_at_its_place_and_nothing_else():
    done = renamed(FILES, SYMBOL, "with_tax", ROOTS)
    assert done["src/till/__init__.py"] == (
        'from .money import with_tax\nfrom .shop import Shop\n\n__all__ = ["Shop", "with_tax"]\n'
    )
    assert done["src/till/money.py"].splitlines() == [
        '"""Money: `with_tax` is what shops need. See also money.with_tax()."""',
        "",
        "RATE = 2  # with_tax uses it",
        "",
        "",
        "def with_tax(price):",
        '    """with_tax(3) is 5; add_tax_free is another."""',
        "    return price + RATE",
        "",
        "",
        "def add_tax_free(price):",
        "    return price",
    ]
    assert done["src/till/shop.py"].splitlines()[7:] == [
        "    with_tax as with_tax,",
        ")",
        "",
        "",
        "class Shop:",
        "    def total(self, price):",
        '        return "é" + str(with_tax(price)), money.with_tax, m . with_tax(price), till.money.with_tax(price)',
        "",
        '    def all(self, prices): return ["ü", *map(with_tax, prices)]',
    ]
    assert done["tests/test_till.py"] == TESTS.replace("till.add_tax", "till.with_tax")
    assert "README.md" not in done and "def test_add_tax()" in done["tests/test_till.py"]


def test_renaming_back_gives_the_same_bytes():
    windows = {path: text.replace("\n", "\r\n") for path, text in FILES.items()}
    for files in (FILES, windows):
        there = {**files, **renamed(files, SYMBOL, "with_tax", ROOTS)}
        back = {**there, **renamed(there, Symbol(SYMBOL.path, "with_tax"), "add_tax", ROOTS)}
        assert there != files and back == files


LEFT_OVER = "a use of the name that the text alone does not explain"


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("src/till/a.py", "def f(add_tax):\n    return add_tax\n", LEFT_OVER),
        ("src/till/a.py", "from .money import add_tax\n\n\ndef f():\n    add_tax = 1\n    return add_tax\n", LEFT_OVER),
        ("src/till/a.py", "class A:\n    def add_tax(self):\n        return 1\n", LEFT_OVER),
        ("src/till/a.py", "from till import money\n\n\ndef f(money):\n    return money.add_tax\n", LEFT_OVER),
        ("src/till/a.py", "def f(a):\n    return a.add_tax\n", LEFT_OVER),
        ("src/till/a.py", "def f(a):\n    return dict(add_tax=a)\n", LEFT_OVER),
        ("src/till/a.py", "from .money import *\n\nVALUE = add_tax(1)\n", LEFT_OVER),
        ("src/till/a.py", "from decimal import add_tax\n", LEFT_OVER),
        ("src/till/a.py", "from till import money\n\nVALUE = getattr(money, 'add_tax')\n", "a string has the name"),
        ("tests/test_a.py", "def test_a(monkeypatch):\n    monkeypatch.setattr('till.add_tax', 1)\n", "a string has"),
        ("src/till/a.py", "from .money import add_tax\n\nTEXT = f'{add_tax(1)}'\n", "a string has the name"),
        ("src/till/a.py", '"""Not list.add_tax."""\n', "a text has the name of something else"),
        ("src/till/a.py", "def add_tax(:\n", "a file that cannot be parsed"),
        ("src/till/add_tax.py", "", "a module has the same name"),
        ("pyproject.toml", '[project.scripts]\ntax = "till:add_tax"\n', "a stub or settings file"),
    ],
)
def test_what_the_text_does_not_explain_is_refused(path, text, reason):
    with pytest.raises(Unresolved, match=reason):
        renamed({**FILES, path: text}, SYMBOL, "with_tax", ROOTS)


@pytest.mark.parametrize(
    ("doc", "ok"),
    [
        ("See total(3).", True),
        ("See `total`.", True),
        ("Sums:\n    >>> total and 3", True),
        ("The shop.total of it.", True),
        ("The total of it.", False),
    ],
)
def test_a_word_of_the_language_must_look_like_code(doc, ok):
    files = {"shop.py": f'def total(x):\n    """{doc}"""\n    return x\n', "other.py": "from shop import total\n"}
    if ok:
        done = renamed(files, Symbol("shop.py", "total"), "sum_up", (".",))
        assert done["shop.py"] == files["shop.py"].replace("total", "sum_up")
    else:
        with pytest.raises(Unresolved, match="as a word"):
            renamed(files, Symbol("shop.py", "total"), "sum_up", (".",))


def test_symbols_are_public_and_known_to_another_module():
    sources = {path: FILES[path] for path in FILES if path.startswith("src/")}
    sources["src/till/a.py"] = "from .money import _hidden\n"
    sources["src/till/money.py"] += "\n\ndef _hidden():\n    pass\n"
    assert symbols(sources) == [SYMBOL, Symbol("src/till/shop.py", "Shop")]


def test_a_new_name_fits_and_is_free():
    def name(path, old, text=""):
        return new_name(Symbol(path, old), {"a.py": text}, ("src",))

    assert name("src/till/money.py", "get_price") == "fetch_price"
    assert name("src/till/money.py", "get_price", "fetch_price = 1") == "money_get_price"
    assert name("src/till/money.py", "add_tax") == "money_add_tax"
    assert name("src/till/_money.py", "add_tax") == "till_add_tax"
    assert name("src/till/money.py", "BadData") == "InvalidData"
    assert name("src/till/money.py", "LRUCache") == "LRUStore"
    assert name("src/till/money.py", "Shop") == "TillShop"
    with pytest.raises(Unresolved, match="no fitting name is free"):
        name("money.py", "add_money")
