"""Watches the package behave, in the sandbox: which calls its tests make, and what these come to on two trees."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from sandbox_service.backends.base import WORKSPACE, Backend
from sandbox_service.tasks import Environment, Overlay, TaskSet
from sandbox_service.workspaces import Trees
from skillrl.tasks.build.issue_text import Answer, Call, Symptom, symptoms
from skillrl.tasks.build.probe_excerpt import Excerpt
from skillrl.tasks.build.tree import BuildError

_PROBE = sorted(Path(__file__).parent.glob("probe*.py"))
_FOLDER = ".probe"
# More would only make the evaluation longer; an issue quotes two.
MAX_CALLS = 400
# Failing tests that excerpts are made of.
MAX_TESTS = 12


class Observer:
    """Runs `probe.py` in fresh workspaces over one tree."""

    def __init__(self, backend: Backend, trees: Trees, task_set: TaskSet, tree: str, environment: Environment):
        self._backend, self._trees = backend, trees
        self._task_set, self._tree, self._environment = task_set, tree, environment

    async def calls(self) -> list[Call]:
        """Calls with literal arguments that the tests make to what the package offers, each time they run."""
        spec = {"mode": "record", "tests": self._environment.test_roots}
        rows, again = [await self._probe(spec, {}, timeout_s=300) for _ in range(2)]
        return [_call(row, tests) for *row, tests in rows if [*row, tests] in again]

    async def symptoms(
        self, overlay: Overlay, calls: Sequence[Call], failing: Iterable[str]
    ) -> tuple[list[Symptom], dict[str, str]]:
        """What shows the bug of `overlay`: of the calls, else excerpts of the tests that fail, else what these say."""
        found = await self._compared(calls, lambda tree: self.answers(tree, calls), overlay)
        if found:
            return found, {}
        shown, said = await self._shown(overlay, failing)
        return await self._compared(shown, lambda tree: self._replayed(tree, shown), overlay), said

    async def _compared(self, acts: Sequence[Call | Excerpt], answers: Callable, overlay: Overlay) -> list[Symptom]:
        return symptoms(acts, await answers({}), await answers(overlay), await answers({})) if acts else []

    async def _shown(self, overlay: Overlay, failing: Iterable[str]) -> tuple[list[Excerpt], dict[str, str]]:
        """Excerpts, and messages by test id, that are the same in two runs."""
        spec = {"mode": "find", "tests": self._environment.test_roots, "ids": _spread(failing)[:MAX_TESTS]}
        once, again = [await self._probe(spec, overlay, timeout_s=300) for _ in range(2)]
        shown = [
            Excerpt(tuple(row["lines"]), row["expression"], row["check"], tuple(map(tuple, row["origins"])))
            for row in once["excerpts"]
            if row in again["excerpts"]
        ]
        return shown, {test_id: message for test_id, message in once["said"] if [test_id, message] in again["said"]}

    async def _replayed(self, overlay: Overlay, shown: Sequence[Excerpt]) -> list[Answer]:
        """Where the test's own claim does not hold of the correct tree, the excerpt is not fit to be quoted."""
        spec = {"mode": "replay", "excerpts": list(map(asdict, shown))}
        rows = await self._probe(spec, overlay, timeout_s=60 + 4 * len(shown))
        return [Answer(kind, text) if holds or overlay else Answer("unfit", "") for kind, text, holds in rows]

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
            for part in _PROBE:
                await workspace.write_file(f"{_FOLDER}/{part.name}", part.read_bytes())
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


def _spread(test_ids: Iterable[str]) -> list[str]:
    """One test of each function first, then a second of each, and so on."""
    seen: Counter[str] = Counter()
    turns = []
    for test_id in sorted(test_ids):
        function = test_id.partition("[")[0]
        turns.append((seen[function], test_id))
        seen[function] += 1
    return [test_id for _, test_id in sorted(turns)]


def _row(call: Call) -> list:
    receiver = _row(call.receiver) if call.receiver else None
    return [call.module, call.name, call.positional, dict(call.keyword), receiver]
