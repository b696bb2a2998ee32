"""What every reader makes of a row: the same words for all datasets."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox_service.tasks import Overlay
from skillrl.tasks.readers.diffs import FileDiff


@dataclass(frozen=True)
class Record:
    """One instance of a public dataset."""

    dataset: str
    instance_id: str
    # owner/name, as the dataset spells it.
    repository: str
    base_commit: str
    # What the agent is told.
    issue: str
    # Unified diffs against the base commit. The gold change makes the correct code, unless `base_is_correct`: then it
    # is the bug, and the gold change its reverse (SWE-smith).
    patch: str
    test_patch: str = ""
    base_is_correct: bool = False
    fail_to_pass: tuple[str, ...] = ()
    pass_to_pass: tuple[str, ...] = ()
    # What grading needs beside the tests: statuses of further tests, where the rule wants them, and the like.
    expected: Mapping[str, str] = field(default_factory=dict)
    # Hidden test files that are no part of a diff: path -> text.
    test_texts: Mapping[str, str] = field(default_factory=dict)
    # What a composite kind is told and keeps: path -> content; hidden whole.
    hidden_files: Mapping[str, bytes] = field(default_factory=dict)
    # And what its agent starts from; the file that it hands in.
    shown_files: Mapping[str, bytes] = field(default_factory=dict)
    submission_path: str = ""
    # Where the repository is in the image alone: the files of /solution, which only the gold run sees.
    solution: Mapping[str, bytes] = field(default_factory=dict)
    image: str = ""
    workdir: str = "/testbed"
    setup: str = ""
    test_command: str = ""
    parser: str = ""
    rule: str = "pass_and_fail"
    timeout_s: float = 1800.0
    language: str = "python"
    licence: str = ""
    # Composite kind of the record itself; the five skills come from what it holds.
    kind: str = "bug_fixing"


class Unusable(ValueError):
    """A sound row that gives no task; the message says why, in few words that can be counted."""


@dataclass(frozen=True)
class Parts:
    """The record's change, by what it touches."""

    source: tuple[FileDiff, ...]
    tests: tuple[FileDiff, ...]


@dataclass(frozen=True)
class Trees:
    """The correct tree, and overlays relative to it: the bug, and what the agent does not see."""

    correct: Mapping[str, bytes]
    bug: Overlay
    visible: Overlay
