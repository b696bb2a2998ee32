"""Watches the package behave, in the sandbox: which calls its tests make, and what such calls come to."""

import json
from collections.abc import Sequence
from pathlib import Path

from sandbox_service.backends.base import WORKSPACE, Backend
from sandbox_service.tasks import Environment, Overlay, TaskSet
from sandbox_service.workspaces import Trees
from skillrl.tasks.build.issue_text import Answer, Call
from skillrl.tasks.build.tree import BuildError

_PROBE = Path(__file__).with_name("probe.py")
_FOLDER = ".probe"
# More would only make the evaluation longer; an issue quotes two.
MAX_CALLS = 400


class Observer:
    """Runs `probe.py` in fresh workspaces over one tree."""

    def __init__(self, backend: Backend, trees: Trees, task_set: TaskSet, tree: str, environment: Environment):
        self._backend, self._trees = backend, trees
        self._task_set, self._tree, self._environment = task_set, tree, environment

    async def calls(self) -> list[Call]:
        """Calls with literal arguments that the tests make to what the package offers."""
        rows = await self._probe({"mode": "record", "tests": self._environment.test_roots}, {}, timeout_s=300)
        return [_call(row, tests) for *row, tests in rows]

    async def answers(self, overlay: Overlay, calls: Sequence[Call]) -> list[Answer]:
        """What each call comes to on the tree changed by `overlay`."""
        spec = {"mode": "evaluate", "calls": [_row(call) for call in calls]}
        return [Answer(*row) for row in await self._probe(spec, overlay, timeout_s=60 + 2 * len(calls))]

    async def _probe(self, spec: dict, overlay: Overlay, *, timeout_s: float) -> list:
        base = await self._trees.materialise(self._task_set, self._tree)
        packages = await self._trees.packages_dir(self._environment.packages)
        workspace = await self._backend.open_workspace(base, packages=packages)
        try:
            for path, text in overlay.items():
                await workspace.write_file(path, text.encode())
            spec = {**spec, "root": WORKSPACE, "source_roots": self._environment.source_roots}
            await workspace.write_file(f"{_FOLDER}/probe.py", _PROBE.read_bytes())
            await workspace.write_file(f"{_FOLDER}/spec.json", json.dumps(spec).encode())
            argv = ["python3", f"{_FOLDER}/probe.py", f"{_FOLDER}/spec.json", f"{_FOLDER}/out.json"]
            # Sets and dicts of strings then print the same on both trees.
            done = await workspace.run(argv, timeout_s=timeout_s, env={"PYTHONHASHSEED": "0"})
            try:
                return json.loads(await workspace.read_file(f"{_FOLDER}/out.json"))
            except (FileNotFoundError, ValueError) as e:
                tail = done.output.decode(errors="replace")[-1500:]
                raise BuildError(f"the package cannot be observed ({done.ended.value}): {e}\n{tail}") from e
        finally:
            await workspace.close()


def _call(row: Sequence, tests: Sequence[str] = ()) -> Call:
    module, name, positional, keyword, receiver = row
    return Call(
        module,
        name,
        None if positional is None else tuple(positional),
        tuple(sorted(keyword.items())),
        frozenset(tests),
        _call(receiver) if receiver else None,
    )


def _row(call: Call) -> list:
    receiver = _row(call.receiver) if call.receiver else None
    return [call.module, call.name, call.positional, dict(call.keyword), receiver]
