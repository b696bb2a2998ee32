"""One episode: prompt, then turns of {sample, parse, run the tool, append its reply}, then the score.

    prompt -> turn --call--> tool -> observation -> turn ...        budgets: tokens, turns, wall time
                   --final message--> SUBMITTED      --budget gone--> TRUNCATED_* or TIMED_OUT
                   --out of form, 3 times in a row--> MALFORMED     --service fault--> INFRA_ERROR (no reward)

Whatever the end, the workspace is scored, except after a fault that is not the agent's: that is never a reward.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from skillrl.chat import ChatFormat, Final, Malformed, ToolCall
from skillrl.rollout.agents import Agent, Agents
from skillrl.rollout.sandbox import Sandbox, Session, outcome_of, submission_message
from skillrl.rollout.tools import USAGE, Observation, run_tool, shorten
from skillrl.sampling.turns import Sampled
from skillrl.skills import Submission, get_skill
from skillrl.types import Episode, Outcome, Status, Task, Turn

logger = logging.getLogger(__name__)

# Turns in a row that are no valid call before the episode ends.
MAX_MALFORMED = 3
_TIMES = ("sampling", "tools", "grading")


class ServiceSlow(RuntimeError):
    """The episode waited for the service for longer than its own time."""


@dataclass(frozen=True)
class Budgets:
    """Limits of one episode."""

    # Of the whole stream: prompt, turns and observations.
    max_tokens: int
    max_turns: int
    # Wall time from the opened session to the last turn; scoring comes on top. Time that calls take beyond that of the
    # commands themselves is the service's and given back, up to as much again.
    wall_s: float
    max_observation_tokens: int
    exec_timeout_s: float


@dataclass(frozen=True)
class Attempt:
    """Which episode this is: of what task, in what group, with which random seed."""

    task: Task
    group_id: str
    episode_id: str
    seed: int
    temperature: float
    reward_mode: str = "paper"


class Stream:
    """The append-only record of an episode. Turns tile the tokens: nothing is between them and nothing is changed."""

    def __init__(self):
        self.turns: list[Turn] = []
        self._tokens: list[np.ndarray] = []
        self._logprobs: list[np.ndarray] = []
        self._versions: list[np.ndarray] = []
        self.length = 0

    def append(self, role: str, text: str, ids: list[int]) -> None:
        """Tokens that the agent has to read."""
        count = len(ids)
        self._extend(role, text, np.asarray(ids, np.int32), np.zeros(count), np.full(count, -1))

    def append_sampled(self, text: str, sampled: Sampled) -> None:
        """Tokens of the agent's own turn. Raises ValueError for log-probabilities that are none."""
        if not np.all(np.isfinite(sampled.logprobs)) or np.any(sampled.logprobs > 1e-4):
            raise ValueError("the sampler returned log-probabilities that are not finite or above 0")
        self._extend("assistant", text, sampled.tokens, sampled.logprobs, sampled.versions)

    def _extend(self, role, text, tokens, logprobs, versions):
        if not len(tokens) == len(logprobs) == len(versions):
            raise ValueError(f"{len(tokens)} tokens, {len(logprobs)} log-probabilities, {len(versions)} versions")
        self.turns.append(Turn(role, self.length, self.length + len(tokens), text))
        self._tokens.append(tokens)
        self._logprobs.append(logprobs)
        self._versions.append(versions)
        self.length += len(tokens)

    def arrays(self) -> dict[str, np.ndarray]:
        mask = np.zeros(self.length, bool)
        for turn in self.turns:
            mask[turn.start : turn.end] = turn.role == "assistant"

        def join(parts, dtype):
            return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)

        return {
            "tokens": join(self._tokens, np.int32),
            "loss_mask": mask,
            "sampler_logprobs": join(self._logprobs, np.float32),
            "versions": join(self._versions, np.int32),
        }


