"""Words for an instance: what an issue reports, what an instruction asks, what a function promises.

Everything said about behaviour was observed by running the correct and the buggy tree; nothing quotes the change.
"""

import ast
import inspect
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sandbox_service.syntax import parse

MAX_EXAMPLES = 2
MAX_EXAMPLE_CHARACTERS = 120


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

    # "returned" (text is the value's repr) or "raised" (text is the exception).
    kind: str
    text: str
    # Whether the top-level package exports what the call begins with.
    exported: bool = False

    @property
    def sentence(self) -> str:
        return f"gives {self.text}" if self.kind == "returned" else f"fails with {self.text}"

    @property
    def plain(self) -> bool:
        """Fit to be quoted: short, and the same in every run."""
        return len(self.text) <= MAX_EXAMPLE_CHARACTERS and "\n" not in self.text and " at 0x" not in self.text


@dataclass(frozen=True)
class Symptom:
    """A call whose answer differs between the two trees."""

    call: Call
    got: Answer
    expected: Answer


def symptoms(calls: Sequence[Call], correct: Sequence[Answer], buggy: Sequence[Answer]) -> list[Symptom]:
    """Calls that went right and now do not, fit to be quoted, the shortest first."""
    found = [
        Symptom(call, got, expected)
        for call, expected, got in zip(calls, correct, buggy, strict=True)
        if (expected.kind, expected.text) != (got.kind, got.text)
        and expected.kind == "returned"
        and expected.plain
        and got.plain
        and len(call.expression) <= MAX_EXAMPLE_CHARACTERS
    ]
    return sorted(found, key=lambda s: (len(s.call.expression), s.call.expression))


def issue(package: str, symbol: str, found: Sequence[Symptom], failing: Iterable[str], seed: int) -> str:
    """A user's report. Calls of other functions than the buggy one come first: they do not give the place away."""
    if not found:
        return _from_test_names(package, failing)
    rng = random.Random(seed)
    indirect = [s for s in found if s.call.symbol.rpartition(".")[2] != symbol]
    first = (indirect or list(found))[0]
    called, module = first.call.name, first.call.module.split(".")[0]
    others = [s for s in found if s.call.symbol == first.call.symbol and s != first][: MAX_EXAMPLES - 1]
    calls = "\n".join(f"    {s.call.expression} {s.got.sentence}" for s in (first, *others))
    wanted = " and ".join(s.expected.text for s in (first, *others))
    origin = f"from {module} import {first.call.imported}" if first.got.exported else ""
    opening = rng.choice(
        (
            f"{called} of {package} gives a wrong result.",
            f"Unexpected result of {called} in {package}.",
            f"I use {package}, and {called} does not do what it should.",
        )
    )
    expected = rng.choice((f"I expected {wanted}.", f"It should be {wanted}.", f"The right answer is {wanted}."))
    return "\n\n".join(filter(None, (opening, f"    {origin}\n{calls}" if origin else calls, expected)))


def _from_test_names(package: str, failing: Iterable[str]) -> str:
    """Without a call to quote: which behaviours are broken, in the words of the tests' names."""
    names = sorted({re.sub(r"\[.*", "", test_id.rsplit("::", 1)[-1]) for test_id in failing})
    words = [" ".join(re.split(r"_+|(?<=[a-z])(?=[A-Z])", re.sub(r"^test_?", "", n))).lower().strip() for n in names]
    listed = "\n".join(f"- {w}" for w in words[:5] if w)
    return f"Some behaviour of {package} is broken. What no longer works as documented:\n\n{listed}"


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
