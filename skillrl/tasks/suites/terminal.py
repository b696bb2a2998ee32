"""Work of the kind terminal: a required state of a file system, or a program that must do what is said.

State: the tree must be the finished one. Programs: probes run what the agent left in fresh workspaces, on inputs that
it has not seen. Modes of files, links and empty folders are not carried from a workspace to the grader, so no work
asks for them.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping

from sandbox_service.graders.terminal_probes import dumps
from sandbox_service.tasks import Environment, HiddenTask, Instance, Overlay, apply_overlay, gold_overlay
from skillrl.tasks.suites.case import Case
from skillrl.tasks.suites.terminal_build import build
from skillrl.tasks.suites.terminal_config import config
from skillrl.tasks.suites.terminal_data import archive, logs
from skillrl.tasks.suites.terminal_files import cleanup, sorting
from skillrl.tasks.suites.terminal_service import service
from skillrl.tasks.suites.terminal_work import Work, difference

# Family -> what makes its work, and its level.
FAMILIES: dict[str, tuple[Callable[[random.Random], Work], int]] = {
    "sorting": (sorting, 1),
    "cleanup": (cleanup, 1),
    "logs": (logs, 1),
    "archive": (archive, 2),
    "config": (config, 1),
    "build": (build, 2),
    "service": (service, 2),
}
# Limit of one probe.
TIMEOUT_S = 60.0
# Instead of the work: what would be imported or run in the place of what a probe uses.
_PLANTED = {
    "conftest.py": "import os\nos._exit(0)\n",
    "sitecustomize.py": "import os\nos._exit(0)\n",
    "configparser.py": "import os\nos._exit(0)\n",
    "json.py": "def loads(text):\n    return []\n\n\ndef dumps(value):\n    return ''\n",
    "http/client.py": "import os\nos._exit(0)\n",
    "python3": "#!/bin/sh\nexit 0\n",
    "bash": "#!/bin/sh\nexit 0\n",
    "check.py": "print('passed')\n",
}


def cases(seed: int) -> list[Case]:
    return [
        _case(name, make(random.Random(f"terminal|{name}|{seed}")), level) for name, (make, level) in FAMILIES.items()
    ]


def _case(name: str, work: Work, level: int) -> Case:
    undo = difference(work.finished, work.start)
    gold = difference(work.start, work.finished)
    expected = {
        "rule": "programs" if work.probes else "state",
        "wrong": json.dumps({name: overlay for name, overlay in work.wrong.items() if overlay != gold}),
    }
    if work.probes:
        expected |= {"owned": json.dumps(work.owned), "probes": dumps(work.probes)}
    return Case(
        name=name,
        family=name,
        level=level,
        files=work.finished,
        undo=undo,
        hide={},
        instruction=work.instruction,
        environment=Environment("", (), source_roots=(), test_roots=(), timeout_s=TIMEOUT_S),
        expected=expected,
    )


def wrong(
    task: HiddenTask, instance: Instance, files: Mapping[str, bytes]
) -> Iterator[tuple[str, Mapping[str, bytes | None]]]:
    """Nothing of the work, a part of it, what looks like it, and what is aimed at the grader."""
    start, gold = apply_overlay(files, task.visible), gold_overlay(instance.bug, files)
    yield "all deleted", dict.fromkeys(start)
    yield "planted programs", _encoded(_PLANTED)
    yield "right names, empty files", {path: None if text is None else b"" for path, text in gold.items()}
    yield "in a folder of its own", {f"out/{path}": (text or "").encode() for path, text in gold.items()}
    for path in sorted({min(gold), max(gold)}) if len(gold) > 1 else ():
        yield f"all but the {'first' if path == min(gold) else 'last'} change", _encoded(_without(gold, path))
    if instance.expected["rule"] == "state":
        grown = {path: None if text is None else text + "\n" for path, text in gold.items()}
        yield "right names, a line more", _encoded(grown)
        yield "a file left behind", _encoded({**gold, "notes.txt": "done\n"})
        untouched = min(start.keys() - gold.keys())
        yield "another file changed", {**_encoded(gold), untouched: start[untouched] + b"\n"}
    for name, overlay in json.loads(instance.expected["wrong"]).items():
        yield name, _encoded(overlay)


def _without(overlay: Overlay, path: str) -> Overlay:
    return {name: text for name, text in overlay.items() if name != path}


def _encoded(overlay: Overlay) -> dict[str, bytes | None]:
    return {path: None if text is None else text.encode() for path, text in overlay.items()}
