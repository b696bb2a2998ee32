"""The full task records, hidden half included. Only the service and the offline builders read this module.

A task set is a folder:

    set.json                    name, schema version, counts, content digest
    tasks.jsonl                 public half: what the trainer may see (skillrl/tasks/source.py reads it)
    hidden/environments.jsonl   how to run a repository's tests
    hidden/instances.jsonl      correct repository, planted bug, tests, mutants, candidates
    hidden/tasks.jsonl          per task: what its agent sees, and its answer
    hidden/trees/DIGEST.tar     correct repositories, every test included
    hidden/validation.jsonl     what proving each task showed; evidence about the set, outside of its digest

The folder hidden/ is for its owner alone: run the service as the user who wrote the set, and give a trainer that runs
as somebody else set.json and tasks.jsonl.

An overlay is a change of a tree: path -> new text, or None for a deleted file.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from sandbox_service.errors import NotFound, TaskSetError
from sandbox_service.records import read_records

SCHEMA_VERSION = 1
VALIDATION = "hidden/validation.jsonl"
TREES = "hidden/trees"

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
    # The container image that the tests need; empty: the sandbox's own interpreter runs them.
    image: str = ""
    # Where the repository stands in the image.
    workdir: str = ""
    # Bash that goes before the test command in the same shell, its output unread.
    setup: str = ""
    # How a foreign test command is judged: a parser of its output (graders/parsers) and a rule (graders/rules.py).
    # Empty: the harness runs pytest and reports by itself.
    parser: str = ""
    rule: str = ""
    # SPDX identifier of the repository's licence where it is known.
    licence: str = ""


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
    # Digest of the correct tree with all of its tests; empty when it stands in the environment's image alone.
    tree: str
    # Relative to the correct tree: makes the buggy tree. The gold change is its reverse.
    bug: Overlay
    # Test ids (pytest node ids, or the environment's parser's) that fail on the buggy tree and pass on the correct one;
    # and those that pass on both.
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    # The function under test for unit_tests: file and qualified name.
    target_path: str
    target_symbol: str
    # Relative to the correct tree, each proven to be killed by the repository's own tests; at most 16.
    mutants: tuple[Overlay, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    # The dataset or builder that it comes from.
    origin: str = ""
    base_commit: str = ""
    # Bash: the tests of this instance, where the environment has a parser.
    test_command: str = ""
    # Files of the correct tree that are the tests' own: put back in every graded run.
    test_files: tuple[str, ...] = ()
    # What the environment's rule needs beside the test ids.
    expected: Mapping[str, str] = field(default_factory=dict)
    # Unified diffs against the base commit, where there is no tree to hold them.
    gold_patch: str = ""
    test_patch: str = ""


@dataclass(frozen=True)
class Validation:
    """What proving one task showed."""

    task_id: str
    gold_rewards: tuple[float, ...]
    null_rewards: tuple[float, ...]
    # Policies that know nothing -> their rewards.
    trivial_rewards: Mapping[str, tuple[float, ...]]
    # Where the agent could read lines of the gold change.
    leaks: tuple[str, ...]
    # Why the task is not proven; empty when it is.
    failures: tuple[str, ...]
    wall_s: float
    # Releases of the service and of Python, and the day (ISO 8601).
    release: str
    python: str
    date: str


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
    # The image that the service's sandboxes are made of, where they are.
    images: frozenset[str] = frozenset()

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
        """Raises TaskSetError, with the remedy, when the service's sandboxes cannot be this environment."""
        environment = self.environments[instance.environment_id]
        if environment.image and environment.image not in self.images:
            raise TaskSetError(
                f"environment {environment.environment_id} needs the image {environment.image}, which this service's "
                f"sandboxes are not made of; serve it with --backend=docker --image={environment.image}, or read the "
                "dataset again with --image=local where the sandbox's own Python can run its tests"
            )
        return environment

    def tree_files(self, digest: str) -> dict[str, bytes]:
        """The files of a stored tree. Raises TaskSetError when it is missing or does not match its digest."""
        if not digest:
            raise TaskSetError(NO_TREE)
        tar = self.path / TREES / f"{digest}.tar"
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


