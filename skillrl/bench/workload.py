"""The sampler benchmark's work: episodes in groups that share a prompt, and take turns with a tool.

Imports neither jax nor torch: the peers of other environments read the same work from a file.
"""

import dataclasses
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Of the tools' latencies: one in sixty takes longer than 5 s.
_MEDIAN_S, _SIGMA = 0.3, 1.32


@dataclasses.dataclass(frozen=True)
class Turn:
    known: tuple[int, ...]
    answer: int
    latency_s: float


Episodes = list[list[Turn]]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a workload; ranges are of numbers that are drawn, the upper end excluded but for `turns`."""

    vocab: int
    groups: int
    group_size: int
    turns: tuple[int, int]
    prompt: tuple[int, int]
    reply: tuple[int, int]
    answer: tuple[int, int]


def workload(sizes: Sizes, seed: int = 0) -> Episodes:
    """The turns of each episode; the first one's known tokens are the group's prompt."""
    return [turns for group in range(sizes.groups) for turns in _group(sizes, random.Random(seed * 1000 + group))]


def _group(sizes: Sizes, rng: random.Random) -> Episodes:
    def tokens(low_high):
        # Not 0: a peer takes it for padding.
        return tuple(rng.randrange(1, sizes.vocab) for _ in range(rng.randrange(*low_high)))

    def turn(known, last):
        latency_s = 0.0 if last else rng.lognormvariate(math.log(_MEDIAN_S), _SIGMA)
        return Turn(known, rng.randrange(*sizes.answer), latency_s)

    prompt, episodes = tokens(sizes.prompt), []
    for _ in range(sizes.group_size):
        count = rng.randint(*sizes.turns)
        episodes.append([turn(tokens(sizes.reply) if i else prompt, i == count - 1) for i in range(count)])
    return episodes


def hurried(episodes: Episodes) -> Episodes:
    """The same without waiting for tools."""
    return [[dataclasses.replace(turn, latency_s=0.0) for turn in turns] for turns in episodes]


def longest(episodes: Episodes) -> int:
    """Tokens of the longest episode."""
    return max(sum(len(turn.known) + turn.answer for turn in turns) for turns in episodes)


def play_lockstep(generate: Callable[[list[int], list[list[int]], list[int]], Sequence], episodes: Episodes) -> None:
    """All episodes turn by turn: one batch of all that go on, then a wait for the slowest tool.

    `generate(numbers, histories, answers)` gives the tokens sampled after each episode's history, at least as many as
    its answer has.
    """
    histories: list[list[int]] = [[] for _ in episodes]
    for at in range(max(map(len, episodes))):
        active = [number for number, turns in enumerate(episodes) if at < len(turns)]
        for number in active:
            histories[number] += episodes[number][at].known
        answers = [episodes[number][at].answer for number in active]
        sampled = generate(active, [histories[number] for number in active], answers)
        for number, tokens, answer in zip(active, sampled, answers, strict=True):
            histories[number] += [int(token) for token in tokens[:answer]]
        time.sleep(max(episodes[number][at].latency_s for number in active))


def write(path: Path, episodes: Episodes) -> None:
    path.write_text(json.dumps([[dataclasses.astuple(turn) for turn in turns] for turns in episodes]))


def read(path: Path) -> Episodes:
    return [[Turn(tuple(known), *rest) for known, *rest in turns] for turns in json.loads(path.read_text())]


def serve(play: Callable[[], None], lines: Sequence[str], answer: Callable[[str], None]) -> None:
    """A peer's process: says that it is ready, then plays once for each line and answers with the seconds it took."""
    answer("ready")
    for _ in lines:
        started, cpu = time.perf_counter(), time.process_time()
        play()
        answer(json.dumps({"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}))
