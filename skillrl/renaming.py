"""Other trajectories that are as right as a proven one: names, parameters and copied numbers exchanged consistently.

A small policy learns a few hundred trajectories by heart; what it is to learn is to copy. Functions, modules and
packages are permuted (never to a held-out name), parameters get other letters, and numbers that the trajectory only
copies become others. The last makes the text differ from what a tool printed in the proof; it stays a right way to
use what a tool prints.
"""

import random
import re
from collections.abc import Sequence

from skillrl.tasks.world import WORDS
from skillrl.tasks.world.level0 import PARAMETERS
from skillrl.tasks.world.words import pool

# The kinds of words that names are made of.
NAME_KINDS = ("first", "second", "places")
_JOINTS = (("first", "second", "_"), ("places", "places", "/"))
_WORD = re.compile(rf"(?<![a-z])({'|'.join(w for kind in NAME_KINDS for w in WORDS[kind])})(?![a-z])")
_NUMBER = re.compile(r"(?<![\w@.-])\d{1,2}(?![\w@.])")
_ATTEMPTS = 20


def renamed(skill: str, texts: Sequence[str], rng: random.Random) -> list[str]:
    """The turns of a level-0 demonstration, changed alike; the first is the prompt, then tools and agent alternate."""
    texts = _exchange_parameters(skill, list(texts), rng)
    texts = _exchange_numbers(skill, texts, rng)
    return _exchange_names(texts, rng)


def _exchange_names(texts: list[str], rng: random.Random) -> list[str]:
    pairs = {
        (left, right, joint, a, b)
        for left, right, joint in _JOINTS
        for text in texts
        for a, b in re.findall(rf"(?<![a-z])([a-z]+){joint}([a-z]+)(?![a-z])", text)
        if a in WORDS[left] and b in WORDS[right]
    }
    for _ in range(_ATTEMPTS):
        table = {
            kind: dict(zip(WORDS[kind], rng.sample(WORDS[kind], len(WORDS[kind])), strict=True)) for kind in NAME_KINDS
        }
        if all(pool(f"{table[left][a]}{joint}{table[right][b]}") == "train" for left, right, joint, a, b in pairs):
            flat = {word: new for kind in NAME_KINDS for word, new in table[kind].items()}
            return [_WORD.sub(lambda m, flat=flat: flat[m[1]], text) for text in texts]
    return texts


def _exchange_numbers(skill: str, texts: list[str], rng: random.Random) -> list[str]:
    # In half of the draws: the numbers that really occur are worth knowing too.
    if skill not in ("localization", "reproduction", "review") or rng.random() < 0.5:
        return texts
    small, large = rng.sample(range(10), 10), rng.sample(range(10, 100), 90)

    def other(match: re.Match) -> str:
        n = int(match[0])
        return str(small[n] if n < 10 else large[n - 10])

    # The calls of the issue and their copies; a diff's numbers are code.
    issue, *rest = texts[0].split("\n", 1)
    prompt = "\n".join([_NUMBER.sub(other, issue), *rest])
    return [prompt, *(_NUMBER.sub(other, t) if i % 2 == 0 else t for i, t in enumerate(texts[1:]))]


def _exchange_parameters(skill: str, texts: list[str], rng: random.Random) -> list[str]:
    if skill not in ("editing", "unit_tests"):
        return texts
    signature = re.search(r"\w\(([a-z])(?:, ([a-z]))?\):", "".join(texts))
    if signature is None or "a" in signature.groups() or '"x"' in "".join(texts) or '"y"' in "".join(texts):
        return texts
    new = rng.choice([pair for pair in PARAMETERS if "a" not in pair])
    table = dict(zip(filter(None, signature.groups()), new, strict=False))
    # A letter after a dash is an option of a command.
    return [re.sub(r"(?<![\w'\"-])[a-z](?![\w'\"])", lambda m: table.get(m[0], m[0]), t) for t in texts]
