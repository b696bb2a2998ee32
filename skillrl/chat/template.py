"""Messages in a model family's own format: the text around them comes from the folder's chat template, diffed once.

A conversation is rendered with placeholders at the start, and cut into what stands before the user's text, between a
call's stop token and the tool's reply, and so on. From then on the stream only grows: the past is never rendered again.
Templates that render the past differently later are refused (`check_append_only`), with one exception. Some, like
Qwen3's and GLM-4.5's, leave out the thinking of earlier turns or write an empty block in its place; the stream keeps
what was sampled, so thinking is compared with all its blocks taken out.

The `renderers` package (0.1.12) writes most of these formats too, by hand for each model name. It is not used: it
encodes tool output together with the markup, so that "<|im_end|>" in a file ends a turn, has no format for Qwen3-Coder,
does not read a folder's own template, and comes with clients of inference services (165 MB).
"""

import json
import re
from collections.abc import Sequence
from itertools import pairwise

from skillrl.chat.base import ChatError, Final, Malformed, Message, ToolCall, ToolResult, User
from skillrl.chat.calls import CALL_FORMATS, CallFormat
from skillrl.chat.schemas import TOOLS, from_arguments, to_arguments
from skillrl.tokenizer import HFTokenizer

_THINK, _END_THINK = "<think>", "</think>"
_THOUGHT = re.compile(r"<think>.*?</think>\n*", re.DOTALL)
_OPENED = re.compile(r"<think>\s*\Z")
# Llama's templates print today's date otherwise, and two runs of one config would differ.
_DATE = "26 Jul 2024"
_USER, _ARG, _RESULT, _FINAL = (f'Slot{n}"{n}tolS' for n in range(4))


