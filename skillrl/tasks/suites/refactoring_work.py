"""What every refactoring is made of: a repository before and after, the rules that hold after it, and its tests."""

import ast
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sandbox_service.syntax import parse
from sandbox_service.tasks import Overlay, apply_overlay
from skillrl.tasks.world import apps, level2
from skillrl.tasks.world.prove import Suite
from skillrl.tasks.world.words import FUNCTION_NAMES, PLACES

SPLIT = "heldout_repositories"
_TWO_APPLICATIONS = 0.4
Texts = Mapping[str, str]


class Undrawable(Exception):
    """The repository has no place for this refactoring; another one is drawn."""


@dataclass(frozen=True)
class Work:
    """One refactoring."""

    family: str
    level: int
    # The finished tree, hidden tests included.
    files: Texts
    # On the finished tree: sources as they were, and tests as the agent sees them.
    undo: Overlay
    hide: Overlay
    instruction: str
    # The rules of sandbox_service/graders/structure.py.
    rules: Mapping[str, object]
    # Name -> changed files, on the tree that the agent sees, of work that must not be accepted.
    wrong: Mapping[str, Overlay]


@dataclass(frozen=True)
class Draw:
    """A drawn repository and fresh words."""

    rng: random.Random
    package: str
    # Sources and tests.
    files: dict[str, str]
    # Modules of the applications.
    paths: tuple[str, ...]
    repository: level2.Repository
    level: int
    _taken: set[str] = field(default_factory=set)

    def module(self) -> str:
        """The path of a module that is not there yet."""
        return f"{self.package}/{self._fresh(PLACES)}.py"

    def function(self) -> str:
        return self._fresh(FUNCTION_NAMES[SPLIT])

    def _fresh(self, pool: tuple[str, ...]) -> str:
        known = set(re.findall(r"\w+", " ".join([*self.files.values(), *self.files]))) | self._taken
        word = self.rng.choice([w for w in pool if w not in known])
        self._taken.add(word)
        return word

    def calls(self, name: str) -> dict[str, list[str]]:
        """Kind of scenario -> lines of a test that use a name, from those that no test of the repository has."""
        found: dict[str, list[str]] = {}
        for scenario, call in self.repository.pool:
            if any(mentions(line, name) for line in call.lines):
                found.setdefault(scenario.kind, []).extend(call.lines)
        return found

    def imports(self, lines: Iterable[str], but: Iterable[str] = ()) -> str:
        """The import from the package of the names that lines use, without some; empty when there are none."""
        head, _, names = self.repository.import_line.partition(" import ")
        text = "\n".join(lines)
        used = [n for n in names.split(", ") if n not in but and mentions(text, n)]
        return f"{head} import {', '.join(used)}\n" if used else ""


def draw(rng: random.Random) -> Draw:
    count = 2 if rng.random() < _TWO_APPLICATIONS else 1
    chosen = rng.sample([*apps.TRAIN_APPS, *apps.HELDOUT_APPS], count)
    repository = level2.make_repository(rng, SPLIT, chosen)
    files = {path: data.decode() for path, data in repository.files.items()}
    return Draw(rng, repository.package, files, tuple(repository.origin), repository, level=1 + count)


def mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None


def renamed(text: str, old: str, new: str) -> str:
    return re.sub(rf"\b{re.escape(old)}\b", new, text)


def dotted(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def is_test(path: str) -> bool:
    return path.startswith("tests/")


def test_function(name: str, lines: Iterable[str]) -> str:
    return f"def test_{name}():\n" + "".join(f"    {line}\n" for line in lines)


def test_file(imports: Iterable[str], functions: Iterable[str]) -> str:
    return "\n\n".join(["".join(imports), *functions])


def changed(before: Texts, after: Texts) -> dict[str, str | None]:
    """The overlay that makes `after` of `before`."""
    return {path: after.get(path) for path in sorted({*before, *after}) if before.get(path) != after.get(path)}


def verdicts(files: Texts) -> dict[str, bool]:
    """Test id -> passed. A test file that cannot be imported has none that pass."""
    sources = {path: text.encode() for path, text in files.items() if not is_test(path)}
    found = {}
    for path in sorted(filter(is_test, files)):
        names = [n.name for n in parse(files[path]).body if isinstance(n, ast.FunctionDef) and n.name[:4] == "test"]
        found |= dict.fromkeys((f"{path}::{name}" for name in names), False)
        try:
            found |= Suite({**sources, path: files[path].encode()}, limited=False).results()
        except (ImportError, AttributeError):
            continue
    return found


def split_tests(work: Work) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(fail-to-pass, pass-to-pass). Raises Undrawable when the finished tree fails, or one of the two is empty."""
    after = verdicts(work.files)
    encoded = {path: text.encode() for path, text in work.files.items()}
    before = verdicts({path: data.decode() for path, data in apply_overlay(encoded, work.undo).items()})
    failing = tuple(i for i in sorted(after) if not before[i])
    passing = tuple(i for i in sorted(after) if before[i])
    if not all(after.values()) or not failing or not passing:
        raise Undrawable(f"{len(failing)} fail before, {len(passing)} pass on both")
    return failing, passing