NO_TREE = (
    "the repository of this task stands in a container image alone, which this service cannot open; read the dataset "
    "again with --repositories=DIR (git clones), so that the tree is in the task set"
)


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
    """Collects records and writes a task set; the digest covers every byte of it.

    With a `folder`, where the set is going to be, trees are written there as they come: large sets do not fit into
    memory.
    """

    name: str
    public: list[dict] = field(default_factory=list)
    environments: dict[str, Environment] = field(default_factory=dict)
    instances: list[Instance] = field(default_factory=list)
    tasks: list[HiddenTask] = field(default_factory=list)
    trees: dict[str, bytes] = field(default_factory=dict)
    folder: Path | None = None
    _written: set[str] = field(default_factory=set)

    def add_tree(self, files: Mapping[str, bytes]) -> str:
        data = pack_tree(files)
        digest = hashlib.sha256(data).hexdigest()
        if self.folder is None:
            self.trees[digest] = data
        elif digest not in self._written:
            _make_folders(self.folder)
            (self.folder / TREES / f"{digest}.tar").write_bytes(data)
            self._written.add(digest)
        return digest

    def write(self, path: Path, **summary) -> str:
        """Writes the folder and returns its digest. `summary` is stored in set.json as it is."""
        files = {
            "tasks.jsonl": _lines(self.public),
            "hidden/environments.jsonl": _lines(asdict(e) for _, e in sorted(self.environments.items())),
            "hidden/instances.jsonl": _lines(map(asdict, self.instances)),
            "hidden/tasks.jsonl": _lines(map(asdict, self.tasks)),
            **{f"{TREES}/{digest}.tar": data for digest, data in self.trees.items()},
        }
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        # A tree's name is its digest.
        digest = _digest(hashes | {f"{TREES}/{tree}.tar": tree for tree in self._written})
        head = {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "digest": digest,
            "tasks": len(self.public),
            **summary,
        }
        _make_folders(path)
        for name, data in files.items():
            (path / name).write_bytes(data)
        # Last, and whole or not at all: its presence says that the set is there.
        written = path / "set.json.new"
        written.write_text(json.dumps(head, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        written.replace(path / "set.json")
        return digest


def _make_folders(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "hidden").mkdir(mode=0o700, exist_ok=True)
    (path / TREES).mkdir(exist_ok=True)


def _lines(records: Iterable[dict]) -> bytes:
    return "".join(json.dumps(r, sort_keys=True) + "\n" for r in records).encode()


def _digest(hashes: Mapping[str, str]) -> str:
    """Of the names and SHA-256 digests of files."""
    whole = hashlib.sha256()
    for name in sorted(hashes):
        whole.update(f"{name} {hashes[name]}\n".encode())
    return whole.hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_task_set(path: Path, images: Iterable[str] = ()) -> TaskSet:
    """Reads and checks a task set. Raises TaskSetError naming file, line and remedy.

    `images` are those that the reading service's sandboxes are made of.
    """
    path = Path(path)
    try:
        head = json.loads((path / "set.json").read_text(encoding="utf-8"))
    except OSError as e:
        raise TaskSetError(f"no task set at {path} ({e.strerror}); build one with python -m skillrl.tasks.world") from e
    except ValueError as e:
        raise TaskSetError(f"{path / 'set.json'}: {e}; rebuild the task set") from e
    version = head.get("schema_version") if isinstance(head, dict) else None
    if version != SCHEMA_VERSION:
        raise TaskSetError(f"{path}: schema version {version!r}, not {SCHEMA_VERSION}; rebuild the set")
    environments = _by_id(path / "hidden/environments.jsonl", Environment, "environment_id")
    instances = _by_id(path / "hidden/instances.jsonl", Instance, "instance_id", environment_id=environments)
    tasks = _by_id(path / "hidden/tasks.jsonl", HiddenTask, "task_id", instance_id=instances)
    files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    if _digest({n: _hash_file(p) for n, p in files.items() if n not in ("set.json", VALIDATION)}) != head.get("digest"):
        raise TaskSetError(f"{path}: contents do not match the digest in set.json; rebuild the task set")
    return TaskSet(path, head["digest"], environments, instances, tasks, frozenset(images))


def _by_id(path: Path, cls: type, key: str, **references: Mapping[str, object]) -> dict[str, object]:
    """The records of a file by their id. `references` names fields that must be keys of another file's records."""
    found: dict[str, object] = {}
    for number, record in enumerate(read_records(path, cls), 1):
        name = getattr(record, key)
        where = f"{path}:{number}: damaged {cls.__name__} record"
        if name in found:
            raise TaskSetError(f"{where}: {key} {name!r} is there twice; rebuild the task set")
        for field_name, known in references.items():
            if getattr(record, field_name) not in known:
                missing = getattr(record, field_name)
                raise TaskSetError(f"{where}: {field_name} {missing!r} is not in the set; rebuild the task set")
        found[name] = record
    return found


def read_validations(path: Path) -> dict[str, Validation]:
    """What was seen when the set at `path` was proven, by task; empty when nobody has proven it."""
    file = Path(path) / VALIDATION
    return _by_id(file, Validation, "task_id") if file.exists() else {}


def write_validations(path: Path, validations: Iterable[Validation]) -> None:
    """Replaces what is known about the set at `path`."""
    (Path(path) / VALIDATION).write_bytes(_lines(map(asdict, validations)))