class _Run:
    """The state of one running episode."""

    def __init__(self, attempt: Attempt, chat: ChatFormat, budgets: Budgets):
        self.attempt, self.chat, self.budgets = attempt, chat, budgets
        self.skill = get_skill(attempt.task.skill)
        self.stream = Stream()
        self.times_s: Counter[str] = Counter()
        # Time in tools beyond that of the commands themselves.
        self.waited_s = 0.0

    @contextlib.contextmanager
    def timed(self, what: str):
        start = time.monotonic()
        try:
            yield
        finally:
            self.times_s[what] += time.monotonic() - start

    async def play(self, agents: Agents, sandbox: Sandbox) -> tuple[Status, Outcome]:
        attempt, task = self.attempt, self.attempt.task
        prompt = self.skill.make_prompt(task)
        prompt_ids = self.chat.render_prompt(prompt)
        if len(prompt_ids) >= self.budgets.max_tokens:
            detail = f"the prompt has {len(prompt_ids)} tokens of max_tokens={self.budgets.max_tokens}; raise it"
            return Status.INFRA_ERROR, Outcome(None, reason="task", detail=detail)
        async with contextlib.AsyncExitStack() as stack:
            # The agent (a row of the sampler's cache) is freed before grading, the session after it.
            async with agents.open(task, seed=attempt.seed, temperature=attempt.temperature) as agent:
                with self.timed("tools"):
                    session = await sandbox.open(task.task_set, task.task_id, task.skill)
                    stack.push_async_callback(session.close)
                status, submission = await self._within_wall(agent, session, prompt, prompt_ids)
            with self.timed("grading"):
                reply = await session.score(submission_message(submission), attempt.reward_mode)
        return status, outcome_of(reply)

    async def _within_wall(self, agent, session, prompt, prompt_ids) -> tuple[Status, Submission]:
        try:
            async with asyncio.timeout(self.budgets.wall_s) as wall:
                return await self._turns(agent, session, prompt, prompt_ids, wall)
        except TimeoutError:
            if not wall.expired():  # a deadline of the client: not the agent's fault
                raise
            return Status.TIMED_OUT, Submission(missing=True)

    async def _turns(
        self, agent: Agent, session: Session, message: str, new_ids: list[int], wall: asyncio.Timeout
    ) -> tuple[Status, Submission]:
        role, malformed, missing = "user", 0, Submission(missing=True)
        for turn in range(1, self.budgets.max_turns + 1):
            room = self.budgets.max_tokens - self.stream.length - len(new_ids)
            if room <= 0:
                return Status.TRUNCATED_TOKENS, missing
            self.stream.append(role, message, new_ids)
            with self.timed("sampling"):
                sampled = await agent.act(message, new_ids, max_tokens=room)
            self.stream.append_sampled(self.chat.tokenizer.decode(sampled.tokens), sampled)
            if not sampled.stopped:
                return Status.TRUNCATED_TOKENS, missing
            action = self.chat.parse_assistant(sampled.tokens)
            if isinstance(action, Final):
                return Status.SUBMITTED, self.skill.parse_submission(action.text)
            if isinstance(action, Malformed):
                observation = Observation(f"[error: {action.reason}; {USAGE}]", valid=False)
            else:
                with self.timed("tools"):
                    observation = await self._tool(session, action, wall)
            malformed = 0 if observation.valid else malformed + 1
            if malformed == MAX_MALFORMED:
                return Status.MALFORMED, missing
            if turn == self.budgets.max_turns:
                break
            role, message = "tool", shorten(observation.text, self.chat.tokenizer, self.budgets.max_observation_tokens)
            new_ids = self.chat.bridge(message, ended_by=int(sampled.tokens[-1]))
        return Status.TRUNCATED_TURNS, missing

    async def _tool(self, session: Session, action: ToolCall, wall: asyncio.Timeout) -> Observation:
        """Raises ServiceSlow."""
        deadline, started = wall.when(), time.monotonic()
        left_s = max(deadline - asyncio.get_running_loop().time(), 1.0)
        # The command has a limit and the client has patience: only what the command takes is the agent's time.
        wall.reschedule(None)
        observation = await run_tool(session, action, exec_timeout_s=min(self.budgets.exec_timeout_s, left_s))
        waited_s = max(0.0, time.monotonic() - started - observation.ran_s)
        self.waited_s += waited_s
        if self.waited_s > self.budgets.wall_s:
            raise ServiceSlow(f"waited {self.waited_s:.1f} s for the service, with {self.budgets.wall_s} s of its own")
        wall.reschedule(deadline + waited_s)
        await asyncio.sleep(0)  # ends here when the time is over
        return observation


async def run_episode(
    attempt: Attempt, *, agents: Agents, sandbox: Sandbox, chat: ChatFormat, budgets: Budgets
) -> Episode:
    """Plays and scores one episode. Never raises but for cancellation: a fault makes the episode ungradable."""
    run = _Run(attempt, chat, budgets)
    try:
        status, outcome = await run.play(agents, sandbox)
    except Exception as e:
        logger.warning("episode %s: %s", attempt.episode_id, e, exc_info=True)
        status, outcome = Status.INFRA_ERROR, Outcome(None, reason="infra", detail=f"{type(e).__name__}: {e}")
    return _episode(attempt, run.stream, run.times_s, status, outcome)


def lost_episode(attempt: Attempt, detail: str) -> Episode:
    """An episode without a token, lost to the service before it began."""
    stream, times_s = Stream(), dict.fromkeys(_TIMES, 0.0)
    return _episode(attempt, stream, times_s, Status.INFRA_ERROR, Outcome(None, reason="infra", detail=detail))


def _episode(attempt: Attempt, stream: Stream, times_s, status: Status, outcome: Outcome) -> Episode:
    return Episode(
        episode_id=attempt.episode_id,
        group_id=attempt.group_id,
        task=attempt.task,
        turns=tuple(stream.turns),
        status=status,
        outcome=outcome,
        times_s={name: times_s[name] for name in _TIMES},
        **stream.arrays(),
    )
