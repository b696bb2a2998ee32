import asyncio
import sys
import types

import numpy as np
import pytest

from skillrl.bench import sampler, workload
from skillrl.bench.sampler import SCALES, Scale
from skillrl.bench.workload import Sizes, Turn
from skillrl.models.config import ModelConfig

TINY = Scale(
    ModelConfig(vocab=48, embed=32, layers=2, q_heads=2, kv_heads=1, head_dim=16, mlp=48),
    Sizes(48, 1, 2, (1, 2), (4, 8), (2, 4), (2, 4)),
)


def test_the_workload_is_that_of_groups():
    episodes = workload.workload(SCALES["full"].sizes)
    assert len(episodes) == 64
    for start in range(0, 64, 8):
        assert len({turns[0].known for turns in episodes[start : start + 8]}) == 1
    assert {len(turns) for turns in episodes} == {3, 4, 5, 6, 7, 8}
    latencies = sorted(turn.latency_s for turns in episodes for turn in turns[:-1])
    assert 0.2 < latencies[len(latencies) // 2] < 0.45
    assert latencies[-1] > 5
    assert workload.workload(SCALES["full"].sizes) == episodes


def test_a_workload_survives_its_file(tmp_path):
    episodes = workload.workload(SCALES["small"].sizes)
    workload.write(tmp_path / "w.json", episodes)
    assert workload.read(tmp_path / "w.json") == episodes
    assert {turn.latency_s for turns in workload.hurried(episodes) for turn in turns} == {0.0}


class Recorder:
    """An engine that answers at once with zeros, and remembers what it was asked."""

    def __init__(self):
        self.turns, self.open_streams = [], 0

    async def open(self, *, seed):
        self.open_streams += 1
        return types.SimpleNamespace(seed=seed, tokens=[])

    async def generate(self, stream, tokens, *, budget):
        await asyncio.sleep(0)
        self.turns.append((stream.seed, tuple(tokens), budget))
        stream.tokens += [*tokens, *[0] * budget]
        return types.SimpleNamespace(tokens=np.zeros(budget, int))

    def release(self, stream):
        self.open_streams -= 1


def play(engine, episodes):
    asyncio.run(sampler.play(engine, episodes))


def play_kept(engine, episodes):
    sampler.play_lockstep(engine, episodes, keep=True)


@pytest.mark.parametrize("playing", [play, play_kept, sampler.play_lockstep])
def test_all_ways_sample_the_same(playing):
    """Lock step begins each turn with the first token; the others go on."""
    engine = Recorder()
    episodes = [[Turn((1, 2), 3, 0.0), Turn((4,), 1, 0.0)], [Turn((1, 2), 2, 0.0)]]
    playing(engine, episodes)
    again = (1, 2, 0, 0, 0) if playing is sampler.play_lockstep else ()
    assert sorted(engine.turns) == sorted([(0, (1, 2), 3), (1, (1, 2), 2), (0, (*again, 4), 1)])
    assert engine.open_streams == 0


def test_a_peer_that_ends_is_reported_and_the_others_go_on(capfd):
    """Its ratio is null, with the reason."""
    result = sampler.measure(TINY, 1, ["kept", "tunix"], tunix_python=sys.executable)
    assert (result["ratio_tunix"], result["cpu_ratio_tunix"]) == (None, None)
    assert "peer_tunix" in result["absent"]["tunix"]
    assert "No module named 'tunix'" in capfd.readouterr().err
    assert min(result["ratio_kept"], result["tokens_per_s"]) > 0
    assert "tunix: " in sampler.table(result)
