"""What a folder holds of an earlier start: episodes that need not be played again, and what they were played under."""

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from skillrl import export, setup
from skillrl.limits import ConfigError
from skillrl.rollout.collector import Collector, check_faults
from skillrl.rollout.records import append_episodes, drop_cut_line, read_episodes, write_episodes
from skillrl.types import Episode, Task

PLAYED = "played.json"
# Of a file of weights, which may have gigabytes: its beginning, middle and end.
_READ_BYTES = 1 << 20


# Conditions.


def conditions(config: ConfigDict) -> dict:
    """What must be the same for episodes of a policy to count together, as JSON values."""
    kind, name = setup.source_of(config)
    player, weights = config.policy.source, ""
    if kind == "run":
        player = "run:{}@{}".format(*setup.checkpoint_of(name))
    elif kind == "hf":
        weights = fingerprint(sorted(Path(name).glob("*.safetensors")))
    source = Path(config.policy.tokenizer or name)
    files = [source / file for file in export.TOKENIZER_FILES] if source.is_dir() else [source]
    return {
        "player": player,
        "weights": weights,
        "tokenizer": fingerprint(file for file in files if file.is_file()),
    } | play_conditions(config)


def play_conditions(config: ConfigDict) -> dict:
    """The part of `conditions` that holds whoever plays."""
    return {
        "samples": config.eval.samples,
        "temperature": config.eval.temperature,
        "budgets": dataclasses.asdict(setup.make_budgets(config)),
        "policy.chat": config.policy.chat,
        "policy.thinking": config.policy.thinking,
        "seed": config.seed,
        "reward.mode": config.reward.mode,
    }


def training_conditions(config: ConfigDict, tasks: Sequence[Task]) -> dict:
    """Of a training run: its steps, learning rate and the like may change from start to start, this may not."""
    return conditions(config) | {
        "tasks": tasks[0].task_set if tasks else "",
        "eval.suites": list(config.eval.suites),
        "eval.max_tasks": config.eval.max_tasks,
        "tasks.kinds": list(config.tasks.kinds),
    }


def fingerprint(files: Iterable[Path]) -> str:
    """Names, sizes and contents as one short text; of large files, parts of their contents."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for start in sorted({0, max(0, (size - _READ_BYTES) // 2), max(0, size - _READ_BYTES)}):
                file.seek(start)
                digest.update(file.read(_READ_BYTES))
    return digest.hexdigest()[:16]


def same_conditions(workdir: Path, wanted: dict, *, begun: bool) -> None:
    """Keeps the conditions. Raises ConfigError where this folder's run was `begun` under others."""
    path = workdir / PLAYED
    if begun:
        if not path.exists():
            raise ConfigError(f"{workdir} holds a run without its {PLAYED}; give another --workdir")
        kept = json.loads(path.read_text(encoding="utf-8"))
        for name, value in wanted.items():
            if kept.get(name) != value:
                raise ConfigError(
                    f"the episodes in {workdir} were played with {name}={kept.get(name)}, not {value}; "
                    "give another --workdir, or that again"
                )
    path.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")


def go_on(config: ConfigDict, workdir: Path, tasks: Sequence[Task], step: int | None) -> None:
    """Says where a training run goes on, None at its beginning, and removes evaluations of policies that it has yet to
    learn: it goes on from an older checkpoint, or had ended at fewer steps.

    Raises ConfigError where the run was begun under other conditions.
    """
    begun = step is not None or (workdir / "episodes").exists()
    same_conditions(workdir, training_conditions(config, tasks), begun=begun)
    if step is not None:
        print(f"going on from step {step}")
    for folder, name in (("eval", "{}.json"), ("episodes", "eval-{}.jsonl")):
        for path in (workdir / folder).glob(name.format("step-*")):
            if int(path.stem.rpartition("-")[2]) > (step or 0):
                path.unlink()
        if (step or 0) < config.num_steps:
            (workdir / folder / name.format("after")).unlink(missing_ok=True)


# Episodes.


def finished_groups(path: Path, tasks: Sequence[Task], samples: int) -> dict[str, list[Episode]]:
    """Task id -> its episodes, without their tokens, of the tasks that need not be played again.

    A task of which an episode was lost to the service is played again. Episodes of unfinished tasks leave the file.
    """
    if not path.exists():
        return {}
    drop_cut_line(path)
    wanted, groups = {task.task_id: task for task in tasks}, defaultdict(list)
    for episode in read_episodes(path):
        if wanted.get(episode.task.task_id) == episode.task:
            groups[episode.task.task_id].append(without_tokens(episode))
    done = {
        task_id: group
        for task_id, group in groups.items()
        if len(group) == samples and all(e.outcome.reason != "infra" for e in group)
    }
    if len(done) < len(groups):
        _replace(path, (e for e in read_episodes(path) if e.task.task_id in done or e.task.task_id not in groups))
    return done


def without_tokens(episode: Episode) -> Episode:
    arrays = dict.fromkeys(("tokens", "loss_mask", "sampler_logprobs", "versions"), np.zeros(0))
    return dataclasses.replace(episode, turns=(), **arrays)


async def play_missing(
    config: ConfigDict, collector: Collector, tasks: Sequence[Task], path: Path, *, on_done: Callable[[int], object]
) -> list[list[Episode]]:
    """The evaluation's group of each task, played where the file at `path` does not hold it; it does in the end.

    `on_done` is called with a number of episodes that are there. Raises ServiceFault when too many are lost; those that
    are not stay in the file.
    """
    samples = config.eval.samples
    groups = finished_groups(path, tasks, samples)
    if groups:
        print(f"{path.stem}: {len(groups)} of {len(tasks)} tasks are finished")
        on_done(len(groups) * samples)

    def keep(episode: Episode) -> None:
        append_episodes(path, [episode])
        on_done(1)

    missing = [task for task in tasks if task.task_id not in groups]
    played = await collector.collect(
        missing, samples, seed=config.seed + 7, temperature=config.eval.temperature, on_done=keep
    )
    check_faults(played, config.sandbox.max_infra_share)
    # Episodes end in any order.
    rank = {task.task_id: n for n, task in enumerate(tasks)}
    _replace(path, sorted(read_episodes(path), key=lambda e: (rank[e.task.task_id], _member(e))))
    groups |= {group[0].task.task_id: group for group in played}
    return [sorted(groups[task.task_id], key=_member) for task in tasks]


def _member(episode: Episode) -> int:
    return int(episode.episode_id.rpartition("/")[2])


def _replace(path: Path, episodes: Iterable[Episode]) -> None:
    temporary = path.with_suffix(".tmp")
    write_episodes(temporary, episodes)
    temporary.replace(path)
