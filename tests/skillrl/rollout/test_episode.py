import asyncio
import dataclasses
from contextlib import asynccontextmanager

import numpy as np
import pytest

from sandbox_service import sandbox_pb2 as pb
from skillrl.chat import Final, ToolCall, ToolResult, User, render
from skillrl.rollout.agents import ScriptedAgents
from skillrl.rollout.episode import Attempt, Stream, run_episode
from skillrl.sampling.turns import Sampled, SamplingError
from skillrl.skills import get_skill
from skillrl.types import Status, Task

FIX = ToolCall("str_replace", ("replace", "a.py", "x - y", "x + y"))


def play(script, *, task, sandbox, chat, budgets, agents=None):
    attempt = Attempt(task, "group", "episode", seed=1, temperature=1.0)
    agents = agents or ScriptedAgents(script, chat)
    episode = asyncio.run(run_episode(attempt, agents=agents, sandbox=sandbox, chat=chat, budgets=budgets))
    assert not sandbox.open_sessions
    return episode


@pytest.fixture
def run(task, sandbox, chat, budgets):
    def run(script=None, *, agents=None, **changes):
        changed = dataclasses.replace(budgets, **changes)
        return play(script, task=task, sandbox=sandbox, chat=chat, budgets=changed, agents=agents)

    return run


def careful(task: Task):
    seen = yield ToolCall("bash", ("cat a.py",))
    assert seen == "x - y\n"
    assert (yield FIX) == "edited a.py"
    return "Fixed."


class Parrot:
    """Agents that say the given token sequences, one a turn, as a policy of version 3 would."""

    def __init__(self, *turns, stopped=True, delay_s=0.0, logprob=-0.5):
        self.turns, self.stopped, self.delay_s, self.logprob = turns, stopped, delay_s, logprob

    @asynccontextmanager
    async def open(self, task, *, seed, temperature):
        self.left = list(self.turns)
        yield self

    async def act(self, message, new_tokens, *, max_tokens):
        await asyncio.sleep(self.delay_s)
        ids = np.asarray(self.left.pop(0), np.int32)[:max_tokens]
        return Sampled(ids, np.full(len(ids), self.logprob, np.float32), np.full(len(ids), 3, np.int32), self.stopped)


def test_a_scripted_episode_from_prompt_to_reward(run, sandbox, task, chat):
    episode = run(careful)
    assert episode.status is Status.SUBMITTED
    assert episode.outcome.reward == 1.0
    assert episode.outcome.components == {"solved": 1.0}
    ((task_id, submission, mode),) = sandbox.scored
    assert (task_id, submission.missing, mode) == (task.task_id, False, "paper")
    assert [t.role for t in episode.turns] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert set(episode.times_s) == {"sampling", "tools", "grading"}

    prompt = get_skill(task.skill).make_prompt(task)
    cat = ToolCall("bash", ("cat a.py",))
    messages = [User(prompt), cat, ToolResult("x - y\n"), FIX, ToolResult("edited a.py"), Final("Fixed.")]
    ids, mask = render(chat, messages)
    assert episode.tokens.tolist() == ids
    assert episode.loss_mask.tolist() == mask
    assert set(episode.versions) == {-1}
    assert not episode.sampler_logprobs.any()


def test_turns_tile_the_stream(run, chat):
    episode = run(careful)
    ends = [0, *(turn.end for turn in episode.turns)]
    assert [turn.start for turn in episode.turns] == ends[:-1]
    assert ends[-1] == len(episode.tokens)
    for turn in episode.turns:
        assert episode.loss_mask[turn.start : turn.end].all() == (turn.role == "assistant")
        if turn.role == "assistant":
            assert chat.tokenizer.decode(episode.tokens[turn.start : turn.end]) == turn.text


def test_logprobs_and_versions_are_the_samplers(run, chat):
    episode = run(agents=Parrot(chat.encode_assistant(FIX), chat.encode_assistant(Final("ok"))))
    assert episode.outcome.reward == 1.0
    np.testing.assert_array_equal(episode.sampler_logprobs, np.where(episode.loss_mask, np.float32(-0.5), 0))
    np.testing.assert_array_equal(episode.versions, np.where(episode.loss_mask, 3, -1))


