"""Messages as plain text, for models behind an endpoint: nobody sees their tokens, so characters are counted.

    system   what SYSTEM says: the two tools, and how to call them
    user     the prompt
    model    I look at the file first. <tool_call>
             {"name": "bash", "arguments": {"command": "cat textkit/lines.py"}}
             </tool_call>
    user     <tool_response>
             def pad(line, width): ...
             </tool_response>
    model    Fixed.

Calls are those of Qwen's format (the Hermes convention), which many models know and all can be told. A message without
a call is the last one. The stream holds the text of all messages one after the other, as it was sent and received.
"""

import json
from collections.abc import Sequence

import numpy as np

from skillrl import tokenizer as tok
from skillrl.chat.base import Final, Malformed, ToolCall
from skillrl.chat.calls import CLOSE, OPEN, QwenCalls
from skillrl.chat.schemas import TOOLS, from_arguments, to_arguments

_THINK, _END_THINK = "<think>", "</think>"

SYSTEM = f"""\
You work in a sandbox with the repository as current folder. There is no network. You have two tools:

{chr(10).join(json.dumps(tool["function"]) for tool in TOOLS)}

To use a tool, end your message with one call, a JSON object between tags:

{OPEN}
{{"name": "bash", "arguments": {{"command": "ls"}}}}
{CLOSE}

Make one call in a message and wait for its result, which comes in the next message. A message without a call ends your
work: what you leave in the repository, and what that message says, is then graded. Nobody answers questions.
"""


class CharacterTokenizer:
    """Ids are Unicode code points, then the special tokens."""

    _SPECIAL = (tok.PAD, tok.END)
    _FIRST = 0x110000
    vocab_size = _FIRST + len(_SPECIAL)
    pad_id = _FIRST

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; surrogates, which UTF-8 cannot hold, become "?"."""
        clean = text.encode("utf-8", "replace").decode()
        return np.frombuffer(clean.encode("utf-32-le"), "<i4").tolist()

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i) if i < self._FIRST else self._SPECIAL[i - self._FIRST] for i in map(int, ids))

    def special_id(self, name: str) -> int:
        return self._FIRST + self._SPECIAL.index(name)


class PlainChat:
    """The format of the module docstring."""

    def __init__(self):
        self.tokenizer = CharacterTokenizer()
        self._end = self.tokenizer.special_id(tok.END)
        self.stop_ids = (self._end,)
        self._calls = QwenCalls()

    def render_prompt(self, text: str) -> list[int]:
        return self.tokenizer.encode(f"{SYSTEM}\n{text}")

    def encode_assistant(self, action: ToolCall | Final) -> list[int]:
        if isinstance(action, Final):
            text = action.text
        else:
            text = "".join(piece for piece, _ in self._calls.write(action.name, to_arguments(action)))
        return [*self.tokenizer.encode(text), self._end]

    def parse_assistant(self, ids: Sequence[int]) -> ToolCall | Final | Malformed:
        ids = [int(i) for i in ids]
        if not ids or ids[-1] != self._end:
            return Malformed("the message does not end")
        text = _after_thinking(self.tokenizer.decode(ids[:-1]))
        if text is None:
            return Malformed(f"the thinking is not closed with {_END_THINK}")
        if not text.strip():
            return Malformed("the message is empty")
        read = self._calls.read(text, {OPEN: OPEN, CLOSE: CLOSE})
        if isinstance(read, tuple):
            return from_arguments(*read)
        return Final(text) if read is None else read

    def bridge(self, tool_output: str, ended_by: int | None = None) -> list[int]:
        return self.tokenizer.encode(reply(tool_output))


def reply(tool_output: str) -> str:
    """The message that brings a tool's result."""
    return f"<tool_response>\n{tool_output}\n</tool_response>"


def _after_thinking(text: str) -> str | None:
    """The turn without its leading thinking, which some servers leave in; None where that does not end."""
    thought, closed, rest = text.partition(_END_THINK)
    if text.lstrip().startswith(_THINK):
        return rest.lstrip() if closed else None
    # Some models' turns are opened with <think> by their chat template, so that only the end is seen.
    return rest.lstrip() if closed and OPEN not in thought else text
