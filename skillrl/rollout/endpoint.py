"""Agents whose turns come from an OpenAI-compatible endpoint: a foreign model that is measured, never trained.

Each turn is one request to URL/chat/completions with the conversation so far, in the format of `PlainChat`. What the
model did is the agent's: an empty message is out of form, one that was cut off is truncated. What the endpoint did is
not: a busy, failing or silent one is asked again with growing pauses, and then the episode is ungradable.
"""

import asyncio
import dataclasses
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skillrl.chat.plain import SYSTEM, PlainChat, reply
from skillrl.rollout.episode import Budgets
from skillrl.sampling.turns import Sampled, SamplingError
from skillrl.types import Task

# Of English text and code, for budgets that are given in tokens.
CHARACTERS_PER_TOKEN = 4
# Another try may help: timeouts, conflicts, too many requests; and everything from 500 on.
_TRANSIENT = (408, 409, 425, 429)
# Pauses between tries double up to this; a server that asks for longer ones gets no more either.
LONGEST_PAUSE_S = 60.0
_FULL_CONTEXT = re.compile(r"context_length_exceeded|context length|context size|context window", re.IGNORECASE)
_SHOWN = 300


class EndpointError(SamplingError, ValueError):
    """The endpoint gave no turn; the message names what it said and the remedy."""


class _Busy(Exception):
    """A try that failed, and how long the endpoint asks to wait."""

    def __init__(self, message: str, wait_s: float = 0.0):
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked and how."""

    # As OpenAI's clients take it, e.g. http://host:8000/v1.
    url: str
    model: str
    # Never shown.
    key: str = field(default="", repr=False)
    # Of one request, and how often it is made before the turn is given up.
    timeout_s: float = 300.0
    tries: int = 6
    first_pause_s: float = 1.0
    # Most tokens of one reply, thinking included.
    max_reply_tokens: int = 8192
    # Further fields of the request; None takes one away that this file would send.
    fields: Mapping[str, Any] = field(default_factory=dict)


def in_characters(budgets: Budgets) -> Budgets:
    """Budgets that are given in tokens, for agents whose tokens nobody sees.

    Wall time has no bound: how slow an endpoint is must not be graded. Turns, characters and the time limits of each
    request and command bound the episode.
    """
    return dataclasses.replace(
        budgets,
        max_tokens=budgets.max_tokens * CHARACTERS_PER_TOKEN,
        max_observation_tokens=budgets.max_observation_tokens * CHARACTERS_PER_TOKEN,
        wall_s=float("inf"),
    )


class EndpointAgents:
    """Agents of one endpoint, inside `async with`. The chat format of their episodes is `chat`."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint, self.chat = endpoint, PlainChat()
        # Requests, tries that failed, and tokens as the endpoint counts them.
        self.counts: Counter[str] = Counter(requests=0, failed_tries=0, prompt_tokens=0, completion_tokens=0)

    async def __aenter__(self) -> "EndpointAgents":
        httpx = _http()
        headers = {"Authorization": f"Bearer {self.endpoint.key}"} if self.endpoint.key else {}
        # One deadline for the whole request is set where it is made.
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(headers=headers, timeout=None, limits=limits)
        return self

    async def __aexit__(self, *exc) -> None:
        await self._http.aclose()

    async def check(self) -> None:
        """One small request. Raises EndpointError when the endpoint, the key or the model is not right."""
        once = dataclasses.replace(self.endpoint, tries=1)
        await self._ask([{"role": "user", "content": "Say OK."}], once, max_tokens=16)

    @asynccontextmanager
    async def open(self, task: Task, *, seed: int, temperature: float):
        yield _EndpointAgent(self, {"seed": seed, "temperature": temperature})

    async def turn(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, **sampling) -> tuple[str, bool]:
        """The model's next message, and whether it came to its end."""
        answer = await self._ask(messages, self.endpoint, max_tokens=max_tokens, **sampling)
        if answer is None:
            return "", False
        choice = answer["choices"][0]
        message = choice["message"]
        if message.get("tool_calls"):
            raise EndpointError(
                f"{self.endpoint.url} takes calls out of the model's messages, though it was told of no tools; start "
                "the server without its tool-call parser"
            )
        return message.get("content") or "", choice.get("finish_reason") != "length"

    async def _ask(self, messages, endpoint: Endpoint, **sampling) -> dict | None:
        """The endpoint's answer; None when the conversation is longer than the model's context."""
        body = {"model": endpoint.model, "messages": list(messages), **sampling, **endpoint.fields}
        body = {name: value for name, value in body.items() if value is not None}
        pause_s = endpoint.first_pause_s
        for left in reversed(range(endpoint.tries)):
            try:
                return await self._try(body)
            except _Busy as e:
                self.counts["failed_tries"] += 1
                failed = e
            if left:
                # Agents that were refused together do not come back together.
                await asyncio.sleep(max(failed.wait_s, pause_s * random.uniform(0.5, 1.0)))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        raise EndpointError(
            f"no answer from {endpoint.url} in {endpoint.tries} tries: {failed}; see that it runs and what it allows "
            "(--config.endpoint.timeout_s, .tries, .max_in_flight)"
        )

    async def _try(self, body: Mapping[str, Any]) -> dict | None:
        httpx, endpoint = _http(), self.endpoint
        self.counts["requests"] += 1
        try:
            async with asyncio.timeout(endpoint.timeout_s):
                response = await self._http.post(f"{endpoint.url}/chat/completions", json=body)
        except TimeoutError:
            raise _Busy(f"silent for {endpoint.timeout_s:g} s") from None
        except (httpx.RequestError, httpx.InvalidURL) as e:
            raise _Busy(f"{type(e).__name__}: {self._shown(str(e))}") from None
        text = response.text
        if response.status_code in _TRANSIENT or response.status_code >= 500:
            raise _Busy(f"status {response.status_code}: {self._shown(text)}", _wait_s(response.headers))
        if response.status_code != 200:
            # The first message fits every model that is worth asking; then a long one is the agent's doing.
            if _FULL_CONTEXT.search(text) and len(body["messages"]) > 2:
                return None
            raise EndpointError(self._refused(response.status_code, text))
        try:
            answer = json.loads(text)
            if not isinstance(answer["choices"][0]["message"].get("content"), str | None):
                raise TypeError("content is no text")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise _Busy(f"no chat completion: {self._shown(text)}") from None
        usage = answer.get("usage") or {}
        for name in ("prompt_tokens", "completion_tokens"):
            self.counts[name] += int(usage.get(name) or 0)
        return answer

    def _shown(self, text: str) -> str:
        """The beginning of what the endpoint said, on one line, without the key."""
        text = text.replace(self.endpoint.key, "***") if self.endpoint.key else text
        return " ".join(text.split())[:_SHOWN] or "(nothing)"

    def _refused(self, status: int, text: str) -> str:
        remedy = {
            401: "name the variable that holds its key with --config.endpoint.key_variable=NAME",
            403: "name the variable that holds a key with this right with --config.endpoint.key_variable=NAME",
            404: "the address ends in /v1 for most servers, and GET URL/models lists the models",
        }.get(status, "take a field that it does not know away with --config.endpoint.fields='{\"NAME\": null}'")
        return f"{self.endpoint.url} refuses {self.endpoint.model!r} (status {status}: {self._shown(text)}); {remedy}"


