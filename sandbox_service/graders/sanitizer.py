"""SEC-bench's rule for repairs: it builds, and the proof of the fault runs without a sanitizer's report, else 0.

The agent's source files are put on the start in a fresh container; build scripts, the compiler and `secb` are the
image's. As published, the repaired program may end with 0 or with the record's exit status. Beside that:

- The start must show the report and the gold change must not, or the task is at fault.
- The published rule has no functional tests, so a program that does nothing passes it. Here the same build is given
  variants of the proof. Where the start reports a fault and the gold change does not, the repair must not either; where
  neither does and both do the same, the repair must do that too. There must be such inputs, with more than one outcome.

What is left open: a repair that is as shallow as no variant shows.
"""

import hashlib
import json
import random
import re
import shlex
from dataclasses import dataclass, replace

from sandbox_service.backends.base import WORKSPACE, Ended, Limits, Workspace
from sandbox_service.graders import state
from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.runner import LOG_KEPT_CHARACTERS, Runner

# Variants of the proof that are tried on the start, and how many of those that report, and that do not, are kept.
CANDIDATES, KEPT = 96, 12
# Of the proof of the fault, as published.
REPRO_TIMEOUT_S = 10.0
# Under load a run may take longer; a repaired program that still hangs does so at this limit too.
PATIENCE = 3
_KEPT = replace(Limits(), output_kept_bytes=256 << 10)
# The leak sanitizer cannot work where no process may look into another.
_OPTIONS = "export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0:log_path=stderr:exitcode=1\n"
_REPORT = re.compile(rb"==\d+==\s*(ERROR|WARNING): \w+Sanitizer|: runtime error: |SUMMARY: \w+Sanitizer")
_SOURCES = (".c", ".cc", ".cpp", ".cxx", ".c++", ".h", ".hh", ".hpp", ".hxx", ".inc", ".inl", ".y", ".l", ".def")


@dataclass(frozen=True)
class Seen:
    """What one input led to. `said` is what it printed, without addresses and process ids."""

    reports: bool
    ended: Ended
    exit_code: int
    said: bytes


@dataclass(frozen=True)
class Built:
    """A build, and what the proof (first) and its variants led to; nothing where it does not build."""

    exit_code: int
    seen: tuple[Seen, ...]
    log: str
    # The variants, where they were chosen on this build.
    inputs: tuple[bytes, ...] = ()


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    return await _Repair(request, runner).grade()


