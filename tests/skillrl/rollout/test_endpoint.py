"""Episodes of models behind a real HTTP server: what is sent, what is whose fault, and that keys stay secret."""

import asyncio
import dataclasses
import sys
import threading
import time

import pytest
from chat_server import Answer, chat_server, written

from skillrl.chat import Final, ToolCall
from skillrl.chat.plain import SYSTEM
from skillrl.rollout.endpoint import Endpoint, EndpointAgents, EndpointError, in_characters
from skillrl.rollout.episode import Attempt, Budgets, run_episode
from skillrl.types import Status

BUDGETS = in_characters(
    Budgets(max_tokens=2000, max_turns=6, wall_s=20.0, max_observation_tokens=100, exec_timeout_s=5.0)
)
FIX = written(ToolCall("str_replace", ("replace", "a.py", "x - y", "x + y")))
DONE = Answer("Done.")


def scripted(*answers):
    """Says one answer after the other, then the last one for ever."""
    left = list(answers)

    def answer(body):
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


def play(answer, sandbox, task, budgets=BUDGETS, **options):
    """One episode, the agents that played it, and the server."""

    async def run():
        endpoint = Endpoint(server.url, "model-7", **{"first_pause_s": 0.01, "timeout_s": 30.0, **options})
        async with EndpointAgents(endpoint) as agents:
            attempt = Attempt(task, "g", "e", seed=5, temperature=0.7)
            played = await run_episode(attempt, agents=agents, sandbox=sandbox, chat=agents.chat, budgets=budgets)
            return played, agents, server

    with chat_server(answer) as server:
        return asyncio.run(run())


def test_an_episode_is_a_conversation(sandbox, task):
    """The server sees each message once and in order; the stream holds what was sent and received."""
    answers = scripted(Answer(f"I repair it.\n{FIX}"), Answer(written(ToolCall("bash", ("cat a.py",)))), DONE)
    episode, agents, server = play(answers, sandbox, task, key="sk-1", fields={"top_p": 0.9, "seed": None})
    assert (episode.status, episode.outcome.reward) == (Status.SUBMITTED, 1.0)
    first, _, last = server.requests
    prompt = "Editing. In a.py, add.\n"
    assert first["messages"][0] == {"role": "system", "content": SYSTEM}
    assert first["messages"][1]["role"] == "user" and prompt in first["messages"][1]["content"]
    assert [m["role"] for m in last["messages"]] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert last["messages"][2]["content"] == f"I repair it.\n{FIX}"
    assert last["messages"][5]["content"] == "<tool_response>\nx + y\n\n</tool_response>"
    assert last["messages"][:2] == first["messages"]
    assert {name: last[name] for name in last if name != "messages"} == {
        "model": "model-7", "temperature": 0.7, "top_p": 0.9, "max_tokens": last["max_tokens"],
    }  # fmt: skip
    assert server.headers[0]["authorization"] == "Bearer sk-1"

    decode = agents.chat.tokenizer.decode
    texts = [decode(episode.tokens[t.start : t.end]) for t in episode.turns]
    sent = [m["content"] for m in last["messages"]]
    assert texts == [
        f"{sent[0]}\n{sent[1]}",
        sent[2] + "<|end|>",
        sent[3],
        sent[4] + "<|end|>",
        sent[5],
        "Done.<|end|>",
    ]
    assert agents.counts == {"requests": 3, "failed_tries": 0, "prompt_tokens": 21, "completion_tokens": 9}


def test_each_episode_has_its_own_seed(sandbox, task):
    _, _, server = play(DONE_ALWAYS, sandbox, task)
    assert server.requests[0]["seed"] == 5


def DONE_ALWAYS(body):
    return DONE


