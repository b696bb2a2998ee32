"""Refactoring: 1 when all tests pass as code editing demands it, and every rule about the structure holds, else 0.

The structure is read from the text of the graded tree: the pristine start and the agent's source files.
"""

import asyncio
import dataclasses
from collections.abc import Mapping

from sandbox_service.graders import editing
from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.graders.paths import accepted_changes, is_source
from sandbox_service.graders.structure import Broken, check
from sandbox_service.runner import Runner
from sandbox_service.tasks import Environment, Instance, apply_overlay


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    behaviour = await editing.grade(request, runner)
    correct = await runner.tree_files(request.task_set, request.instance.tree)
    found = await asyncio.to_thread(structure, request.instance, request.environment, request.changed, correct)
    broken = [why for why in found.values() if why]
    components = {
        **behaviour.components,
        "behaviour": behaviour.reward,
        "structure": float(not broken),
        **{f"structure_{rule}": float(not why) for rule, why in found.items()},
    }
    reward = behaviour.reward if not broken else 0.0
    return dataclasses.replace(
        behaviour, reward=reward, components=components, detail=broken[0] if broken else behaviour.detail
    )


def structure(
    instance: Instance,
    environment: Environment,
    changed: Mapping[str, bytes | None],
    correct: Mapping[str, bytes],
) -> dict[str, str]:
    """Rule -> what breaks it, empty where it holds. `changed` is against the start; `correct` is the finished tree.

    Raises TaskFault when the record is at fault.
    """
    start = apply_overlay(correct, instance.bug)
    graded = dict(start)
    for path, data in accepted_changes(changed, environment, start).items():
        if data is None:
            graded.pop(path, None)
        else:
            graded[path] = data
    source, before, right = (
        {imported_path(path, environment): data for path, data in files.items() if is_source(path, environment)}
        for files in (graded, start, correct)
    )
    try:
        return check(instance.expected, source, before, right)
    except (Broken, ValueError, KeyError, TypeError) as e:
        raise TaskFault(f"{instance.instance_id}: its rules cannot be applied: {e}") from e


def imported_path(path: str, environment: Environment) -> str:
    """The path below the source root. Several roots could give two files one path: they stay as they are."""
    root, *others = environment.source_roots
    return path if others or root == "." else path.removeprefix(f"{root.rstrip('/')}/")
