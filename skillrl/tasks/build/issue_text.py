"""Words for an instance: what an issue reports, what an instruction asks, what a function promises.

Everything said about behaviour was observed by running the correct and the buggy tree; nothing quotes the change.
"""

import ast
import inspect
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sandbox_service.syntax import parse
from skillrl.tasks.build.probe_excerpt import Excerpt

MAX_EXAMPLES = 2
MAX_EXAMPLE_CHARACTERS = 200


@dataclass(frozen=True)
class Call:
    """A call that a test makes, arguments as literal text."""

    module: str
    # Of a function or class; Class.name of a class method; of a method or property where there is a receiver.
    name: str
    # None for a property.
    positional: tuple[str, ...] | None
    keyword: tuple[tuple[str, str], ...]
    # Ids of the tests that make it.
    tests: frozenset[str] = frozenset()
    # What gives the object that has the method.
    receiver: "Call | None" = None

    @property
    def expression(self) -> str:
        name = f"{self.receiver.expression}.{self.name}" if self.receiver else self.name
        if self.positional is None:
            return name
        arguments = [*self.positional, *(f"{key}={value}" for key, value in self.keyword)]
        return f"{name}({', '.join(arguments)})"

    @property
    def symbol(self) -> str:
        """Class.method where the receiver is a new object of the class."""
        return f"{self.receiver.name}.{self.name}" if self.receiver else self.name

    @property
    def imported(self) -> str:
        """The name to import for it."""
        return (self.receiver or self).name.partition(".")[0]


@dataclass(frozen=True)
class Answer:
    """What a call came to."""

    # "returned" (text is the value's repr), "yielded" (an iterator: text lists its first items), "raised" (text is the
    # exception) or "unfit" (what it came to may differ from run to run).
    kind: str
    text: str
    # Whether the top-level package exports what the call begins with.
    exported: bool = False

    @property
    def sentence(self) -> str:
        return f"{_VERBS[self.kind]} {self.text}"

    @property
    def plain(self) -> bool:
        """Fit to be quoted: short, and the same in every run."""
        return self.kind in _VERBS and len(self.text) <= MAX_EXAMPLE_CHARACTERS and "\n" not in self.text


_VERBS = {"returned": "gives", "yielded": "yields", "raised": "fails with"}


@dataclass(frozen=True)
class Symptom:
    """What comes to something else on the two trees: a call, or an expression after some lines."""

    act: Call | Excerpt
    got: Answer
    expected: Answer

    @property
    def length(self) -> int:
        return len(self.act.expression) + sum(map(len, getattr(self.act, "lines", ())))


def symptoms(
    acts: Sequence[Call | Excerpt], correct: Sequence[Answer], buggy: Sequence[Answer], again: Sequence[Answer]
) -> list[Symptom]:
    """Acts that went right and now do not, fit to be quoted, the shortest first.

    `again`: answers of the correct tree after those of the buggy one; what differs by itself shows nothing. A call
    that should fail is none: it may have failed for being made out of its place. An excerpt was checked.
    """
    found = [
        Symptom(act, got, expected)
        for act, expected, got, lasting in zip(acts, correct, buggy, again, strict=True)
        if expected == lasting
        and (expected.kind, expected.text) != (got.kind, got.text)
        and (expected.kind != "raised" or isinstance(act, Excerpt) and got.kind != "raised")
        and expected.plain
        and got.plain
        and len(act.expression) <= MAX_EXAMPLE_CHARACTERS
    ]
    return sorted(found, key=lambda s: (s.expected.text == "None", s.length, s.act.expression))


def issue(package: str, symbol: str, found: Sequence[Symptom], failing: Mapping[str, str], seed: int) -> str:
    """A user's report. What does not name the buggy function comes first: it does not give the place away.

    `failing`: ids of the tests that fail, with what they say, if that is known.
    """
    if not found:
        return _from_test_names(package, symbol, failing)
    rng = random.Random(seed)
    if isinstance(found[0].act, Excerpt):
        return _from_excerpts(package, symbol, found, rng)
    indirect = [s for s in found if s.act.symbol.rpartition(".")[2] != symbol]
    first = min(indirect or found, key=lambda s: not s.got.exported)
    called, module = first.act.name, first.act.module.split(".")[0]
    others = [s for s in found if s.act.symbol == first.act.symbol and s != first][: MAX_EXAMPLES - 1]
    calls = "\n".join(f"    {_observed(s, symbol)}" for s in (first, *others))
    shown = (first, *others)
    origin = f"from {module} import {first.act.imported}" if first.got.exported else ""
    opening = rng.choice(
        (
            f"{called} of {package} gives a wrong result.",
            f"Unexpected result of {called} in {package}.",
            f"I use {package}, and {called} does not do what it should.",
        )
    )
    return "\n\n".join((opening, f"    {origin}\n{calls}" if origin else calls, _expectation(shown, rng)))