def test_running_out_of_turns_is_graded(run, sandbox):
    def restless(task):
        yield FIX
        while True:
            yield ToolCall("bash", ("echo",))

    episode = run(restless, max_turns=3)
    assert episode.status is Status.TRUNCATED_TURNS
    assert episode.outcome.reward == 1.0
    assert sandbox.scored[0][1].missing
    assert len([t for t in episode.turns if t.role == "assistant"]) == 3
    assert episode.turns[-1].role == "assistant"
    assert len(sandbox.sessions[0].calls) == 3


def test_running_out_of_tokens_is_graded(run, sandbox):
    episode = run(lambda task: iter_calls("echo " + "long " * 100))
    assert episode.status is Status.TRUNCATED_TOKENS
    assert len(episode.tokens) <= 1500
    assert episode.outcome.reward == 0.0
    assert sandbox.scored[-1][1].missing


def iter_calls(command):
    while True:
        yield ToolCall("bash", (command,))


def test_a_turn_cut_by_the_budget_is_truncated(run, chat):
    episode = run(agents=Parrot(chat.tokenizer.encode("word ") * 2000, stopped=False), max_tokens=300)
    assert episode.status is Status.TRUNCATED_TOKENS
    assert len(episode.tokens) == 300
    assert episode.outcome.graded


def test_time_lost_in_the_service_is_given_back(run, sandbox):
    def waiting(task):
        yield FIX
        for _ in range(2):
            yield ToolCall("bash", ("wait 0.8",))
            yield ToolCall("bash", ("sleep 0.1",))
        return "done"

    episode = run(waiting, wall_s=1.0)
    assert (episode.status, episode.outcome.reason) == (Status.INFRA_ERROR, "infra"), "1.6 s is more than its own"
    episode = run(waiting, wall_s=1.7)
    assert (episode.status, episode.outcome.reward) == (Status.SUBMITTED, 1.0)
    assert episode.times_s["tools"] > 1.75


def test_more_of_it_than_the_episodes_own_time_is_the_services_fault(run, sandbox):
    def waiting(task):
        yield FIX
        while True:
            yield ToolCall("bash", ("wait 0.3",))

    episode = run(waiting, wall_s=0.5)
    assert (episode.status, episode.outcome.reason) == (Status.INFRA_ERROR, "infra")
    assert episode.outcome.detail.startswith("ServiceSlow: waited 0.6 s for the service, with 0.5 s")
    assert not sandbox.scored


def test_running_out_of_time_is_graded(run, sandbox):
    def slow(task):
        yield FIX
        while True:
            yield ToolCall("bash", ("sleep 5",))

    episode = run(slow, wall_s=0.3)
    assert episode.status is Status.TIMED_OUT
    assert episode.outcome.reward == 1.0
    assert episode.times_s["tools"] < 2.0
    # The command was not given more time than the episode had left (but at least a second).
    assert sandbox.sessions[0].calls[-1] == ("exec", "sleep 5", 1.0)


def test_malformed_calls_become_observations(run, chat):
    wrong = [*chat.tokenizer.encode("now "), *chat.encode_assistant(FIX)]
    right, final = chat.encode_assistant(FIX), chat.encode_assistant(Final("ok"))
    episode = run(agents=Parrot(wrong, wrong, right, wrong, wrong, final))
    assert episode.status is Status.SUBMITTED
    assert episode.outcome.reward == 1.0
    assert [t.text[:7] for t in episode.turns if t.role == "tool"] == ["[error:"] * 2 + ["edited "] + ["[error:"] * 2


def test_three_malformed_calls_in_a_row_end_the_episode(run, chat, sandbox):
    unknown = chat.encode_assistant(ToolCall("python", ("1",)))
    episode = run(agents=Parrot(2 * [*chat.stop_ids], unknown, unknown))
    assert episode.status is Status.MALFORMED
    assert episode.outcome.reward == 0.0
    assert sandbox.scored[0][1].missing


