"""A shop: items, a basket, prices and receipts."""

import random

from skillrl.tasks.world.apps.base import App, Scenario

_GOODS = '''\
"""Goods and what they cost."""


class $Item:
    """Some pieces of one good at one price."""

    def __init__(self, name, price, amount=1):
        self.name = name
        self.price = price
        self.amount = amount

    def cost(self):
        """Return price times amount; from $BULK pieces on, one piece is free."""
        pieces = self.amount
        if pieces >= $BULK:
            pieces -= 1
        return self.price * pieces

    def weight(self, each):
        """Return the weight of all pieces when one weighs each, plus $WRAP for the wrapping."""
        return self.amount * each + $WRAP


def $cheapest(items):
    """Return the name of the item with the lowest price, the first of equals, or an empty text for no items."""
    best = None
    for item in items:
        if best is None or item.price < best.price:
            best = item
    return best.name if best else ""
'''

_BASKET = '''\
"""What somebody wants to buy."""

from $package.$goods import $Item


class $Basket:
    """Items in the order in which they were first added."""

    def __init__(self):
        self.items = []

    def add(self, name, price, amount=1):
        """Add pieces of a good; they join pieces of the same name and price. Return the item."""
        for item in self.items:
            if item.name == name and item.price == price:
                item.amount += amount
                return item
        item = $Item(name, price, amount)
        self.items.append(item)
        return item

    def remove(self, name, amount=1):
        """Take out at most this many pieces of a good; return how many. An item without pieces disappears."""
        taken = 0
        for item in list(self.items):
            if item.name == name and taken < amount:
                step = min(item.amount, amount - taken)
                item.amount -= step
                taken += step
                if item.amount == 0:
                    self.items.remove(item)
        return taken

    def pieces(self):
        """Return the number of pieces of all goods."""
        return sum(item.amount for item in self.items)

    def subtotal(self):
        """Return the sum of the costs of all items."""
        total = 0
        for item in self.items:
            total += item.cost()
        return total

    def weight(self, each):
        """Return the sum of the weights of all items when one piece weighs each."""
        return sum(item.weight(each) for item in self.items)
'''

_PRICING = '''\
"""Discounts and shipping."""


def $discount(total):
    """Return the discount: none below $LOW, $SMALL from there on, $LARGE from $HIGH on."""
    if total < $LOW:
        return 0
    if total < $HIGH:
        return $SMALL
    return $LARGE


def $shipping(pieces, express=False):
    """Return $BASE plus one for each started $PACK pieces; express costs twice as much."""
    packs = pieces // $PACK
    if pieces % $PACK > 0:
        packs += 1
    cost = $BASE + packs
    if express:
        cost *= 2
    return cost
'''

_CHECKOUT = '''\
"""Totals and receipts."""

from $package.$pricing import $discount, $shipping


def $total(basket, express=False):
    """Return subtotal minus discount plus shipping; an empty basket costs nothing."""
    if basket.pieces() == 0:
        return 0
    subtotal = basket.subtotal()
    return subtotal - $discount(subtotal) + $shipping(basket.pieces(), express)


def $receipt(basket):
    """Return a line for each item, sorted by name, and the total as the last line."""
    lines = []
    for item in sorted(basket.items, key=lambda item: item.name):
        lines.append(item.name + " " + str(item.amount) + " " + str(item.cost()))
    lines.append("total " + str($total(basket)))
    return lines
'''


def _constants(rng: random.Random) -> dict[str, int]:
    low = rng.randint(8, 15)
    small = rng.randint(1, 3)
    return {
        "BULK": rng.randint(4, 6),
        "WRAP": rng.randint(1, 3),
        "LOW": low,
        "HIGH": low + rng.randint(8, 20),
        "SMALL": small,
        "LARGE": small + rng.randint(2, 4),
        "BASE": rng.randint(2, 5),
        "PACK": rng.randint(3, 5),
    }


def _scenarios(rng: random.Random, constants) -> list[Scenario]:
    goods = rng.sample(("pen", "map", "cup", "lamp", "rope", "tent"), 3)
    bought = [(name, rng.randint(1, 6), rng.randint(1, 5)) for name in goods[: rng.randint(1, 3)]]
    if rng.random() < 0.5:
        # Near the thresholds, where mistakes hide.
        bought[0] = (goods[0], rng.randint(1, 6), constants["BULK"] - rng.randint(0, 1))
    setup = ("basket = $Basket()", *(f'basket.add("{n}", {p}, {a})' for n, p, a in bought))
    basket = "a basket of " + " and ".join(f"{a} {n} at {p}" for n, p, a in bought)
    name, price, amount = rng.choice(bought)
    less, each = rng.randint(1, 6), rng.randint(1, 4)
    again = (*setup, f'basket.add("{name}", {price}, {less})')
    out = (*setup, f'basket.remove("{name}", {less})')
    sum_ = rng.choice([rng.randint(1, 40), constants["LOW"], constants["HIGH"], constants["LOW"] - 1])
    count = rng.choice([rng.randint(1, 12), constants["PACK"], 2 * constants["PACK"]])
    return [
        Scenario("subtotal", setup, "basket.subtotal()", f"the sum for {basket}"),
        Scenario("total", setup, "$total(basket)", f"the final price of {basket}"),
        Scenario("express", setup, "$total(basket, express=True)", f"the final price by express of {basket}"),
        Scenario("receipt", setup, "$receipt(basket)", f"the receipt for {basket}"),
        Scenario("cheapest", setup, "$cheapest(basket.items)", f"the cheapest good in {basket}"),
        Scenario("weight", setup, f"basket.weight({each})", f"the weight at {each} a piece of {basket}"),
        Scenario(
            "again",
            again,
            "[basket.pieces(), len(basket.items)]",
            f"pieces and items of {basket}, then {less} more {name}",
        ),
        Scenario(
            "remove", setup, f'basket.remove("{name}", {less})', f"what is taken when {less} {name} leave {basket}"
        ),
        Scenario("left", out, "$receipt(basket)", f"the receipt after {less} {name} left {basket}"),
        Scenario("discount", (), f"$discount({sum_})", f"the discount on {sum_}"),
        Scenario("shipping", (), f"$shipping({count})", f"the shipping of {count} pieces"),
    ]


APP = App(
    name="shop",
    modules={"goods": _GOODS, "basket": _BASKET, "pricing": _PRICING, "checkout": _CHECKOUT},
    classes=("Item", "Basket"),
    functions=("cheapest", "discount", "shipping", "total", "receipt"),
    constants=_constants,
    scenarios=_scenarios,
)
