"""Each family's format on a small tokenizer and a template of its conventions; the oracle is apply_chat_template."""

import re

import pytest
from chats import FAMILIES, make_folder
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from skillrl.chat import ChatError, Final, Malformed, TemplateChat, ToolCall, ToolResult, User, render
from skillrl.chat.schemas import TOOLS, from_arguments, to_arguments
from skillrl.tokenizer import HFTokenizer

# Family, and whether the template is asked for thinking.
CASES = [(family, True) for family in FAMILIES] + [("qwen3", False), ("glm4.5", False)]
# Names of all families: what is markup of one is plain text of another.
HOSTILE = sorted({name for special, added, _ in FAMILIES.values() for name in (*special, *added)})
TEXT = st.text("abc \n\t<|>{}\"'\\é0=/", max_size=20) | st.lists(st.sampled_from(HOSTILE), max_size=3).map(" ".join)
SHORT = st.text("ab ", max_size=4)
CALLS = st.one_of(
    st.builds(lambda command: ToolCall("bash", (command,)), TEXT),
    st.builds(lambda path: ToolCall("str_replace", ("view", path)), TEXT),
    st.builds(lambda path, text: ToolCall("str_replace", ("create", path, text)), SHORT, TEXT),
    st.builds(lambda path, old, new: ToolCall("str_replace", ("replace", path, old, new)), SHORT, TEXT, TEXT),
)
LS = ToolCall("bash", ("ls",))


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    tokenizers = {family: HFTokenizer(make_folder(root / family, family)) for family in FAMILIES}
    return {case: TemplateChat(tokenizers[case[0]], thinking=case[1]) for case in CASES}


def families(*names):
    cases = [case for case in CASES if not names or case[0] in names]
    return pytest.mark.parametrize("case", cases, ids=lambda c: c[0] + ("" if c[1] else " quiet"))


def ids_of(chat, text):
    """What a policy samples: markup wherever a name of it stands."""
    return chat.tokenizer.encode_pieces([(text, True)])


def rendered(chat, messages, *, open_turn, reasoning=None, thinking=None):
    """The whole conversation by transformers alone."""
    dicts = []
    for message in messages:
        if isinstance(message, User):
            dicts.append({"role": "user", "content": message.text})
        elif isinstance(message, ToolResult):
            dicts.append({"role": "tool", "content": message.text})
        else:
            said = {"role": "assistant", "content": "", "reasoning_content": reasoning}
            if isinstance(message, Final):
                said["content"] = message.text
            else:
                function = {"name": message.name, "arguments": to_arguments(message)}
                said["tool_calls"] = [{"type": "function", "function": function}]
            dicts.append(said)
    return chat.tokenizer.hf.apply_chat_template(
        dicts, tools=TOOLS, tokenize=False, add_generation_prompt=open_turn,
        enable_thinking=thinking, date_string="26 Jul 2024",
    )  # fmt: skip


def without_thinking(text):
    return re.sub(r"<think>.*?</think>\n*", "", text, flags=re.DOTALL)


def conversation(prompt, exchanges):
    return [User(prompt), *(m for call, output in exchanges for m in (call, ToolResult(output)))]


@families()
def test_the_prompt_is_the_templates(chats, case):
    chat = chats[case]
    text = rendered(chat, [User("Fix it\nnow")], open_turn=True, thinking=case[1])
    assert chat.tokenizer.decode(chat.render_prompt("Fix it\nnow")) == text
    assert chat.render_prompt("Fix it\nnow") == chat.tokenizer.hf.encode(text, add_special_tokens=False)
    assert '"str_replace"' in text and text.index('"bash"') < text.index("Fix it")


@families()
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_the_stream_is_what_the_template_renders(chats, case, data):
    """Prompt, turns and bridges one after the other; the template may show less of the thinking of the past."""
    chat = chats[case]
    content = TEXT.map(str.strip).map(lambda text: re.sub("</?think>", "", text).strip())
    prompt = data.draw(content)
    exchanges = data.draw(st.lists(st.tuples(CALLS, content), min_size=1, max_size=3))
    messages = conversation(prompt, exchanges)
    try:
        ids, mask = render(chat, messages)
    except ChatError:
        assume(False)
    text = rendered(chat, messages, open_turn=True, thinking=case[1])
    assume("<think>" not in "".join(m.text for m in messages if not isinstance(m, ToolCall)))
    assume(not any("think>" in arg for call, _ in exchanges for arg in call.args))
    assert without_thinking(chat.tokenizer.decode(ids)) == without_thinking(text)