FAULTS = {
    "busy": Answer(status=429, body=b"slow down", headers={"Retry-After": "0.01"}),
    "retry at a date": Answer(status=429, body=b"", headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
    "overloaded": Answer(status=503, body=b"<html>overloaded</html>"),
    "no JSON": Answer(body=b'{"choices": [{"mess'),
    "no choices": Answer(body=b'{"choices": []}'),
    "no object": Answer(body=b"[1, 2]"),
    "no text": Answer(body=b'{"choices": [{"message": {"content": {"a": 1}}}]}'),
    "deep": Answer(body=b"[" * 100_000),
    "cut": Answer(cut=True),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_that_passes_changes_nothing(fault, sandbox, task):
    episode, agents, _ = play(scripted(fault, Answer(FIX), fault, fault, DONE), sandbox, task)
    assert (episode.status, episode.outcome.reward) == (Status.SUBMITTED, 1.0)
    assert agents.counts["requests"] == 5 and agents.counts["failed_tries"] == 3


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_that_stays_is_never_a_reward(fault, sandbox, task):
    episode, agents, server = play(scripted(Answer(FIX), fault), sandbox, task, tries=3)
    assert (episode.status, episode.outcome.reason) == (Status.INFRA_ERROR, "infra")
    assert f"no answer from {server.url} in 3 tries" in episode.outcome.detail
    assert agents.counts["requests"] == 4
    assert sandbox.scored == [] and not sandbox.open_sessions


def test_a_silent_endpoint_is_asked_again_and_then_given_up(sandbox, task):
    first = threading.Event()

    def hang_once(body):
        if not first.is_set():
            first.set()
            time.sleep(2.0)
        return DONE

    episode, agents, _ = play(hang_once, sandbox, task, timeout_s=1.0)
    assert episode.status is Status.SUBMITTED and agents.counts["failed_tries"] >= 1

    def hang(body):
        time.sleep(0.5)
        return DONE

    episode, agents, _ = play(hang, sandbox, task, timeout_s=0.05, tries=2)
    assert episode.outcome.reason == "infra" and "silent for 0.05 s" in episode.outcome.detail


def test_nobody_listens(sandbox, task):
    with chat_server(DONE_ALWAYS) as gone:
        pass

    async def check():
        async with EndpointAgents(Endpoint(gone.url, "m")) as agents:
            await agents.check()

    with pytest.raises(EndpointError, match=f"no answer from {gone.url} in 1 tries: ConnectError"):
        asyncio.run(check())


def test_how_slow_an_endpoint_is_counts_for_nothing(sandbox, task):
    def slow(body):
        time.sleep(0.3)
        return Answer(FIX) if len(body["messages"]) == 2 else DONE

    budgets = in_characters(
        Budgets(max_tokens=2000, max_turns=6, wall_s=0.1, max_observation_tokens=100, exec_timeout_s=5.0)
    )
    episode, _, _ = play(slow, sandbox, task, budgets)
    assert (episode.status, episode.outcome.reward) == (Status.SUBMITTED, 1.0)


# What the model did.


@pytest.mark.parametrize("content", ["", None, "  \n"])
def test_an_empty_message_is_out_of_form(content, sandbox, task):
    episode, _, server = play(scripted(Answer(content)), sandbox, task)
    assert (episode.status, episode.outcome.reward) == (Status.MALFORMED, 0.0)
    # Many servers refuse empty messages in a conversation.
    assert [m["content"] for m in server.requests[-1]["messages"] if m["role"] == "assistant"] == ["(nothing)"] * 2
    assert "the message is empty" in server.requests[-1]["messages"][-1]["content"]


@pytest.mark.parametrize("content", ["I think that", ""])
def test_a_message_that_was_cut_off_is_truncated(content, sandbox, task):
    episode, _, _ = play(scripted(Answer(FIX), Answer(content, finish_reason="length")), sandbox, task)
    # The work so far is graded.
    assert (episode.status, episode.outcome.reward) == (Status.TRUNCATED_TOKENS, 1.0)
    assert episode.turns[-1].text == content


def test_a_reply_beyond_the_budget_is_cut_there(sandbox, task):
    episode, _, server = play(scripted(Answer("x" * 9000)), sandbox, task)
    assert episode.status is Status.TRUNCATED_TOKENS
    assert len(episode.tokens) == BUDGETS.max_tokens == 8000
    prompt = episode.turns[0].end
    assert server.requests[0]["max_tokens"] == -(-(8000 - prompt) // 4)
    _, _, server = play(DONE_ALWAYS, sandbox, task, max_reply_tokens=50)
    assert server.requests[0]["max_tokens"] == 50


FULL = Answer(status=400, body=b'{"error": {"message": "This model\'s maximum context length is 4096 tokens."}}')


def test_a_conversation_longer_than_the_context_is_truncated(sandbox, task):
    episode, _, _ = play(scripted(Answer(FIX), FULL), sandbox, task)
    assert (episode.status, episode.outcome.reward) == (Status.TRUNCATED_TOKENS, 1.0)


def test_a_context_too_small_for_any_prompt_is_not_the_models_fault(sandbox, task):
    episode, _, _ = play(scripted(FULL), sandbox, task)
    assert episode.outcome.reason == "infra" and "maximum context length is 4096" in episode.outcome.detail


# What was set up wrongly.


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (400, "--config.endpoint.fields='{\"NAME\": null}'"),
        (401, "--config.endpoint.key_variable=NAME"),
        (403, "--config.endpoint.key_variable=NAME"),
        (404, "GET URL/models lists the models"),
    ],
)
def test_a_refusal_names_the_remedy_once_and_never_the_key(status, remedy, sandbox, task):
    refusal = Answer(status=status, body=b'{"error":\n "Incorrect API key provided: sk-secret-9"}')
    episode, agents, server = play(scripted(refusal), sandbox, task, key="sk-secret-9")
    detail = episode.outcome.detail
    assert episode.outcome.reason == "infra"
    assert f"{server.url} refuses 'model-7' (status {status}: " in detail and remedy in detail
    assert "provided: ***" in detail and "sk-secret" not in detail + repr(agents.endpoint)
    assert agents.counts["requests"] == 1


def test_a_server_that_takes_calls_out_is_named(sandbox, task):
    call = {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "bash", "arguments": "{}"}}]}
    episode, _, _ = play(scripted(Answer(None, finish_reason="tool_calls", message=call)), sandbox, task)
    assert episode.outcome.reason == "infra" and "without its tool-call parser" in episode.outcome.detail


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)

    async def enter():
        async with EndpointAgents(Endpoint("http://localhost/v1", "m")):
            pass

    with pytest.raises(EndpointError, match=r"pip install 'skillrl\[endpoint\]'"):
        asyncio.run(enter())