def _from_excerpts(package: str, symbol: str, found: Sequence[Symptom], rng: random.Random) -> str:
    first = next((s for s in found if not _named(symbol, *s.act.lines, s.act.expression)), found[0])
    opening = rng.choice(
        (
            f"Unexpected behaviour of {package}.",
            f"I use {package}, and it does not do what it should.",
            f"{package} gives a wrong result.",
        )
    )
    lines = "\n".join(f"    {line}" for line in (*first.act.lines, _observed(first, symbol)))
    return "\n\n".join((opening, lines, _expectation([first], rng)))


def _expectation(shown: Sequence[Symptom], rng: random.Random) -> str:
    wanted = " and ".join(s.expected.text for s in shown)
    if all(s.expected.kind == "raised" for s in shown):
        return f"It should fail with {wanted}."
    if all(s.expected.text == "None" and s.got.kind == "raised" for s in shown):
        return "I expected no error."
    return rng.choice((f"I expected {wanted}.", f"It should be {wanted}.", f"The right answer is {wanted}."))


def _observed(symptom: Symptom, symbol: str) -> str:
    """The expression and what it came to. A message that names a function which nobody called gives the place away."""
    got, expression = symptom.got, symptom.act.expression
    if got.kind == "raised" and _named(symbol, got.text) and not _named(symbol, expression):
        got = replace(got, text=got.text.partition(":")[0])
    return f"{expression} {got.sentence}"


def _named(symbol: str, *texts: str) -> bool:
    return any(re.search(rf"\b{re.escape(symbol)}\b", text) for text in texts)


def _from_test_names(package: str, symbol: str, failing: Mapping[str, str]) -> str:
    """Without anything to quote: which behaviours are broken, in the words of the tests' names, and what they say.

    A name or a message that holds the buggy function's own name would give the place away.
    """
    listed: dict[str, str] = {}
    for test_id, message in sorted(failing.items()):
        words = _words(re.sub(r"^test_?|\[.*", "", test_id.rsplit("::", 1)[-1]))
        message = "" if _named(symbol, message) else message
        if not words or f" {_words(symbol)} " in f" {words} ":
            words = "a case" if message else ""
        if words:
            listed[words] = listed.get(words) or message
    if not listed:
        return f"Some behaviour of {package} is broken: it no longer works as documented."
    first = sorted(sorted(listed), key=lambda words: not listed[words])[:5]
    lines = "\n".join(f"- {words}: {listed[words]}" if listed[words] else f"- {words}" for words in first)
    return f"Some behaviour of {package} is broken. What no longer works as documented:\n\n{lines}"


def _words(name: str) -> str:
    return " ".join(re.split(r"_+|(?<=[a-z])(?=[A-Z])", name)).lower().strip()


def instruction(path: str, symbol: str, lines: str, intent: str, source: str) -> str:
    """File, symbol, place and, in words, what must hold there."""
    promise = first_sentence(docstring(source, symbol))
    text = f"Correct `{symbol}` in {path}, {lines}: {intent}."
    return f"{text} What the function is for: {promise}" if promise else text


def contract(source: str, symbol: str, examples: Iterable[tuple[Call, Answer]]) -> str:
    """What tests may rely on: signature and documentation; observed examples where there is none."""
    node = find(source, symbol)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    text = f"{symbol}({ast.unparse(node.args)}){returns}"
    documented = docstring(source, symbol)
    if documented:
        return f"{text}\n\n{documented}"
    lines = [f"    {call.expression} {answer.sentence}" for call, answer in examples if answer.plain][:5]
    return "\n".join([text, "", *lines]) if lines else text


def find(source: str, symbol: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """The function of that qualified name. Raises KeyError."""
    body = parse(source).body
    *owners, name = symbol.split(".")
    for owner in owners:
        body = next((n.body for n in _definitions(body, ast.ClassDef) if n.name == owner), [])
    for node in _definitions(body, ast.FunctionDef | ast.AsyncFunctionDef):
        if node.name == name:
            return node
    raise KeyError(symbol)


def _definitions(body: list[ast.stmt], kind):
    """Also those under `if` and `try`, as for older Python versions."""
    for node in body:
        if isinstance(node, kind):
            yield node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            inner = [n for field in ("body", "orelse", "finalbody") for n in getattr(node, field, [])]
            inner += [n for handler in getattr(node, "handlers", []) for n in handler.body]
            yield from _definitions(inner, kind)


def docstring(source: str, symbol: str) -> str:
    return inspect.cleandoc(ast.get_docstring(find(source, symbol), clean=False) or "")


def first_sentence(text: str) -> str:
    """The first sentence of the first paragraph, on one line."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", paragraph)[0] if paragraph else ""
