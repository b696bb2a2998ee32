"""Unified diffs as git writes them: parsed, applied to texts, and told apart by what they touch. Pure functions."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)$")
_TEST_FOLDERS = frozenset(
    {"test", "tests", "testing", "__tests__", "spec", "specs", "testdata", "test-data", "fixtures"}
)
_TEST_NAME = re.compile(
    r"test_.*|.*_test\.\w+|.*_tests?\.py|tests?\.py|conftest\.py|.*\.(test|spec)\.\w+|.*Tests?\.\w+|.*_spec\.rb"
    r"|Test.*\.java"
)
_DOC_FOLDERS = frozenset(
    {"doc", "docs", "documentation", "changelog", "changelog.d", "changes", "newsfragments", "news"}
)
_DOC_SUFFIXES = frozenset({".md", ".rst", ".adoc", ".mdx"})
_DOC_NAME = re.compile(
    r"(changelog|changes|history|news|authors|contributors|readme|release[_-]?notes|whats?_?new)\b", re.I
)


class DiffError(ValueError):
    """The diff is damaged or does not fit the texts."""


@dataclass(frozen=True)
class Hunk:
    """A block of changed lines; `lines` begin with " ", "-" or "+" and end as they do in the file."""

    old_start: int
    new_start: int
    section: str
    lines: tuple[str, ...]

    def side(self, sign: str) -> list[str]:
        return [line[1:] for line in self.lines if line[0] in (" ", sign)]


@dataclass(frozen=True)
class FileDiff:
    """What happens to one file. A path is None on the side where the file does not exist."""

    old: str | None
    new: str | None
    hunks: tuple[Hunk, ...]
    is_binary: bool = False

    @property
    def path(self) -> str:
        return self.new or self.old or ""


def parse_diff(text: str) -> list[FileDiff]:
    """Raises DiffError that says which line is wrong."""
    lines = text.split("\n")
    found: list[FileDiff] = []
    current: FileDiff | None = None
    i = 0
    while i < len(lines):
        line = lines[i].rstrip("\r")
        if line.startswith("diff --git "):
            found += [current] if current else []
            old, _, new = line.removeprefix("diff --git a/").partition(" b/")
            current = FileDiff(old, new, ())
        elif line.startswith("--- ") and i + 1 < len(lines) and lines[i + 1].startswith("+++ "):
            if current is None or current.hunks:
                found += [current] if current else []
                current = FileDiff(None, None, ())
            current = replace(current, old=_path(line[4:]), new=_path(lines[i + 1].rstrip("\r")[4:]))
            i += 1
        elif line.startswith("@@ ") and current is not None:
            hunk, i = _hunk(lines, i)
            current = replace(current, hunks=(*current.hunks, hunk))
            continue
        elif current is not None and not current.hunks:
            current = _with_header(current, line)
        i += 1
    found += [current] if current else []
    if text.strip() and not found:
        raise DiffError("it holds no file")
    return found


def _path(name: str) -> str | None:
    name = name.split("\t")[0].strip().strip('"')
    if name == "/dev/null":
        return None
    return name[2:] if name[:2] in ("a/", "b/") else name


def _with_header(diff: FileDiff, line: str) -> FileDiff:
    if line.startswith("new file mode"):
        return replace(diff, old=None)
    if line.startswith("deleted file mode"):
        return replace(diff, new=None)
    if line.startswith("rename from "):
        return replace(diff, old=line.removeprefix("rename from "))
    if line.startswith("rename to "):
        return replace(diff, new=line.removeprefix("rename to "))
    if line.startswith(("GIT binary patch", "Binary files ")):
        return replace(diff, is_binary=True)
    return diff


def _hunk(lines: Sequence[str], i: int) -> tuple[Hunk, int]:
    match = _HUNK.match(lines[i].rstrip("\r"))
    if not match:
        raise DiffError(f"line {i + 1} is no hunk header: {lines[i][:60]!r}")
    old_left, new_left = int(match[2] or 1), int(match[4] or 1)
    body: list[str] = []
    at = i + 1
    while old_left > 0 or new_left > 0:
        if at >= len(lines):
            raise DiffError(f"the hunk at line {i + 1} is cut short")
        # A blank line of context whose one blank was stripped on the way.
        line = lines[at] or " "
        if line.startswith("\\"):
            body[-1] = body[-1].removesuffix("\n")
        elif line[0] in " -+":
            old_left -= line[0] in " -"
            new_left -= line[0] in " +"
            body.append(line + "\n")
        else:
            raise DiffError(f"line {at + 1} belongs to no hunk: {line[:60]!r}")
        at += 1
    if at < len(lines) and lines[at].startswith("\\"):
        body[-1] = body[-1].removesuffix("\n")
        at += 1
    return Hunk(int(match[1]), int(match[3]), match[5].strip(), tuple(body)), at


def apply_diff(
    files: Mapping[str, bytes], diffs: Iterable[FileDiff], *, reverse: bool = False
) -> dict[str, str | None]:
    """What the diffs make of the files they touch: path -> new text, None for a deleted one.

    Context must be found as it stands, at the stated line or the nearest other place. Raises DiffError.
    """
    result: dict[str, str | None] = {}
    for diff in diffs:
        if diff.is_binary:
            raise DiffError(f"{diff.path} is binary")
        old, new = (diff.new, diff.old) if reverse else (diff.old, diff.new)
        text = ""
        if old is not None:
            before = result.get(old, files.get(old))
            if before is None:
                raise DiffError(f"{old} is not in the tree")
            try:
                text = before if isinstance(before, str) else before.decode()
            except UnicodeDecodeError:
                raise DiffError(f"{old} is not UTF-8 text") from None
        elif new in files and new not in result:
            raise DiffError(f"{new} is in the tree already")
        changed = _apply(text, diff, reverse)
        if old is not None and old != new:
            result[old] = None
        if new is not None:
            result[new] = changed
    return result


def _apply(text: str, diff: FileDiff, reverse: bool) -> str:
    lines = [line + "\n" for line in text.split("\n")]
    # What follows the last line end: nothing, or a line without one.
    lines[-1] = lines[-1].removesuffix("\n")
    lines = lines if lines[-1] else lines[:-1]
    taken, put = ("+", "-") if reverse else ("-", "+")
    # How far the hunks so far have moved what follows.
    shift = 0
    for hunk in diff.hunks:
        before, after = hunk.side(taken), hunk.side(put)
        start = hunk.new_start if reverse else hunk.old_start
        # A hunk that takes nothing names the line before it.
        stated = (start - 1 if before else start) + shift
        at = _find(lines, before, stated)
        if at is None:
            raise DiffError(f"{diff.path}: the hunk at line {start} does not fit")
        lines[at : at + len(before)] = after
        shift += at - stated + len(after) - len(before)
    return "".join(lines)


def _find(lines: Sequence[str], wanted: Sequence[str], start: int) -> int | None:
    """The place nearest to `start` where the lines stand."""
    if not wanted:
        return min(max(start, 0), len(lines))
    places = (p for d in range(len(lines) + abs(start) + 1) for p in dict.fromkeys((start - d, start + d)))
    return next((p for p in places if p >= 0 and lines[p : p + len(wanted)] == list(wanted)), None)


def changed_lines(diffs: Iterable[FileDiff], sign: str) -> list[str]:
    """Stripped lines that the diffs add ("+") or take away ("-")."""
    return [line[1:].strip() for d in diffs for h in d.hunks for line in h.lines if line[0] == sign]


def patch_id(diffs: Iterable[FileDiff]) -> str:
    """Equal for diffs that make the same change, wherever it stands and however it is indented (as git patch-id)."""
    digest = hashlib.sha256()
    for diff in sorted(diffs, key=lambda d: d.path):
        for hunk in diff.hunks:
            for line in hunk.lines:
                if line[0] in "+-" and (bare := "".join(line[1:].split())):
                    digest.update(f"{line[0]}{bare}\n".encode())
    return digest.hexdigest()


def is_test_path(path: str) -> bool:
    """By the usual names of folders and files."""
    pure = PurePosixPath(path)
    return bool(_TEST_FOLDERS & set(pure.parts[:-1])) or _TEST_NAME.fullmatch(pure.name) is not None


def is_doc_path(path: str) -> bool:
    pure = PurePosixPath(path)
    in_docs = bool(_DOC_FOLDERS & {part.lower() for part in pure.parts[:-1]})
    return in_docs or pure.suffix in _DOC_SUFFIXES or _DOC_NAME.match(pure.name) is not None
