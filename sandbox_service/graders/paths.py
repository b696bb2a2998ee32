"""Which files of an agent's change count. Pure functions of repository-relative POSIX paths."""

import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath

from sandbox_service.backends.base import WORKSPACE
from sandbox_service.tasks import Environment

# What configures or extends the interpreter or the test run; always the harness's own.
HARNESS_NAMES = frozenset(
    {"conftest.py", "sitecustomize.py", "usercustomize.py", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg"}
    | {"pyproject.toml", "setup.py", "pytest.toml", ".pytest.toml"}
)
# Compiled code would be imported in place of the source beside it.
_DENIED_SUFFIXES = frozenset({".pth", ".pyc", ".pyo", ".so", ".pyd", ".egg-link"})
RUNNER_MODULES = frozenset(
    {"pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "exceptiongroup", "tomli"}
)
_RESERVED_MODULES = frozenset(sys.stdlib_module_names) | RUNNER_MODULES


def is_test(path: str, environment: Environment) -> bool:
    name = PurePosixPath(path).name
    named = name == "conftest.py" or (name.startswith("test_") and name.endswith(".py")) or name.endswith("_test.py")
    return any(named if root in (".", "") else _within(path, root) for root in environment.test_roots)


def is_source(path: str, environment: Environment) -> bool:
    """True for a file that a fix may change: under a source root, no test, no configuration of the run."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "__pycache__" in pure.parts or is_test(path, environment):
        return False
    if pure.name in HARNESS_NAMES or pure.suffix in _DENIED_SUFFIXES:
        return False
    return any(_within(path, root) for root in environment.source_roots)


def accepted_changes(
    changed: Mapping[str, bytes | None], environment: Environment, tree: Collection[str]
) -> dict[str, bytes | None]:
    """The part of an agent's change that is graded: source files that hide no module of Python or of the runner.

    `tree` are the paths of the repository as it was.
    """
    owned = {_top_module(path, environment) for path in tree if is_source(path, environment)}
    return {
        path: data
        for path, data in changed.items()
        if is_source(path, environment)
        and (_top_module(path, environment) in owned or _top_module(path, environment) not in _RESERVED_MODULES)
    }


def canonical(path: str, tree: Collection[str]) -> str:
    """The path as the repository spells it: `./`, `a/`, `b/`, the workspace and the repository's name are stripped."""
    path = path.strip().strip("`'\"").replace("\\", "/")
    path = str(PurePosixPath(path.removeprefix(WORKSPACE)))
    relative = str(PurePosixPath(path.lstrip("/")))
    if relative in tree:
        return relative
    shorter = relative.partition("/")[2]
    return shorter if shorter in tree else relative


def canonical_set(paths: Iterable[str], tree: Collection[str]) -> frozenset[str]:
    return frozenset(canonical(path, tree) for path in paths)


def _within(path: str, root: str) -> bool:
    root = root.rstrip("/")
    return root in (".", "") or path == root or path.startswith(root + "/")


def _top_module(path: str, environment: Environment) -> str:
    """The first part of the path below the deepest source root that holds it."""
    roots = [r.rstrip("/") for r in environment.source_roots if _within(path, r)]
    root = max((r for r in roots if r != "."), key=len, default="")
    below = path[len(root) :].lstrip("/")
    return below.partition("/")[0].partition(".")[0]
