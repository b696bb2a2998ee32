"""Which task comes next: a resumable Grain stream per skill, and shares kept by admitted groups.

Within a skill the tasks are shuffled anew each epoch. Between skills the next group goes to the one that is
furthest below its requested share, so that shares follow the weights with a bounded error at every moment.
A group that the learner could not use (equal rewards, ungradable) is `drop`ped and drawn again from its skill.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping

import grain

from skillrl.types import COMPOSITE_KINDS, SKILLS, Task

_ORDER = SKILLS + COMPOSITE_KINDS


class Mixture:
    """An endless stream of tasks. Every drawn group is to be answered once, by `admit` or by `drop`.

    Args:
      tasks: of any skill; those of skills without weight are left out.
      weights: skill -> relative share (> 0) of the admitted groups.
      seed: of the order within each skill.
      max_refills: dropped groups of one skill in a row that are made up for. Past it, until one is admitted, a
        dropped group uses up the skill's share, so that a skill that never learns cannot take all the sandboxes.
    """

    def __init__(self, tasks: Iterable[Task], weights: Mapping[str, float], seed: int = 0, *, max_refills: int = 4):
        weights = _checked(weights)
        total = sum(weights.values())
        self.requested_shares = {skill: weights[skill] / total for skill in _ORDER if skill in weights}
        self._max_refills = max_refills
        units = _units(tasks, self.requested_shares)
        self._tasks = {t.task_id: t for skill_units in units.values() for unit in skill_units for t in unit}
        self._streams = {s: _stream(units[s], zlib.crc32(f"{seed}/{s}".encode())) for s in units}
        # The rest of the unit last drawn: review candidates of one instance follow each other.
        self._rest: dict[str, list[str]] = {s: [] for s in units}
        self._counts = {s: dict.fromkeys(("drawn", "admitted", "dropped", "forgiven", "in_a_row"), 0) for s in units}
        ids = {s: [[t.task_id for t in unit] for unit in u] for s, u in units.items()}
        self._identity = hashlib.sha256(
            json.dumps([ids, self.requested_shares, seed], sort_keys=True).encode()
        ).hexdigest()

    def next_task(self, skill: str | None = None) -> Task:
        """The next task, of `skill` or of the skill furthest below its share of admitted and pending groups."""
        skill = self._most_wanting() if skill is None else self._known(skill)
        if not self._rest[skill]:
            self._rest[skill] = [t.task_id for t in next(self._streams[skill])]
        self._counts[skill]["drawn"] += 1
        return self._tasks[self._rest[skill].pop(0)]

    def admit(self, skill: str) -> None:
        """A drawn group reached the learner."""
        counts = self._settle(skill)
        counts["admitted"] += 1
        counts["in_a_row"] = 0

    def drop(self, skill: str) -> None:
        """A drawn group was of no use; its skill is drawn again, within the cap."""
        counts = self._settle(skill)
        counts["dropped"] += 1
        counts["in_a_row"] += 1
        if counts["in_a_row"] > self._max_refills:
            counts["forgiven"] += 1

    @property
    def realised_shares(self) -> dict[str, float]:
        """Each skill's share of the admitted groups; 0 before the first one."""
        total = sum(c["admitted"] for c in self._counts.values())
        return {s: c["admitted"] / total if total else 0.0 for s, c in self._counts.items()}

    def metrics(self) -> dict[str, float]:
        """Requested and realised shares and group counts, named for the log."""
        realised = self.realised_shares
        return {
            name: value
            for s, c in self._counts.items()
            for name, value in (
                (f"mixture/{s}/requested_share", self.requested_shares[s]),
                (f"mixture/{s}/realised_share", realised[s]),
                (f"mixture/{s}/drawn", float(c["drawn"])),
                (f"mixture/{s}/admitted", float(c["admitted"])),
                (f"mixture/{s}/dropped", float(c["dropped"])),
            )
        }

    def state(self) -> dict:
        """The position, as JSON values. Groups still pending count as drawn."""
        return {
            "identity": self._identity,
            "skills": {
                s: {
                    "iterator": stream.get_state(),
                    "rest": list(self._rest[s]),
                    "counts": dict(self._counts[s]),
                }
                for s, stream in self._streams.items()
            },
        }

    def restore(self, state: dict) -> None:
        """Goes on exactly where `state` was taken. Raises ValueError when it belongs to other tasks or weights."""
        if state["identity"] != self._identity:
            raise ValueError(
                "the saved mixture position belongs to other tasks, weights or another seed; "
                "give those of the saved run, or start in a new workdir"
            )
        for skill, saved in state["skills"].items():
            self._streams[skill].set_state(saved["iterator"])
            self._rest[skill] = list(saved["rest"])
            self._counts[skill] = dict(saved["counts"])

    def _most_wanting(self) -> str:
        # Pending groups count as if they will be admitted, else many groups in flight would all be of one skill.
        filled = {s: c["drawn"] - c["dropped"] + c["forgiven"] for s, c in self._counts.items()}
        total = sum(filled.values()) + 1
        return max(filled, key=lambda s: self.requested_shares[s] * total - filled[s])

    def _settle(self, skill: str) -> dict[str, int]:
        counts = self._counts[self._known(skill)]
        if counts["admitted"] + counts["dropped"] >= counts["drawn"]:
            raise ValueError(f"no group of {skill} is pending; call admit or drop once for each drawn task")
        return counts

    def _known(self, skill: str) -> str:
        if skill not in self._counts:
            raise ValueError(f"{skill!r} is not in the mixture; its skills are {', '.join(self._counts)}")
        return skill


def _checked(weights: Mapping[str, float]) -> dict[str, float]:
    for skill, weight in weights.items():
        if skill not in _ORDER:
            raise ValueError(f"unknown skill {skill!r} in the mixture weights; one of {', '.join(_ORDER)}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"mixture weight of {skill} is {weight}; give a finite number of at least 0")
    positive = {s: float(w) for s, w in weights.items() if w > 0}
    if not positive:
        raise ValueError("all mixture weights are 0; give at least one skill a positive weight")
    return positive


def _units(tasks: Iterable[Task], shares: Mapping[str, float]) -> dict[str, list[tuple[Task, ...]]]:
    """Per skill its units, in an order that does not depend on the input's: the tasks of one instance are one unit."""
    units: dict[str, dict[str, list[Task]]] = {skill: {} for skill in shares}
    for task in sorted(tasks, key=lambda t: t.task_id):
        if task.skill in units:
            units[task.skill].setdefault(task.instance_id, []).append(task)
    for skill, by_instance in units.items():
        if not by_instance:
            raise ValueError(f"no task of {skill} in the task set; set its mixture weight to 0 or pass other tasks")
    return {skill: [tuple(unit) for _, unit in sorted(by.items())] for skill, by in units.items()}


def _stream(units: list[tuple[Task, ...]], seed: int) -> grain.DatasetIterator:
    shuffled = grain.MapDataset.source(units).seed(seed).shuffle().repeat()
    # No read-ahead: the units are in memory, and the state is then exactly what was consumed.
    return iter(shuffled.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))
