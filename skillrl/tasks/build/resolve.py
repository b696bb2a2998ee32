"""Requirements -> exact versions, through pip. Nothing is installed, and no source distribution is built."""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from sandbox_service.pip import run_pip
from sandbox_service.workspaces import runner_pins
from skillrl.tasks.build.ledger import Ledger
from skillrl.tasks.build.requirements import Declared
from skillrl.tasks.build.tree import RUNNER_PACKAGES, BuildError


@dataclass(frozen=True)
class Pins:
    """What stands in the sandbox beside the test runner."""

    # NAME==VERSION, all that the requirements need, sorted.
    packages: tuple[str, ...]
    # Requirements that are not met -> why.
    unmet: dict[str, str]


def resolve(declared: Declared, own: str) -> Pins:
    """The newest versions that agree with each other and with the test runner's own.

    A requirement that cannot be met beside those before it is left out and told; so is one that brings the package
    `own`, which must not stand in the sandbox a second time. Blocking. Raises BuildError where pip does not reach its
    index.
    """
    unmet = dict(declared.unusable)
    kept: list[str] = []
    versions: dict[str, str] = {}
    # Halves are tried where all together fail.
    waiting = [list(declared.wanted)] if declared.wanted else []
    while waiting:
        more = waiting.pop(0)
        found = _ask_pip(kept + more)
        if isinstance(found, dict) and own in found:
            found = f"it needs {own} itself, whose own copy would show what is right"
        if isinstance(found, dict):
            kept, versions = kept + more, found
        elif len(more) == 1:
            unmet[more[0]] = found
        else:
            half = len(more) // 2
            waiting = [more[:half], more[half:], *waiting]
    return Pins(tuple(sorted(f"{n}=={v}" for n, v in versions.items() if n not in RUNNER_PACKAGES)), unmet)


async def pinned(declared: Declared, own: str, proven: Ledger) -> Pins:
    """As `resolve`, once for a ledger: a build that goes on keeps its versions, unless it failed without some."""
    kept = proven.get("requirements")
    if kept and (not kept[1] or proven.get("baseline")):
        return Pins(tuple(kept[0]), kept[1])
    pins = await asyncio.to_thread(resolve, declared, own)
    proven.put("requirements", [pins.packages, pins.unmet])
    return pins


def _ask_pip(requirements: Sequence[str]) -> dict[str, str] | str:
    """Normalised name -> version of the whole closure; or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, runner, report, log = (Path(folder, name) for name in ("wanted", "runner", "report", "log"))
        wanted.write_text("\n".join(requirements))
        runner.write_text("\n".join(runner_pins()))
        arguments = ["install", "--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", str(report)]
        arguments += ["--log", str(log), "--constraint", str(runner), "--requirement", str(wanted)]
        if why := run_pip(arguments, timeout_s=600.0):
            if "Retrying (Retry(" in log.read_text(encoding="utf-8", errors="replace"):
                raise BuildError(
                    f"pip does not reach its index: {why}\nrun the command again when it does, or name all that the "
                    "package and its tests need with --packages=NAME==VERSION,..."
                )
            return why.partition("\n")[0].removeprefix("ERROR: ")
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {canonicalize_name(i["metadata"]["name"]): i["metadata"]["version"] for i in items}
