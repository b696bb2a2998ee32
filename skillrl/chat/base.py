"""What is said in an episode, and what every way to write it must be able to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from skillrl.tokenizer import Tokenizer


class ChatError(ValueError):
    """A tokenizer, a chat template or a message that a format cannot work with; says what to do."""


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
    """A model family's way to write messages; none that would change the past when it is extended."""

    tokenizer: Tokenizer
    # Each of these tokens ends an assistant turn.
    stop_ids: tuple[int, ...]

    def render_prompt(self, text: str) -> list[int]:
        """The user's message, with whatever the format puts before it, and the assistant's turn opened."""
        ...

    def encode_assistant(self, action: ToolCall | Final) -> list[int]:
        """What a policy would sample to say this, the stop token included. ChatError for what cannot be said."""
        ...

    def parse_assistant(self, ids: Sequence[int]) -> ToolCall | Final | Malformed:
        """Reads a sampled turn; never raises."""
        ...

    def bridge(self, tool_output: str, ended_by: int | None = None) -> list[int]:
        """A tool's reply and the next assistant turn opened.

        `ended_by` is the last token of the turn before, where that was sampled; a call's usual end by default.
        """
        ...


def render(chat: ChatFormat, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """A whole conversation at once: its tokens and their loss mask (True on the assistant's).

    It is the prompt, the turns and the bridges one after the other, as an episode has them.
    """
    ids: list[int] = []
    mask: list[bool] = []
    for message in messages:
        if isinstance(message, User):
            new = chat.render_prompt(message.text)
        elif isinstance(message, ToolResult):
            new = chat.bridge(message.text)
        else:
            new = chat.encode_assistant(message)
        ids += new
        mask += [isinstance(message, ToolCall | Final)] * len(new)
    return ids, mask
