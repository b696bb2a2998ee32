"""The compact format, for small policies with a tokenizer of their own.

One line a message; special tokens are single ids; nothing stands between messages:

    <|user|>Repository textkit. Fix `pad`: it cuts long lines.<|end|>
    <|assistant|><|call|>bash<|arg|>sed -n 1,20p textkit/lines.py<|end|>
    <|tool|>def pad(line, width):\n    return line[:width]\n<|end|>
    <|assistant|><|call|>str_replace<|arg|>replace<|arg|>textkit/lines.py<|arg|>line[:width]<|arg|>line.ljust(width)<|end|>
    <|tool|>replaced 1 occurrence<|end|>
    <|assistant|>Fixed.<|end|>
"""

from collections.abc import Sequence

from skillrl import tokenizer as tok
from skillrl.chat.base import Final, Malformed, ToolCall
from skillrl.tokenizer import Tokenizer


class CompactChat:
    """The format of the module docstring."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._end = tokenizer.special_id(tok.END)
        self.stop_ids = (self._end,)
        self._user, self._assistant, self._tool = map(tokenizer.special_id, (tok.USER, tok.ASSISTANT, tok.TOOL))
        self._call, self._arg = map(tokenizer.special_id, (tok.CALL, tok.ARG))
        self._special_ids = frozenset(map(tokenizer.special_id, tok.SPECIAL_TOKENS))

    def render_prompt(self, text: str) -> list[int]:
        return [self._user, *self.tokenizer.encode(text), self._end, self._assistant]

    def encode_assistant(self, action: ToolCall | Final) -> list[int]:
        if isinstance(action, Final):
            return [*self.tokenizer.encode(action.text), self._end]
        ids = [self._call, *self.tokenizer.encode(action.name)]
        for arg in action.args:
            ids += [self._arg, *self.tokenizer.encode(arg)]
        return [*ids, self._end]

    def parse_assistant(self, ids: Sequence[int]) -> ToolCall | Final | Malformed:
        ids = [int(i) for i in ids]
        if not ids or ids[-1] != self._end:
            return Malformed("the message does not end")
        is_call = ids[0] == self._call
        body = ids[1:-1] if is_call else ids[:-1]
        if self._special_ids.intersection(body) - ({self._arg} if is_call else set()):
            return Malformed("special tokens in the wrong place; a call starts the message: name, then its arguments")
        if not is_call:
            return Final(self.tokenizer.decode(body))
        name, *args = (self.tokenizer.decode(part) for part in _split(body, self._arg))
        return ToolCall(name, tuple(args))

    def bridge(self, tool_output: str, ended_by: int | None = None) -> list[int]:
        return [self._tool, *self.tokenizer.encode(tool_output), self._end, self._assistant]


def _split(ids: list[int], separator: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for i in ids:
        if i == separator:
            parts.append([])
        else:
            parts[-1].append(i)
    return parts
