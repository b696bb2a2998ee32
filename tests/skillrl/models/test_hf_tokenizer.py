from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillrl.chat import CompactChat, Final, ToolCall, ToolResult, User, render
from skillrl.chat.schemas import TOOLS, to_arguments
from skillrl.models.hf_tokenizer import write_hf_tokenizer
from skillrl.tokenizer import SPECIAL_TOKENS, SentencePieceTokenizer

# Source code of this project: longer and more varied than what the small tokenizer was trained on.
SOURCES = [path.read_text() for path in sorted((Path(__file__).parents[3] / "skillrl").rglob("*.py"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with both tokenizers, and ours."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = SentencePieceTokenizer.train(SOURCES[::2], folder / "tokenizer.model", 900, ["return", "make pad", "x"])
    write_hf_tokenizer(folder / "tokenizer.model", folder)
    return folder, tokenizer


@pytest.fixture(scope="module")
def theirs(made):
    tokenizers = pytest.importorskip("tokenizers", reason="the oracle comes with transformers")
    return tokenizers.Tokenizer.from_file(str(made[0] / "tokenizer.json"))


def _plain(text):
    """Text without what the two read differently by design."""
    text = text.replace("\u2581", " ")
    while any(name in text for name in SPECIAL_TOKENS):
        for name in SPECIAL_TOKENS:
            text = text.replace(name, " ")
    return text


@pytest.mark.parametrize("i", range(0, len(SOURCES), 3))
def test_same_ids_on_source_code(made, theirs, i):
    text = _plain(SOURCES[i])
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert ids == made[1].encode(text)
    assert theirs.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(
    st.text("ab 01xyé😀\n\t_<|end>(){}", max_size=80) | st.sampled_from([" return x", "make pad  make pads", "\r\n"])
)
def test_same_ids_on_any_text(made, theirs, text):
    text = _plain(text)
    assert theirs.encode(text, add_special_tokens=False).ids == made[1].encode(text)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transformers_loads_the_folder(made):
    transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")
    folder, ours = made
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (ours.special_id("<|end|>"), 0)
    turn = "<|user|>make pad<|end|>"
    want = [ours.special_id("<|user|>"), *ours.encode("make pad"), ours.special_id("<|end|>")]
    assert loaded(turn)["input_ids"] == want
    assert loaded(_plain(SOURCES[0]))["input_ids"] == ours.encode(_plain(SOURCES[0]))


FIX = ToolCall("str_replace", ("replace", "a b.py", "  return x\n", "\treturn {{ x }}\n\n"))
TALKS = {
    "asked": [User("  Fix `pad`:\nit cuts. ")],
    "answered": [User("Fix it."), Final("Fixed.\n")],
    "called": [User("Fix it."), ToolCall("bash", ("sed -n 1,20p 'x.py'\n",))],
    "told": [User("Fix it."), FIX, ToolResult("replaced 1 occurrence\n")],
    "whole": [
        User("Fix it."),
        ToolCall("str_replace", ("create", "x.py", "make pad\n")),
        ToolResult("\n"),
        FIX,
        ToolResult("no match {% if %}"),
        ToolCall("str_replace", ("view", "x.py")),
        ToolResult(""),
        Final(""),
    ],
}


def _as_message(message, reverse):
    """As an OpenAI client keeps it; a model may write the names of its arguments in any order."""
    match message:
        case User(text):
            return {"role": "user", "content": text}
        case ToolResult(text):
            return {"role": "tool", "content": text}
        case Final(text):
            return {"role": "assistant", "content": text}
    arguments = dict(sorted(to_arguments(message).items(), reverse=reverse))
    call = {"type": "function", "function": {"name": message.name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


@pytest.fixture(scope="module")
def template(made):
    """transformers' tokenizer of the folder: a conversation to ids."""
    transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(made[0])

    def ids(messages, **options):
        return loaded.apply_chat_template(messages, tools=TOOLS, tokenize=True, return_dict=False, **options)

    return ids


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("talk", TALKS)
def test_the_chat_template_writes_the_compact_format(made, template, talk, reverse):
    messages = [_as_message(message, reverse) for message in TALKS[talk]]
    opened = isinstance(TALKS[talk][-1], User | ToolResult)
    assert template(messages, add_generation_prompt=opened) == render(CompactChat(made[1]), TALKS[talk])[0]
    # What was said before is never written otherwise, so that a server may keep it.
    for end in range(1, len(messages)):
        shorter = template(messages[:end])
        assert template(messages)[: len(shorter)] == shorter


@pytest.mark.filterwarnings("ignore")
def test_a_system_message_stands_before_the_users(made, template):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Fix it."}]
    want = render(CompactChat(made[1]), [User("Be brief.\n\nFix it.")])[0]
    assert template(messages, add_generation_prompt=True) == want


@pytest.mark.filterwarnings("ignore")
def test_the_chat_template_refuses_what_the_format_cannot_say(template):
    call = _as_message(FIX, False)
    unknown = {"type": "function", "function": {"name": "bash", "arguments": {"cwd": "/"}}}
    for message, error in (
        (call | {"tool_calls": call["tool_calls"] * 2}, "one call, or text"),
        (call | {"content": "I will."}, "one call, or text"),
        (call | {"tool_calls": [unknown]}, "no argument cwd"),
        ({"role": "developer", "content": "x"}, "no role developer"),
    ):
        with pytest.raises(Exception, match=error):
            template([message])
