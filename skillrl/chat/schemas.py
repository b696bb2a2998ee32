"""The two tools as JSON schemas, and their calls as named arguments.

Elsewhere a call has positional arguments (skillrl/rollout/tools.py); model families write names.
"""

from collections.abc import Mapping
from typing import Any

from skillrl.chat.base import ChatError, Malformed, ToolCall


def _tool(name: str, description: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _string(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


# As chat templates take them (`tools=` of apply_chat_template).
TOOLS = [
    _tool(
        "bash",
        "Run a shell command in the workspace and read its output.",
        {"command": _string("The command, as given to bash -c.")},
        ["command"],
    ),
    _tool(
        "str_replace",
        "View, create or edit a file of the workspace.",
        {
            "command": _string(
                "view shows the file or lists the folder at `path`; create writes `text` to the file; replace puts "
                "`new` in the place of `old`, which must occur in the file exactly once.",
                enum=["view", "create", "replace"],
            ),
            "path": _string("Path of the file, relative to the workspace."),
            "text": _string("For create: the whole text of the file."),
            "old": _string("For replace: the text to be replaced, whitespace included."),
            "new": _string("For replace: the text in its place."),
        },
        ["command", "path"],
    ),
]
# Names of the positional arguments, by tool and, where it has commands, by the first argument.
_NAMES = {
    ("bash", None): ("command",),
    ("str_replace", "view"): ("command", "path"),
    ("str_replace", "create"): ("command", "path", "text"),
    ("str_replace", "replace"): ("command", "path", "old", "new"),
}


def to_arguments(call: ToolCall) -> dict[str, str]:
    """The named arguments of a call. ChatError for a call that the tools do not take."""
    names = _NAMES.get((call.name, call.args[0] if call.name != "bash" and call.args else None), ())
    if not names or len(names) != len(call.args):
        raise ChatError(f"{call.name} with {len(call.args)} arguments cannot be said: no tool takes that")
    return dict(zip(names, call.args, strict=True))


def from_arguments(name: Any, arguments: Any) -> ToolCall | Malformed:
    """The call that a policy wrote, or what is wrong with it, for the policy to read.

    Arguments that the command does not take are ignored where they are empty or null: models often fill in every name.
    """
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        return Malformed("a call has a name, which is a string, and arguments, which are an object")
    commands = [command for tool, command in _NAMES if tool == name]
    if not commands:
        return Malformed(f"unknown tool {name[:40]!r}")
    command = arguments.get("command") if commands != [None] else None
    names = _NAMES.get((name, command)) if isinstance(command, str | None) else None
    if names is None:
        return Malformed(f"{name} needs a command, which is one of {', '.join(commands)}")
    what = name if command is None else f"{name} {command}"
    extra = [n for n, value in arguments.items() if n not in names and value not in ("", None)]
    if extra:
        return Malformed(f"{what} takes no argument {str(extra[0])[:40]!r}")
    for n in names:
        if not isinstance(arguments.get(n), str):
            return Malformed(f"{what} needs the argument {n!r}, which is a string")
    # JSON can hold half a surrogate pair, UTF-8 cannot.
    return ToolCall(name, tuple(arguments[n].encode("utf-8", "replace").decode() for n in names))
