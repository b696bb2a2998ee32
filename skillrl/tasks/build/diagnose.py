"""Why a suite cannot import what it tests, from what its run printed. Pure functions."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from skillrl.tasks.build.tree import BuildError, find_source_roots

_NO_MODULE = re.compile(r"No module named '([\w.]+)'")
_NO_NAME = re.compile(r"cannot import name '(\w+)' from (?:partially initialized module )?'([\w.]+)'")
_NO_METADATA = re.compile(r"PackageNotFoundError: (?:No package metadata was found for )?([\w.-]+)")
_COMPILED = (".pyx", ".pxd", ".c", ".cc", ".cpp", ".rs", ".f90")


class UnbuiltError(BuildError):
    """The suite lacks only what a build of the package makes."""


@dataclass(frozen=True)
class Cause:
    """One thing that is not there, with its remedy."""

    text: str
    # A build of the package makes it, without a compiler.
    by_build: bool = False


def causes(log: str, files: Mapping[str, bytes], own: str) -> list[Cause]:
    """Each once, in the order of the kinds. `own` is the package's normalised name."""
    found = [_no_module(name, files) for name in _NO_MODULE.findall(log)]
    # What else cannot be imported from a module is the tree's own fault, or a circle.
    found += [_no_module(f"{module}.{name}", files) for name, module in _NO_NAME.findall(log) if _is_own(module, files)]
    found += [_no_metadata(name, own) for name in _NO_METADATA.findall(log)]
    return list(dict.fromkeys(found))


def _no_module(module: str, files: Mapping[str, bytes]) -> Cause:
    if not _is_own(module, files):
        top = module.partition(".")[0]
        return Cause(f"{top} is not installed: name the distribution that holds it with --packages=NAME==VERSION,...")
    stem = module.rpartition(".")[2]
    if any(path.rpartition("/")[2] in [stem + suffix for suffix in _COMPILED] for path in files):
        return Cause(f"{module} is a compiled extension, which is not built here: take a package of Python alone")
    return Cause(f"{module} is no file of the repository: a build of the package makes it", by_build=True)


def _no_metadata(name: str, own: str) -> Cause:
    if canonicalize_name(name) == own:
        return Cause(f"{own} asks for its own metadata: a build of the package makes it", by_build=True)
    return Cause(f"the distribution {name} is not installed: name it with --packages={name}==VERSION,...")


def _is_own(module: str, files: Mapping[str, bytes]) -> bool:
    (root,) = find_source_roots(files)
    top = ("" if root == "." else root + "/") + module.partition(".")[0]
    return f"{top}.py" in files or any(path.startswith(top + "/") for path in files)


def fault(told: str, log: str, found: Iterable[Cause]) -> BuildError:
    """The error to raise: `told`, the causes, and the end of what was printed."""
    found = list(found)
    kind = UnbuiltError if found and all(cause.by_build for cause in found) else BuildError
    because = [cause.text for cause in found] or ["a missing requirement? Name it with --packages=NAME==VERSION,..."]
    return kind("\n- ".join([told, *because]) + f"\nLast output:\n{log[-1500:]}")