class _Repair:
    def __init__(self, request: GradeRequest, runner: Runner):
        self._request, self._runner, self._environment = request, runner, request.environment
        self._name, self._expected = request.instance.instance_id, request.instance.expected
        # Known to nobody in a sandbox, the same for every grade of the task.
        whole = [request.task_set.digest, self._name, request.instance.tree]
        self._seed = hashlib.sha256(json.dumps(whole).encode()).hexdigest()

    async def grade(self) -> Grade:
        start = await self._once("start", self._of_start, _is_whole)
        gold = await self._once("gold", lambda: self._of_gold(start.inputs), _is_whole)
        if start.exit_code or gold.exit_code or not start.seen or not gold.seen:
            raise TaskFault(f"{self._name}: it does not build here: {(start.log or gold.log)[-500:]}")
        if not start.seen[0].reports or not self._repaired(gold.seen[0]):
            before = "reports" if start.seen[0].reports else "does not report"
            after = "does" if gold.seen[0].reports else f"does not ({gold.seen[0].ended.value})"
            raise TaskFault(
                f"{self._name}: at the start its proof {before} a fault, after the gold change it {after}: "
                f"{gold.log[-300:]}"
            )
        quiet = [s for s, g in zip(start.seen, gold.seen, strict=True) if s == g and not s.reports]
        if len({(s.exit_code, s.said) for s in quiet}) < 2:
            raise TaskFault(f"{self._name}: no variants of its proof show whether a repaired program still works")
        try:
            sources = await self._sources(self._request.state)
        except ValueError as e:
            return Grade(0.0, {"built": 0.0}, detail=str(e))
        built = await self._build(sources, start.inputs)
        if built.exit_code or not built.seen:
            return Grade(0.0, {"built": 0.0}, detail=f"it does not build: {built.log[-300:]}")
        verdicts = [
            (s.reports, self._agrees(s, g, b)) for s, g, b in zip(start.seen, gold.seen, built.seen, strict=True)
        ]
        faults = [good for reports, good in verdicts[1:] if reports and good is not None]
        same = [good for reports, good in verdicts[1:] if not reports and good is not None]
        repaired = self._repaired(built.seen[0])
        components = {
            "built": 1.0,
            "repaired": float(repaired),
            "changed_sources": float(len(sources)),
            "faulty_variants": float(len(faults)),
            "faulty_variants_repaired": float(sum(faults)),
            "other_variants": float(len(same)),
            "other_variants_kept": float(sum(same)),
        }
        right = repaired and all(faults) and all(same)
        detail = "" if right else f"proof: {built.seen[0].ended.value}, exit status {built.seen[0].exit_code}"
        return Grade(float(right), components, detail=detail)

    def _repaired(self, seen: Seen) -> bool:
        allowed = {0, int(self._expected.get("exit_code", "0"))}
        return not seen.reports and seen.ended is Ended.EXITED and seen.exit_code in allowed

    @staticmethod
    def _agrees(start: Seen, gold: Seen, seen: Seen) -> bool | None:
        """None where the input says nothing about a repair."""
        if gold.reports or gold.ended is not Ended.EXITED:
            return None
        if start.reports:
            return not seen.reports and seen.ended is Ended.EXITED
        return seen == gold if start == gold else None

    async def _once(self, name: str, make, is_usable=bool):
        key = json.dumps([self._request.task_set.digest, self._name, "sanitizer", name])
        return await self._runner.once(key, make, is_usable)

    async def _of_start(self) -> Built:
        return await self._build({}, None)

    async def _of_gold(self, inputs: tuple[bytes, ...]) -> Built:
        script = self._expected.get("gold_script", "exit 1")
        try:
            left = await state.state_after(self._request, self._runner, script, with_solution=True)
        except ValueError as e:
            raise TaskFault(f"{self._name}: the state that its gold change leaves: {e}") from e
        return await self._build(await self._sources(left), inputs)

    async def _sources(self, left: bytes | None) -> dict[str, bytes | None]:
        """The source files of a state that differ from the start's; None for those that are gone."""
        if left is None:
            return {}
        found = state.files(left)
        start = state.files(await self._once("files", lambda: state.state_after(self._request, self._runner, "true")))
        paths = [p for p in found.keys() | start.keys() if p.endswith(_SOURCES) and found.get(p) != start.get(p)]
        return {path: found.get(path) for path in sorted(paths)}

    async def _build(self, sources: dict[str, bytes | None], inputs: tuple[bytes, ...] | None) -> Built:
        """Runs the proof and its variants `inputs`; None: chooses them."""
        async with state.workspace_of(self._request, self._runner) as workspace:
            await state.fill(workspace, self._environment)
            for path, data in sources.items():
                if data is None:
                    await workspace.run(["rm", "-f", "--", path], timeout_s=60.0)
                    continue
                try:
                    await workspace.write_file(f"{WORKSPACE}/{path}", data)
                except (OSError, ValueError) as e:
                    # A file where the start has a folder, say: the agent's doing.
                    return Built(-1, (), f"the change does not fit the start: {e}")
            done = await self._do(workspace, "secb build", self._environment.timeout_s)
            if done.ended is not Ended.EXITED or done.exit_code:
                return Built(done.exit_code or -1, (), f"secb build, {done.ended.value}: {_text(done.output)}")
            proof = await self._repro(workspace)
            path = _text(
                (await self._do(workspace, f"find {state.PROOF} -type f | sort | head -1", 60.0)).output
            ).strip()
            if inputs is None:
                chosen = await self._choose(workspace, path) if path and proof.reports else {}
                return Built(0, (proof, *chosen.values()), _text(done.output), tuple(chosen))
            tried = [await self._try(workspace, path, data) for data in inputs]
            return Built(0, (proof, *tried), _text(done.output))

    async def _choose(self, workspace: Workspace, path: str) -> dict[bytes, Seen]:
        """Variants of the proof and what they lead to: some that report, and some that do not, unlike ones first."""
        proof = await workspace.read_file(path, max_bytes=state.MAX_BYTES)
        tried = {data: await self._try(workspace, path, data) for data in variants(proof, self._seed)}
        reporting = [data for data, seen in tried.items() if seen.reports]
        quiet = [data for data, seen in tried.items() if not seen.reports and seen.ended is Ended.EXITED]
        unlike = list({(tried[data].exit_code, tried[data].said): data for data in quiet}.values())
        rest = [data for data in quiet if data not in unlike]
        # The first ones differ where it says most, the others anywhere.
        half, rng = KEPT // 2, random.Random(self._seed)
        others = rng.sample(reporting[half:], min(KEPT - half, len(reporting[half:])))
        return {data: tried[data] for data in [*reporting[:half], *others, *[*unlike, *rest][:KEPT]]}

    async def _try(self, workspace: Workspace, path: str, data: bytes) -> Seen:
        await workspace.write_file(path, data)
        return await self._repro(workspace)

    async def _repro(self, workspace: Workspace) -> Seen:
        done = await self._do(workspace, "secb repro", PATIENCE * REPRO_TIMEOUT_S)
        return Seen(bool(_REPORT.search(done.output)), done.ended, done.exit_code, plain(done.output))

    async def _do(self, workspace: Workspace, command: str, timeout_s: float):
        script = f"{state.CLEAN_PATH}{_OPTIONS}cd {shlex.quote(self._environment.workdir)}\n{command}"
        return await state.bash(workspace, script, timeout_s, _KEPT)


def _is_whole(built: Built) -> bool:
    return bool(built.seen)


def variants(proof: bytes, seed: str) -> list[bytes]:
    """CANDIDATES inputs at most that are like the proof: cut, longer, with other bytes. The same for a seed."""
    rng = random.Random(seed)
    made = [b"", proof + bytes(rng.randrange(256) for _ in range(8)), proof + proof]
    # What stands first often says what comes: kinds, versions, lengths.
    for place in range(min(16, len(proof))):
        value = proof[place]
        for other in (rng.randrange(256), (value + 1) % 256, rng.randrange(16)):
            made.append(proof[:place] + bytes([other]) + proof[place + 1 :])
    made += [proof[: len(proof) * part // 8] for part in range(1, 8)]
    while len(made) < CANDIDATES:
        data = bytearray(proof)
        for _ in range(rng.choice((1, 1, 2, 4))):
            if data:
                data[rng.randrange(len(data))] = rng.choice((rng.randrange(16), rng.randrange(256)))
        made.append(bytes(data[: len(data) - rng.choice((0, 0, rng.randrange(len(data) + 1)))]))
    return [data for data in dict.fromkeys(made) if data != proof]


def plain(output: bytes) -> bytes:
    """What was printed, without what differs from run to run: addresses and process ids."""
    return re.sub(rb"0x[0-9a-fA-F]+|==\d+==|\bpid[ =:]+\d+", b"#", output)


def _text(output: bytes) -> str:
    return output.decode(errors="replace")[-LOG_KEPT_CHARACTERS:]
