"""Which streams the sampler's next call works on, and who holds which pages: pure and deterministic, no device.

A stream with a turn in the making runs, every other one is parked. Running streams are served in the order in which
they asked, each to the end of its turn: nobody starves. A call takes known tokens of some rows (a chunk) and samples
for those that have none left. When pages run short, they are taken in this order: prompts that nobody has open any
more, parked streams (the longest-waiting first), running streams (the latest first), and at last prompts in use, whose
record may hold a page of its own. What a stream loses is computed again from its tokens when it goes on: lost is time,
nothing else.
"""

import collections
import dataclasses
from collections.abc import Iterable

import jax

from skillrl.sampling.pages import Pages
from skillrl.sampling.step import Decoded
from skillrl.sampling.streams import Request, Stream


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The fixed sizes of calls, each ascending. They bound compilation to one program for each of rows x chunks."""

    # Streams of one call.
    rows: tuple[int, ...]
    # Known tokens of one call, all its rows together.
    chunks: tuple[int, ...] = (256,)
    # Most decode steps of one call.
    decode_steps: int = 16
    # Positions of one page.
    page_tokens: int = 16

    @classmethod
    def default(cls, rows: int, num_params: int, platform: str | None = None) -> "Shapes":
        """For `rows` open streams on the platform, this one's unless given.

        One size of rows and chunks on a CPU: the same token then goes through the same matrix shapes whoever else is
        in the call, which makes sampling repeatable bit by bit. A policy that fits into the CPU's caches is fastest in
        batches whose keys and values do so too (measured); a larger one needs rows to share the reading of its weights.
        Its steps take tens of milliseconds, the host a few: its calls are short, so that turns that come need not wait.
        """
        if (platform or jax.default_backend()) == "cpu":
            most, steps = (8, 16) if num_params < 5_000_000 else (32, 4)
            return cls((min(rows, most),), (128,), decode_steps=steps, page_tokens=32)
        sizes = (16, 64, 256)
        return cls(tuple(size for size in sizes if size < rows) + (min(rows, sizes[-1]),), (256, 2048), page_tokens=128)

    @property
    def most(self) -> int:
        """Upper bound of compilations."""
        return len(self.rows) * len(self.chunks)

    @property
    def largest(self) -> "Shapes":
        """The largest rows and chunk alone."""
        return dataclasses.replace(self, rows=self.rows[-1:], chunks=self.chunks[-1:])


def num_pages(shapes: Shapes, replicas: int, streams: int, max_tokens: int, cache_tokens: int = 0) -> int:
    """Pages of each replica's cache of `cache_tokens` in all, 0 for as many as `streams` of `max_tokens` can need.

    Raises ValueError where not even one stream fits.
    """
    size = shapes.page_tokens
    # One page more than a stream has: to write into a page that it shares, it needs a copy.
    least = -(-max_tokens // size) + 1
    pages = -(-cache_tokens // (size * replicas)) if cache_tokens else -(-streams // replicas) * least
    if pages < least:
        raise ValueError(
            f"a cache of {cache_tokens} tokens in {replicas} replicas does not hold one stream of {max_tokens}; "
            f"raise cache_tokens to at least {least * size * replicas}"
        )
    return pages


@dataclasses.dataclass(frozen=True)
class Slot:
    """A stream in a call: `chunk` of its known tokens enter the cache, then it samples up to `steps` tokens."""

    stream: Stream
    request: Request
    losses: int
    start: int
    chunk: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """One call: its slots (those with a chunk first), and the pages to copy before."""

    slots: tuple[Slot, ...]
    copies: tuple[tuple[int, int], ...] = ()
    # Sampling ends early once no more rows than this are left, because others wait.
    min_active: int = 0

    @property
    def chunk(self) -> int:
        return sum(slot.chunk for slot in self.slots)


@dataclasses.dataclass
class Totals:
    """Since the scheduler was made."""

    prefill_tokens: int = 0
    # Of prompts that another stream of the group had computed.
    reused_tokens: int = 0
    # Of `prefill_tokens`, those that had been in the cache before and were lost.
    recomputed_tokens: int = 0
    # Streams that lost their pages, while parked and while running.
    evictions: int = 0
    retractions: int = 0


class Scheduler:
    """The streams of one cache of `num_pages` pages."""

    def __init__(self, shapes: Shapes, num_pages: int):
        self.shapes, self.pages = shapes, Pages(num_pages)
        self.totals, self.version = Totals(), 0
        # Both in order of arrival.
        self.running: list[Stream] = []
        self._parked: dict[Stream, None] = {}
        # Pages of computed prompts, the longest unused first: prompt -> pages.
        self._prompts: collections.OrderedDict[bytes, list[int]] = collections.OrderedDict()

    def knows(self, prompt: bytes) -> bool:
        """Whether a stream that begins with this prompt need not compute it, or not alone."""
        return prompt in self._prompts or any(stream.prompt == prompt for stream in self.running)

    def submit(self, stream: Stream, new_tokens: Iterable[int], budget: int) -> None:
        self._parked.pop(stream, None)
        stream.begin(list(new_tokens), budget)
        self.running.append(stream)

    def park(self, stream: Stream) -> None:
        """The stream's turn is over; its pages stay while there is room."""
        self.running.remove(stream)
        stream.request = None
        self._parked[stream] = None
        self._trim(stream)

    def cancel(self, stream: Stream) -> None:
        """The stream goes back to where it was before its turn."""
        before = stream.request.before
        self.park(stream)
        del stream.tokens[before:]
        stream.cached = min(stream.cached, max(before - 1, 0))
        self._trim(stream)

    def close(self, stream: Stream) -> None:
        if stream.request is not None:
            self.park(stream)
        self._parked.pop(stream, None)
        self._lose(stream)
        stream.closed = True

    def new_weights(self, version: int, *, recompute: bool) -> None:
        """Prompts computed under other weights are not handed on; with `recompute`, nothing computed is used again."""
        self.version = version
        self._forget_prompts()
        if recompute:
            self.lose_everything()

    def lose_everything(self) -> None:
        """The cache's content is gone: every stream computes its tokens again when it goes on."""
        self._forget_prompts()
        for stream in (*self.running, *self._parked):
            self._lose(stream)

    def plan(self) -> Plan:
        """The next call; the earliest stream is always in it."""
        most_rows, room = self.shapes.rows[-1], self.shapes.chunks[-1]
        slots, copies, filling = [], [], set()
        for stream in list(self.running):
            if len(slots) == most_rows:
                break
            self._adopt_prompt(stream)
            if stream.cached < stream.shareable:
                # One stream of a group computes the prompt, the others wait for it.
                if stream.prompt in filling:
                    continue
                filling.add(stream.prompt)
            chunk = min(stream.to_prefill, room)
            steps = min(self.shapes.decode_steps, stream.request.left) if chunk == stream.to_prefill else 0
            if not (chunk or steps):
                continue
            if not self._make_room(stream, stream.cached + chunk + steps, [slot.stream for slot in slots], copies):
                break
            if not stream.cached:
                stream.cache_version = self.version
            slots.append(Slot(stream, stream.request, stream.losses, stream.cached, chunk, steps))
            room -= chunk
        slots.sort(key=lambda slot: not slot.chunk)
        waiting = len(self.running) > sum(slot.steps > 0 for slot in slots)
        return Plan(tuple(slots), tuple(copies), sum(slot.steps > 0 for slot in slots) // 2 if waiting else 0)

    def apply(self, plan: Plan, out: Decoded, version: int) -> list[tuple[Stream, str]]:
        """Moves the streams on by what the call did.

        Returns those whose turn is over, parked, with "" or the reason why the turn failed.
        """
        over = []
        for i, slot in enumerate(plan.slots):
            self._count(slot)
            if slot.stream.request is not slot.request:
                continue
            count = int(out.counts_A[i])
            self._advance(slot, out, i, count, version)
            request = slot.request
            if out.failed_A[i]:
                where = f"position {len(slot.stream.tokens)}, policy version {version}"
                self._lose(slot.stream)
                over.append((slot.stream, f"the policy's logits are not finite at {where}"))
            elif request.stopped or request.left <= 0:
                over.append((slot.stream, ""))
        return over

    def _advance(self, slot: Slot, out: Decoded, i: int, count: int, version: int) -> None:
        stream, request = slot.stream, slot.request
        stream.tokens.extend(out.tokens_AK[i, :count].tolist())
        request.logprobs.extend(out.logprobs_AK[i, :count].tolist())
        request.support_logprobs.extend(out.support_logprobs_AK[i, :count].tolist())
        request.versions.extend([version] * count)
        request.stopped = bool(out.stopped_A[i])
        if stream.losses == slot.losses:
            stream.cached = slot.start + slot.chunk + count
            stream.reached = max(stream.reached, stream.cached)
            self._keep_prompt(stream)

    def _count(self, slot: Slot) -> None:
        again = max(0, min(slot.stream.reached, slot.start + slot.chunk) - slot.start)
        self.totals.prefill_tokens += slot.chunk
        self.totals.recomputed_tokens += again

    def _adopt_prompt(self, stream: Stream) -> None:
        """Begins with the pages of a prompt that is computed already."""
        if stream.cached or stream.prompt not in self._prompts:
            return
        self._prompts.move_to_end(stream.prompt)
        self.pages.drop(stream.pages)
        stream.pages = self.pages.share(self._prompts[stream.prompt])
        stream.cached, stream.cache_version = stream.shareable, self.version
        self.totals.reused_tokens += stream.cached

    def _keep_prompt(self, stream: Stream) -> None:
        if stream.cached < stream.shareable or stream.shareable < 1 or stream.prompt in self._prompts:
            return
        if stream.cache_version == self.version:
            count = -(-stream.shareable // self.shapes.page_tokens)
            self._prompts[stream.prompt] = self.pages.share(stream.pages[:count])

    def _make_room(self, stream: Stream, end: int, chosen: list[Stream], copies: list) -> bool:
        """Pages for the positions up to `end`, the next to be written owned alone; False where there are none."""
        size = self.shapes.page_tokens
        written = stream.cached // size
        while True:
            # A page shared with others is written into from `cached` on.
            shared = written < len(stream.pages) and self.pages.holders(stream.pages[written]) > 1
            missing = -(-end // size) - len(stream.pages)
            if self.pages.free >= missing + shared:
                break
            if not self._reclaim(stream, chosen):
                return False
        if shared:
            copy = self.pages.own(stream.pages[written])
            copies.append((stream.pages[written], copy))
            stream.pages[written] = copy
        stream.pages += self.pages.take(max(missing, 0))
        return True

    def _reclaim(self, stream: Stream, chosen: list[Stream]) -> bool:
        """Takes the pages of one prompt or stream; False where nobody may lose any for `stream`."""
        unused = (p for p, pages in self._prompts.items() if all(self.pages.holders(page) == 1 for page in pages))
        if (prompt := next(unused, None)) is not None:
            self.pages.drop(self._prompts.pop(prompt))
            return True
        for other in self._parked:
            if other.pages:
                self._lose(other)
                self.totals.evictions += 1
                return True
        later = self.running[self.running.index(stream) + 1 :]
        for other in reversed(later):
            if other.pages and other not in chosen:
                self._lose(other)
                self.totals.retractions += 1
                return True
        if self._prompts:
            self.pages.drop(self._prompts.popitem(last=False)[1])
            return True
        return False

    def _forget_prompts(self) -> None:
        while self._prompts:
            self.pages.drop(self._prompts.popitem()[1])

    def _trim(self, stream: Stream) -> None:
        """Drops the pages behind the last one in use: taken for a call and not filled, or not valid any more."""
        used = -(-stream.cached // self.shapes.page_tokens)
        self.pages.drop(stream.pages[used:])
        del stream.pages[used:]

    def _lose(self, stream: Stream) -> None:
        self.pages.drop(stream.pages)
        stream.pages, stream.cached = [], 0
        stream.losses += 1
