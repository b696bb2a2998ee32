"""What an attack is. A new way to cheat becomes a row in one of the tables beside this file."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox_service.graders import Submission


@dataclass(frozen=True)
class Attack:
    name: str
    task_id: str
    # What the agent leaves in its workspace: path -> text, bytes, or None for a deletion.
    changed: Mapping[str, str | bytes | None] = field(default_factory=dict)
    submission: Submission = field(default_factory=Submission)
    # The reward that it is after, and the one that it must get.
    wants: float = 1.0
    minimum: float = 0.0


def code(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")
