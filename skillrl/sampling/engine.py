"""Samples the turns of many episodes at once.

    stream = await engine.open(seed=7, temperature=1.0)
    turn = await engine.generate(stream, prompt_ids, budget=100)
    turn = await engine.generate(stream, tool_result_ids, budget=100)
    engine.release(stream)

A stream keeps its pages of the cache while its tool runs, and only new tokens are computed when it comes back;
streams that begin with the same prompt compute it once. A loop in the background, alive while there is work, makes one
call after the other in a worker thread: the event loop never waits for the device.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from skillrl import sharding
from skillrl.models.cache import PagedCache
from skillrl.models.config import ModelConfig
from skillrl.models.policy import Params
from skillrl.sampling import step
from skillrl.sampling.batches import batch_of
from skillrl.sampling.scheduler import Plan, Scheduler, Shapes, num_pages
from skillrl.sampling.streams import Stream, prompt_key
from skillrl.sampling.turns import Sampled, SamplingError

# What happens to turns in the making, and to what the cache holds, when new weights come.
UPDATES = ("keep", "recompute", "drain")


@dataclasses.dataclass
class Counters:
    """Since the engine was made."""

    # Sampled tokens.
    tokens: int = 0
    calls: int = 0
    decode_steps: int = 0
    # The most pages in use in one call, by streams and by prompts kept for their group.
    pages_most: int = 0
    # Seconds in calls; seconds between calls in which some stream had work; seconds in which streams were open, but all
    # of them waited for something else.
    busy_s: float = 0.0
    host_s: float = 0.0
    idle_s: float = 0.0


class Engine:
    """Continuous batching over a paged cache. All methods belong to the event loop's thread.

    At most `streams` episodes are open at the same time, each of up to `max_tokens` tokens; the cache holds
    `cache_tokens` (0: enough for all of them) in `cache_dtype`, one of CACHE_DTYPES. `params` must not be donated
    elsewhere while turns are sampled, until `update` has replaced them. On a mesh each part of the batch axes is a
    replica with pages and streams of its own, those of a group together; `place` makes of the learner's parameters
    those that calls use there.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        params: Params,
        *,
        stop_ids: Sequence[int],
        streams: int,
        max_tokens: int,
        cache_tokens: int = 0,
        cache_dtype: str = "",
        mesh: Mesh | None = None,
        version: int = 0,
        shapes: Shapes | None = None,
        place: Callable[[Params], Params] = lambda params: params,
    ):
        self.replicas = 1 if mesh is None else sharding.batch_shards(mesh)
        self.shapes = shapes or Shapes.default(-(-streams // self.replicas), cfg.active_params)
        self.max_tokens, self.version = max_tokens, version
        self._num_pages = num_pages(self.shapes, self.replicas, streams, max_tokens, cache_tokens)
        self._schedulers = [Scheduler(self.shapes, self._num_pages) for _ in range(self.replicas)]
        self._cfg, self._mesh, self._stop_ids = cfg, mesh, tuple(stop_ids)
        self._place, self._params, self._expected = place, place(params), jax.eval_shape(lambda: params)
        self._counters = Counters()
        # Pages in use, summed over calls.
        self._pages_by_call = 0
        # Shapes of the calls made so far: each one is a compilation.
        self.compiled: set[tuple[int, int]] = set()
        self._cache: PagedCache | None = None
        self._cache_dtype = cache_dtype
        self._open = 0
        self._most_open = streams
        self._waiters: collections.deque[asyncio.Future[None]] = collections.deque()
        # Chosen with the first turn, when the prompt is known.
        self._home: dict[Stream, Scheduler | None] = {}
        self._turns: dict[Stream, asyncio.Future[None]] = {}
        self._gate: asyncio.Event | None = None
        self._driver: asyncio.Task | None = None
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="sampler")
        self._last_end = 0.0

    async def __aenter__(self) -> "Engine":
        return self

    async def __aexit__(self, *exc) -> None:
        """Ends the background loop and its thread; turns still in the making fail."""
        for turn in self._turns.values():
            if not turn.done():
                turn.set_exception(SamplingError("the sampler was closed"))
        if self._driver is not None:
            await asyncio.wait({self._driver})
        self._executor.shutdown()

    async def update(self, params: Params, version: int, mode: str = "keep") -> None:
        """New weights between two calls. When it returns, no call uses the former ones.

        "keep": streams go on under the new weights with what the cache holds. "recompute": the cache is computed again
        under the new weights, so that what is sampled from now on has the log-probabilities of the new policy alone.
        "drain": turns in the making end under the former weights first, new ones wait; the cache is kept.
        Raises ValueError for parameters of another structure, shape or dtype; the former ones then stay.
        """
        if mode not in UPDATES:
            raise ValueError(f"update mode {mode!r}; one of {', '.join(UPDATES)}")
        _check_like(params, self._expected)
        if mode == "drain":
            gate = self._gate = asyncio.Event()
            try:
                if self._turns:
                    await asyncio.wait(list(self._turns.values()))
            finally:
                self._gate = None
                gate.set()
        self._params, self.version = self._place(params), version
        for scheduler in self._schedulers:
            scheduler.new_weights(version, recompute=mode == "recompute")
        # The worker takes one call after the other: when this one's turn has come, the last old one is over.
        await asyncio.get_running_loop().run_in_executor(self._executor, lambda: None)

    def rest(self) -> None:
        """Leaves the devices' memory to the learner, until `update` brings new weights.

        Raises ValueError while a stream is open.
        """
        if self._home:
            raise ValueError(f"{len(self._home)} streams are open; release them before the sampler rests")
        for scheduler in self._schedulers:
            scheduler.lose_everything()
        self._params = self._cache = None

    def counters(self) -> dict[str, float]:
        """Totals since the engine was made, see Counters and scheduler.Totals; `pages_used` is a mean over calls."""
        totals = [dataclasses.asdict(scheduler.totals) for scheduler in self._schedulers]
        sums = {name: sum(t[name] for t in totals) for name in totals[0]}
        rows_used = self._counters.tokens / max(self._counters.decode_steps, 1)
        return dataclasses.asdict(self._counters) | sums | {
            "rows_used": rows_used,
            "pages_used": self._pages_by_call / max(self._counters.calls, 1),
            "pages": self._num_pages * self.replicas,
            "compilations": len(self.compiled),
        }  # fmt: skip

    async def open(self, *, seed: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Stream:
        """A stream, once fewer than the most are open; first come, first served."""
        if not 0 <= temperature < math.inf or top_k < 0 or not 0 < top_p <= 1:
            raise ValueError(f"temperature {temperature}, top_k {top_k}, top_p {top_p}: nothing to sample")
        if self._open < self._most_open and not self._waiters:
            self._open += 1
        else:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._hand_on()
                raise
        stream = Stream(seed & 0x7FFFFFFF, temperature, min(top_k, self._cfg.vocab), top_p)
        self._home[stream] = None
        return stream

    def release(self, stream: Stream) -> None:
        """Ends the stream; its pages go to others, and a turn in the making fails."""
        if stream not in self._home:
            raise ValueError("the stream is not open; release it once")
        if stream in self._turns:
            self._end_turn(stream, SamplingError("the stream was released"))
        if home := self._home.pop(stream):
            home.close(stream)
        if not self._home:
            self._last_end = 0.0  # nobody waits: what follows is not idling
        self._hand_on()

    def _hand_on(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._open -= 1

    async def generate(self, stream: Stream, new_tokens: Sequence[int], *, budget: int) -> Sampled:
        """Appends `new_tokens` to the stream and samples until a stop token or `budget` tokens.

        The token at position p of the stream depends on its seed, p and what stands before, never on other streams: on
        a CPU bit by bit. (What was lost to others and computed again may differ in the last bits.)
        Raises SamplingError for a stream that is too long and for logits that are not finite. After an error or a
        cancellation the stream is what it was before this turn.
        """
        if stream not in self._home or stream in self._turns:
            raise ValueError(f"the stream is {'busy' if stream in self._turns else 'not open'}; open one an episode")
        while self._gate is not None:
            await self._gate.wait()
        if self._params is None:
            raise SamplingError("the sampler rests; give it weights with update")
        new_tokens = list(map(int, new_tokens))
        self._check(stream, new_tokens, budget)
        turn = self._turns[stream] = asyncio.get_running_loop().create_future()
        scheduler = self._home[stream] = self._home[stream] or self._home_of(prompt_key(new_tokens))
        if self._last_end and len(self._turns) == 1:
            self._counters.idle_s += time.monotonic() - self._last_end
            self._last_end = time.monotonic()
        scheduler.submit(stream, new_tokens, budget)
        if self._driver is None or self._driver.done() or self._driver.get_loop() is not asyncio.get_running_loop():
            self._driver = asyncio.create_task(self._drive())
        try:
            await turn
            sampled = stream.sampled()
            scheduler.park(stream)
            return sampled
        finally:
            del self._turns[stream]
            if stream.request is not None:
                scheduler.cancel(stream)

    def _home_of(self, prompt: bytes) -> Scheduler:
        """The replica that has the prompt or computes it, while it has less than its share; else the emptiest."""
        held = collections.Counter(id(scheduler) for scheduler in self._home.values())
        share = -(-self._most_open // self.replicas)
        knowing = [s for s in self._schedulers if s.knows(prompt) and held[id(s)] < share]
        return min(knowing or self._schedulers, key=lambda scheduler: held[id(scheduler)])

    def _check(self, stream: Stream, new_tokens: list[int], budget: int) -> None:
        if not new_tokens or budget < 1:
            raise ValueError(f"{len(new_tokens)} tokens, budget {budget}: nothing to sample")
        if not all(0 <= token < self._cfg.vocab for token in new_tokens):
            raise SamplingError(f"a token is outside the policy's vocabulary of {self._cfg.vocab}")
        total = len(stream.tokens) + len(new_tokens) + budget
        if total > self.max_tokens:
            raise SamplingError(f"a stream of up to {total} tokens where {self.max_tokens} fit; raise max_tokens")

    async def _drive(self) -> None:
        loop = asyncio.get_running_loop()
        while any(scheduler.running for scheduler in self._schedulers):
            plans, version = [], self.version
            try:
                plans = [s.plan() if s.running else Plan(()) for s in self._schedulers]
                width = -(-self.max_tokens // self.shapes.page_tokens)
                # Made here: weights that come and turns that are cancelled change the streams while the worker is busy.
                batch = batch_of(plans, self.shapes, width, self._num_pages, self._stop_ids)
                self._count_pages()
                out = await loop.run_in_executor(self._executor, self._run, batch, self._params)
                for replica, (scheduler, plan) in enumerate(zip(self._schedulers, plans, strict=True)):
                    part = jax.tree.map(lambda x, replica=replica: x[replica] if x.ndim else x, out)
                    for stream, reason in scheduler.apply(plan, part, version):
                        self._end_turn(stream, SamplingError(reason) if reason else None)
            except Exception as e:
                self._fail(plans, e)
            # Lets the turns that ended go on, so that what they submit at once is in the next call.
            await asyncio.sleep(0)

    def _count_pages(self) -> None:
        used = sum(scheduler.pages.total - scheduler.pages.free for scheduler in self._schedulers)
        self._pages_by_call += used
        self._counters.pages_most = max(self._counters.pages_most, used)

    def _end_turn(self, stream: Stream, error: SamplingError | None) -> None:
        turn = self._turns[stream]
        if not turn.done():
            turn.set_result(None) if error is None else turn.set_exception(error)

    def _run(self, batch: step.Batch, params: Params) -> step.Decoded:
        """One device call, in the worker thread."""
        start = time.monotonic()
        if self._last_end:
            self._counters.host_s += start - self._last_end
        with contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh):
            if self._cache is None:
                self._cache = step.empty_cache(
                    self._cfg, self._num_pages, self.shapes.page_tokens, self.replicas, self._cache_dtype
                )
            # Taken out first: a call that fails has consumed it.
            cache, self._cache = self._cache, None
            self._cache, out = step.step(self._cfg, self.shapes.decode_steps, params, cache, batch)
            out = jax.device_get(out)
        self.compiled.add((batch.last_SA.shape[1], batch.chunk_ST.shape[1]))
        self._last_end = time.monotonic()
        self._counters.busy_s += self._last_end - start
        self._counters.calls += 1
        self._counters.decode_steps += int(out.steps)
        self._counters.tokens += int(out.counts_A.sum())
        return out

    def _fail(self, plans: list[Plan], error: Exception) -> None:
        """A failed call has consumed the cache. Its own turns fail; all other streams compute theirs again.

        Without plans nobody knows whose fault it is, and all running turns fail.
        """
        self._cache = None
        for scheduler in self._schedulers:
            scheduler.lose_everything()
        planned = [slot.stream for plan in plans for slot in plan.slots if slot.stream.request is slot.request]
        for stream in planned if plans else [s for scheduler in self._schedulers for s in scheduler.running]:
            self._end_turn(stream, SamplingError(f"the sampler's call failed: {error}"))


def _check_like(params: Params, former: Params) -> None:
    def named(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="."): (x.shape, x.dtype) for path, x in leaves}

    new, old = named(params), named(former)
    for name in sorted(new.keys() | old.keys()):
        if new.get(name) != old.get(name):
            is_, was = (f"{x[0]} {x[1]}" if x else "absent" for x in (new.get(name), old.get(name)))
            raise ValueError(
                f"the new parameters do not fit the sampler's policy: {name} is {is_} and was {was}; give parameters "
                "of the same config"
            )
