"""Latencies by turns, so that all contenders meet the same load, and rates with many at the same time."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from sandbox_service.bench.contenders import Contender

EXECS_PER_EPISODE = 10


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed; nan without any."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


@dataclass
class Latencies:
    """Seconds of each part, one entry a cycle."""

    open_s: list[float] = field(default_factory=list)
    exec_s: list[float] = field(default_factory=list)
    close_s: list[float] = field(default_factory=list)

    @property
    def cycle_s(self) -> list[float]:
        return [sum(parts) for parts in zip(self.open_s, self.exec_s, self.close_s, strict=True)]


async def latencies(contenders: Sequence[Contender], turns: int) -> dict[str, Latencies]:
    """One cycle of each contender in every turn."""
    measured = {contender.name: Latencies() for contender in contenders}
    for turn in range(-1, turns):  # one to warm up
        for contender in contenders:
            moments = [time.perf_counter()]
            place = await contender.open()
            moments.append(time.perf_counter())
            await contender.exec(place)
            moments.append(time.perf_counter())
            await contender.close(place)
            moments.append(time.perf_counter())
            if turn >= 0:
                kept = measured[contender.name]
                for values, start, end in zip(
                    (kept.open_s, kept.exec_s, kept.close_s), moments, moments[1:], strict=False
                ):
                    values.append(end - start)
    return measured


async def exec_latencies(contenders: Sequence[Contender], turns: int) -> dict[str, list[float]]:
    """Seconds of one command in a place that is open already, by turns."""
    places = [(contender, await contender.open()) for contender in contenders]
    measured: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    try:
        for turn in range(-1, turns):
            for contender, place in places:
                started = time.perf_counter()
                await contender.exec(place)
                if turn >= 0:
                    measured[contender.name].append(time.perf_counter() - started)
    finally:
        for contender, place in places:
            await contender.close(place)
    return measured


async def rate(contender: Contender, execs: int, workers: int, seconds: float) -> float:
    """Episodes per second of `workers` at the same time; an episode opens a place, runs `execs` commands, closes it."""
    done, started = 0, time.perf_counter()
    end = started + seconds

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < end:
            place = await contender.open()
            for _ in range(execs):
                await contender.exec(place)
            await contender.close(place)
            done += 1

    await asyncio.gather(*(work() for _ in range(workers)))
    return done / (time.perf_counter() - started)
