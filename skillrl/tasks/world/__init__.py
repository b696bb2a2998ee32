"""The world: small but real Python packages with a passing suite and one planted, proven bug each.

`generate` is a pure function of its arguments, so training data can be streamed; `python -m skillrl.tasks.world` writes
task sets. Level 0 is one-line functions, level 3 repositories of hundreds of lines.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sandbox_service.tasks import TaskSetWriter
from skillrl.tasks.world import level0, level1, level2
from skillrl.tasks.world.instance import Call, Edit, GeneratedInstance, Solution, Unproven, prove
from skillrl.tasks.world.words import SPLITS, WORDS

__all__ = ["LEVELS", "SPLITS", "WORDS", "Call", "Edit", "GeneratedInstance", "Solution", "generate", "write_set"]

_DRAFTS = {0: level0.draft, 1: level1.draft, 2: level2.draft, 3: level2.draft_large}
LEVELS = tuple(_DRAFTS)
_ATTEMPTS = 200


def generate(seed: int, index: int, level: int, split: str) -> GeneratedInstance:
    """Instance `index` of the endless, seeded sequence of a level and split; the same arguments give the same bytes."""
    if level not in _DRAFTS:
        raise ValueError(f"unknown level {level!r}; one of {LEVELS}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; one of {SPLITS}")
    key = f"{seed}|{index}|{level}|{split}"
    instance_id = "world-" + hashlib.sha256(key.encode()).hexdigest()[:16]
    for attempt in range(_ATTEMPTS):
        try:
            drawn = _DRAFTS[level](random.Random(f"{key}|{attempt}"), split)
            return prove(drawn, instance_id, split=split, level=level)
        except Unproven as e:
            reason = e
    raise AssertionError(f"no provable draft of {key} in {_ATTEMPTS} attempts; the last: {reason}")


def write_set(
    path: Path,
    *,
    seed: int,
    levels: Sequence[int],
    counts: Mapping[str, int],
    on_instance: Callable[[], None] = lambda: None,
) -> str:
    """Writes a task set of counts[split] instances per split, the levels taking turns; returns its digest."""
    writer = TaskSetWriter(f"world-{seed}")
    kinds: Counter[str] = Counter()
    for split, count in counts.items():
        for index in range(count):
            generated = generate(seed, index, levels[index % len(levels)], split)
            generated.add_to(writer)
            kinds[f"{split}/level{generated.level}/{generated.family}"] += 1
            on_instance()
    return writer.write(path, instances=dict(sorted(kinds.items())), seed=seed)
