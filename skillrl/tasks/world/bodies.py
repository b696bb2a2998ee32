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


def make_body(words: str, code: str, **slots: str) -> Body:
    """Options are written `words = code; words = code`."""

    def options(text: str) -> tuple[tuple[str, str], ...]:
        return tuple(tuple(part.strip() for part in option.split("=", 1)) for option in text.split(";"))

    return Body(words, code.strip("\n"), {slot: options(text) for slot, text in slots.items()})


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