def test_long_observations_are_cut(run, chat):
    episode = run(lambda task: say_then_stop("x " * 400), max_observation_tokens=40)
    tool = next(t for t in episode.turns if t.role == "tool")
    assert "tokens left out]" in tool.text
    assert len(chat.tokenizer.encode(tool.text)) <= 40


def say_then_stop(command):
    yield ToolCall("bash", (command,))
    return "done"


def test_a_fault_of_the_service_is_no_reward(run, sandbox):
    episode = run(lambda task: say_then_stop("die"))
    assert episode.status is Status.INFRA_ERROR
    assert episode.outcome.reason == "infra"
    assert "the service is gone" in episode.outcome.detail
    assert sandbox.scored == []
    assert len(episode.tokens) == episode.turns[-1].end > 0


def test_a_deadline_of_the_client_is_not_the_agents_timeout(run, sandbox):
    async def late(*args):
        raise TimeoutError("no answer within 45 s")

    opened = sandbox.open

    async def open_late(*args):
        session = await opened(*args)
        session.exec = late
        return session

    sandbox.open = open_late
    episode = run(careful)
    assert episode.status is Status.INFRA_ERROR
    assert "no answer" in episode.outcome.detail


@pytest.mark.parametrize(("reason", "expected"), [("task", "task"), ("grader", "grader"), ("", "grader")])
def test_an_ungradable_answer_keeps_its_reason(run, sandbox, reason, expected):
    sandbox.reply = pb.ScoreReply(graded=False, reward=0.0, reason=reason, detail="why")
    episode = run(careful)
    assert episode.status is Status.SUBMITTED
    assert episode.outcome.reward is None
    assert episode.outcome.reason == expected
    assert "why" in episode.outcome.detail


def test_a_prompt_that_does_not_fit_is_the_tasks_fault(run, sandbox):
    episode = run(careful, max_tokens=20)
    assert (episode.status, episode.outcome.reason) == (Status.INFRA_ERROR, "task")
    assert "raise" in episode.outcome.detail
    assert sandbox.sessions == []


def test_a_sampler_error_is_ungradable(run):
    class Broken(Parrot):
        async def act(self, *args, **kwargs):
            raise SamplingError("logits are not finite")

    episode = run(agents=Broken())
    assert (episode.status, episode.outcome.reason) == (Status.INFRA_ERROR, "infra")
    assert "not finite" in episode.outcome.detail


@pytest.mark.parametrize("logprob", [np.nan, -np.inf, 0.5])
def test_impossible_logprobs_never_leave_the_episode(run, chat, logprob):
    episode = run(agents=Parrot(chat.encode_assistant(Final("ok")), logprob=logprob))
    assert (episode.status, episode.outcome.reason) == (Status.INFRA_ERROR, "infra")


def test_cancelling_closes_the_session(task, sandbox, chat, budgets):
    async def cancelled():
        attempt = Attempt(task, "group", "episode", seed=1, temperature=1.0)
        agents = ScriptedAgents(lambda task: say_then_stop("sleep 30"), chat)
        running = asyncio.create_task(
            run_episode(attempt, agents=agents, sandbox=sandbox, chat=chat, budgets=dataclasses.replace(budgets))
        )
        while not sandbox.open_sessions:
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancelled())
    assert not sandbox.open_sessions


def test_submissions_of_review_and_localization_are_handed_over(sandbox, chat, budgets, task):
    def answer(text):
        return lambda task: final(text)

    def final(text):
        yield ToolCall("bash", ("echo",))
        return text

    for skill, text in (
        ("localization", "<files>a.py</files>"),
        ("review", "<review>ok</review><judgment>YES</judgment>"),
    ):
        changed = dataclasses.replace(task, skill=skill)
        play(answer(text), task=changed, sandbox=sandbox, chat=chat, budgets=budgets)
    (_, files, _), (_, review, _) = sandbox.scored
    assert (list(files.files), files.missing) == (["a.py"], False)
    assert (review.judgment, review.missing) == ("YES", False)


def test_a_stream_refuses_arrays_of_uneven_length():
    with pytest.raises(ValueError, match="3 tokens, 2 log-probabilities"):
        Stream().append_sampled("x", Sampled(np.zeros(3, np.int32), np.zeros(2), np.zeros(3), True))
