"""The tasks of a run: read, or generated on first use; those of its training, and those of its evaluation."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from skillrl import evaluate
from skillrl.limits import ConfigError
from skillrl.tasks.source import read_tasks
from skillrl.types import COMPOSITE_KINDS, Task


def load_tasks(config: ConfigDict, workdir: Path) -> tuple[Path, list[Task]]:
    """The task set's folder and the public half of its tasks; the world is generated on first use."""
    folder = Path(config.tasks.source) if config.tasks.source else workdir / "tasks"
    if not config.tasks.source:
        _write_world(config.world, folder)
    return folder, read_tasks(folder)


def load_suites(config: ConfigDict, workdir: Path) -> dict[Path, list[Task]]:
    """Folders of task sets and the tasks of the named suites in each; what can be generated is, on first use.

    Raises ConfigError where there are none.
    """
    names = set(config.eval.suites)
    if config.tasks.source:
        folders = [Path(config.tasks.source)]
    else:
        generated = [kind for kind in COMPOSITE_KINDS if kind != "bug_fixing" and names & {kind, evaluate.ALL}]
        folders = [workdir / "tasks" / kind for kind in generated]
        for kind, folder in zip(generated, folders, strict=True):
            _write_suite(config.composite, kind, folder)
        if names - set(generated):
            folders.insert(0, workdir / "tasks" / "world")
            _write_world(config.world, folders[0])
    sets = {folder: read_tasks(folder) for folder in folders}
    chosen = {folder: evaluate.exam_tasks(tasks, names, config.eval.max_tasks) for folder, tasks in sets.items()}
    if not any(chosen.values()):
        held = sorted({f"{t.split} {t.skill}" for tasks in sets.values() for t in tasks})
        raise ConfigError(
            f"no task of {', '.join(sorted(names))} in {', '.join(map(str, folders))}, which has "
            f"{', '.join(held) or 'no task'}; name another suite, or another set with --config.tasks.source"
        )
    return {folder: tasks for folder, tasks in chosen.items() if tasks}


def _write_suite(composite: ConfigDict, kind: str, folder: Path) -> None:
    arguments = [f"--kinds={kind}", f"--seed={composite.seed}", f"--instances={composite.instances}"]
    _generate("skillrl.tasks.suites", [*arguments, f"--split={evaluate.SUITES[0]}"], folder)


def _write_world(world: ConfigDict, folder: Path) -> None:
    counts = ",".join(f"{split}={world[split]}" for split in ("train", *evaluate.SUITES))
    levels = ",".join(map(str, world.levels))
    _generate("skillrl.tasks.world", [f"--seed={world.seed}", f"--instances={counts}", f"--level={levels}"], folder)


def _generate(module: str, arguments: Sequence[str], folder: Path) -> None:
    """Makes a task set where there is none. Raises ConfigError where the one there was made with other arguments."""
    wanted = " ".join([module, *arguments])
    # Beside the set, whose digest covers all that is in it.
    record = folder.with_name(f"{folder.name}.command")
    if (folder / "set.json").exists():
        made = record.read_text(encoding="utf-8").strip() if record.exists() else "an unknown command"
        if made != wanted:
            raise ConfigError(
                f"the tasks in {folder} were made by {made}, not by {wanted}; give the values they were made with, or "
                "another --workdir"
            )
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(wanted + "\n", encoding="utf-8")
    # A process of its own: the trainer's never holds a hidden half.
    if subprocess.run([sys.executable, "-m", module, f"--out={folder}", *arguments]).returncode:
        raise ConfigError(f"python -m {wanted} made no tasks; what it says stands above")


def training_tasks(tasks: Sequence[Task], config: ConfigDict) -> list[Task]:
    """The tasks that the mixture draws from. Raises ConfigError where a weighted skill has none."""
    chosen = [t for t in tasks if t.split == "train" and config.skills.get(t.skill, 0.0) > 0]
    for skill, weight in config.skills.items():
        if weight > 0 and not any(t.skill == skill for t in chosen):
            raise ConfigError(
                f"skills.{skill}={weight:g}, but the task set has no training task of it; "
                f"set --config.skills.{skill}=0 or choose another task set"
            )
    return chosen


def evaluation_tasks(tasks: Sequence[Task], config: ConfigDict) -> list[Task]:
    """The tasks that the policy is evaluated on. Raises ConfigError where there are none."""
    suites = tuple(config.eval.suites)
    chosen = evaluate.evaluation_tasks(tasks, suites, tuple(config.tasks.kinds), config.eval.max_tasks)
    if config.eval.samples and not chosen:
        raise ConfigError(
            f"the task set has no task of eval.suites={suites}, its splits are {sorted({t.split for t in tasks})}; "
            "name others with --config.eval.suites, or do not evaluate: --config.eval.samples=0"
        )
    return chosen
