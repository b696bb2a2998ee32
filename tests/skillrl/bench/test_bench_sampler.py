import asyncio

import numpy as np
import pytest

from skillrl.bench import sampler
from skillrl.bench.sampler import SCALES, Turn


def test_the_workload_is_that_of_groups():
    episodes = sampler.workload(SCALES["full"])
    assert len(episodes) == 64
    for start in range(0, 64, 8):
        assert len({turns[0].known for turns in episodes[start : start + 8]}) == 1
    assert {len(turns) for turns in episodes} == {3, 4, 5, 6, 7, 8}
    latencies = sorted(turn.latency_s for turns in episodes for turn in turns[:-1])
    assert 0.2 < latencies[len(latencies) // 2] < 0.45
    assert latencies[-1] > 5
    assert sampler.workload(SCALES["full"]) == episodes


class Recorder:
    """An engine that answers at once and remembers what it was asked."""

    def __init__(self):
        self.turns, self.open_streams = [], 0

    async def open(self, *, seed):
        self.open_streams += 1
        return seed

    async def generate(self, stream, tokens, *, budget):
        await asyncio.sleep(0)
        self.turns.append((stream, tuple(tokens), budget))
        return np.zeros(budget, int).view(Answer)

    def release(self, stream):
        self.open_streams -= 1


class Answer(np.ndarray):
    @property
    def tokens(self):
        return self


@pytest.mark.parametrize("playing", [sampler.play, sampler.play_lockstep])
def test_both_ways_sample_the_same(playing):
    engine = Recorder()
    episodes = [[Turn((1, 2), 3, 0.0), Turn((4,), 1, 0.0)], [Turn((1, 2), 2, 0.0)]]
    asyncio.run(playing(engine, episodes))
    again = (1, 2, 0, 0, 0) if playing is sampler.play_lockstep else ()
    assert sorted(engine.turns) == sorted([(0, (1, 2), 3), (1, (1, 2), 2), (0, (*again, 4), 1)])
    assert engine.open_streams == 0
