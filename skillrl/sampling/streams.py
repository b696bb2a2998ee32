"""What the sampler knows of an episode: its tokens, what the cache holds of them, and the turn in the making."""

import dataclasses

import numpy as np

from skillrl.sampling.turns import Sampled


@dataclasses.dataclass(eq=False)
class Request:
    """A turn in the making: what was sampled since `start`, the length of the stream with all known tokens."""

    start: int
    budget: int
    # Length of the stream before the known tokens of this turn: where a cancelled turn goes back to.
    before: int
    stopped: bool = False
    logprobs: list[float] = dataclasses.field(default_factory=list)
    support_logprobs: list[float] = dataclasses.field(default_factory=list)
    versions: list[int] = dataclasses.field(default_factory=list)

    @property
    def left(self) -> int:
        """Tokens that may still be sampled."""
        return self.budget - len(self.versions)


def prompt_key(tokens: list[int]) -> bytes:
    """Equal for the episodes of a group."""
    return np.asarray(tokens, np.int32).tobytes()


@dataclasses.dataclass(eq=False)
class Stream:
    """One episode. Its token at position p depends on `seed`, p and what stands before, on nothing else."""

    seed: int
    temperature: float = 1.0
    # Sampling is cut to the `top_k` likeliest tokens (0: all), and to the likeliest that make up `top_p` of the rest.
    top_k: int = 0
    top_p: float = 1.0
    tokens: list[int] = dataclasses.field(default_factory=list)
    # The first `cached` tokens have their keys and values in `pages`.
    cached: int = 0
    pages: list[int] = dataclasses.field(default_factory=list)
    # The most that ever was in the cache: what is computed below it is computed again.
    reached: int = 0
    # Counts how often the cache of this stream was lost; a call that began before says nothing about the new one.
    losses: int = 0
    # Policy version under which the cache was begun.
    cache_version: int = 0
    # Length of the first turn's known tokens, which the episodes of a group have in common; and these tokens.
    prompt_length: int = 0
    prompt: bytes = b""
    request: Request | None = None
    closed: bool = False

    @property
    def to_prefill(self) -> int:
        """Known tokens that are not in the cache, but the last one, with which decoding starts."""
        return len(self.tokens) - 1 - self.cached

    @property
    def shareable(self) -> int:
        """Tokens of the prompt that a group computes once: all but the last."""
        return self.prompt_length - 1

    def begin(self, new_tokens: list[int], budget: int) -> None:
        before = len(self.tokens)
        self.tokens.extend(new_tokens)
        if not before:
            self.prompt_length = len(new_tokens)
            self.prompt = prompt_key(new_tokens)
        self.request = Request(start=len(self.tokens), budget=budget, before=before)

    def sampled(self) -> Sampled:
        request = self.request
        whole = self.top_k == 0 and self.top_p >= 1
        return Sampled(
            np.asarray(self.tokens[request.start :], np.int32),
            np.asarray(request.logprobs, np.float32),
            np.asarray(request.versions, np.int32),
            request.stopped,
            None if whole else np.asarray(request.support_logprobs, np.float32),
        )
