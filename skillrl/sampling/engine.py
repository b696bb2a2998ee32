"""Samples the turns of many episodes at once.

    row = await engine.acquire()
    turn = await engine.generate(row, prompt_ids, budget=100, temperature=1.0, seed=7)
    turn = await engine.generate(row, tool_result_ids, budget=100, temperature=1.0, seed=7)
    engine.release(row)

An episode owns a row of the cache for its life, so its past is computed once. A loop in the background, alive while
there is work, takes the next call: a chunk of known tokens for rows that have some, or several decode steps for
rows that sample. The calls run in a worker thread: the event loop never waits for the device.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import time
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from skillrl import sharding
from skillrl.models.cache import KVCache
from skillrl.models.config import ModelConfig
from skillrl.models.policy import Params
from skillrl.sampling import step
from skillrl.sampling.plan import Plan, Request, Shapes, next_plan
from skillrl.sampling.turns import Sampled, SamplingError


@dataclasses.dataclass
class Counters:
    """Since the engine was made."""

    # Sampled tokens, and known tokens that went into the cache.
    tokens: int = 0
    prefill_tokens: int = 0
    prefill_calls: int = 0
    decode_calls: int = 0
    decode_steps: int = 0
    # Seconds in calls, and seconds in which episodes held rows but all of them waited for something else.
    busy_s: float = 0.0
    idle_s: float = 0.0


@dataclasses.dataclass
class _Row:
    """What the cache holds of an episode."""

    length: int = 0
    # The last sampled token: known, but not yet in the cache.
    carry: tuple[int, ...] = ()
    # False after a turn that did not finish: what the cache holds is then unknown.
    sound: bool = True


class Engine:
    """Continuous batching over a cache of `rows` x `max_tokens`. All methods belong to the event loop's thread.

    `params` must not be donated elsewhere while turns are sampled, until `update` has replaced them.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        params: Params,
        *,
        stop_ids: tuple[int, ...],
        rows: int,
        max_tokens: int,
        mesh: Mesh | None = None,
        version: int = 0,
        shapes: Shapes | None = None,
    ):
        shards = 1 if mesh is None else sharding.batch_shards(mesh)
        self.rows, self.max_tokens, self.version = -(-rows // shards) * shards, max_tokens, version
        self.shapes = (shapes or Shapes.default(self.rows)).rounded(shards)
        self._counters = Counters()
        # Shapes of the calls made so far: each one is a compilation.
        self.compiled: set[tuple[int, ...]] = set()
        self._cfg, self._params, self._mesh, self._stop_ids = cfg, params, mesh, stop_ids
        self._cache: KVCache | None = None
        self._free = collections.deque(range(self.rows))
        self._held: dict[int, _Row] = {}
        self._waiters: collections.deque[asyncio.Future[int]] = collections.deque()
        self._requests: list[Request] = []
        self._driver: asyncio.Task | None = None
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="sampler")
        self._last_end = 0.0

    async def __aenter__(self) -> "Engine":
        return self

    async def __aexit__(self, *exc) -> None:
        """Ends the background loop and its thread; turns still in the making fail."""
        for request in self._requests:
            if not request.future.done():
                request.future.set_exception(SamplingError("the sampler was closed"))
        if self._driver is not None:
            await asyncio.wait({self._driver})
        self._executor.shutdown()

    async def update(self, params: Params, version: int) -> None:
        """New weights; episodes in flight go on under them. When it returns, no call uses the former weights."""
        self._params, self.version = params, version
        # The worker takes one call after the other: when this one's turn has come, the last old one is over.
        await asyncio.get_running_loop().run_in_executor(self._executor, lambda: None)

    def counters(self) -> dict[str, float]:
        """Totals since the engine was made, see Counters."""
        return dataclasses.asdict(self._counters) | {"compilations": len(self.compiled)}

    async def acquire(self) -> int:
        """A row, once one is free; first come, first served."""
        if self._free and not self._waiters:
            row = self._free.popleft()
        else:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                row = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._hand_on(waiter.result())
                raise
        self._held[row] = _Row()
        return row

    def release(self, row: int) -> None:
        """Gives the row back; what it held is forgotten."""
        if self._held.pop(row, None) is None:
            raise ValueError(f"row {row} is not held; release it once")
        if not self._held:
            self._last_end = 0.0  # nobody waits: what follows is not idling
        self._hand_on(row)

    def _hand_on(self, row: int) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(row)
                return
        self._free.append(row)

    async def generate(
        self, row: int, new_tokens: Sequence[int], *, budget: int, temperature: float, seed: int
    ) -> Sampled:
        """Appends `new_tokens` to the row's stream and samples until the stop token or `budget` tokens.

        The token at position p of the stream depends on the seed, p and what stands before, never on other rows; for
        the tiny variant bit by bit. (How much of the cache a call reads follows its longest row, and for some shapes
        of heads XLA sums another length in another order: log-probabilities then differ by about 1e-6.)
        Raises SamplingError for a stream that is too long for a row, for logits that are not finite, and for a row
        whose last turn did not finish. Cancelling frees the work.
        """
        state = self._held.get(row)
        if state is None or any(request.row == row for request in self._requests):
            raise ValueError(f"row {row} is {'not held' if state is None else 'busy'}; acquire one for each episode")
        request = self._request(row, state, [*state.carry, *map(int, new_tokens)], budget, temperature, seed)
        state.sound = False
        self._requests.append(request)
        if self._driver is None or self._driver.done() or self._driver.get_loop() is not asyncio.get_running_loop():
            self._driver = asyncio.create_task(self._drive())
        try:
            await request.future
        finally:
            if request in self._requests:
                self._requests.remove(request)
        state.length, state.carry, state.sound = request.position, tuple(request.pending), True
        return request.sampled()

    def _request(self, row, state, pending, budget, temperature, seed) -> Request:
        if not state.sound:
            raise SamplingError(f"row {row}: its last turn did not finish; start the episode again on a new row")
        if not pending or budget < 1 or temperature < 0:
            raise ValueError(f"{len(pending)} tokens, budget {budget}, temperature {temperature}: nothing to sample")
        if not all(0 <= token < self._cfg.vocab for token in pending):
            raise SamplingError(f"a token is outside the policy's vocabulary of {self._cfg.vocab}")
        total = state.length + len(pending) + budget
        if total > self.max_tokens:
            raise SamplingError(f"a stream of up to {total} tokens in a row of {self.max_tokens}; raise max_tokens")
        return Request(
            row=row,
            position=state.length,
            pending=pending,
            budget=budget,
            temperature=temperature,
            seed=seed,
            future=asyncio.get_running_loop().create_future(),
        )

    async def _drive(self) -> None:
        loop = asyncio.get_running_loop()
        while self._requests:
            try:
                plan, version = next_plan(self._requests, self.shapes, padding_row=self.rows), self.version
                result = await loop.run_in_executor(self._executor, self._run, plan, self._params)
                plan.apply(result, version)
            except Exception as e:
                self._fail_all(e)
            self._requests = [request for request in self._requests if not request.future.done()]

    def _run(self, plan: Plan, params: Params) -> step.Decoded | None:
        """One device call, in the worker thread."""
        start = time.monotonic()
        if self._last_end and self._held:
            self._counters.idle_s += start - self._last_end
        with contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh):
            if self._cache is None:
                self._cache = step.empty_cache(self._cfg, self.rows, self.max_tokens)
            # Taken out first: a call that fails has consumed it.
            cache, self._cache = self._cache, None
            if plan.chunk:
                self._cache, out = step.prefill(self._cfg, params, cache, *plan.arrays()), None
                jax.block_until_ready(self._cache)
            else:
                self._cache, out = step.decode(
                    self._cfg, self.shapes.decode_steps, self._stop_ids, params, cache, *plan.arrays()
                )
                out = jax.device_get(out)
        self.compiled.add(plan.shape)
        self._last_end = time.monotonic()
        self._count(plan, out, self._last_end - start)
        return out

    def _count(self, plan: Plan, out: step.Decoded | None, seconds: float) -> None:
        counters = self._counters
        counters.busy_s += seconds
        if out is None:
            counters.prefill_calls += 1
            counters.prefill_tokens += plan.known_tokens
        else:
            counters.decode_calls += 1
            counters.decode_steps += int(out.steps)
            counters.tokens += int(out.counts_A.sum())

    def _fail_all(self, error: Exception) -> None:
        """A failed call has consumed the cache: every row in use is lost with it."""
        for state in self._held.values():
            state.sound = False
        for request in self._requests:
            if not request.future.done():
                request.future.set_exception(SamplingError(f"the sampler's call failed: {error}"))
