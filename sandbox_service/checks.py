"""What a request may say. Raises BadRequest, which names the limit."""

import math

from sandbox_service.errors import BadRequest

# The kernel's MAX_ARG_STRLEN: a longer argument cannot be passed to bash.
MAX_COMMAND_BYTES = 128 * 1024 - 1
# Of ids and other names.
MAX_NAME_CHARS = 512


def seconds(name: str, value: float) -> float:
    """A length of time; 0 stands for the default."""
    if not math.isfinite(value) or value < 0:
        raise BadRequest(f"{name} must be a number of seconds, 0 for the default; got {value}")
    return value


def ids(**values: str) -> None:
    """Ids are made by the client, and end up in logs."""
    for name, value in values.items():
        if not value:
            raise BadRequest(f"{name} must not be empty; the client makes it")
        if len(value) > MAX_NAME_CHARS or not value.isprintable():
            raise BadRequest(f"{name} must be at most {MAX_NAME_CHARS} printable characters")


def why_bash_cannot_start(command: str) -> str:
    """Empty when it can. The agent's mistake, so an answer and no error."""
    if "\0" in command:
        return "the command holds a NUL byte"
    return "the command is too long" if len(command.encode()) > MAX_COMMAND_BYTES else ""
