"""The str_replace tool: view a file or folder, create a file, replace a text that occurs exactly once.

Outputs are one short line wherever possible, because a small policy reads them. What the agent asks wrongly is an
answer (`ok=False` and why); only faults of our own raise.
"""

import enum
import posixpath
from dataclasses import dataclass

from sandbox_service.backends.base import WORKSPACE, Ended, Workspace

VIEW_MAX_LINES = 2000
VIEW_MAX_CHARS = 48 * 1024
LIST_TIMEOUT_S = 10.0


class Command(enum.Enum):
    VIEW = "view"
    CREATE = "create"
    REPLACE = "replace"


@dataclass(frozen=True)
class Edit:
    """One call of the tool. `new_text` is the whole file for CREATE; `old_text` is for REPLACE alone."""

    command: Command
    path: str
    new_text: str = ""
    old_text: str = ""


@dataclass(frozen=True)
class EditResult:
    ok: bool
    output: str


class EditError(Exception):
    """The agent's request cannot be carried out; the message is for the agent."""


def relative_path(path: str) -> str:
    """The normalised path relative to WORKSPACE ("." for itself). Raises EditError when it leads outside."""
    if not path or "\0" in path:
        raise EditError("path is empty" if not path else "path holds a NUL byte")
    whole = posixpath.normpath(posixpath.join(WORKSPACE, path))
    if whole != WORKSPACE and not whole.startswith(WORKSPACE + "/"):
        raise EditError(f"{path} is outside {WORKSPACE}")
    return posixpath.relpath(whole, WORKSPACE)


def numbered(text: str) -> str:
    """The lines with their numbers, cut after VIEW_MAX_LINES lines or VIEW_MAX_CHARS characters."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    kept, size = [], 0
    for number, line in enumerate(lines, 1):
        kept.append(f"{number}\t{line}")
        size += len(kept[-1]) + 1
        if number == VIEW_MAX_LINES or size > VIEW_MAX_CHARS:
            kept[-1] = kept[-1][: VIEW_MAX_CHARS // 2]
            if number < len(lines):
                kept.append(f"[{len(lines) - number} more lines]")
            break
    return "\n".join(kept) or "(empty file)"


def replace_once(path: str, data: bytes, old: bytes, new: bytes) -> tuple[bytes, int]:
    """The new bytes and the 1-based line of the change. Raises EditError unless `old` occurs exactly once."""
    if not old:
        raise EditError("old text is empty")
    first, count, at = data.find(old), 0, data.find(old)
    while at >= 0:  # overlapping matches count: either of them could be meant
        count, at = count + 1, data.find(old, at + 1)
    if count == 0:
        raise EditError(f"no match in {path}")
    if count > 1:
        raise EditError(f"{count} matches in {path}, must be unique")
    if old == new:
        raise EditError(f"old and new text are equal, {path} not changed")
    return data[:first] + new + data[first + len(old) :], data.count(b"\n", 0, first) + 1


async def apply_edit(workspace: Workspace, edit: Edit) -> EditResult:
    """Carries out one call. Raises SandboxError for faults of our own alone."""
    try:
        path = relative_path(edit.path)
        return EditResult(True, await _COMMANDS[edit.command](workspace, path, edit))
    except EditError as e:
        return EditResult(False, str(e))
    except FileNotFoundError:
        return EditResult(False, f"no such file: {edit.path}")
    except IsADirectoryError:
        return EditResult(False, f"{edit.path} is a folder")
    except ValueError as e:
        return EditResult(False, f"{edit.path}: {e}")
    except OSError as e:
        return EditResult(False, f"{edit.path}: {(e.strerror or str(e)).lower()}")


async def _view(workspace: Workspace, path: str, edit: Edit) -> str:
    try:
        data = await workspace.read_file(path)
    except IsADirectoryError:
        return await _list(workspace, path)
    if b"\0" in data:
        raise EditError(f"{path} is a binary file of {len(data)} bytes")
    return numbered(data.decode(errors="replace"))


async def _list(workspace: Workspace, path: str) -> str:
    result = await workspace.run(["ls", "-1Ap", "--", path], timeout_s=LIST_TIMEOUT_S)
    output = result.output.decode(errors="replace").rstrip("\n")
    if result.ended is not Ended.EXITED:
        raise EditError(f"listing {path} ended by {result.ended.value}")
    if result.exit_code != 0:
        raise EditError(output)
    return output or "(empty folder)"


async def _create(workspace: Workspace, path: str, edit: Edit) -> str:
    if edit.path.endswith("/") or path == ".":
        raise EditError(f"{edit.path} is a folder, give a file name")
    try:
        await workspace.read_file(path)
        verb = "overwritten"
    except FileNotFoundError:
        verb = "created"
    await workspace.write_file(path, edit.new_text.encode())
    return f"{verb} {path}"


async def _replace(workspace: Workspace, path: str, edit: Edit) -> str:
    data = await workspace.read_file(path)
    changed, line = replace_once(path, data, edit.old_text.encode(), edit.new_text.encode())
    await workspace.write_file(path, changed)
    return f"edited {path}:{line}"


_COMMANDS = {Command.VIEW: _view, Command.CREATE: _create, Command.REPLACE: _replace}
