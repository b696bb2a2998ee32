"""What a package and its tests need, as its files declare it. Pure functions; nothing of the package is run."""

import ast
import configparser
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.parser import HeaderParser

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from skillrl.tasks.build.tree import RUNNER_PACKAGES, Package

# Name of an extra or a dependency group -> requirements in the order of their declaration. "" are the package's own.
Groups = Mapping[str, list[str]]

_TEST_GROUPS = ("test", "tests", "testing", "dev")
_TEST_FILES = re.compile(
    r"requirements\.txt|tests?/requirements\.txt"
    r"|requirements[-_](tests?|testing|dev)\.txt|(tests?|testing|dev)[-_]requirements\.txt"
    r"|requirements/(tests?|testing|dev)\.txt"
)
# No test imports them, and the harness loads no plugin of pytest; they would only bring what they need themselves.
_NO_USE = re.compile(
    r"pytest-.*|(flake8|pep8|pylint|pyflakes|mypy|sphinx|sphinxcontrib|mkdocs|types|zest|tox|nox|hatch|pre-commit)(-.*)?"
    r"|ruff|black|blacken-docs|isort|autopep8|yapf|pyupgrade|pycodestyle|pydocstyle|pyright|basedpyright|pyre-check|ty"
    r"|bandit|interrogate|codespell|check-manifest|towncrier|furo|myst-parser|coverage|coveralls|codecov|diff-cover"
    r"|build|twine|wheel|virtualenv|bump2version|bumpversion|commitizen|invoke|cibuildwheel|uv|poetry|pdm|pip-tools"
)


@dataclass(frozen=True)
class Declared:
    """What there is to install."""

    # Requirements without markers, the package's own first, then those of its tests.
    wanted: tuple[str, ...] = ()
    # Names of tools that no test can use.
    no_use: tuple[str, ...] = ()
    # What cannot be asked of an index -> why.
    unusable: Mapping[str, str] = field(default_factory=dict)


def declared(package: Package) -> Declared:
    """From metadata, pyproject.toml, setup.cfg, literals of setup.py and files of requirements, for this Python."""
    files = {path: data.decode("utf-8", "replace") for path, data in package.files.items() if _may_declare(path)}
    groups: dict[str, list[str]] = {}
    for found in (
        _of_metadata(package.metadata.get("PKG-INFO", "")),
        _of_sections(package.metadata.get("requires.txt", "")),
        _of_pyproject(files.get("pyproject.toml", "")),
        _of_setup_cfg(files.get("setup.cfg", "")),
        _of_setup_py(files.get("setup.py", "")),
        {"test": [line for path in sorted(files) if _TEST_FILES.fullmatch(path) for line in _lines(files[path])]},
    ):
        for name, texts in found.items():
            groups.setdefault(canonicalize_name(name) if name else "", []).extend(texts)
    return _chosen(groups, package.name)


def _may_declare(path: str) -> bool:
    return path in ("pyproject.toml", "setup.cfg", "setup.py") or bool(_TEST_FILES.fullmatch(path))


def _chosen(groups: Groups, own: str) -> Declared:
    wanted, no_use, unusable = {}, set(), {}
    waiting, seen = ["", *_TEST_GROUPS], set()
    while waiting:
        group = waiting.pop(0)
        if group in seen:
            continue
        seen.add(group)
        for text in groups.get(group, ()):
            try:
                requirement = Requirement(text)
                holds = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            except ValueError:
                unusable[text] = "is no requirement that can be read"
                continue
            name = canonicalize_name(requirement.name)
            if name in RUNNER_PACKAGES or not holds:
                continue
            if name == own:
                # An extra that stands for others of the same package.
                waiting += map(canonicalize_name, sorted(requirement.extras))
            elif _NO_USE.fullmatch(name):
                no_use.add(name)
            elif requirement.url:
                unusable[text] = "is given by its address and not by a version"
            else:
                requirement.marker = None
                wanted[str(requirement)] = True
    return Declared(tuple(wanted), tuple(sorted(no_use)), unusable)


def _of_metadata(text: str) -> Groups:
    """PKG-INFO: Requires-Dist, an extra's by their markers."""
    headers = HeaderParser().parsestr(text)
    groups: dict[str, list[str]] = {}
    for line in headers.get_all("Requires-Dist", []):
        try:
            requirement = Requirement(line)
            marker, requirement.marker = requirement.marker, None
            for extra in ["", *headers.get_all("Provides-Extra", [])]:
                if marker is None or marker.evaluate({"extra": extra}):
                    groups.setdefault(extra, []).append(str(requirement))
        except ValueError:
            groups.setdefault("", []).append(line)
    return groups


def _of_sections(text: str) -> Groups:
    """requires.txt of older source distributions: lines under [extra], [:marker] and [extra:marker]."""
    groups: dict[str, list[str]] = {}
    extra = marker = ""
    for line in _lines(text):
        if line.startswith("[") and line.endswith("]"):
            extra, _, marker = line[1:-1].partition(":")
        else:
            groups.setdefault(extra, []).append(f"{line}; {marker}" if marker else line)
    return groups


def _of_pyproject(text: str) -> Groups:
    """[project] and [dependency-groups]."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}
    project = _table(found.get("project"))
    groups = {"": _texts(project.get("dependencies"))}
    groups |= {name: _texts(value) for name, value in _table(project.get("optional-dependencies")).items()}
    named = {canonicalize_name(n): v for n, v in _table(found.get("dependency-groups")).items() if isinstance(v, list)}
    for name in named:
        groups.setdefault(name, []).extend(_included(named, name, ()))
    return groups


def _included(named: Mapping[str, list], name: str, above: tuple[str, ...]) -> Iterator[str]:
    """A dependency group's requirements and those of the groups that it includes."""
    for item in named.get(name, ()):
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict) and isinstance(other := item.get("include-group"), str):
            other = canonicalize_name(other)
            if other not in (*above, name):
                yield from _included(named, other, (*above, name))


def _of_setup_cfg(text: str) -> Groups:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error:
        return {}
    groups = {"": _lines(parser.get("options", "install_requires", fallback=""))}
    groups["test"] = _lines(parser.get("options", "tests_require", fallback=""))
    if parser.has_section("options.extras_require"):
        for name, value in parser.items("options.extras_require"):
            groups.setdefault(name, []).extend(_lines(value))
    return groups


def _of_setup_py(text: str) -> Groups:
    """Arguments of setup() that are literals, or names of literals."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return {}
    names = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "setup":
            for keyword in node.keywords:
                value = names.get(keyword.value.id) if isinstance(keyword.value, ast.Name) else keyword.value
                try:
                    found[keyword.arg] = ast.literal_eval(value)
                except (ValueError, TypeError):
                    continue
    groups = {"": _texts(found.get("install_requires")), "test": _texts(found.get("tests_require"))}
    for name, value in _table(found.get("extras_require")).items():
        groups.setdefault(str(name), []).extend(_texts(value))
    return groups


def _table(value: object) -> Mapping:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return _lines(value)
    return [item for item in value if isinstance(item, str)] if isinstance(value, (list, tuple)) else []


def _lines(text: str) -> list[str]:
    """Requirements of a file or a field; options such as -r and -e and what follows a hash sign are left out."""
    plain: Iterable[str] = (re.sub(r"(^|\s)#.*|\s--hash.*|\\$", "", line).strip() for line in text.splitlines())
    return [line for line in plain if line and not line.startswith("-")]
