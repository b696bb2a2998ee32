"""How each model family writes one tool call: `write` as pieces of text, `read` back from what was sampled.

A piece is (text, is it markup): in markup the names of special tokens are those tokens, elsewhere they are plain text.
`read` gets a turn's text in which each sampled markup token stands as `marks[name]`: a character that no decoded text
can hold, so that an argument may contain the words "</tool_call>"; or the name itself where the tokenizer has no such
token. Text before a call is the model's comment and is skipped.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from skillrl.chat.base import Malformed

Pieces = list[tuple[str, bool]]
# Name and arguments as the policy wrote them; None: the turn calls nothing.
Read = tuple[Any, Any] | Malformed | None

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class CallFormat(Protocol):
    """One way to write calls. Stop tokens that the tokenizer lacks are passed over."""

    name: str
    families: str
    # Tokens that structure a call.
    markup: tuple[str, ...]
    # Tokens that end a turn: those that may end a call (the first is what `encode_assistant` writes), then the others.
    call_stops: tuple[str, ...]
    final_stops: tuple[str, ...]

    def write(self, name: str, arguments: Mapping[str, str]) -> Pieces: ...

    def read(self, text: str, marks: Mapping[str, str]) -> Read: ...


class QwenCalls:
    """JSON between tags, the Hermes convention, of Qwen2.5 and Qwen3 (their chat templates; arXiv:2505.09388)."""

    name = "qwen"
    families = "Qwen2.5 and Qwen3"
    markup = (OPEN, CLOSE)
    call_stops = ("<|im_end|>",)
    final_stops = ("<|im_end|>", "<|endoftext|>")

    def write(self, name: str, arguments: Mapping[str, str]) -> Pieces:
        call = f'{{"name": {_json(name)}, "arguments": {_json(arguments)}}}'
        return [(f"{OPEN}\n", True), (call, False), (f"\n{CLOSE}", True)]

    def read(self, text: str, marks: Mapping[str, str]) -> Read:
        block = _only_block(text, marks[OPEN], marks[CLOSE])
        return _json_call(block, ("arguments",)) if isinstance(block, str) else block


class QwenCoderCalls:
    """Function and parameter tags between call tags, of Qwen3-Coder (its chat template)."""

    name = "qwen_coder"
    families = "Qwen3-Coder"
    markup = (OPEN, CLOSE)
    call_stops = ("<|im_end|>",)
    final_stops = ("<|im_end|>", "<|endoftext|>")
    _FUNCTION = re.compile(r"\s*<function=([^>\n]*)>(.*)</function>\s*", re.DOTALL)
    # A value ends where the next parameter begins or the function ends.
    _PARAMETER = re.compile(r"\s*<parameter=([^>\n]*)>(.*?)</parameter>(?=\s*(?:<parameter=|\Z))", re.DOTALL)

    def write(self, name: str, arguments: Mapping[str, str]) -> Pieces:
        body = "".join(f"<parameter={n}>\n{value}\n</parameter>\n" for n, value in arguments.items())
        return [(f"{OPEN}\n", True), (f"<function={name}>\n{body}</function>", False), (f"\n{CLOSE}", True)]

    def read(self, text: str, marks: Mapping[str, str]) -> Read:
        block = _only_block(text, marks[OPEN], marks[CLOSE])
        if not isinstance(block, str):
            return block
        function = self._FUNCTION.fullmatch(block)
        if not function:
            return Malformed("a call is <function=NAME>, then its parameters, then </function>")
        arguments, at, body = {}, 0, function[2].rstrip()
        while at < len(body):
            parameter = self._PARAMETER.match(body, at)
            if not parameter:
                return Malformed(
                    "each parameter is <parameter=NAME>, a line break, its value, a line break, </parameter>"
                )
            if parameter[1] in arguments:
                return Malformed(f"the parameter {parameter[1][:40]!r} is given twice")
            arguments[parameter[1]] = parameter[2].removeprefix("\n").removesuffix("\n")
            at = parameter.end()
        return function[1], arguments


class GlmCalls:
    """Name, then keys and values between tags of their own, of GLM-4.5 (its chat template; arXiv:2508.06471).

    A turn ends with the role token of whoever speaks next: <|observation|> after a call, <|user|> after an answer.
    """

    name = "glm"
    families = "GLM-4.5"
    _KEY, _END_KEY, _VALUE, _END_VALUE = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
    markup = (OPEN, CLOSE, _KEY, _END_KEY, _VALUE, _END_VALUE)
    call_stops = ("<|observation|>",)
    final_stops = ("<|user|>", "<|endoftext|>")

    def write(self, name: str, arguments: Mapping[str, str]) -> Pieces:
        pieces: Pieces = [(OPEN, True), (f"{name}\n", False)]
        for n, value in arguments.items():
            pieces += [(self._KEY, True), (n, False), (f"{self._END_KEY}\n{self._VALUE}", True)]
            pieces += [(value, False), (f"{self._END_VALUE}\n", True)]
        return [*pieces, (CLOSE, True)]

    def read(self, text: str, marks: Mapping[str, str]) -> Read:
        block = _only_block(text, marks[OPEN], marks[CLOSE])
        if not isinstance(block, str):
            return block
        key, end_key, value, end_value = (re.escape(marks[name]) for name in self.markup[2:])
        argument = re.compile(rf"\s*{key}(.*?){end_key}\s*{value}(.*?){end_value}\s*", re.DOTALL)
        name, bar, _ = block.partition(marks[self._KEY])
        arguments, at = {}, len(name)
        while bar and at < len(block):
            found = argument.match(block, at)
            if not found:
                return Malformed("each argument is <arg_key>NAME</arg_key> and <arg_value>VALUE</arg_value>")
            if found[1].strip() in arguments:
                return Malformed(f"the argument {found[1][:40]!r} is given twice")
            arguments[found[1].strip()] = found[2]
            at = found.end()
        return name.strip(), arguments


class LlamaCalls:
    """A message that is one JSON object, of Llama 3.1 and later (their chat templates; arXiv:2407.21783)."""

    name = "llama"
    families = "Llama 3.1, 3.2 and 3.3"
    _TAG = "<|python_tag|>"
    markup = (_TAG,)
    call_stops = ("<|eot_id|>", "<|eom_id|>")
    final_stops = ("<|eot_id|>", "<|end_of_text|>")
    _CALL = re.compile(r'\{\s*"(?:type|name|function|parameters|arguments)"\s*:')

    def write(self, name: str, arguments: Mapping[str, str]) -> Pieces:
        return [(f'{{"name": {_json(name)}, "parameters": {_json(arguments)}}}', False)]

    def read(self, text: str, marks: Mapping[str, str]) -> Read:
        text = text.strip()
        tagged = text.startswith(marks[self._TAG])
        text = text.removeprefix(marks[self._TAG])
        return _json_call(text, ("parameters", "arguments")) if tagged or self._CALL.match(text) else None


CALL_FORMATS: Sequence[CallFormat] = (QwenCalls(), QwenCoderCalls(), GlmCalls(), LlamaCalls())


def _only_block(text: str, start: str, end: str) -> str | Malformed | None:
    """What stands between the only pair of tags; None where there is none."""
    if start not in text and end not in text:
        return None
    if text.count(start) > 1:
        return Malformed("several calls in one message; make one call, then read its result")
    _, opened, rest = text.partition(start)
    block, closed, after = rest.rpartition(end)
    if not opened or not closed or end in block:
        return Malformed(f"a call stands between one {OPEN} and one {CLOSE}")
    if after.strip():
        return Malformed("text after the call; end the message with the call")
    return block


def _json_call(text: str, names: Sequence[str]) -> Read:
    try:
        # strict=False: line breaks inside strings, which models often leave unescaped.
        call = json.loads(text, strict=False)
    except (ValueError, RecursionError) as e:
        return Malformed(f"the call is no valid JSON ({str(e)[:80]})")
    if not isinstance(call, dict) or "name" not in call:
        return Malformed('a call is a JSON object with "name" and "' + names[0] + '"')
    return call["name"], next((call[name] for name in names if name in call), None)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
