"""Proves a task set in the sandbox: python -m skillrl.tasks.validate DIR [--repeats=3] [--sample=N] [--jobs=3]

For every task the gold submission must score the maximum and the null submission the minimum, each `repeats` times;
cheap policies that know nothing must not score either, nor attacks (see `cheats`), of which the tasks of a skill take
turns; and no text or tree that an agent sees may hold the answer.
With --record the set keeps what was seen (hidden/validation.jsonl), beside its digest. Prints a table and, as its last
line, one JSON object. Exit status 1 names the tasks that failed.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from sandbox_service import __version__
from sandbox_service.errors import SandboxError
from sandbox_service.graders.base import TaskFault
from sandbox_service.tasks import (
    Environment,
    HiddenTask,
    Instance,
    TaskSet,
    Validation,
    read_task_set,
    write_validations,
)
from skillrl.progress import progress
from skillrl.tasks.cheats import cheats
from skillrl.tasks.copies import copies
from skillrl.tasks.proving import ProvingGround, grade_submission, proving_ground, question
from skillrl.tasks.source import TaskSetError, read_tasks
from skillrl.tasks.submissions import Handed, gold, leaks, null, trivial
from skillrl.tasks.validation_report import Report, SkillReport, show
from skillrl.types import Task

# (maximum, minimum) of the default rewards; all other skills have (1, 0).
REWARDS = {"localization": (1.0, -1.0)}


@dataclass
class _Seen:
    """What was seen of one task."""

    gold: list[float] = field(default_factory=list)
    null: list[float] = field(default_factory=list)
    trivial: dict[str, float] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)


class Validator:
    """Grades gold, null and trivial submissions of single tasks, and `attacks` attacks of each."""

    def __init__(self, task_set: TaskSet, ground: ProvingGround, repeats: int = 3, attacks: int = 1):
        self._set, self._ground, self._repeats, self._attacks = task_set, ground, repeats, attacks
        # Per skill, how many attacks earlier tasks took.
        self._taken: Counter[str] = Counter()
        self._copied: dict[tuple[str, str], list[str]] = {}
        self.report = Report()

    async def check(self, public: Task) -> None:
        """Adds one task's verdicts to the report."""
        started = time.monotonic()
        task = self._set.task(public.task_id)
        skill = self.report.skills.setdefault(task.skill, SkillReport())
        skill.tasks += 1
        seen = _Seen()
        try:
            await self._prove(public, task, skill, seen)
        except (SandboxError, TaskFault, ValueError) as e:
            # A task that this host cannot run, or whose gold submission cannot be made: one failure among others.
            self.report.fail(task.task_id, str(e))
        wall_s = time.monotonic() - started
        skill.seconds += wall_s
        self.report.validations.append(self._validation(task, seen, wall_s))

    def _validation(self, task: HiddenTask, seen: "_Seen", wall_s: float) -> Validation:
        return Validation(
            task_id=task.task_id,
            gold_rewards=tuple(seen.gold),
            null_rewards=tuple(seen.null),
            trivial_rewards={policy: (reward,) for policy, reward in seen.trivial.items()},
            leaks=tuple(seen.leaks),
            failures=tuple(self.report.failures.get(task.task_id, ())),
            wall_s=round(wall_s, 3),
            release=__version__,
            python=platform.python_version(),
            date=datetime.now(UTC).date().isoformat(),
        )

    async def _prove(self, public: Task, task: HiddenTask, skill: "SkillReport", seen: "_Seen") -> None:
        best, worst = REWARDS.get(task.skill, (1.0, 0.0))
        instance = self._set.instance_of(task)
        environment = self._set.environment_of(instance)
        files = dict(await self._ground.runner.tree_files(self._set, instance.tree))
        seen.leaks = leaks(public, task, instance, files)
        if not environment.image:
            seen.leaks += await self._copies(instance, environment, files)
        for where in seen.leaks:
            self.report.fail(task.task_id, f"leak: {where}")
        # Awaited before it is added: another task adds to the same count meanwhile.
        gold_is_best = await self._always(task, "gold", gold(task, instance, files), best, seen.gold)
        null_is_worst = await self._always(task, "null", null(task), worst, seen.null)
        skill.gold_max += gold_is_best
        skill.null_min += null_is_worst
        for policy, handed, is_wrong in trivial(task, instance, files, environment):
            reward, detail = await self._reward(task, handed)
            if reward is None or (is_wrong and reward != worst):
                self.report.fail(task.task_id, f"{policy} got {reward} {detail}".strip())
            if reward is not None:
                seen.trivial[policy] = reward
                skill.trivial.setdefault(policy, []).append(reward)
        for attack, handed in self._next_attacks(task, list(cheats(task, instance, files))):
            reward, detail = await self._reward(task, handed)
            skill.attacks[attack] += 1
            skill.attacks_min[attack] += reward == worst
            if reward is not None:
                seen.trivial[f"attack: {attack}"] = reward
            if reward != worst:
                self.report.fail(task.task_id, f"attack: {attack} got {reward} {detail}".strip())

    async def _copies(self, instance: Instance, environment: Environment, files: Mapping[str, bytes]) -> list[str]:
        """The tree's own code beside the agent; looked for once for each tree."""
        key = instance.tree, environment.environment_id
        if key not in self._copied:
            packages = await self._ground.trees.packages_dir(environment.packages)
            found = copies(packages, files, environment)
            self._copied[key] = [f"packages hold the repository's own {name}" for name in found[:1]]
        return self._copied[key]

    def _next_attacks(self, task: HiddenTask, attacks: list[tuple[str, Handed]]) -> list[tuple[str, Handed]]:
        """Those whose turn it is."""
        first, count = self._taken[task.skill], min(self._attacks, len(attacks))
        self._taken[task.skill] += count
        return [attacks[(first + n) % len(attacks)] for n in range(count)]

    async def _always(self, task: HiddenTask, name: str, handed: Handed, expected: float, rewards: list[float]) -> bool:
        for repeat in range(self._repeats):
            reward, detail = await self._reward(task, handed, repeat)
            rewards += [] if reward is None else [reward]
            if reward != expected:
                self.report.fail(
                    task.task_id, f"{name} got {reward}, not {expected} (run {repeat + 1}) {detail}".strip()
                )
                return False
        return True

    async def _reward(self, task: HiddenTask, handed: Handed, repeat: int = 0) -> tuple[float | None, str]:
        key = f"{repeat} {question(self._set, task, handed)}"
        graded = await self._ground.runner.once(
            key, lambda: grade_submission(self._set, task, handed, self._ground.runner), lambda g: g.reward is not None
        )
        if graded.components.get("confirmed") == 1 and (held := graded.components.get("held_both_ways")):
            self.report.skills[task.skill].held_both_ways.append(held)
        detail = " ".join(filter(None, (graded.reason, graded.detail)))
        return graded.reward, detail or str(dict(graded.components))


