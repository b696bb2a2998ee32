"""Harbor's rule (Terminal-Bench 2): the task's own tests look at the final state and write the reward.

The state is put into a fresh container in which nothing of the agent runs. Beside the published rule:

- The tests are read-only and belong to another user; every program of the image is as it was.
- The reward files are pipes that the service alone reads: what the tests have written cannot be taken back or replaced.
  A reward that was written in another way than on the solution's state counts for nothing.
- A state that earns something is judged once more by tests whose expectations are turned wrong (`sentinel`): where the
  solution's state earns less by them, this one must too.
- The start itself must earn less than the submission, else the task is at fault.

What is left open: programs of the agent that the tests run have the tests' user. They can read the tests, and one that
knows the true ones can try to write a reward before it ends the tests' processes.
"""

import asyncio
import hashlib
import json
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox_service.backends.base import Ended
from sandbox_service.graders import state
from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.graders.commands import spoil
from sandbox_service.runner import LOG_KEPT_CHARACTERS, Runner

# In the order in which Harbor looks for them.
REWARD_FILES = ("reward.txt", "reward.json")
# What usual tests write beside the reward; the folder itself is read-only.
_REPORTS = ("ctrf.json", "report.json", "results.xml", "junit.xml", "test-stdout.txt", "test-stderr.txt", "output.txt")
_REPORTS_FOLDER = "/tmp/verifier"
_REWARD_BYTES = 4096
_SPOIL_ALL = 2
_SENTINELS = 4


@dataclass(frozen=True)
class Verified:
    """One run of the tests. `written` are the rewards in the order of their writing, None for what is no number."""

    ended: Ended
    written: tuple[float | None, ...]
    log: str

    @property
    def is_whole(self) -> bool:
        return self.ended is Ended.EXITED and bool(self.written) and None not in self.written


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    return await _Trial(request, runner, await runner.tree_files(request.task_set, request.instance.tree)).grade()


