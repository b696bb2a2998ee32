"""One generated piece of composite work, and its records."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox_service.tasks import Environment, HiddenTask, Instance, Overlay, TaskSetWriter
from skillrl.tasks.derive import make_task_id

# Of the instances.
ORIGIN = "suites"
# Key of `Case.expected`: the submitted file that scores the maximum, where it is no part of the finished tree.
GOLD_SUBMISSION = "gold_submission"


@dataclass(frozen=True)
class Case:
    """The tree with the work done, and what was different before."""

    # Tells it from the other cases of its seed.
    name: str
    # Kind of the case (the flaw, the move, ...): cases of one family look alike.
    family: str
    level: int
    # The finished tree, hidden tests included.
    files: Mapping[str, bytes]
    # On the finished tree: makes the tree from before. The gold change is its reverse.
    undo: Overlay
    # On the finished tree, beside `undo`: what the agent must not see (hidden tests), or sees differently.
    hide: Overlay
    # Everything that the agent is told.
    instruction: str
    environment: Environment
    # Tests that fail before and pass after, and those that pass on both.
    fail_to_pass: tuple[str, ...] = ()
    pass_to_pass: tuple[str, ...] = ()
    # What the grader needs beside tests; the keys are the kind's.
    expected: Mapping[str, str] = field(default_factory=dict)
    # The one file that is graded, where it is one.
    submission_path: str = ""


def add(writer: TaskSetWriter, case: Case, *, kind: str, seed: int, split: str) -> None:
    """Adds the records of one case."""
    # Environments of a set are told apart by name; a case may bring its own limits.
    environment = dataclasses.replace(case.environment, environment_id=f"{kind}-{case.family}")
    known = writer.environments.setdefault(environment.environment_id, environment)
    if known != environment:
        raise ValueError(f"{kind}: two cases of {case.family} differ in their environment; make it a family's own")
    instance = Instance(
        instance_id=f"{kind}__{case.family}.{seed}.{case.name}",
        environment_id=environment.environment_id,
        tree=writer.add_tree(case.files),
        bug=case.undo,
        fail_to_pass=case.fail_to_pass,
        pass_to_pass=case.pass_to_pass,
        target_path="",
        target_symbol="",
        origin=ORIGIN,
        expected=case.expected,
    )
    task_id, visible = make_task_id(instance.instance_id, kind, ""), {**case.undo, **case.hide}
    writer.instances.append(instance)
    writer.tasks.append(HiddenTask(task_id, kind, instance.instance_id, visible, submission_path=case.submission_path))
    writer.public.append(
        {
            "task_id": task_id,
            "skill": kind,
            "instance_id": instance.instance_id,
            "repository": f"suites:{instance.instance_id}",
            "family": case.family,
            "split": split,
            "level": case.level,
            "inputs": {"instruction": case.instruction},
        }
    )
