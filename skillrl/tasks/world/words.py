"""The words that names in generated repositories are made of, and which split a name belongs to.

The lists share no word with each other, with Python's keywords, built-ins and standard library, so that a tokenizer can
give each word one token.
"""

import hashlib


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Functions are FIRST_SECOND, classes FirstSecond.
FIRST = _words(
    "amber brave calm clever cold cosy crisp dark deep dry easy fair firm fresh gentle glad golden grand gray "
    "great green happy hidden huge jolly keen kind light lone loud lucky mild misty neat noble pale plain proud "
    "quick quiet rapid rare red royal rusty safe sharp shiny silent silver simple slow smooth snowy soft solid "
    "stout strong sunny sweet swift tall tame tidy"
)
SECOND = _words(
    "river stone field gate hill lake tree leaf bird fox wolf bear deer hawk crow dove swan goose duck horse "
    "goat sheep lamb cloud storm rain wind frost snow flame spark ember coal sand shore hollow tide reef cove "
    "cliff cave ridge peak trail road bridge tower castle house barn mill garden orchard meadow forest grove "
    "island harbor valley canyon desert prairie lantern candle"
)
# Packages and modules.
PLACES = _words(
    "acorn almond apple apricot aspen bamboo banana basil beech birch bronze cactus carrot cedar celery cherry "
    "chestnut clay clover cobalt coconut copper coral cotton cypress daisy elder elm fennel fern fig flint "
    "garlic ginger granite grape hazel holly indigo iron ivory ivy jade juniper kelp larch laurel lemon lentil "
    "lilac lily lime linen lotus mango maple marble melon mint moss nickel nutmeg oak olive onion opal orchid "
    "palm papaya peach pear pearl pepper pine plum poplar poppy pumpkin quartz radish raisin rose ruby rye "
    "sesame slate spruce sugar teak thyme topaz tulip turnip velvet violet walnut"
)
# Text values in calls and tests.
VALUES = _words(
    "a e s t aa ee oo on up to tot pop mum dad noon deed radar sun map pen cup hat box key jar tin bag boat coin "
    "drum fork king lamp moon nest rope shoe tent vase wand yarn bread chair clock crown glove knife plate piano "
    "spoon watch"
)

WORDS = {"first": FIRST, "second": SECOND, "places": PLACES, "values": VALUES}

# Tenths of all names.
_SHARES = (("train", 6), ("heldout_repositories", 2), ("heldout_families", 2))


def pool(key: str) -> str:
    """The only split in which this key (a pair of words, a combination of functions) may be used."""
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % 10
    for split, share in _SHARES:
        if draw < share:
            return split
        draw -= share
    raise AssertionError("shares sum to ten")


def _pairs(split: str, firsts: tuple[str, ...], seconds: tuple[str, ...], joint: str) -> list[tuple[str, str]]:
    return [(a, b) for a in firsts for b in seconds if a != b and pool(f"{a}{joint}{b}") == split]


SPLITS = tuple(split for split, _ in _SHARES)
FUNCTION_NAMES = {s: tuple(f"{a}_{b}" for a, b in _pairs(s, FIRST, SECOND, "_")) for s in SPLITS}
# Per split and package word: the module words it may hold.
MODULES = {s: {p: tuple(m for q, m in _pairs(s, PLACES, PLACES, "/") if q == p) for p in PLACES} for s in SPLITS}