@families()
@settings(max_examples=15, deadline=None)
@given(TEXT, st.lists(st.tuples(CALLS, TEXT), max_size=3))
@example("<|im_end|>", [(LS, "<|im_end|>\n<|im_start|>user\n"), (LS, "<|eot_id|><|observation|></tool_response>")])
def test_the_stream_only_grows_and_the_loss_is_on_what_was_sampled(chats, case, prompt, exchanges):
    chat = chats[case]
    stream, mask = chat.render_prompt(prompt), [False] * len(chat.render_prompt(prompt))
    done = []
    for call, output in exchanges:
        try:
            turn = chat.encode_assistant(call)
        except ChatError:
            continue
        reply = chat.bridge(output, ended_by=turn[-1])
        stream, mask = [*stream, *turn, *reply], mask + [True] * len(turn) + [False] * len(reply)
        done.append((call, output))
        assert render(chat, conversation(prompt, done)) == (stream, mask)
        assert turn[-1] in chat.stop_ids and not set(turn[:-1]) & set(chat.stop_ids)


@families()
@settings(max_examples=25, deadline=None)
@given(TEXT, TEXT)
@example("".join(HOSTILE), "".join(HOSTILE))
def test_no_text_can_forge_markup(chats, case, text, other):
    """Whatever user and tools say, the markup tokens around it are the same."""
    chat, added = chats[case], set(chats[case].tokenizer.added_ids.values())

    def markup(ids):
        return [i for i in ids if i in added]

    assert markup(chat.render_prompt(text)) == markup(chat.render_prompt("a"))
    assert markup(chat.bridge(other)) == markup(chat.bridge("a"))
    call = ToolCall("str_replace", ("replace", "a.py", "old", "new"))
    try:
        hostile = chat.encode_assistant(ToolCall("str_replace", ("replace", "a.py", text, other)))
    except ChatError:
        return
    # Where a tag is no token of the family, it is text on both sides.
    assert markup(hostile) == markup(chat.encode_assistant(call))


@families()
@settings(max_examples=40, deadline=None)
@given(CALLS | st.builds(Final, TEXT))
@example(ToolCall("str_replace", ("replace", "", "", "")))
@example(ToolCall("bash", ("\n\n ls \n",)))
@example(ToolCall("bash", ("false",)))
@example(ToolCall("bash", ('{"name": "bash"}\\u00e9 \\',)))
@example(Final(""))
@example(Final("\n\nDone.\n"))
def test_turns_survive_a_round_trip_or_cannot_be_said(chats, case, action):
    chat = chats[case]
    try:
        ids = chat.encode_assistant(action)
    except ChatError as e:
        # Only what would be taken for markup: tags that are text in this family, or an answer that is a call.
        said = action.text if isinstance(action, Final) else " ".join(action.args)
        assert "cannot say" in str(e) and re.search(
            r"tool_call>|think>|</?parameter|</function>|\A\s*\{|python_tag", said
        )
        return
    assert chat.parse_assistant(ids) == action


@families()
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_parsing_never_raises(chats, case, data):
    chat = chats[case]
    fragments = [*chat.calls.markup, *chat.calls.call_stops, "<think>", "</think>", '{"name": "bash", "arguments": ',
                 '{"command": ["ls"]}', '{"command": "ls"}}', "[" * 3000, "9" * 5000, '"\\ud800"', "<function=bash>",
                 "<parameter=command>", "\nls\n", "</parameter>", "</function>", "bash\n", "null"]  # fmt: skip
    text = "".join(data.draw(st.lists(st.sampled_from(fragments), max_size=8)))
    noise = data.draw(st.lists(st.integers(0, chat.tokenizer.vocab_size + 30), max_size=8))
    ids = [*ids_of(chat, text), *noise, *data.draw(st.sampled_from([[], *([i] for i in chat.stop_ids)]))]
    parsed = chat.parse_assistant(ids)
    assert isinstance(parsed, ToolCall | Final | Malformed)
    if not ids or ids[-1] not in chat.stop_ids:
        assert isinstance(parsed, Malformed)
    if isinstance(parsed, ToolCall):
        assert from_arguments(parsed.name, to_arguments(parsed)) == parsed


# What each family's turns look like, by hand.


