"""A text search: words, an index of documents, ranking and excerpts."""

import random

from skillrl.tasks.world.apps.base import App, Scenario

_WORDS = '''\
"""Words of a text."""


def $split_words(text):
    """Return the words in lower case, without commas and dots; words shorter than $SHORT letters are left out."""
    words = []
    for part in text.lower().split():
        word = part.strip(".,")
        if len(word) >= $SHORT:
            words.append(word)
    return words


def $stem(word):
    """Return the word without a final s, if at least $STEM letters are left."""
    if word.endswith("s") and len(word) > $STEM:
        return word[:-1]
    return word
'''

_INDEX = '''\
"""Which words are in which document."""

from $package.$words_ import $split_words, $stem


class $Index:
    """Documents by name."""

    def __init__(self):
        self.documents = {}

    def add(self, name, text):
        """Store the stems of a text under a name, in place of what was there; return their number."""
        self.documents[name] = [$stem(word) for word in $split_words(text)]
        return len(self.documents[name])

    def count(self, name, word):
        """Return how often a word, or another form of it, is in a document; zero if there is no such document."""
        if name not in self.documents:
            return 0
        return self.documents[name].count($stem(word))

    def find(self, word):
        """Return the names of the documents that hold a word, in order."""
        return sorted(name for name in self.documents if self.count(name, word) > 0)

    def common(self, one, other):
        """Return the stems that two documents share, in order, each once."""
        shared = []
        for word in self.documents[one]:
            if word in self.documents[other] and word not in shared:
                shared.append(word)
        return sorted(shared)
'''

_RANKING = '''\
"""Which document answers a query best."""

from $package.$words_ import $split_words


def $score(index, name, query):
    """Return, for each word of the query in the document, $HIT plus how often it is there, up to $MOST."""
    points = 0
    for word in $split_words(query):
        hits = index.count(name, word)
        if hits > 0:
            points += $HIT + min(hits, $MOST)
    return points


def $rank(index, query):
    """Return the names of documents with a score above zero, the best first; equals in order of their names."""
    scored = []
    for name in sorted(index.documents):
        points = $score(index, name, query)
        if points > 0:
            scored.append((-points, name))
    return [name for _, name in sorted(scored)]
'''

_EXCERPT = '''\
"""Short pieces of a text."""

from $package.$words_ import $stem


def $excerpt(text, word):
    """Return the first place of a word with up to $AROUND words on each side, or an empty text."""
    parts = text.lower().split()
    for place, part in enumerate(parts):
        if $stem(part.strip(".,")) == $stem(word):
            start = max(0, place - $AROUND)
            return " ".join(parts[start : place + $AROUND + 1])
    return ""


def $shorten(text, size):
    """Return the text, or its first size letters and three dots if it is longer than size."""
    if len(text) <= size:
        return text
    return text[:size] + "..."
'''

_NOUNS = ("cat", "cats", "dog", "dogs", "bus", "ox", "hen", "hens", "ant", "ants", "a", "to", "glass")
_VERBS = ("see", "sees", "like", "likes", "chase", "meet")


def _constants(rng: random.Random) -> dict[str, int]:
    return {
        "SHORT": rng.randint(2, 3),
        "STEM": rng.randint(3, 4),
        "HIT": rng.randint(2, 6),
        "MOST": rng.randint(1, 3),
        "AROUND": rng.randint(1, 2),
    }


def _scenarios(rng: random.Random, constants) -> list[Scenario]:
    def text(length):
        words = [rng.choice(_NOUNS if i % 2 == 0 else _VERBS) for i in range(length)]
        if length > 3:
            words[2] += ","
        return (" ".join(words) + ".").capitalize()

    texts = {name: text(rng.randint(3, 8)) for name in rng.sample(("first", "second", "third", "fourth"), 3)}
    setup = ("index = $Index()", *(f'index.add("{name}", "{t}")' for name, t in texts.items()))
    told = "documents " + " and ".join(f'{name} "{t}"' for name, t in texts.items())
    one, other = rng.sample(sorted(texts), 2)
    word = rng.choice(_NOUNS + _VERBS)
    query = f"{rng.choice(_NOUNS)} {word}"
    long = text(9)
    size = rng.choice((3, 5, len(long), len(long) - 1))
    return [
        Scenario("add", ("index = $Index()",), f'index.add("{one}", "{long}")', f'the number of words of "{long}"'),
        Scenario("count", setup, f'index.count("{one}", "{word}")', f'how often "{word}" is in {one} of {told}'),
        Scenario("find", setup, f'index.find("{word}")', f'where "{word}" is found in {told}'),
        Scenario("common", setup, f'index.common("{one}", "{other}")', f"what {one} and {other} share in {told}"),
        Scenario("score", setup, f'$score(index, "{one}", "{query}")', f'the points of {one} for "{query}" in {told}'),
        Scenario("rank", setup, f'$rank(index, "{query}")', f'the ranking for "{query}" in {told}'),
        Scenario("excerpt", (), f'$excerpt("{long}", "{word}")', f'the excerpt of "{long}" for "{word}"'),
        Scenario("shorten", (), f'$shorten("{long}", {size})', f'"{long}" shortened to {size} letters'),
        Scenario("split", (), f'$split_words("{long}")', f'the words taken from "{long}"'),
        Scenario("stem", (), f'[$stem("{word}"), $stem("{word}s")]', f'the forms of "{word}" and "{word}s"'),
    ]


APP = App(
    name="search",
    modules={"words_": _WORDS, "index": _INDEX, "ranking": _RANKING, "excerpts": _EXCERPT},
    classes=("Index",),
    functions=("split_words", "stem", "score", "rank", "excerpt", "shorten"),
    constants=_constants,
    scenarios=_scenarios,
)