class _Trial:
    """Runs for one request."""

    def __init__(self, request: GradeRequest, runner: Runner, files: Mapping[str, bytes]):
        self._request, self._runner, self._environment = request, runner, request.environment
        self._name = request.instance.instance_id
        self._tests = {p: data for p, data in files.items() if p.startswith("tests/")}
        for name in ("tests/test.sh", "solution/solve.sh"):
            if name not in files:
                raise TaskFault(f"{self._name}: it has no {name}; a task that nothing proves is not graded")

    async def grade(self) -> Grade:
        handed = self._request.state
        solution = await self._once("solution", self._solved)
        own = state.names(solution[0]) | state.names(await self._once("start", self._start))
        try:
            left = state.cleaned(handed, own, self._environment.workdir) if handed is not None else None
        except ValueError as e:
            return Grade(0.0, {"reported": 0.0}, detail=str(e))
        run = await self._verify(left.archive if left else None, self._tests)
        best = solution[1].written
        reward = _reward(run, best)
        start = await self._once("null", lambda: self._verify(None, self._tests))
        if _reward(start, best) >= best[-1]:
            raise TaskFault(f"{self._name}: its start earns what its solution does")
        components = {
            "tests_reward": reward,
            "reported": float(run.is_whole),
            "left_out_files": float(len(left.left_out) if left else 0),
        }
        if reward <= 0:
            return Grade(0.0, components, detail=f"{run.ended.value}, rewards {run.written}: {run.log[-300:]}")
        honest, known = await self._fails_wrong_tests(left.archive if left else None, reward, best)
        components |= {"sentinel_known": float(known), "sentinel_failed": float(honest)}
        detail = "" if honest else "tests with wrong expectations gave the same reward"
        return Grade(reward if honest else 0.0, components, detail=detail)

    async def _fails_wrong_tests(self, archive: bytes | None, reward: float, best: tuple) -> tuple[bool, bool]:
        """(whether wrong expectations lower the reward, whether they are known to)."""
        digest = hashlib.sha256(archive or b"").digest()
        for attempt in range(_SENTINELS):
            seed = (digest[0] + attempt) % _SENTINELS
            spoilt = {p: d for p, d in spoil(self._tests, (), seed, _SPOIL_ALL).items() if p.endswith(".py")}
            if not spoilt:
                return True, False
            tests = {**self._tests, **spoilt}
            solved = (await self._once("solution", self._solved))[0]
            right = await self._once(f"wrong tests {seed}", lambda s=solved, t=tests: self._verify(s, t))
            if right.is_whole and right.written[-1] < best[-1]:
                wrong = await self._verify(archive, tests)
                return wrong.ended is Ended.EXITED and _reward(wrong, right.written, best) < reward, True
        return True, False

    async def _once(self, name: str, make):
        """What holds nothing of an agent is made once."""
        key = json.dumps([self._request.task_set.digest, self._name, "reward_file", name])
        return await self._runner.once(key, make, lambda made: not isinstance(made, Verified) or made.is_whole)

    async def _solved(self) -> tuple[bytes, Verified]:
        script = self._request.instance.expected.get("gold_script", "")
        try:
            archive = await state.state_after(self._request, self._runner, script, with_solution=True)
        except ValueError as e:
            raise TaskFault(f"{self._name}: the state that its solution leaves: {e}") from e
        run = await self._verify(archive, self._tests)
        if not run.is_whole or run.written[-1] <= 0:
            raise TaskFault(
                f"{self._name}: its own solution earns nothing ({run.ended.value}, rewards {run.written}): "
                f"{run.log[-500:]}; sandboxes have no network and no root, and what a task needs must be in its image"
            )
        return archive, run

    async def _start(self) -> bytes:
        return await state.state_after(self._request, self._runner, "true")

    async def _verify(self, archive: bytes | None, tests: Mapping[str, bytes]) -> Verified:
        with self._runner.folder_for_one() as folder:
            pipes = await asyncio.to_thread(_lay_out, folder / "harness", tests)
            try:
                async with state.workspace_of(self._request, self._runner, folder) as workspace:
                    await state.restore(workspace, self._environment, archive)
                    workdir = shlex.quote(self._environment.workdir)
                    script = (
                        f"{state.CLEAN_PATH}mkdir -p {_REPORTS_FOLDER}\ncd {workdir}\nexec {state.BASH} /tests/test.sh"
                    )
                    done = await state.bash(workspace, script, self._environment.timeout_s)
                written = next(filter(None, (_written(name, fd) for name, fd in pipes.items())), ())
            finally:
                for fd in pipes.values():
                    os.close(fd)
        return Verified(done.ended, written, done.output.decode(errors="replace")[-LOG_KEPT_CHARACTERS:])


def _reward(run: Verified, *known: tuple[float | None, ...]) -> float:
    """The last reward written, in 0 to 1; 0 when the tests did not end by themselves, or wrote it more often than
    they do on the solution (`known`).
    """
    if not run.is_whole or (len(run.written) > 1 and run.written not in known):
        return 0.0
    return min(1.0, max(0.0, run.written[-1]))


def _lay_out(harness: Path, tests: Mapping[str, bytes]) -> dict[str, int]:
    """Tests and reward pipes as the sandbox will see them; the pipes' reading ends by the name of their file."""
    logs = harness / "logs/verifier"
    logs.mkdir(parents=True)
    state.place(harness, tests)
    for name in _REPORTS:
        (logs / name).symlink_to(f"{_REPORTS_FOLDER}/{name}")
    pipes = {}
    for name in REWARD_FILES:
        os.mkfifo(logs / name)
        # Written by the sandbox's user, read by nobody else.
        (logs / name).chmod(0o622)
        pipes[name] = os.open(logs / name, os.O_RDONLY | os.O_NONBLOCK)
    return pipes


def _written(name: str, fd: int) -> tuple[float | None, ...]:
    """Every reward that came through a pipe; empty when nothing did."""
    try:
        text = os.read(fd, _REWARD_BYTES).decode(errors="replace")
    except BlockingIOError:
        return ()
    if name.endswith(".json"):
        return (_from_json(text),) if text.strip() else ()
    return tuple(map(_number, text.split()))


def _from_json(text: str) -> float | None:
    """Of one object: its "reward", or its only value."""
    try:
        found = json.loads(text)
        value = found.get("reward", next(iter(found.values())) if len(found) == 1 else None)
        return _number(str(float(value)))
    except (ValueError, TypeError, AttributeError):
        return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
