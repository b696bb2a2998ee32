"""The compact format, for small policies with a tokenizer of their own.

One line a message; special tokens are single ids; nothing stands between messages:

    <|user|>Repository textkit. Fix `pad`: it cuts long lines.<|end|>
    <|assistant|><|call|>bash<|arg|>sed -n 1,20p textkit/lines.py<|end|>
    <|tool|>def pad(line, width):\n    return line[:width]\n<|end|>
    <|assistant|><|call|>str_replace<|arg|>replace<|arg|>textkit/lines.py<|arg|>line[:width]<|arg|>line.ljust(width)<|end|>
    <|tool|>replaced 1 occurrence<|end|>
    <|assistant|>Fixed.<|end|>

It has no system message: TEMPLATE puts such a text before the user's.
"""

from collections.abc import Sequence

from skillrl import tokenizer as tok
from skillrl.chat.base import Final, Malformed, ToolCall
from skillrl.tokenizer import Tokenizer

# The same for transformers' apply_chat_template, with the arguments of a call by their names (skillrl/chat/schemas.py),
# in whatever order. Here the names of special tokens are those tokens wherever they stand.
TEMPLATE = """\
{%- set told = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set told.system = message.content + '\\n\\n' %}
    {%- elif message.role == 'user' %}
        {{- '<|user|>' + told.system + message.content + '<|end|>' }}
        {%- set told.system = '' %}
    {%- elif message.role == 'assistant' and message.tool_calls %}
        {%- if message.tool_calls | length > 1 or message.content %}
            {{- raise_exception('a turn of the compact format is one call, or text without a call') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function or message.tool_calls[0] %}
        {{- '<|assistant|><|call|>' + call.name }}
        {%- for name in call.arguments if name not in ['command', 'path', 'text', 'old', 'new'] %}
            {{- raise_exception('the compact format knows no argument ' + name) }}
        {%- endfor %}
        {%- for name in ['command', 'path', 'text', 'old', 'new'] if name in call.arguments %}
            {{- '<|arg|>' + call.arguments[name] }}
        {%- endfor %}
        {{- '<|end|>' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|assistant|>' + message.content + '<|end|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|tool|>' + message.content + '<|end|>' }}
    {%- else %}
        {{- raise_exception('the compact format knows no role ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""


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
