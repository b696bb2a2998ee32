"""Episodes as JSON lines: every token, so that a run can be looked at and learned from again."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from skillrl.types import Episode, Outcome, Status, Task, Turn

_ARRAYS = {
    "tokens": np.int32,
    "loss_mask": np.bool_,
    "sampler_logprobs": np.float32,
    "versions": np.int32,
}


def episode_to_json(episode: Episode) -> str:
    """One line without a line break; float32 values survive exactly."""
    record = {field.name: getattr(episode, field.name) for field in dataclasses.fields(episode)}
    record["task"] = dataclasses.asdict(episode.task) | {"inputs": dict(episode.task.inputs)}
    record["loss_mask"] = episode.loss_mask.astype(np.int32)
    record |= {name: np.asarray(record[name]).tolist() for name in _ARRAYS}
    record["turns"] = [dataclasses.asdict(turn) for turn in episode.turns]
    record["status"] = episode.status.value
    record["outcome"] = dataclasses.asdict(episode.outcome) | {"components": dict(episode.outcome.components)}
    record["times_s"] = dict(episode.times_s)
    return json.dumps(record, allow_nan=False)


def episode_from_json(line: str) -> Episode:
    record = json.loads(line)
    record |= {name: np.asarray(record[name], dtype) for name, dtype in _ARRAYS.items()}
    record["task"] = Task(**record["task"])
    record["turns"] = tuple(Turn(**turn) for turn in record["turns"])
    record["status"] = Status(record["status"])
    record["outcome"] = Outcome(**record["outcome"])
    return Episode(**record)


def write_episodes(path: str | Path, episodes: Iterable[Episode], *, mode: str = "w") -> None:
    """One line an episode; the folder is made where it is missing and an older file is replaced."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, mode, encoding="utf-8") as file:
        file.writelines(episode_to_json(episode) + "\n" for episode in episodes)


def append_episodes(path: str | Path, episodes: Iterable[Episode]) -> None:
    """Like write_episodes, but keeps what the file holds."""
    write_episodes(path, episodes, mode="a")


def read_episodes(path: str | Path) -> Iterator[Episode]:
    """Raises ValueError naming the line that is no episode."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield episode_from_json(line)
            except (ValueError, TypeError, KeyError) as e:
                raise ValueError(f"{path}:{number} is not an episode ({e}); remove the line") from e


def read_finished_episodes(path: str | Path) -> list[Episode]:
    """The episodes of a file that is appended to; a last line that a killed run left cut is removed from the file."""
    drop_cut_line(path)
    return list(read_episodes(path))


def drop_cut_line(path: str | Path) -> None:
    """Removes a last line that a killed run left cut."""
    with open(path, "rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
