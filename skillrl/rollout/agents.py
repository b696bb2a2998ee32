"""Who plays an episode: the sampled policy, or a script. The episode's state machine is the same for both.

A script is a generator function of a task: it yields tool calls, receives each observation's text, and returns its
final message. Its words are encoded as if a policy had sampled them (log-probability 0, version -1), which makes
scripted episodes training data for a warm start:

    def careful(task):
        listing = yield ToolCall("bash", ("ls",))
        if "a.py" in listing:
            yield ToolCall("str_replace", ("replace", "a.py", "x - y", "x + y"))
        return "Fixed."

    agents = ScriptedAgents(careful, chat)
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import numpy as np

from skillrl.chat import ChatFormat, Final, ToolCall
from skillrl.sampling.engine import Engine
from skillrl.sampling.streams import Stream
from skillrl.sampling.turns import Sampled
from skillrl.types import Task

Script = Callable[[Task], Generator[ToolCall, str, str]]


class Agent(Protocol):
    """Plays one episode."""

    async def act(self, message: str, new_tokens: Sequence[int], *, max_tokens: int) -> Sampled:
        """The next turn, in at most `max_tokens` tokens.

        `message` is what the agent has to read since its last turn: first the prompt, then each observation.
        `new_tokens` is the same as the stream has it. Raises SamplingError when no turn can be had.
        """
        ...


class Agents(Protocol):
    """Opens one agent an episode; leaving the context frees what it holds."""

    def open(self, task: Task, *, seed: int, temperature: float) -> AbstractAsyncContextManager[Agent]: ...


class PolicyAgents:
    """Agents whose turns the engine samples. Opening one waits while the engine has its most streams open."""

    def __init__(self, engine: Engine):
        self._engine = engine

    @asynccontextmanager
    async def open(self, task: Task, *, seed: int, temperature: float):
        stream = await self._engine.open(seed=seed, temperature=temperature)
        try:
            yield _PolicyAgent(self._engine, stream)
        finally:
            self._engine.release(stream)


class _PolicyAgent:
    def __init__(self, engine: Engine, stream: Stream):
        self._engine, self._stream = engine, stream

    async def act(self, message: str, new_tokens: Sequence[int], *, max_tokens: int) -> Sampled:
        return await self._engine.generate(self._stream, new_tokens, budget=max_tokens)


class ScriptedAgents:
    """Agents that follow a script; seed and temperature change nothing."""

    def __init__(self, script: Script, chat: ChatFormat):
        self._script, self._chat = script, chat

    @asynccontextmanager
    async def open(self, task: Task, *, seed: int, temperature: float):
        steps = self._script(task)
        try:
            yield _ScriptedAgent(steps, self._chat)
        finally:
            steps.close()


class _ScriptedAgent:
    def __init__(self, steps: Generator[ToolCall, str, str], chat: ChatFormat):
        self._steps, self._chat = steps, chat
        self._started = False

    async def act(self, message: str, new_tokens: Sequence[int], *, max_tokens: int) -> Sampled:
        try:
            # The first message is the prompt, which the script knows as its task.
            action = self._steps.send(message if self._started else None)
        except StopIteration as stop:
            action = Final(stop.value)
        self._started = True
        ids = np.asarray(self._chat.encode_assistant(action), np.int32)
        tokens = ids[:max_tokens]
        return Sampled(
            tokens, np.zeros(len(tokens), np.float32), np.full(len(tokens), -1, np.int32), len(tokens) == len(ids)
        )
