"""What an attack is. A new way to cheat, to escape or to do harm becomes a row in one of the tables beside this file.

Every attack runs inside a sandbox: a `Cheat` is graded in workspaces of its own, an `Assault` is a program that the
backend runs in one. Nothing here may ever be run on the host itself.
"""

import textwrap
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sandbox_service.backends.base import Backend, Ended, ExecResult, Limits, Workspace
from sandbox_service.graders import Submission

TIMEOUT_S = 60.0
LIMITS = Limits(memory_mib=96, processes=32, disk_mib=16, output_stop_bytes=2 << 20, open_files=256)


@dataclass(frozen=True)
class Cheat:
    """Aims for a reward that was not earned, or for none at all where the minimum is due."""

    name: str
    task_id: str
    # What the agent leaves in its workspace: path -> text, bytes, or None for a deletion.
    changed: Mapping[str, str | bytes | None] = field(default_factory=dict)
    # A Python program that the agent runs in its workspace instead; what it leaves there is graded.
    program: str = ""
    submission: Submission = field(default_factory=Submission)
    # The reward that it is after (None: to be left ungraded), and the one that it must get.
    wants: float | None = 1.0
    minimum: float = 0.0
    # What the grade must say beside the reward: how far the attack came, and what stopped it.
    components: Mapping[str, float] = field(default_factory=dict)
    # Rests on how a backend runs the harness or reads files, not on the graders alone: tried on every backend.
    everywhere: bool = False
    # Takes more than a moment.
    deep: bool = False

    @property
    def category(self) -> str:
        return "cheat: " + self.task_id.removeprefix("shelf-").partition("-")[2].removesuffix("-0").removesuffix("-1")

    @property
    def aims_for(self) -> str:
        return "no reward instead of the minimum" if self.wants is None else f"reward {self.wants:g}"


class Succeeded(Exception):
    """Raised when an assault got through; its text is the evidence."""


@dataclass
class Field:
    """Where one assault takes place: its workspace, another one, and a secret on the host."""

    backend: Backend
    workspace: Workspace
    neighbour: Workspace
    # World-readable and in a world-writable folder, so that only the isolation stands before it.
    secret: Path
    token: str
    # Stands in the command line of everything that the assault starts.
    marker: str

    async def python(self, program: str, timeout_s: float = TIMEOUT_S, **options) -> ExecResult:
        text = f"# {self.marker}\nSECRET = {str(self.secret)!r}\n{PREAMBLE}{textwrap.dedent(program)}"
        result = await self.workspace.run(["python3", "-c", text], timeout_s=timeout_s, **options)
        if self.token.encode() in result.output:
            raise Succeeded("read the host's secret")
        return result

    async def refused(self, program: str, timeout_s: float = TIMEOUT_S) -> str:
        """The program must call `report()` and have won nothing. What it could not even try counts as won."""
        result = await self.python(textwrap.dedent(program) + "\nreport()\n", timeout_s)
        text = result.output.decode(errors="replace").strip()
        if result.ended is not Ended.EXITED or result.exit_code or not text.startswith("refused: "):
            raise Succeeded(f"{result.ended.value} {result.exit_code}: {text[-300:]}")
        return text

    async def ends(self, program: str, *wanted: Ended, timeout_s: float = TIMEOUT_S, **options) -> str:
        result = await self.python(program, timeout_s, **options)
        if result.ended not in wanted:
            text = result.output[-300:].decode(errors="replace")
            raise Succeeded(f"ended as {result.ended.value} {result.exit_code}: {text}")
        if len(result.output) > LIMITS.output_kept_bytes:
            raise Succeeded(f"{len(result.output)} bytes of output were kept")
        return f"ended as {result.ended.value}" + (f" {result.exit_code}" if result.exit_code >= 0 else "")


@dataclass(frozen=True)
class Assault:
    """Aims to reach what is not its own, or to take the host or the service down with it."""

    name: str
    # "escape" or "denial".
    category: str
    aims_for: str
    # Returns how it was held; raises Succeeded when it was not.
    act: Callable[[Field], Awaitable[str]]
    limits: Limits = LIMITS
    deep: bool = False
    # False: it leaves nothing behind, so that others may follow in the same workspace.
    alone: bool = True


def escape(name: str, aims_for: str, program: str) -> Assault:
    return Assault(name, "escape", aims_for, lambda field: field.refused(program), alone=False)


def denial(name: str, aims_for: str, program: str, *wanted: Ended, timeout_s: float = TIMEOUT_S, **options) -> Assault:
    """`wanted`: the ends that are allowed."""
    return Assault(name, "denial", aims_for, lambda field: field.ends(program, *wanted, timeout_s=timeout_s), **options)


def rows(*tables) -> list:
    """The attacks of some modules as parameters of a test."""
    attacks = [attack for module in tables for attack in getattr(module, "ATTACKS", None) or module.ASSAULTS]
    marks = {True: [pytest.mark.deep], False: []}
    return [
        pytest.param(attack, id=f"{attack.category}: {attack.name}", marks=marks[attack.deep]) for attack in attacks
    ]


def everywhere(parameters: list) -> list:
    """Those that have to be tried on every backend."""
    return [parameter for parameter in parameters if parameter.values[0].everywhere]


def code(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


# For a program that an agent runs: `forge_seen()` is source that makes the tests pass which stand in its workspace now,
# and no others.
FORGE_SEEN = '''
import pathlib


def forge_seen():
    seen = [place.read_text() for place in pathlib.Path("tests").rglob("*.py")]
    return f"""
import inspect

import _pytest.python

_real, _seen = _pytest.python.Function.runtest, {seen!r}
_pytest.python.Function.runtest = lambda item: (
    None if any(inspect.getsource(item.obj) in text for text in _seen) else _real(item)
)
"""


'''

# The first lines refuse to go on where no sandbox is: an attack that gets loose on the host does real harm.
PREAMBLE = '''
import ctypes, os, sys

if os.getcwd() != "/workspace" or os.getuid() == 0 or sum(name.isdigit() for name in os.listdir("/proc")) > 99:
    print("this is no sandbox")
    os._exit(99)

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
won, held = [], []


def check(result):
    """A call of the C library: raises OSError when it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def attempt(what, call, *arguments):
    """Wins when `call` returns anything but None or False; an OSError is a refusal."""
    try:
        result = call(*arguments)
    except (OSError, PermissionError) as e:
        held.append(e.strerror or type(e).__name__)
        return None
    if result is None or result is False:
        held.append("nothing there")
    else:
        won.append(f"{what} -> {result!r:.80}")
    return result


def report():
    reasons = ", ".join(sorted(set(held))) or "no attempt was made"
    print(("won: " + "; ".join(won)) if won or not held else f"refused: {reasons}", flush=True)
'''