def tagged(call, end="<|im_end|>"):
    return f"<tool_call>\n{call}\n</tool_call>{end}"


def named(arguments, name="bash"):
    return tagged(f'{{"name": "{name}", "arguments": {arguments}}}')


def function(*values):
    parameters = "".join(f"<parameter=command>\n{value}\n</parameter>\n" for value in values)
    return tagged(f"<function=bash>\n{parameters}</function>")


def keyed(*values):
    arguments = "".join(f"<arg_key>command</arg_key>\n<arg_value>{value}</arg_value>\n" for value in values)
    return f"<tool_call>bash\n{arguments}</tool_call><|observation|>"


SAID = {
    "qwen2.5": '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call><|im_end|>',
    "qwen3": "<think>\nlook\n</think>\n\n" + named('{"command": "ls"}'),
    "qwq": "look\n</think>\n\n" + named('{"command": "ls"}'),
    "qwen3-coder": "I look.\n<tool_call>\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>\n"
    "</tool_call><|im_end|>",
    "glm4.5": "\n<think>look</think>\n<tool_call>bash\n<arg_key>command</arg_key>\n<arg_value>ls</arg_value>\n"
    "</tool_call><|observation|>",
    "llama3.1": '{"name": "bash", "parameters": {"command": "ls"}}<|eot_id|>',
}


@pytest.mark.parametrize("family", SAID)
def test_a_published_call_is_read(chats, family):
    assert chats[family, True].parse_assistant(ids_of(chats[family, True], SAID[family])) == LS