class TemplateChat:
    """The format of a Hugging Face folder. `calls` is found by what its template writes, unless it is named."""

    def __init__(self, tokenizer: HFTokenizer, calls: str = "", *, thinking: bool = True):
        """`thinking` is handed to the template (enable_thinking). Raises ChatError for templates that do not fit."""
        self.tokenizer, self._thinking = tokenizer, thinking
        self.source = tokenizer.hf.name_or_path
        prompt = self._template([User(_USER)], open_turn=True)
        called = self._template([User(_USER), ToolCall("bash", (_ARG,))])
        self.calls = self._find_calls(calls, called)
        said = self._template([User(_USER), Final(_FINAL)])
        replied = self._template([User(_USER), ToolCall("bash", (_ARG,)), ToolResult(_RESULT)], open_turn=True)

        body = _text(self.calls.write("bash", {"command": _ARG}))
        self._opened = bool(_OPENED.search(prompt))
        self._prompt = self._cut(prompt, _USER)
        self._call_lead = self._lead(prompt, called, body)
        self._final_lead = self._lead(prompt, said, _FINAL)
        call_stops, final_stops = self._known(self.calls.call_stops), self._known(self.calls.final_stops)
        if not call_stops or not final_stops:
            raise ChatError(
                f"the tokenizer in {self.source} has none of {self.calls.call_stops + self.calls.final_stops}, which "
                f"end turns in the format of {self.calls.families}; name another with policy.chat"
            )
        rest = replied[replied.index(body) + len(body) :] if body in replied else ""
        self._call_stop = min(call_stops, key=lambda stop: rest.index(stop) if stop in rest else len(rest))
        self._final_stop = final_stops[0]
        self._bridge = self._cut(rest.partition(self._call_stop)[2], _RESULT)
        self._call_stop_ids = frozenset(map(tokenizer.special_id, call_stops))
        self.stop_ids = tuple(dict.fromkeys(map(tokenizer.special_id, (*call_stops, *final_stops))))
        # Half a surrogate pair: no decoded text holds one.
        names = (*self.calls.markup, _THINK, _END_THINK)
        known = {name: chr(0xDC00 + n) for n, name in enumerate(names) if name in tokenizer.added_ids}
        self._marks = {name: known.get(name, name) for name in names}
        self._mark_ids = {tokenizer.added_ids[name]: mark for name, mark in known.items()}
        self._misplaced = (tokenizer.special_ids | set(self.stop_ids)) - set(self._mark_ids)
        check_append_only(self)

    # The protocol.

    def render_prompt(self, text: str) -> list[int]:
        return self.tokenizer.encode_pieces(self._filled(self._prompt, text))

    def bridge(self, tool_output: str, ended_by: int | None = None) -> list[int]:
        # A turn that ended in another way than calls do is closed first; nobody sampled that token.
        close = [] if ended_by is None or ended_by in self._call_stop_ids else [(self._call_stop, True)]
        return self.tokenizer.encode_pieces([*close, *self._filled(self._bridge, tool_output)])

    def encode_assistant(self, action: ToolCall | Final) -> list[int]:
        ids = self.tokenizer.encode_pieces(self._turn(action))
        if self.parse_assistant(ids) != action:
            raise ChatError(f"the format of {self.calls.families} cannot say {str(action)[:200]}: it reads as another")
        return ids

    def parse_assistant(self, ids: Sequence[int]) -> ToolCall | Final | Malformed:
        ids = [int(i) for i in ids]
        if not ids or ids[-1] not in self.stop_ids:
            return Malformed("the message does not end")
        if misplaced := self._misplaced.intersection(ids[:-1]):
            return Malformed(f"the special token {self.tokenizer.decode([min(misplaced)])} in the wrong place")
        text = self._after_thinking(self._marked(ids[:-1]))
        if text is None:
            return Malformed(f"the thinking is not closed with {_END_THINK}")
        read = self.calls.read(text, self._marks)
        if read is None:
            return Final(self._unmarked(text))
        if isinstance(read, Malformed):
            return read
        name, arguments = read
        if isinstance(arguments, dict):
            arguments = {
                n: self._unmarked(value) if isinstance(value, str) else value for n, value in arguments.items()
            }
        return from_arguments(name, arguments)

    # Sampled tokens as text.

    def _marked(self, ids: list[int]) -> str:
        parts: list[str] = []
        borders = [-1, *(n for n, i in enumerate(ids) if i in self._mark_ids), len(ids)]
        for left, right in pairwise(borders):
            parts += [self.tokenizer.decode(ids[left + 1 : right]), *map(self._mark_ids.get, ids[right : right + 1])]
        return "".join(parts)

    def _unmarked(self, text: str) -> str:
        for name, mark in self._marks.items():
            text = text.replace(mark, name)
        return text

    def _after_thinking(self, text: str) -> str | None:
        """The turn without its leading thinking; None where that does not end."""
        _, thinks, after = self._final_lead.rpartition(_END_THINK)
        if self._opened or text.lstrip().startswith(self._marks[_THINK]):
            _, closed, rest = text.partition(self._marks[_END_THINK])
            if not closed:
                return None
            return rest.removeprefix(after) if thinks and rest.startswith(after) else rest.lstrip("\n")
        return text if thinks else text.removeprefix(self._final_lead)

    # The template.

    def _template(self, messages: Sequence[Message], *, open_turn: bool = False, reasoning: str = "") -> str:
        if not self.tokenizer.hf.chat_template:
            raise ChatError(f"{self.source} has no chat template; copy chat_template.jinja of the instruct model there")
        try:
            return self.tokenizer.hf.apply_chat_template(
                [_as_dict(message, reasoning) for message in messages],
                tools=TOOLS,
                tokenize=False,
                add_generation_prompt=open_turn,
                enable_thinking=self._thinking,
                date_string=_DATE,
            )
        except Exception as e:  # a template can raise whatever it likes
            raise ChatError(f"the chat template of {self.source} fails on a conversation with tool calls: {e}") from e

    def _find_calls(self, name: str, called: str) -> CallFormat:
        for calls in CALL_FORMATS:
            written = _text(calls.write("bash", {"command": _ARG})) in called
            if written and name in ("", calls.name):
                return calls
        known = ", ".join(f"{calls.name} ({calls.families})" for calls in CALL_FORMATS)
        wanted = f"policy.chat={name}" if name else "any known format"
        raise ChatError(f"the chat template of {self.source} does not write tool calls in {wanted}; known: {known}")

    def _known(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name in self.tokenizer.added_ids]

    def _lead(self, prompt: str, rendered: str, body: str) -> str:
        """What the template writes between the opened turn and what is said."""
        if rendered.startswith(prompt):
            start, lead = len(prompt), ""
        else:
            # A turn that is opened with <think>, which the past does not show.
            start, lead = len(_OPENED.sub("", prompt)), f"\n{_END_THINK}\n\n"
        at = rendered.find(body, start)
        if at < 0 or not rendered.startswith(prompt[:start]) or (lead and not self._opened):
            raise self._changed(prompt, rendered)
        return lead + rendered[start:at]

    def _cut(self, rendered: str, slot: str) -> tuple[str, str, bool]:
        """What stands before and after a placeholder, and whether the template writes the text as JSON."""
        for written, as_json in ((slot, False), (json.dumps(slot)[1:-1], True)):
            if rendered.count(written) == 1:
                before, _, after = rendered.partition(written)
                return before, after, as_json
        raise ChatError(
            f"the chat template of {self.source} does not show each message once and as it is, so no stream can be "
            "made of it; use the template of the model's family"
        )

    def _filled(self, cut: tuple[str, str, bool], text: str) -> list[tuple[str, bool]]:
        before, after, as_json = cut
        return [(before, True), (json.dumps(text, ensure_ascii=False)[1:-1] if as_json else text, False), (after, True)]

    def _turn(self, action: ToolCall | Final) -> list[tuple[str, bool]]:
        if isinstance(action, Final):
            return [(self._final_lead, True), (action.text, False), (self._final_stop, True)]
        body = self.calls.write(action.name, to_arguments(action))
        return [(self._call_lead, True), *body, (self._call_stop, True)]

    def _changed(self, ours: str, theirs: str) -> ChatError:
        same = next(
            (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        return ChatError(
            f"the chat template of {self.source} changes the past when a conversation goes on: after "
            f"{ours[max(0, same - 30) : same]!r} it first has {ours[same : same + 40]!r}, later "
            f"{theirs[same : same + 40]!r}. What the policy learned from would not be what it saw; use a template that "
            f"only appends, for example that of {' or '.join(calls.families for calls in CALL_FORMATS)}"
        )


def check_append_only(chat: TemplateChat) -> None:
    """Raises ChatError unless prompt, turns and bridges are what the template renders, at every length.

    The probe has several turns, with and without thinking, and the names of special tokens in what user and tools say.
    """
    names = [name for name in chat.tokenizer.added_ids if name not in (_THINK, _END_THINK)]
    hostile = f"a {' '.join(names[:64])} b"
    for text, reasoning in (("plain", ""), (hostile, ""), (hostile, "because")):
        messages = [
            User(text),
            ToolCall("bash", (text,)),
            ToolResult(text),
            ToolCall("str_replace", ("create", "a.py", f"x = 1\n{text}")),
            ToolResult(f"first\n\n{text}"),
            ToolCall("bash", ("ls",)),
            ToolResult("last"),
        ]
        pieces: list[tuple[str, bool]] = []
        for n, message in enumerate(messages):
            if isinstance(message, User):
                pieces += chat._filled(chat._prompt, message.text)
            elif isinstance(message, ToolResult):
                pieces += chat._filled(chat._bridge, message.text)
            else:
                pieces += chat._turn(message)
                continue
            theirs = chat._template(messages[: n + 1], open_turn=True, reasoning=reasoning)
            ours, theirs = _THOUGHT.sub("", _text(pieces)), _THOUGHT.sub("", theirs)
            if ours != theirs:
                raise chat._changed(ours, theirs)
        ids = chat.tokenizer.encode_pieces(pieces)
        markup = [name for text, markup in pieces if markup for name in chat.tokenizer.names_in(text)]
        if [i for i in ids if i in chat.tokenizer.added_ids.values()] != [chat.tokenizer.added_ids[n] for n in markup]:
            raise ChatError(f"with the tokenizer in {chat.source} text becomes special tokens; use a fast tokenizer")


def _as_dict(message: Message, reasoning: str) -> dict:
    if isinstance(message, User):
        return {"role": "user", "content": message.text}
    if isinstance(message, ToolResult):
        return {"role": "tool", "name": "bash", "content": message.text}
    thought = {"reasoning_content": reasoning} if reasoning else {}
    if isinstance(message, Final):
        return {"role": "assistant", "content": message.text, **thought}
    function = {"name": message.name, "arguments": to_arguments(message)}
    return {"role": "assistant", "content": "", **thought, "tool_calls": [{"type": "function", "function": function}]}


def _text(pieces: Sequence[tuple[str, bool]]) -> str:
    return "".join(text for text, _ in pieces)
