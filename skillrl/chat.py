"""Messages to an append-only token stream and back.

The compact format, one line a message (special tokens are single ids; nothing stands between messages):

    <|user|>Repository textkit. Fix `pad`: it cuts long lines.<|end|>
    <|assistant|><|call|>bash<|arg|>sed -n 1,20p textkit/lines.py<|end|>
    <|tool|>def pad(line, width):\n    return line[:width]\n<|end|>
    <|assistant|><|call|>str_replace<|arg|>replace<|arg|>textkit/lines.py<|arg|>line[:width]<|arg|>line.ljust(width)<|end|>
    <|tool|>replaced 1 occurrence<|end|>
    <|assistant|>Fixed.<|end|>

An episode starts with `render_prompt`, the policy samples a turn up to and including its <|end|>, `bridge` appends a
tool's reply and opens the next turn. What was sampled is never encoded again, so the stream that the policy saw is the
stream that it learns from. The loss falls on what the assistant says: after <|assistant|>, up to and including <|end|>.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from skillrl import tokenizer as tok
from skillrl.tokenizer import Tokenizer


@dataclass(frozen=True)
class User:
    text: str


@dataclass(frozen=True)
class ToolCall:
    name: str
    args: tuple[str, ...]


@dataclass(frozen=True)
class Final:
    """The assistant's last message: it ends the episode."""

    text: str


@dataclass(frozen=True)
class ToolResult:
    text: str


@dataclass(frozen=True)
class Malformed:
    """An assistant turn that says nothing the format knows; `reason` is written for the policy to read."""

    reason: str


Message = User | ToolCall | Final | ToolResult


class ChatFormat(Protocol):
    """A model family's way to write messages. A format that cannot be extended without changing the past is no format.

    For every conversation: `render(messages)[0]` equals the prompt, the turns and the bridges one after the other.
    """

    tokenizer: Tokenizer
    # The token that ends an assistant turn.
    stop_id: int

    def render_prompt(self, text: str) -> list[int]:
        """The user's message, and the assistant's turn opened."""
        ...

    def encode_assistant(self, action: ToolCall | Final) -> list[int]:
        """What a policy would sample to say this, the stop token included."""
        ...

    def parse_assistant(self, ids: Sequence[int]) -> ToolCall | Final | Malformed:
        """Reads a sampled turn; never raises."""
        ...

    def bridge(self, tool_output: str) -> list[int]:
        """A tool's reply and the next assistant turn opened."""
        ...

    def render(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """A whole conversation at once: its tokens and their loss mask (True on the assistant's)."""
        ...


class CompactChat:
    """The format of the module docstring."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.stop_id = tokenizer.special_id(tok.END)
        self._user, self._assistant, self._tool = map(tokenizer.special_id, (tok.USER, tok.ASSISTANT, tok.TOOL))
        self._call, self._arg = map(tokenizer.special_id, (tok.CALL, tok.ARG))
        self._special_ids = frozenset(map(tokenizer.special_id, tok.SPECIAL_TOKENS))

    def render_prompt(self, text: str) -> list[int]:
        return [self._user, *self.tokenizer.encode(text), self.stop_id, self._assistant]

    def encode_assistant(self, action: ToolCall | Final) -> list[int]:
        if isinstance(action, Final):
            return [*self.tokenizer.encode(action.text), self.stop_id]
        ids = [self._call, *self.tokenizer.encode(action.name)]
        for arg in action.args:
            ids += [self._arg, *self.tokenizer.encode(arg)]
        return [*ids, self.stop_id]

    def parse_assistant(self, ids: Sequence[int]) -> ToolCall | Final | Malformed:
        ids = [int(i) for i in ids]
        if not ids or ids[-1] != self.stop_id:
            return Malformed("the message does not end")
        is_call = ids[0] == self._call
        body = ids[1:-1] if is_call else ids[:-1]
        if self._special_ids.intersection(body) - ({self._arg} if is_call else set()):
            return Malformed("special tokens in the wrong place; a call starts the message: name, then its arguments")
        if not is_call:
            return Final(self.tokenizer.decode(body))
        name, *args = (self.tokenizer.decode(part) for part in _split(body, self._arg))
        return ToolCall(name, tuple(args))

    def bridge(self, tool_output: str) -> list[int]:
        return [self._tool, *self.tokenizer.encode(tool_output), self.stop_id, self._assistant]

    def render(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        mask: list[bool] = []

        def append(new: list[int], sampled: bool):
            ids.extend(new)
            mask.extend([sampled] * len(new))

        for message in messages:
            if isinstance(message, User):
                append([self._user, *self.tokenizer.encode(message.text), self.stop_id], False)
            elif isinstance(message, ToolResult):
                append([self._tool, *self.tokenizer.encode(message.text), self.stop_id], False)
            else:
                append([self._assistant], False)
                append(self.encode_assistant(message), True)
        return ids, mask


def _split(ids: list[int], separator: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for i in ids:
        if i == separator:
            parts.append([])
        else:
            parts[-1].append(i)
    return parts
