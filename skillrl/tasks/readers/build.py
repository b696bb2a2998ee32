"""Rows -> a task set: the steps in order, and what became of every row."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from sandbox_service.tasks import TaskSet, TaskSetWriter, apply_overlay, gold_overlay, read_task_set
from skillrl.tasks.contamination import Overlap, split_of
from skillrl.tasks.derive import unified_diff
from skillrl.tasks.readers import Reader
from skillrl.tasks.readers.convert import Converted, Options, convert
from skillrl.tasks.readers.diffs import DiffError, parse_diff, patch_id
from skillrl.tasks.readers.record import Record, Unusable
from skillrl.tasks.readers.repositories import is_packable, tree_of
from skillrl.tasks.readers.rows import ReaderError, Row
from skillrl.tasks.source import read_tasks


@dataclass
class Summary:
    """What became of the rows. Kept in set.json."""

    dataset: str
    licence: str
    rows: int = 0
    instances: int = 0
    # Skill -> tasks; split -> instances; repository -> instances.
    tasks: Counter = field(default_factory=Counter)
    splits: Counter = field(default_factory=Counter)
    repositories: Counter = field(default_factory=Counter)
    # Why a row gave nothing -> rows.
    dropped: Counter = field(default_factory=Counter)
    # Skill -> why an instance does not give it -> instances.
    left_out: dict[str, Counter] = field(default_factory=dict)
    # Column that the reader does not know -> rows that have it.
    unread_columns: Counter = field(default_factory=Counter)
    images: int = 0


@dataclass(frozen=True)
class Source:
    """Where rows come from, and what goes with them."""

    name: str
    reader: Reader
    location: str
    # Part of the dataset, by its own name; empty: all, and of the hub the reader's `hub_split`.
    part: str = ""
    repositories: Path | None = None
    heldout_share: float = 0.0
    limit: int = 0
    skip_damaged: bool = False


class SetBuilder:
    """Adds rows to a writer; every row is counted once."""

    def __init__(self, source: Source, options: Options, overlap: Overlap, out: Path):
        self._source, self._options, self._overlap = source, options, overlap
        self._writer = TaskSetWriter(source.name, folder=out)
        self._out = out
        self._seen: set[str] = set()
        self._images: set[str] = set()
        self.summary = Summary(source.name, source.reader.licence)

    def build(self, progress: Callable[[int, int], None] = lambda rows, instances: None) -> str:
        """Writes the set and returns its digest. `progress` gets rows and instances so far. Raises ReaderError."""
        summary = self.summary
        for row in self._source.reader.rows(self._source.location, self._source.part):
            if self._source.limit and summary.instances >= self._source.limit:
                break
            summary.rows += 1
            try:
                self._add(row)
            except Unusable as e:
                summary.dropped[str(e)] += 1
            except ReaderError:
                if not self._source.skip_damaged:
                    raise
                summary.dropped["damaged"] += 1
            summary.unread_columns.update(row.columns.keys() - row.read)
            progress(summary.rows, summary.instances)
        summary.images = len(self._images)
        if not summary.instances:
            reasons = ", ".join(f"{n} {why}" for why, n in summary.dropped.most_common()) or "it has no rows"
            raise ReaderError(f"{self._source.location} gives no task: {reasons}")
        return self._writer.write(self._out, summary=vars(summary))

    def _add(self, row: Row) -> None:
        record = self._source.reader.read(row)
        if record.instance_id in self._seen:
            raise Unusable("its id is there twice")
        self._seen.add(record.instance_id)
        if not self._source.reader.is_evaluation and (reason := self._overlap.reason(*_compared(record))):
            raise Unusable(reason)
        made = convert(record, self._base(record), self._options, self._split(record))
        if not made.tasks:
            raise Unusable("none of its skills is wanted or possible")
        self._keep(record, made)

    def _base(self, record: Record) -> dict[str, bytes] | None:
        if self._source.repositories is None or record.hidden_files:
            return None
        base = tree_of(self._source.repositories, record.repository, record.base_commit)
        if not is_packable(base):
            raise Unusable("a file name that is too long")
        return base

    def _split(self, record: Record) -> str:
        if self._source.reader.is_evaluation:
            return "heldout_repositories"
        return split_of(record.repository, self._source.heldout_share)

    def _keep(self, record: Record, made: Converted) -> None:
        summary = self.summary
        tree = self._writer.add_tree(made.files) if made.files else ""
        self._writer.environments[made.environment.environment_id] = made.environment
        self._writer.instances.append(replace(made.instance, tree=tree))
        for public, hidden in made.tasks:
            self._writer.public.append(public)
            self._writer.tasks.append(hidden)
            summary.tasks[public["skill"]] += 1
            split = public["split"]
        summary.instances += 1
        summary.splits[split] += 1
        summary.repositories[record.repository] += 1
        self._images |= {made.environment.image} - {""}
        for skill, why in made.left_out.items():
            summary.left_out.setdefault(skill, Counter())[why] += 1


def _compared(record: Record) -> tuple[str, str, str]:
    return record.repository, record.issue, _id_of(record.patch)


def _id_of(patch: str) -> str:
    try:
        return patch_id(parse_diff(patch)) if patch else ""
    except DiffError:
        return ""


def overlap_of(paths: list[Path]) -> Overlap:
    """What the evaluation sets at `paths` hold. Raises TaskSetError of either half."""
    overlap = Overlap()
    for path in paths:
        task_set, statements = read_task_set(path), {}
        for task in read_tasks(path):
            text = task.inputs.get("issue") or task.inputs.get("instruction", "")
            statements.setdefault(task.instance_id, (task.repository, text))
        for instance_id, (repository, text) in statements.items():
            overlap.add(repository, text, _patch_ids(task_set, instance_id))
    return overlap


def _patch_ids(task_set: TaskSet, instance_id: str) -> list[str]:
    instance = task_set.instances[instance_id]
    if instance.gold_patch:
        return [_id_of(instance.gold_patch)]
    if not instance.tree or not instance.bug:
        return []
    correct = task_set.tree_files(instance.tree)
    before = apply_overlay(correct, instance.bug)
    # As the fix, and as the bug: SWE-smith publishes the latter.
    fix = unified_diff(before, gold_overlay(instance.bug, correct))
    return [_id_of(fix), _id_of(unified_diff(correct, instance.bug))]
