"""Which packages a task set is made of. A manifest is one JSON object; see configs/tasks/pypi.json."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sandbox_service.errors import TaskSetError
from sandbox_service.records import decode
from skillrl.tasks.build.checkout import read_checkout
from skillrl.tasks.build.fetch import fetch, parse_requirement
from skillrl.tasks.build.origins import check_not_evaluated
from skillrl.tasks.build.tree import BuildError, Package
from skillrl.tasks.source import SPLITS

SCHEMA_VERSION = 1
SHIPPED = Path(__file__).parents[3] / "configs/tasks/pypi.json"


@dataclass(frozen=True)
class Entry:
    """One package of a set; either `requirement` or `repo` says which."""

    # NAME==VERSION on the package index, and the sha256 of its source distribution (empty: any).
    requirement: str = ""
    sha256: str = ""
    # A folder: the root of a repository.
    repo: str = ""
    # Of all its tasks: a package is never in two.
    split: str = "train"
    # Bugs to keep; each gives up to seven tasks.
    instances: int = 8
    # Refactorings of its own code to ask for, as many as can be proven; each is one task.
    refactorings: int = 2
    # All distributions that it and its tests need beside pytest, as NAME==VERSION. None: what its files declare.
    packages: tuple[str, ...] | None = None
    # A licence to take although it is not known to be permissive.
    allow_licence: str = ""
    # Difficulty to note on the tasks.
    level: int = 2

    def __post_init__(self):
        if bool(self.requirement) == bool(self.repo):
            raise ValueError("a package needs either a requirement or a repo")
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} is none of {', '.join(SPLITS)}")
        if self.instances < 1:
            raise ValueError("instances must be at least 1")
        if self.refactorings < 0:
            raise ValueError("refactorings must be at least 0")

    @property
    def label(self) -> str:
        return self.requirement or Path(self.repo).resolve().name

    def read(self) -> Package:
        """Fetches the package, or reads the repository. Raises BuildError; Evaluated when it must not be trained on."""
        if self.requirement:
            self._check_not_evaluated(f"pypi:{parse_requirement(self.requirement)[0]}")
            package = fetch(self.requirement, self.sha256 or None, allow_licence=self.allow_licence)
        else:
            package = read_checkout(Path(self.repo), allow_licence=self.allow_licence)
        self._check_not_evaluated(package.repository, f"repo:{package.name}", *package.named)
        return package

    def _check_not_evaluated(self, *names: str) -> None:
        if self.split == "train":
            check_not_evaluated(self.label, names)


@dataclass(frozen=True)
class Manifest:
    """What a set is made of; the same manifest gives the same tasks."""

    name: str
    packages: tuple[Entry, ...]
    seed: int = 0
    schema_version: int = SCHEMA_VERSION


def built_from(entry: Entry, seed: int) -> dict:
    """What decides an entry's tasks, as JSON gives it back: what a finished part must agree with."""
    return json.loads(json.dumps({**asdict(entry), "seed": seed}))


def read_manifest(path: Path) -> Manifest:
    """Raises BuildError naming the file and what is wrong with it."""
    try:
        manifest = decode(Manifest, json.loads(path.read_text(encoding="utf-8")))
    except OSError as e:
        raise BuildError(f"{path}: {e.strerror}; give a manifest such as configs/tasks/pypi.json") from e
    except (ValueError, TaskSetError) as e:
        raise BuildError(f"{path}: {e}; compare it with configs/tasks/pypi.json") from e
    if manifest.schema_version != SCHEMA_VERSION:
        raise BuildError(f"{path}: schema version {manifest.schema_version}, not {SCHEMA_VERSION}; rewrite it")
    labels = [entry.label for entry in manifest.packages]
    if not labels or len(set(labels)) < len(labels):
        raise BuildError(f"{path}: it must name at least one package, and none twice")
    return manifest


def known(requirement: str) -> Entry | None:
    """The shipped manifest's entry of a package."""
    wanted = "==".join(parse_requirement(requirement))
    shipped = read_manifest(SHIPPED).packages if SHIPPED.exists() else ()
    return next((entry for entry in shipped if entry.requirement == wanted), None)
