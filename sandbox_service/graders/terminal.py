"""Terminal: 1 when the required state is reached, else 0.

`expected["rule"]` of the instance says what that is:

state      The start with the agent's changes is the correct tree, byte for byte: what had to change has changed,
           nothing else has, and nothing was left behind. Modes, links and empty folders do not count.
programs   Every probe of `expected["probes"]` (see terminal_probes) comes out as it must. Of the agent's changes those
           at or below the paths of `expected["owned"]` count; all else is as it was at the start.

With reward_mode="shaped" it earns the share of what is right.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox_service.backends.base import Ended
from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.graders.bench import Bench, Files, together
from sandbox_service.graders.terminal_probes import MAX_FILE_BYTES, Probe, carry_out, loads, write
from sandbox_service.runner import Runner

# Of the agent's own files in a probe.
MAX_FILES = 64


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    bench = await Bench.make(request, runner)
    rule = request.instance.expected.get("rule")
    if rule == "state":
        return _grade_state(bench)
    if rule == "programs":
        return await _Programs.read(bench, runner).grade()
    raise TaskFault(f"{request.instance.instance_id}: unknown rule {rule!r}; rebuild the task set")


def _grade_state(bench: Bench) -> Grade:
    difference = compare(bench.start, bench.correct, bench.request.changed)
    if not difference.wanted:
        raise TaskFault(f"{bench.request.instance.instance_id}: nothing is to be done; rebuild the task set")
    share = difference.right / (difference.wanted + difference.spoilt)
    done = share == 1
    components = {
        "wanted_files": float(difference.wanted),
        "right_files": float(difference.right),
        "spoilt_files": float(difference.spoilt),
    }
    detail = "" if done else f"not as it must be: {difference.example!r:.200}"
    return Grade(share if bench.request.shaped else float(done), components, detail=detail)


@dataclass(frozen=True)
class Difference:
    """Files that had to change, how many of them are right, and how many others are not what they were."""

    wanted: int
    right: int
    spoilt: int
    # A path that is wrong.
    example: str


def compare(start: Mapping[str, bytes], correct: Mapping[str, bytes], changed: Files) -> Difference:
    """`changed` is relative to `start`."""
    reached = {**start, **changed}
    wrong = sorted(p for p in reached.keys() | correct.keys() if reached.get(p) != correct.get(p))
    wanted = {p for p in start.keys() | correct.keys() if start.get(p) != correct.get(p)}
    right = len(wanted) - len(wanted.intersection(wrong))
    return Difference(len(wanted), right, len(set(wrong) - wanted), wrong[0] if wrong else "")


class _Programs:
    """Probes of one request."""

    def __init__(self, bench: Bench, runner: Runner, owned: tuple[str, ...], probes: tuple[Probe, ...]):
        self._bench, self._runner, self._owned, self._probes = bench, runner, owned, probes
        self._request = bench.request

    @classmethod
    def read(cls, bench: Bench, runner: Runner) -> "_Programs":
        expected = bench.request.instance.expected
        try:
            owned = tuple(map(str, json.loads(expected["owned"])))
            return cls(bench, runner, owned, loads(expected["probes"]))
        except (KeyError, TypeError, ValueError) as e:
            name = bench.request.instance.instance_id
            raise TaskFault(f"{name}: its probes are damaged ({e!r}); rebuild the task set") from e

    async def grade(self) -> Grade:
        changed = self._request.changed
        accepted = {path: data for path, data in changed.items() if self._is_owned(path)}
        large = sum(data is not None and len(data) > MAX_FILE_BYTES for data in accepted.values())
        components = {"owned_files": float(len(accepted)), "ignored_files": float(len(changed) - len(accepted))}
        if large or len(accepted) > MAX_FILES:
            why = (
                f"more than {MAX_FILES} files" if len(accepted) > MAX_FILES else f"a file above {MAX_FILE_BYTES} bytes"
            )
            return Grade(0.0, {**components, "probes_passed": 0.0}, detail=why)
        faults = await together(self._try(probe, accepted) for probe in self._probes)
        share = faults.count("") / len(faults)
        if share < 1:
            await self._check_gold()
        components["probes_passed"] = share
        return Grade(
            share if self._request.shaped else float(share == 1), components, detail=next(filter(None, faults), "")
        )

    def _is_owned(self, path: str) -> bool:
        return any(path == owned or (owned.endswith("/") and path.startswith(owned)) for owned in self._owned)

    async def _try(self, probe: Probe, accepted: Files) -> str:
        """What was wrong, or nothing."""
        request = self._request
        for _ in range(2):  # what ends in time otherwise may be stopped by a host under load
            async with self._runner.workspace(
                request.task_set, request.instance.tree, (request.task.visible,), request.environment
            ) as workspace:
                fault = await write(workspace, accepted)
                if fault:
                    return f"the change does not fit the tree: {fault}"
                ended, fault = await carry_out(probe, workspace, request.environment.timeout_s)
            if ended is not Ended.TIMEOUT:
                break
        return fault

    async def _check_gold(self) -> None:
        """Raises TaskFault when the gold change fails too; it holds nothing of an agent, so it is tried once."""
        gold = self._bench.gold_files
        key = json.dumps([self._request.task_set.digest, self._request.instance.instance_id, "probes"])

        async def run() -> list[str]:
            return await together(self._try(probe, gold) for probe in self._probes)

        faults = await self._runner.once(key, run, lambda faults: not any(faults))
        if any(faults):
            name = self._request.instance.instance_id
            raise TaskFault(f"{name}: the gold change fails too: {next(filter(None, faults))}")
