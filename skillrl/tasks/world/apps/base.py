"""What an application template is: several modules of classes and functions, and scenarios that exercise them."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """Something a user does, and what comes of it. `setup` and `expression` are templates like the modules."""

    # Scenarios of one kind make one test.
    kind: str
    setup: tuple[str, ...]
    expression: str
    # What the expression gives, in words without any name of the code.
    words: str


@dataclass(frozen=True, eq=False)
class App:
    """Source in string.Template form: $package, modules and names in lower case or CamelCase, constants in capitals."""

    name: str
    # Placeholder of the module -> its text, in an order in which they can be imported.
    modules: Mapping[str, str]
    classes: tuple[str, ...]
    functions: tuple[str, ...]
    # Draws the constants of one repository.
    constants: Callable[[random.Random], dict[str, int]]
    # Draws a scenario of each kind.
    scenarios: Callable[[random.Random, Mapping[str, int]], list[Scenario]]