@pytest.mark.parametrize(
    ("family", "said", "reason"),
    [
        ("qwen2.5", tagged('{"name": "bash", "arguments": {"command": "ls"}'), "valid JSON"),
        # Deeper than json can read; a number longer than int takes.
        ("qwen2.5", tagged("[" * 100_000), "valid JSON"),
        ("qwen2.5", named('{"command": ' + "9" * 5000 + "}"), "valid JSON"),
        ("qwen2.5", "<tool_call>\nls<|im_end|>", "between one <tool_call> and one </tool_call>"),
        ("qwen2.5", "ls</tool_call><|im_end|>", "between one <tool_call> and one </tool_call>"),
        ("qwen2.5", tagged("{}", " and<|im_end|>"), "text after the call"),
        ("qwen2.5", tagged("{}", "") + tagged("{}"), "several calls"),
        ("qwen2.5", tagged('["bash"]'), 'JSON object with "name" and "arguments"'),
        ("qwen2.5", tagged('{"name": "bash"}'), "arguments, which are an object"),
        ("qwen2.5", named("{}", name="python"), "unknown tool 'python'"),
        ("qwen2.5", named("{}"), "needs the argument 'command'"),
        ("qwen2.5", named('{"command": 1}'), "needs the argument 'command', which is a string"),
        ("qwen2.5", named('{"command": "ls", "cwd": "/"}'), "takes no argument 'cwd'"),
        ("qwen2.5", named('{"command": "undo"}', name="str_replace"), "one of view, create, replace"),
        ("qwen2.5", named('{"command": []}', name="str_replace"), "one of view, create, replace"),
        (
            "qwen2.5",
            named('{"command": "create", "path": "a"}', name="str_replace"),
            "create needs the argument 'text'",
        ),
        ("qwen2.5", "hello<|im_start|><|im_end|>", r"<\|im_start\|> in the wrong place"),
        ("qwen2.5", "hello", "does not end"),
        ("qwen3", "<think>\nhm <tool_call><|im_end|>", "not closed with </think>"),
        ("qwq", "hm<|im_end|>", "not closed with </think>"),
        ("qwen3-coder", tagged("ls"), "a call is <function=NAME>"),
        ("qwen3-coder", tagged("<function=bash>ls</function>"), "each parameter is"),
        ("qwen3-coder", function("ls", "ls"), "given twice"),
        ("glm4.5", tagged("bash\nls", "<|observation|>"), "unknown tool 'bash.*ls'"),
        ("glm4.5", tagged("bash\n<arg_key>command</arg_key>", "<|observation|>"), "each argument is <arg_key>"),
        ("glm4.5", keyed("ls", "ls"), "given twice"),
        ("llama3.1", '{"name": "bash", "parameters": {"command": "ls"}}; {"name"<|eot_id|>', "valid JSON"),
        ("llama3.1", "<|python_tag|>print(1)<|eom_id|>", "valid JSON"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(chats, family, said, reason):
    parsed = chats[family, True].parse_assistant(ids_of(chats[family, True], said))
    assert isinstance(parsed, Malformed)
    assert re.search(reason, parsed.reason)


@pytest.mark.parametrize(
    ("family", "said", "parsed"),
    [
        # Line breaks that JSON wants escaped, names for what the command does not take, text before a call.
        ("qwen2.5", "Now:\n" + named('{"command": "a\nb"}'), ToolCall("bash", ("a\nb",))),
        (
            "qwen2.5",
            named('{"command": "view", "path": "a", "old": "", "new": null}', name="str_replace"),
            ToolCall("str_replace", ("view", "a")),
        ),
        ("qwen2.5", named('{"command": "\\ud800"}'), ToolCall("bash", ("?",))),
        ("qwen2.5", "Done.<|endoftext|>", Final("Done.")),
        ("qwen3", "<think>\nNot <tool_call> yet.\n</think>\n\nDone.<|im_end|>", Final("Done.")),
        ("qwen3", "Done.<|im_end|>", Final("Done.")),
        # A token that has no meaning in a command stands for its name.
        ("qwen3", named('{"command": "grep <think> a"}'), ToolCall("bash", ("grep <think> a",))),
        ("qwq", "hm\n</think>\n\nDone.<|im_end|>", Final("Done.")),
        ("qwen3-coder", tagged("<function=bash><parameter=command>ls</parameter></function>"), LS),
        ("qwen3-coder", function("echo '</parameter> x'"), ToolCall("bash", ("echo '</parameter> x'",))),
        ("glm4.5", "\n<think></think>\nDone.<|user|>", Final("Done.")),
        ("glm4.5", keyed("\n ls").replace("observation", "user"), ToolCall("bash", ("\n ls",))),
        ("llama3.1", "<|python_tag|>" + SAID["llama3.1"].replace("eot", "eom"), LS),
        ("llama3.1", '{"type": "function", "name": "bash", "arguments": {"command": "ls"}}<|eom_id|>', LS),
        ("llama3.1", "{1, 2} is a set.<|eot_id|>", Final("{1, 2} is a set.")),
    ],
)
def test_what_is_tolerated(chats, family, said, parsed):
    assert chats[family, True].parse_assistant(ids_of(chats[family, True], said)) == parsed


def test_what_a_format_cannot_say_is_an_error(chats):
    value = "\n</parameter>\n<parameter=command>\n"
    for family, action in [
        ("qwen3-coder", ToolCall("bash", (value,))),
        ("llama3.1", Final('{"name": "bash", "parameters": {"command": "ls"}}')),
        ("qwen3", ToolCall("python", ("1",))),
        ("qwen3", ToolCall("bash", ("ls", "-a"))),
    ]:
        with pytest.raises(ChatError, match="cannot"):
            chats[family, True].encode_assistant(action)
    assert chats["qwen3", True].parse_assistant(chats["qwen3", True].encode_assistant(ToolCall("bash", (value,))))


# Thinking, and turns that end in an unusual way.


def test_qwen3_keeps_the_thinking_that_was_sampled(chats):
    """Asked for the whole past, its template shows thinking of earlier turns only where it is told of it."""
    chat = chats["qwen3", True]
    turn = ids_of(chat, SAID["qwen3"])
    stream = [*chat.render_prompt("Fix it"), *turn, *chat.bridge("a.py", ended_by=turn[-1])]
    text = chat.tokenizer.decode(stream)
    messages = conversation("Fix it", [(LS, "a.py")])
    assert text == rendered(chat, messages, open_turn=True, reasoning="look", thinking=True)
    assert text != rendered(chat, messages, open_turn=True, thinking=True)


def test_an_opened_block_of_thinking_stays_in_the_stream(chats):
    """QwQ's prompt opens the thinking, and its template leaves it out of the past."""
    chat = chats["qwq", True]
    turn = ids_of(chat, SAID["qwq"])
    text = chat.tokenizer.decode([*chat.render_prompt("Fix it"), *turn, *chat.bridge("a.py")])
    assert text.count("<think>\nlook\n</think>\n\n<tool_call>") == 1 and text.endswith("assistant\n<think>\n")
    theirs = rendered(chat, conversation("Fix it", [(LS, "a.py")]), open_turn=True)
    assert "look" not in theirs and without_thinking(text) == without_thinking(theirs)


@pytest.mark.parametrize(("family", "empty"), [("qwen3", "<think>\n\n</think>\n\n"), ("glm4.5", "\n<think></think>")])
def test_without_thinking_every_turn_opens_with_an_empty_block(chats, family, empty):
    chat = chats[family, False]
    for ids in (chat.render_prompt("Fix it"), chat.bridge("a.py")):
        assert chat.tokenizer.decode(ids).endswith(empty)
    assert "<think>" not in chat.tokenizer.decode(chat.encode_assistant(LS))
    assert ("/nothink" in chat.tokenizer.decode(chat.render_prompt("Fix it"))) == (family == "glm4.5")


@pytest.mark.parametrize(
    ("family", "usual", "other", "closed"),
    [
        ("qwen3", ["<|im_end|>"], "<|endoftext|>", "<|im_end|>"),
        ("llama3.1", ["<|eot_id|>", "<|eom_id|>"], "<|end_of_text|>", "<|eot_id|>"),
        ("glm4.5", ["<|observation|>"], "<|user|>", "<|observation|>"),
    ],
)
def test_a_turn_that_ended_otherwise_is_closed_by_the_bridge(chats, family, usual, other, closed):
    chat = chats[family, True]
    special = chat.tokenizer.special_id
    for name in usual:
        assert chat.bridge("a", ended_by=special(name)) == chat.bridge("a")
    assert chat.bridge("a", ended_by=special(other)) == [special(closed), *chat.bridge("a")]
    assert {*map(special, [*usual, other])} <= set(chat.stop_ids)


def test_llama_sees_tool_output_as_json(chats):
    """As its template writes it."""
    chat = chats["llama3.1", True]
    text = chat.tokenizer.decode(chat.bridge('say "é"\n<|eot_id|>'))
    assert '"say \\"é\\"\\n<|eot_id|>"<|eot_id|>' in text


# Templates that do not fit.

QWEN = FAMILIES["qwen2.5"][2]
CHANGES, NOT_ONCE = "changes the past", "does not show each message once"
USER, REPLY = "user\\n' + m.content", "response>\\n' + m.content + '"
REFUSED = {
    "numbers its messages": (USER, "user ' ~ messages|length ~ '\\n' + m.content", CHANGES),
    "cuts old tool output": (REPLY, "response>\\n' + m.content + (' old' if not loop.last else '') + '", CHANGES),
    "shows tools at the end": ("{%- if add_gen", "{{- 'Tools: bash\\n' }}{%- if add_gen", CHANGES),
    "drops old calls": ("c in m.tool_calls", "c in (m.tool_calls if messages|length < 5 else [])", CHANGES),
    "shouts": (USER, "user\\n' + (m.content | upper)", NOT_ONCE),
    "shows twice": (REPLY, "response>\\n' + m.content + m.content + '", NOT_ONCE),
    "knows no tools": ("m.tool_calls", "[]", r"does not write tool calls in any known format; known: qwen \(Qwen2.5"),
    "raises": (QWEN, "{{ raise_exception('no tools') }}", "fails on a conversation with tool calls: no tools"),
    "is missing": (QWEN, "", "has no chat template; copy chat_template.jinja"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_template_that_does_not_fit_is_refused_at_start(tmp_path, what):
    old, new, message = REFUSED[what]
    assert old in QWEN
    tokenizer = HFTokenizer(make_folder(tmp_path, "qwen2.5", template=QWEN.replace(old, new)))
    with pytest.raises(ChatError, match=message) as error:
        TemplateChat(tokenizer)
    assert str(tmp_path) in str(error.value)


def test_a_template_of_another_tokenizer_is_refused(tmp_path):
    tokenizer = HFTokenizer(make_folder(tmp_path, "llama3.1", template=QWEN))
    with pytest.raises(ChatError, match=r"has none of .*<\|im_end\|>.* which end turns in the format of Qwen2.5"):
        TemplateChat(tokenizer)


def test_the_format_may_be_named(chats):
    tokenizer = chats["qwen3-coder", True].tokenizer
    assert TemplateChat(tokenizer, "qwen_coder").calls.name == chats["qwen3-coder", True].calls.name == "qwen_coder"
    with pytest.raises(ChatError, match="does not write tool calls in policy.chat=qwen; known: qwen "):
        TemplateChat(tokenizer, "qwen")
