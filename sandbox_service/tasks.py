"""The full task records, hidden half included. Only the service and the offline builders read this module.

A task set is a folder:

    set.json                    name, schema version, counts, content digest
    tasks.jsonl                 public half: what the trainer may see (skillrl/tasks/source.py reads it)
    hidden/environments.jsonl   how to run a repository's tests
    hidden/instances.jsonl      correct repository, planted bug, tests, mutants, candidates
    hidden/tasks.jsonl          per task: what its agent sees, and its answer
    hidden/trees/DIGEST.tar     correct repositories, every test included

An overlay is a change of a tree: path -> new text, or None for a deleted file.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

from sandbox_service.errors import NotFound, TaskSetError

SCHEMA_VERSION = 1

Overlay = Mapping[str, str | None]


@dataclass(frozen=True)
class Environment:
    """How to test a repository."""

    environment_id: str
    # Distributions the tests need beside the interpreter's standard library, as NAME==VERSION.
    packages: tuple[str, ...]
    # Folders (relative, "." for the root) that hold source and are put on sys.path.
    source_roots: tuple[str, ...]
    # Files and folders that hold tests.
    test_roots: tuple[str, ...]
    # Limit of one run of the whole suite.
    timeout_s: float = 60.0


@dataclass(frozen=True)
class Candidate:
    """A proposed change for review, and whether it really solves the issue (from execution)."""

    # Relative to the buggy tree.
    overlay: Overlay
    correct: bool


@dataclass(frozen=True)
class Instance:
    """One planted or real bug in one repository."""

    instance_id: str
    environment_id: str
    # Digest of the correct tree with all of its tests.
    tree: str
    # Relative to the correct tree: makes the buggy tree. The gold change is its reverse.
    bug: Overlay
    # Test ids (pytest node ids) that fail on the buggy tree and pass on the correct one; and those that pass on both.
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    # The function under test for unit_tests: file and qualified name.
    target_path: str
    target_symbol: str
    # Relative to the correct tree, each proven to be killed by the repository's own tests; at most 16.
    mutants: tuple[Overlay, ...] = ()
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class HiddenTask:
    """The service's half of one task."""

    task_id: str
    skill: str
    instance_id: str
    # Relative to the correct tree: what the agent's workspace starts from.
    visible: Overlay
    # unit_tests and reproduction: the file that is graded.
    submission_path: str = ""
    # review: index into the instance's candidates.
    candidate: int = -1


@dataclass(frozen=True)
class TaskSet:
    """A task set, read whole."""

    path: Path
    digest: str
    environments: Mapping[str, Environment]
    instances: Mapping[str, Instance]
    tasks: Mapping[str, HiddenTask]

    def task(self, task_id: str) -> HiddenTask:
        try:
            return self.tasks[task_id]
        except KeyError:
            raise NotFound(
                f"task {task_id!r} is not in task set {self.digest}; rebuild or pass the right --tasks"
            ) from None

    def instance_of(self, task: HiddenTask) -> Instance:
        return self.instances[task.instance_id]

    def environment_of(self, instance: Instance) -> Environment:
        return self.environments[instance.environment_id]

    def tree_files(self, digest: str) -> dict[str, bytes]:
        """The files of a stored tree. Raises TaskSetError when it is missing or does not match its digest."""
        tar = self.path / "hidden" / "trees" / f"{digest}.tar"
        try:
            data = tar.read_bytes()
        except OSError as e:
            raise TaskSetError(f"{tar}: {e.strerror}; rebuild the task set") from e
        if hashlib.sha256(data).hexdigest() != digest:
            raise TaskSetError(f"{tar}: content does not match its digest; rebuild the task set")
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return {m.name: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}

    @cached_property
    def repositories(self) -> frozenset[str]:
        return frozenset(i.tree for i in self.instances.values())


