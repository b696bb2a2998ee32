"""What every flaw is made of: a small program, its flawed version, attacks and proper use."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Template

from skillrl.tasks.world.words import FUNCTION_NAMES, PLACES

# Collections of texts: (one of them, all of them, a text in one).
_DOMAINS = (
    ("note", "notes", "water the plants"),
    ("recipe", "recipes", "two eggs and flour"),
    ("invoice", "invoices", "nine crates of tea"),
    ("letter", "letters", "greetings from the coast"),
    ("report", "reports", "all pumps are running"),
    ("poem", "poems", "the lamp above the harbour"),
    ("ticket", "tickets", "the printer is on fire"),
    ("lesson", "lessons", "counting up to twelve"),
)
_USERS = ("anna", "bela", "chen", "dora", "emil", "fola", "gita", "hugo")
_VAULTS = ("vault", "safe", "locker", "strongbox")


@dataclass(frozen=True)
class Flaw:
    """One program in which one thing is wrong."""

    family: str
    # The repaired program, path -> text, and what of it is different in the flawed one.
    files: Mapping[str, str]
    flawed: Mapping[str, str]
    # Tests of proper use, which hold on both: those that everybody may see, and hidden ones.
    tests: str
    edge_tests: str
    # Tests that the flawed program fails, hidden.
    attack_tests: str
    # What the program is for and how an input reaches it; what is wrong with it; where the oracle puts the secret.
    setting: str
    weakness: str
    aim: str
    # What a repaired program does with an attack.
    remedy: str
    # The body of the oracle: `text` is the input, `secret` the secret; it prints what the program gives.
    oracle: str
    # Inputs: one that shows the flaw, one of proper use, and one on which both versions end with an error.
    gold: str
    benign: str
    crash: str
    # Name -> changed files of repairs that are none.
    wrong_repairs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    submission_path: str = "exploit.json"


def names(rng: random.Random) -> dict[str, str]:
    """Drawn names for the placeholders of a program's templates."""
    one, many, text = rng.choice(_DOMAINS)
    package, module, other, errors = rng.sample(PLACES, 4)
    functions = rng.sample(FUNCTION_NAMES["heldout_repositories"], 4)
    me, you = rng.sample(_USERS, 2)
    drawn = {"package": package, "module": module, "other": other, "errors": errors}
    drawn |= {"one": one, "many": many, "One": one.title(), "text": text, "me": me, "you": you}
    drawn |= {"handle": functions[0], "helper": functions[1], "third": functions[2]}
    drawn["Refused"] = rng.choice(("Refused", "Forbidden", "BadRequest", "NotAllowed"))
    drawn["Main"] = functions[3].title().replace("_", "")
    drawn["vault"] = rng.choice(_VAULTS)
    return drawn


def fill(given: Mapping[str, str], *templates: str) -> tuple[str, ...]:
    return tuple(Template(text).substitute(given) for text in templates)


def errors_module(given: Mapping[str, str]) -> dict[str, str]:
    """The files that all programs have."""
    (text,) = fill(given, '"""Errors."""\n\n\nclass $Refused(Exception):\n    """The request is not allowed."""\n')
    package = given["package"]
    return {f"{package}/__init__.py": "", f"{package}/{given['errors']}.py": text}


def guarded_repairs(path: str, flawed: str, given: dict[str, str], literal: str, spelling: str) -> dict:
    """Repairs that refuse everything, one input, and what is spelt in one way."""
    head, mark, rest = flawed.partition(f"def {given['handle']}(")
    signature, quotes, body = rest.partition('"""\n')
    if not body:
        raise ValueError(f"{path}: no documented function {given['handle']}")
    _, end, after = body.partition('"""\n') if '"""' in body.partition("\n")[0] else ("", "", "")
    start = head + mark + signature + quotes + (end and body[: len(body) - len(after)])
    rest = after if end else body

    def guarded(condition: str) -> dict[str, str]:
        return {path: f"{start}    if {condition}:\n        raise {given['Refused']}()\n{rest}"}

    return {
        "refuse everything": guarded("True"),
        "block one input": guarded(literal),
        "block one spelling": guarded(spelling),
    }
