"""A small bank: accounts, transfers, fees and statements."""

import random

from skillrl.tasks.world.apps.base import App, Scenario

_FEES = '''\
"""What services cost."""


def $fee(amount, same_owner=False):
    """Return nothing for the same owner or below $FREE, else $FEE for each full $STEP, at least one."""
    if same_owner or amount < $FREE:
        return 0
    return max(1, amount // $STEP * $FEE)


def $interest(balance, years):
    """Return the interest after whole years: $RATE in a hundred a year, rounded down, of what has grown so far."""
    grown = balance
    for _ in range(years):
        grown += grown * $RATE // 100
    return grown - balance
'''

_ACCOUNT = '''\
"""One account."""


class $Account:
    """Money of one owner. The balance may fall to minus the credit, not below."""

    def __init__(self, owner, credit=0):
        self.owner = owner
        self.credit = credit
        self.moves = []

    def balance(self):
        """Return the sum of all moves."""
        return sum(self.moves)

    def deposit(self, amount):
        """Put money in; return the new balance. Amounts that are not positive are ignored."""
        if amount > 0:
            self.moves.append(amount)
        return self.balance()

    def withdraw(self, amount):
        """Take money out if balance and credit allow it; return whether they did."""
        if amount <= 0 or amount > self.balance() + self.credit:
            return False
        self.moves.append(-amount)
        return True

    def lowest(self):
        """Return the lowest balance there ever was, starting from zero."""
        running = 0
        lowest = 0
        for move in self.moves:
            running += move
            if running < lowest:
                lowest = running
        return lowest
'''

_BANK = '''\
"""All accounts."""

from $package.$account import $Account
from $package.$fees import $fee


class $Bank:
    """Accounts by their number, which count from $FIRST."""

    def __init__(self):
        self.accounts = {}

    def open(self, owner, credit=0):
        """Open an account and return its number."""
        number = $FIRST + len(self.accounts)
        self.accounts[number] = $Account(owner, credit)
        return number

    def transfer(self, source, target, amount):
        """Move money; the source pays the fee on top. Return whether it was possible; if not, nothing moves."""
        giver = self.accounts[source]
        taker = self.accounts[target]
        cost = $fee(amount, giver.owner == taker.owner)
        if not giver.withdraw(amount + cost):
            return False
        taker.deposit(amount)
        return True

    def total(self, owner):
        """Return the sum of the balances of one owner's accounts."""
        total = 0
        for account in self.accounts.values():
            if account.owner == owner:
                total += account.balance()
        return total

    def owners(self):
        """Return the names of all owners in order, each once."""
        return sorted({account.owner for account in self.accounts.values()})
'''

_STATEMENT = '''\
"""Texts for customers."""


def $statement(account):
    """Return a line for each move, with in or out and the amount, and the balance as the last line."""
    lines = []
    for move in account.moves:
        kind = "in" if move > 0 else "out"
        lines.append(kind + " " + str(abs(move)))
    lines.append("balance " + str(account.balance()))
    return lines


def $richest(bank):
    """Return the owner with the largest total; the one whose name sorts first among equals."""
    best = ""
    most = 0
    for owner in bank.owners():
        total = bank.total(owner)
        if best == "" or total > most:
            best = owner
            most = total
    return best
'''


def _constants(rng: random.Random) -> dict[str, int]:
    return {
        "FREE": rng.randint(3, 8),
        "FEE": rng.randint(1, 3),
        "STEP": rng.randint(10, 20),
        "RATE": rng.choice((5, 10, 20)),
        "FIRST": rng.choice((1, 10, 100)),
    }


def _scenarios(rng: random.Random, constants) -> list[Scenario]:
    one, two = rng.sample(("ada", "ben", "cleo", "dan", "eva"), 2)
    credit = rng.choice((0, 0, 5, 10))
    paid = [rng.randint(5, 60) for _ in range(rng.randint(1, 3))]
    taken = rng.choice([rng.randint(1, 70), sum(paid) + credit, sum(paid) + credit + 1])
    account = (f'account = $Account("{one}", {credit})', *(f"account.deposit({amount})" for amount in paid))
    told = f"an account with credit {credit} and deposits of {', '.join(map(str, paid))}"
    after = (*account, f"account.withdraw({taken})")
    amount = rng.choice([rng.randint(1, 40), constants["FREE"], constants["STEP"], 2 * constants["STEP"]])
    start = rng.choice([rng.randint(1, 60), amount, amount + 1])
    bank = (
        "bank = $Bank()",
        f'first = bank.open("{one}", {credit})',
        f'second = bank.open("{two}")',
        f'third = bank.open("{one}")',
        f"bank.accounts[first].deposit({start})",
        f"bank.accounts[second].deposit({paid[0]})",
    )
    target = rng.choice(("second", "third"))
    sent = (*bank, f"done = bank.transfer(first, {target}, {amount})")
    whom = two if target == "second" else f"another account of {one}"
    moved = f"sending {amount} from {one}, who has {start} and credit {credit}, to {whom}"
    balance, years = rng.randint(10, 90), rng.randint(1, 3)
    return [
        Scenario("balance", after, "account.balance()", f"the balance of {told} after taking out {taken}"),
        Scenario("withdraw", account, f"account.withdraw({taken})", f"whether {taken} can be taken from {told}"),
        Scenario(
            "lowest", (*after, "account.deposit(1)"), "account.lowest()", f"the lowest level of {told}, less {taken}"
        ),
        Scenario("statement", after, "$statement(account)", f"the statement of {told} after taking out {taken}"),
        Scenario(
            "transfer", sent, "[done, bank.accounts[first].balance()]", f"success and what {one} keeps after {moved}"
        ),
        Scenario("total", sent, f'bank.total("{one}")', f"all that {one} has after {moved}"),
        Scenario("richest", sent, "$richest(bank)", f"who is richest after {moved}, where {two} began with {paid[0]}"),
        Scenario("owners", bank, "[bank.owners(), first, third]", f"owners and numbers for {one}, {two} and {one}"),
        Scenario("fee", (), f"$fee({amount})", f"the fee for sending {amount}"),
        Scenario("interest", (), f"$interest({balance}, {years})", f"the interest on {balance} after {years} years"),
    ]


APP = App(
    name="ledger",
    modules={"fees": _FEES, "account": _ACCOUNT, "bank": _BANK, "statements": _STATEMENT},
    classes=("Account", "Bank"),
    functions=("fee", "interest", "statement", "richest"),
    constants=_constants,
    scenarios=_scenarios,
)
