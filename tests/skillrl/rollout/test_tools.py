import asyncio

import pytest

from sandbox_service import sandbox_pb2 as pb
from skillrl.chat import ToolCall
from skillrl.rollout.tools import exec_observation, run_tool, shorten


def observe(sandbox, *calls):
    async def run():
        session = await sandbox.open("digest", "task", "editing")
        return [await run_tool(session, call, exec_timeout_s=3.0) for call in calls]

    return asyncio.run(run())


def test_calls_reach_the_service(sandbox):
    calls = [
        ToolCall("bash", ("echo  'a b' ",)),
        ToolCall("str_replace", ("create", "b.py", "one\n")),
        ToolCall("str_replace", ("view", "b.py")),
        ToolCall("str_replace", ("replace", "b.py", "one", "")),
    ]
    observations = observe(sandbox, *calls)
    assert sandbox.sessions[0].calls == [
        ("exec", "echo  'a b' ", 3.0),
        ("create", "b.py", "one\n", ""),
        ("view", "b.py", "", ""),
        ("replace", "b.py", "", "one"),
    ]
    assert [o.text for o in observations] == ["echo  'a b' ", "edited b.py", "one\n", "edited b.py"]
    assert all(o.valid for o in observations)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (ToolCall("", ()), "unknown tool ''"),
        (ToolCall("python", ("1",)), "unknown tool 'python'"),
        (ToolCall("bash", ()), "bash takes 1 argument, not 0"),
        (ToolCall("bash", ("ls", "-a")), "bash takes 1 argument, not 2"),
        (ToolCall("bash", ("ls\0",)), "NUL"),
        (ToolCall("str_replace", ()), "needs a command"),
        (ToolCall("str_replace", ("delete", "a.py")), "unknown command 'delete'"),
        (ToolCall("str_replace", ("view",)), "view takes 1 more arguments, not 0"),
        (ToolCall("str_replace", ("create", "a.py")), "create takes 2 more arguments, not 1"),
        (ToolCall("str_replace", ("replace", "a.py", "x", "y", "z")), "replace takes 3 more arguments, not 4"),
    ],
)
def test_calls_out_of_form_are_explained_and_run_nothing(sandbox, call, said):
    (observation,) = observe(sandbox, call)
    assert not observation.valid
    assert said in observation.text
    assert "use bash(command), str_replace(view, path)" in observation.text
    assert sandbox.sessions[0].calls == []


def test_what_the_service_refuses_is_an_observation(sandbox):
    (observation,) = observe(sandbox, ToolCall("str_replace", ("replace", "a.py", "q", "r")))
    assert observation.text == "[error] no match in a.py"
    assert observation.valid


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (dict(outcome=pb.EXITED, output="1 passed\n"), "1 passed\n"),
        (dict(outcome=pb.EXITED, output=""), "[no output]"),
        (dict(outcome=pb.EXITED, exit_code=1, output="boom"), "boom\n[exit 1]"),
        (dict(outcome=pb.EXITED, exit_code=2, output="boom\n"), "boom\n[exit 2]"),
        (dict(outcome=pb.EXITED, exit_code=1, output=""), "[exit 1]"),
        (dict(outcome=pb.SIGNALED, exit_code=11, output=""), "[killed by signal 11]"),
        # The time that passed, not the limit that was set.
        (dict(outcome=pb.TIMEOUT, exit_code=-1, output="", wall_s=7.2), "[timeout after 7 s]"),
        (dict(outcome=pb.OUT_OF_MEMORY, exit_code=-1, output="a"), "a\n[out of memory]"),
        (dict(outcome=pb.OUT_OF_PROCESSES, output="a"), "a\n[too many processes]"),
        (dict(outcome=pb.OUT_OF_DISK, output="a"), "a\n[no space left]"),
        (
            dict(outcome=pb.OUTPUT_LIMIT, output="a", omitted_bytes=9),
            "a\n[9 bytes omitted]\n[stopped: too much output]",
        ),
        (dict(outcome=pb.EXITED, exit_code=1, output="ab", omitted_bytes=5), "ab\n[5 bytes omitted]\n[exit 1]"),
    ],
)
def test_endings_are_told(reply, text):
    assert exec_observation(pb.ExecReply(**reply)) == text


@pytest.mark.parametrize("max_tokens", [32, 33, 64, 100, 257])
@pytest.mark.parametrize("unit", ["line {}\n", "é\u2581😀{}", "\0{}"])
def test_long_text_keeps_head_and_tail(chat, max_tokens, unit):
    text = "".join(unit.format(n) for n in range(900)) + "[exit 1]"
    short = shorten(text, chat.tokenizer, max_tokens)
    assert len(chat.tokenizer.encode(short)) <= max_tokens
    assert "tokens left out]" in short
    if max_tokens >= 64:
        assert short.endswith("[exit 1]")
        assert short.startswith(text[:4])


def test_short_text_is_left_as_it_is(chat):
    text = "a" * 20
    assert shorten(text, chat.tokenizer, 32) == text
    with pytest.raises(ValueError, match="max_observation_tokens"):
        shorten(text, chat.tokenizer, 8)