class _EndpointAgent:
    """One conversation."""

    def __init__(self, agents: EndpointAgents, sampling: Mapping[str, Any]):
        self._agents, self._sampling = agents, sampling
        self._messages = [{"role": "system", "content": SYSTEM}]

    async def act(self, message: str, new_tokens: Sequence[int], *, max_tokens: int) -> Sampled:
        text = message if len(self._messages) == 1 else reply(message)
        self._messages.append({"role": "user", "content": text})
        reply_tokens = min(self._agents.endpoint.max_reply_tokens, -(-max_tokens // CHARACTERS_PER_TOKEN))
        content, ended = await self._agents.turn(self._messages, max_tokens=reply_tokens, **self._sampling)
        # Many servers refuse a conversation that holds an empty message.
        self._messages.append({"role": "assistant", "content": content if content.strip() else "(nothing)"})
        ids = self._agents.chat.tokenizer.encode(content)
        ids = np.asarray([*ids, *self._agents.chat.stop_ids] if ended else ids, np.int32)
        tokens = ids[:max_tokens]
        zeros, versions = np.zeros(len(tokens), np.float32), np.full(len(tokens), -1, np.int32)
        return Sampled(tokens, zeros, versions, ended and len(tokens) == len(ids))


def _wait_s(headers: Mapping[str, str]) -> float:
    """What the server asks for in seconds, where it does; dates are passed over."""
    try:
        return min(max(float(headers.get("retry-after", "0")), 0.0), LONGEST_PAUSE_S)
    except ValueError:
        return 0.0


def _http():
    try:
        import httpx2
    except ImportError as e:
        raise EndpointError("endpoints need an HTTP client: pip install 'skillrl[endpoint]'") from e
    return httpx2
