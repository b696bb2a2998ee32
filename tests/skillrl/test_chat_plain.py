"""Conversations as plain text: what models of an endpoint write, and what it means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillrl.chat import Final, Malformed, ToolCall, ToolResult, User, render
from skillrl.chat.plain import SYSTEM, CharacterTokenizer, PlainChat

CHAT = PlainChat()
CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'


def parsed(text):
    return CHAT.parse_assistant([*CHAT.tokenizer.encode(text), *CHAT.stop_ids])


@given(st.text())
def test_characters_survive(text):
    tokenizer = CharacterTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text.encode("utf-8", "replace").decode()
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_half_a_surrogate_pair_becomes_a_question_mark():
    tokenizer = CharacterTokenizer()
    assert tokenizer.encode("a\ud83d") == [97, 63]
    assert tokenizer.decode([97, tokenizer.pad_id, *CHAT.stop_ids]) == "a<pad><|end|>"


@pytest.mark.parametrize(
    "action",
    [
        ToolCall("bash", ('echo "</tool_response>" \\n',)),
        ToolCall("str_replace", ("create", "a b.py", "x = '\n\t\0é'\n")),
        ToolCall("str_replace", ("replace", "a.py", "", "new")),
        Final("<files>\na.py\n</files>"),
        Final("The tag <think> opens nothing here."),
    ],
)
def test_actions_read_as_they_were_written(action):
    assert CHAT.parse_assistant(CHAT.encode_assistant(action)) == action


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (f"I look first.\n{CALL}", ToolCall("bash", ("ls",))),
        (f"<think>maybe {CALL}</think>\n\n{CALL}", ToolCall("bash", ("ls",))),
        # The template of the server opened the thinking.
        ("so it is.\n</think>\n\nDone.", Final("Done.")),
        ("<think>x</think>Done.", Final("Done.")),
        (CALL.replace("ls", "grep '</think>' a"), ToolCall("bash", ("grep '</think>' a",))),
    ],
)
def test_comments_and_thinking_are_passed_over(text, action):
    assert parsed(text) == action


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the message is empty"),
        (" \n", "the message is empty"),
        ("<think>x</think>\n", "the message is empty"),
        ("<think>and so on", "not closed with </think>"),
        (CALL + CALL, "several calls"),
        (CALL + " and then", "text after the call"),
        ('<tool_call>{"name": "bash"', "between one <tool_call> and one </tool_call>"),
        ("<tool_call>ls</tool_call>", "no valid JSON"),
        ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', "unknown tool 'rm'"),
        ('<tool_call>{"name": "bash", "arguments": {"command": 3}}</tool_call>', "needs the argument 'command'"),
    ],
)
def test_what_cannot_be_read_says_why(text, reason):
    said = parsed(text)
    assert isinstance(said, Malformed) and reason in said.reason


def test_a_message_without_end_is_malformed():
    assert CHAT.parse_assistant(CHAT.tokenizer.encode("Done.")) == Malformed("the message does not end")


def test_a_conversation_is_the_text_of_its_messages():
    ids, mask = render(CHAT, [User("Fix it."), ToolCall("bash", ("ls",)), ToolResult("a.py"), Final("Done.")])
    text = CHAT.tokenizer.decode(ids)
    reply = "<tool_response>\na.py\n</tool_response>"
    assert text == f"{SYSTEM}\nFix it.{CALL}<|end|>{reply}Done.<|end|>"
    assert CHAT.tokenizer.decode([i for i, sampled in zip(ids, mask, strict=True) if sampled]) == (
        f"{CALL}<|end|>Done.<|end|>"
    )


def test_the_system_message_names_every_argument_of_the_tools():
    for word in ("bash", "str_replace", "view", "create", "replace", "path", "text", "old", "new", "<tool_call>"):
        assert word in SYSTEM
