"""Which rows the sampler's next call works on: pure decisions about requests, no device."""

import asyncio
import dataclasses

import jax
import numpy as np

from skillrl.sampling.step import Decoded
from skillrl.sampling.turns import Sampled, SamplingError


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The fixed sizes of calls, each ascending. They bound compilation: rows x (1 + chunks) calls at most."""

    # Rows of one call.
    rows: tuple[int, ...]
    # Tokens a row of a prefill chunk.
    chunks: tuple[int, ...] = (16, 128)
    # Most decode steps of one call.
    decode_steps: int = 16

    @classmethod
    def default(cls, rows: int, platform: str | None = None) -> "Shapes":
        """For a cache of `rows` on the platform, this one's unless given. On a CPU more than 8 rows gain nothing."""
        if (platform or jax.default_backend()) == "cpu":
            return cls((min(rows, 8),), chunks=(16, 64))
        sizes = (8, 64, 256)
        return cls(tuple(size for size in sizes if size < rows) + (min(rows, sizes[-1]),))

    def rounded(self, shards: int) -> "Shapes":
        """With numbers of rows that divide over `shards`."""
        return dataclasses.replace(self, rows=tuple(sorted({-(-size // shards) * shards for size in self.rows})))

    @property
    def most(self) -> int:
        """Upper bound of compilations."""
        return len(self.rows) * (1 + len(self.chunks))


@dataclasses.dataclass(eq=False)
class Request:
    """A turn in the making: `pending` tokens follow the `position` tokens that the cache holds of the row."""

    row: int
    position: int
    pending: list[int]
    budget: int
    temperature: float
    seed: int
    future: "asyncio.Future[None]"
    stopped: bool = False
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    versions: list[int] = dataclasses.field(default_factory=list)

    @property
    def to_prefill(self) -> int:
        """All pending tokens but the last, with which decoding starts."""
        return len(self.pending) - 1

    def sampled(self) -> Sampled:
        return Sampled(
            np.asarray(self.tokens, np.int32),
            np.asarray(self.logprobs, np.float32),
            np.asarray(self.versions, np.int32),
            self.stopped,
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """One call: `requests` in a batch of `size` rows; a prefill of `chunk` tokens a row, or decoding where it is 0."""

    requests: tuple[Request, ...]
    size: int
    chunk: int
    padding_row: int
    # Decoding ends early once no more rows than this are left.
    min_active: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.size, self.chunk

    @property
    def known_tokens(self) -> int:
        return sum(min(self.chunk, request.to_prefill) for request in self.requests)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Arguments of `step.prefill` or `step.decode` after the cache."""

        def column(values, dtype=np.int32, padding=0):
            return np.asarray([*values, *[padding] * (self.size - len(self.requests))], dtype)

        rows_A = column((r.row for r in self.requests), padding=self.padding_row)
        if self.chunk:
            tokens_AC = np.zeros((self.size, self.chunk), np.int32)
            positions_AC = np.full((self.size, self.chunk), -1, np.int32)
            for i, request in enumerate(self.requests):
                count = min(self.chunk, request.to_prefill)
                tokens_AC[i, :count] = request.pending[:count]
                positions_AC[i, :count] = request.position + np.arange(count)
            return rows_A, tokens_AC, positions_AC
        return (
            rows_A,
            column(r.pending[0] for r in self.requests),
            column((r.position for r in self.requests), padding=-1),
            column(r.budget - len(r.tokens) for r in self.requests),
            column((r.seed & 0x7FFFFFFF for r in self.requests), np.int32),
            column((r.temperature for r in self.requests), np.float32, padding=1.0),
            np.int32(self.min_active),
        )

    def apply(self, out: Decoded | None, version: int) -> None:
        """Moves the requests on by what the call did; those that ended get their future set."""
        for i, request in enumerate(self.requests):
            if out is None:
                count = min(self.chunk, request.to_prefill)
                request.pending = request.pending[count:]
                request.position += count
            else:
                self._apply_decoded(i, request, out, version)

    @staticmethod
    def _apply_decoded(i: int, request: Request, out: Decoded, version: int) -> None:
        count = int(out.counts_A[i])
        request.tokens += out.tokens_AK[i, :count].tolist()
        request.logprobs += out.logprobs_AK[i, :count].tolist()
        request.versions += [version] * count
        request.position += count
        request.pending = request.tokens[-1:] or request.pending
        request.stopped = bool(out.stopped_A[i])
        if request.future.done():
            return
        if out.failed_A[i]:
            where = f"position {request.position + 1}, policy version {version}"
            request.future.set_exception(SamplingError(f"the policy's logits are not finite at {where}"))
        elif request.stopped or len(request.tokens) >= request.budget:
            request.future.set_result(None)


def next_plan(requests: list[Request], shapes: Shapes, *, padding_row: int) -> Plan:
    """Decodes when the rows that can fill a call, or nothing is left to prefill; older requests first.

    Rows whose remaining chunks differ in size are prefilled apart, the size with the most tokens first.
    """
    most_rows = shapes.rows[-1]
    decoding = [request for request in requests if not request.to_prefill]
    prefilling = [request for request in requests if request.to_prefill]
    if prefilling and len(decoding) < most_rows:
        by_chunk: dict[int, list[Request]] = {}
        for request in prefilling:
            chunk = next((c for c in shapes.chunks if c >= request.to_prefill), shapes.chunks[-1])
            by_chunk.setdefault(chunk, []).append(request)
        chunk, chosen = max(by_chunk.items(), key=lambda item: item[0] * min(len(item[1]), most_rows))
        chosen, min_active = chosen[:most_rows], 0
    else:
        chunk, chosen = 0, decoding[:most_rows]
        min_active = len(chosen) // 2 if len(requests) > len(chosen) else 0
    size = next(size for size in shapes.rows if size >= len(chosen))
    return Plan(tuple(chosen), size, chunk, padding_row, min_active)