async def validate(
    path: Path,
    *,
    repeats: int = 3,
    attacks: int = 1,
    sample: int | None = None,
    jobs: int = 2,
    seed: int = 0,
    image: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Proves the set at `path`, or `sample` tasks of it; with an `image`, the tasks that need it.

    Raises TaskSetError or IsolationError.
    """
    started = time.monotonic()
    task_set, tasks = read_task_set(path, [image] if image else ()), read_tasks(path)
    if image:
        tasks = [
            t for t in tasks if task_set.environments[task_set.instances[t.instance_id].environment_id].image == image
        ]
        if not tasks:
            raise TaskSetError(
                f"{path}: no task needs the image {image}; hidden/environments.jsonl names those it needs"
            )
    tasks = choose(tasks, sample, seed)
    async with proving_ground(jobs, image) as ground:
        validator = Validator(task_set, ground, repeats, attacks)
        # More tasks than sandboxes: while one's texts are prepared, or it waits for the last of its runs, others run.
        slots, done = asyncio.Semaphore(2 * jobs), 0

        async def check(task: Task) -> None:
            nonlocal done
            async with slots:
                await validator.check(task)
            done += 1
            progress(done, len(tasks))

        async with asyncio.TaskGroup() as group:
            for task in sorted(tasks, key=lambda t: _cost(task_set, t), reverse=True):
                group.create_task(check(task))
    validator.report.wall_s = time.monotonic() - started
    return validator.report


def _cost(task_set: TaskSet, task: Task) -> int:
    """What a task's proof costs beside those of other tasks: the longest come first, so that no core waits at the end.

    Gold unit tests run on every mutant. Localization and review run nothing.
    """
    runs = {"localization": 0, "review": 0, "unit_tests": 20}
    instance = task_set.instances[task.instance_id]
    return runs.get(task.skill, 8) * len((*instance.fail_to_pass, *instance.pass_to_pass))


def choose(tasks: Sequence[Task], sample: int | None, seed: int) -> list[Task]:
    """`sample` tasks at random, the skills taking turns; all of them for None."""
    if sample is None or sample >= len(tasks):
        return list(tasks)
    shuffled = random.Random(seed).sample(list(tasks), len(tasks))
    turns: dict[str, int] = {}
    order = []
    for task in shuffled:
        turns[task.skill] = turns.get(task.skill, 0) + 1
        order.append((turns[task.skill], task.skill, task.task_id, task))
    return [task for *_, task in sorted(order, key=lambda o: o[:3])][:sample]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m skillrl.tasks.validate", description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, metavar="DIR", help="a task set")
    parser.add_argument("--repeats", type=int, default=3, help="times that gold and null are graded")
    parser.add_argument("--attacks", type=int, default=1, help="attacks that each task takes its turn with; 99 for all")
    parser.add_argument("--sample", type=int, default=None, help="prove this many tasks only")
    # One more than cores: a sandbox that starts or ends leaves its core for a moment.
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1, help="sandboxes at the same time")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--image", default="", help="prove the tasks that need this container image, with an engine")
    parser.add_argument("--record", action="store_true", help="keep what was seen of each task in the set")
    options = parser.parse_args(argv)
    if min(options.repeats, options.jobs) < 1 or (options.sample is not None and options.sample < 1):
        parser.error("--repeats, --jobs and --sample must be at least 1")
    try:
        with progress() as bars:
            bar = bars.add_task("proving", total=None)
            report = asyncio.run(
                validate(
                    options.path,
                    repeats=options.repeats,
                    attacks=options.attacks,
                    sample=options.sample,
                    jobs=options.jobs,
                    seed=options.seed,
                    image=options.image,
                    progress=lambda done, total: bars.update(bar, completed=done, total=total),
                )
            )
    except (SandboxError, TaskSetError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    if options.record:
        write_validations(options.path, sorted(report.validations, key=lambda v: v.task_id))
    show(report, Console(width=None if sys.stdout.isatty() else 120))
    print(json.dumps(report.as_json()))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
