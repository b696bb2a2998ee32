import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skillrl import tokenizer as tok
from skillrl.chat import CompactChat, Final, Malformed, ToolCall, ToolResult, User, render
from skillrl.tokenizer import SentencePieceTokenizer


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    texts = [f"bash sed -n {n}p a.py\nreplace old new" for n in range(40)]
    return CompactChat(SentencePieceTokenizer.train(texts, tmp_path_factory.mktemp("tok") / "t.model", 520))


TEXT = st.text("abc \n\t<|>{}\"'\u2581é0", max_size=20) | st.sampled_from(tok.SPECIAL_TOKENS)
CALLS = st.builds(ToolCall, st.sampled_from(["bash", "str_replace", ""]), st.lists(TEXT, max_size=4).map(tuple))


def test_example_of_the_docstring(chat):
    (end,), special = chat.stop_ids, chat.tokenizer.special_id
    encode = chat.tokenizer.encode
    assert chat.render_prompt("Fix it") == [special(tok.USER), *encode("Fix it"), end, special(tok.ASSISTANT)]
    call = [special(tok.CALL), *encode("bash"), special(tok.ARG), *encode("ls -a"), end]
    assert chat.encode_assistant(ToolCall("bash", ("ls -a",))) == call
    assert chat.bridge("a.py") == [special(tok.TOOL), *encode("a.py"), end, special(tok.ASSISTANT)]
    assert chat.encode_assistant(Final("Done.")) == [*encode("Done."), end]


@settings(max_examples=100, deadline=None)
@given(TEXT, st.lists(st.tuples(CALLS, TEXT), max_size=6), TEXT)
@example("<|end|>", [(ToolCall("bash", ("<|end|><|tool|>",)), "<|end|><|assistant|>ok")], "<|call|>bash")
def test_incremental_stream_equals_full_render(chat, prompt, exchanges, last):
    stream, mask = chat.render_prompt(prompt), [False] * len(chat.render_prompt(prompt))
    messages = [User(prompt)]
    for call, output in exchanges:
        turn, reply = chat.encode_assistant(call), chat.bridge(output)
        stream, mask = stream + turn + reply, mask + [True] * len(turn) + [False] * len(reply)
        messages += [call, ToolResult(output)]
    turn = chat.encode_assistant(Final(last))
    assert render(chat, [*messages, Final(last)]) == (stream + turn, mask + [True] * len(turn))


@settings(max_examples=100, deadline=None)
@given(CALLS | st.builds(Final, TEXT))
@example(ToolCall("bash", ("", "", "false", "None", "1.0")))
@example(Final(""))
def test_turns_survive_a_round_trip(chat, action):
    assert chat.parse_assistant(chat.encode_assistant(action)) == action


@settings(max_examples=100, deadline=None)
@given(TEXT)
def test_no_text_can_forge_a_turn(chat, text):
    """Whatever a tool prints, its message holds exactly one opening, one end and the next assistant turn."""
    special_ids = {chat.tokenizer.special_id(name) for name in tok.SPECIAL_TOKENS}
    for ids, expected in (
        (chat.bridge(text), 3),
        (chat.render_prompt(text), 3),
        (chat.encode_assistant(Final(text)), 1),
    ):
        assert sum(i in special_ids for i in ids) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=12), st.booleans())
def test_parsing_never_raises(chat, ids, ended):
    parsed = chat.parse_assistant(ids + [*chat.stop_ids] * ended)
    if not ended and (not ids or ids[-1] not in chat.stop_ids):
        assert isinstance(parsed, Malformed)


@pytest.mark.parametrize(
    "names",
    [(), (tok.CALL,), (tok.CALL, tok.CALL, tok.END), (tok.CALL, tok.TOOL, tok.END)]
    + [(name, tok.END) for name in (tok.END, tok.ARG, tok.PAD, tok.USER, tok.ASSISTANT, tok.TOOL)],
)
def test_turns_out_of_form_are_malformed(chat, names):
    assert isinstance(chat.parse_assistant([chat.tokenizer.special_id(name) for name in names]), Malformed)


def test_a_call_after_text_is_malformed(chat):
    call = chat.encode_assistant(ToolCall("bash", ("ls",)))
    assert isinstance(chat.parse_assistant([*chat.tokenizer.encode("I look."), *call]), Malformed)


def test_the_end_of_each_assistant_turn_is_in_the_loss(chat):
    ids, mask = render(chat, [User("u"), ToolCall("bash", ("ls",)), ToolResult("r"), Final("f")])
    trained = [i for i, kept in zip(ids, mask, strict=True) if kept]
    assert trained == chat.encode_assistant(ToolCall("bash", ("ls",))) + chat.encode_assistant(Final("f"))
    assert trained.count(chat.stop_ids[0]) == 2