def pack_tree(files: Mapping[str, bytes]) -> bytes:
    """A tar whose bytes depend on names and contents alone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(files[name]), 0o644, 0
            archive.addfile(info, io.BytesIO(files[name]))
    return buffer.getvalue()


def apply_overlay(files: Mapping[str, bytes], *overlays: Overlay) -> dict[str, bytes]:
    result = dict(files)
    for overlay in overlays:
        for path, text in overlay.items():
            if text is None:
                result.pop(path, None)
            else:
                result[path] = text.encode()
    return result


def gold_overlay(bug: Overlay, correct_files: Mapping[str, bytes]) -> dict[str, str | None]:
    """The reverse of a bug: relative to the buggy tree, makes the correct one."""
    return {path: correct_files[path].decode() if path in correct_files else None for path in bug}


@dataclass
class TaskSetWriter:
    """Collects records and writes a task set; the digest covers every byte of it."""

    name: str
    public: list[dict] = field(default_factory=list)
    environments: dict[str, Environment] = field(default_factory=dict)
    instances: list[Instance] = field(default_factory=list)
    tasks: list[HiddenTask] = field(default_factory=list)
    trees: dict[str, bytes] = field(default_factory=dict)

    def add_tree(self, files: Mapping[str, bytes]) -> str:
        data = pack_tree(files)
        digest = hashlib.sha256(data).hexdigest()
        self.trees[digest] = data
        return digest

    def write(self, path: Path, **summary) -> str:
        """Writes the folder and returns its digest. `summary` is stored in set.json as it is."""
        files = {
            "tasks.jsonl": _lines(self.public),
            "hidden/environments.jsonl": _lines(asdict(e) for _, e in sorted(self.environments.items())),
            "hidden/instances.jsonl": _lines(map(asdict, self.instances)),
            "hidden/tasks.jsonl": _lines(map(asdict, self.tasks)),
            **{f"hidden/trees/{digest}.tar": data for digest, data in self.trees.items()},
        }
        digest = _digest(files)
        head = {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "digest": digest,
            "tasks": len(self.public),
            **summary,
        }
        files["set.json"] = (json.dumps(head, indent=1, sort_keys=True) + "\n").encode()
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return digest


def _lines(records: Iterable[dict]) -> bytes:
    return "".join(json.dumps(r, sort_keys=True) + "\n" for r in records).encode()


def _digest(files: Mapping[str, bytes]) -> str:
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return whole.hexdigest()


def _read_records(path: Path, cls: type) -> list:
    """Reads JSONL strictly: an unknown or missing field is an error that names file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise TaskSetError(
            f"{path}: {e.strerror}; is this a task set? Build one with python -m skillrl.tasks.world"
        ) from e
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            unknown = row.keys() - {f.name for f in fields(cls)}
            if unknown:
                raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
            for f in fields(cls):
                if isinstance(row.get(f.name), list):
                    row[f.name] = tuple(row[f.name])
            if cls is Instance:
                row["candidates"] = tuple(Candidate(**c) for c in row["candidates"])
            records.append(cls(**row))
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise TaskSetError(f"{path}:{number}: damaged {cls.__name__} record: {e}; rebuild the task set") from e
    return records


def read_task_set(path: Path) -> TaskSet:
    """Reads and checks a task set. Raises TaskSetError naming file, line and remedy."""
    path = Path(path)
    try:
        head = json.loads((path / "set.json").read_text(encoding="utf-8"))
    except OSError as e:
        raise TaskSetError(f"no task set at {path} ({e.strerror}); build one with python -m skillrl.tasks.world") from e
    except ValueError as e:
        raise TaskSetError(f"{path / 'set.json'}: {e}; rebuild the task set") from e
    if head.get("schema_version") != SCHEMA_VERSION:
        raise TaskSetError(
            f"{path}: schema version {head.get('schema_version')!r}, not {SCHEMA_VERSION}; rebuild the set"
        )
    environments = _read_records(path / "hidden/environments.jsonl", Environment)
    instances = _read_records(path / "hidden/instances.jsonl", Instance)
    tasks = _read_records(path / "hidden/tasks.jsonl", HiddenTask)
    files = {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    files.pop("set.json")
    if _digest(files) != head["digest"]:
        raise TaskSetError(f"{path}: contents do not match the digest in set.json; rebuild the task set")
    return TaskSet(
        path=path,
        digest=head["digest"],
        environments={e.environment_id: e for e in environments},
        instances={i.instance_id: i for i in instances},
        tasks={t.task_id: t for t in tasks},
    )