def test_agents_that_connect_at_one_moment_are_all_answered_at_once():
    """A listener with Python's queue of five resets some of them."""

    async def ask_together():
        async with EndpointAgents(Endpoint(server.url, "model-7")) as agents:
            messages = [{"role": "user", "content": "Hello."}]
            return await asyncio.gather(*[agents.turn(messages, max_tokens=5) for _ in range(60)]), agents.counts

    with chat_server(scripted(DONE)) as server:
        answers, counts = asyncio.run(ask_together())
    assert answers == [("Done.", True)] * 60
    assert (counts["requests"], counts["failed_tries"], len(server.requests)) == (60, 0, 60)


def test_budgets_are_the_same_in_characters():
    tokens = Budgets(max_tokens=512, max_turns=6, wall_s=20.0, max_observation_tokens=128, exec_timeout_s=5.0)
    assert in_characters(tokens) == dataclasses.replace(
        tokens, max_tokens=2048, max_observation_tokens=512, wall_s=float("inf")
    )


def test_final_messages_are_the_models_own_words(sandbox, make_task):
    """A submission that is read from the last message."""
    answer = written(Final("<review>It adds.</review><judgment>YES</judgment>"))
    play(scripted(Answer(f"<think>hm</think>{answer}")), sandbox, make_task(skill="review"))
    ((_, submission, _),) = sandbox.scored
    assert (submission.judgment, submission.review) == ("YES", "It adds.")
