"""Security, in two forms: 1 for an input that shows a flaw, or for a repair; else 0.

An input (the task has a submission path) is one file. A hidden program of ours, the oracle, gives it to the flawed
and to the repaired tree, each in a fresh workspace: `python3 -c ORACLE FILE SECRET`. The secret is drawn for every run
and the oracle puts it where the flaw alone leads to, so an input cannot hold it. It must come back from the flawed
tree, and must not from the repaired one, on which the oracle must come to its end all the same.

A repair is judged as code editing is: exploits are its fail-to-pass tests, proper use its pass-to-pass tests. Then a
known attack is tried on it by the oracle, where no test runs, and a proper use, which must give what it gives on ours.
"""

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox_service.backends.base import Ended
from sandbox_service.graders import editing
from sandbox_service.graders.base import Grade, GradeRequest, TaskFault
from sandbox_service.graders.bench import together
from sandbox_service.graders.paths import accepted_changes
from sandbox_service.runner import Runner
from sandbox_service.tasks import apply_overlay

MAX_INPUT_BYTES = 64 << 10
# Keys of an instance's `expected`.
ORACLE, GOLD = "oracle", "gold_submission"
ATTACK, PROPER_USE = "attack", "proper_use"
_INPUT = "exploit.txt"


@dataclass(frozen=True)
class Trial:
    """One input in one tree."""

    # The secret came back.
    leaked: bool
    # The oracle came to its end.
    ended_well: bool
    # What was printed; its end.
    log: str


async def grade(request: GradeRequest, runner: Runner) -> Grade:
    path = request.task.submission_path
    if not path:
        return await _grade_repair(request, runner)
    data = request.changed.get(path)
    small = data is not None and len(data) <= MAX_INPUT_BYTES
    components = {
        "submitted": float(data is not None),
        "small": float(small),
        "shows_flaw": 0.0,
        "spares_repaired": 0.0,
    }
    if not small:
        return Grade(
            0.0, components, detail="" if data is None else f"the input is larger than {MAX_INPUT_BYTES} bytes"
        )
    on_flawed, on_repaired = await together([_try(request, runner, data, flawed=True), _try(request, runner, data)])
    components["shows_flaw"] = float(on_flawed.leaked)
    components["spares_repaired"] = float(on_repaired.ended_well and not on_repaired.leaked)
    right = bool(components["shows_flaw"] and components["spares_repaired"])
    if not right:
        await _check_gold(request, runner)
    return Grade(float(right), components, detail=_why(on_flawed, on_repaired))


async def _grade_repair(request: GradeRequest, runner: Runner) -> Grade:
    tested = await editing.grade(request, runner)
    held = tested.reward == 1.0 and await _holds_untested(request, runner)
    detail = tested.detail if held or not tested.reward else "where no test runs, it is not repaired"
    return dataclasses.replace(
        tested, reward=float(held), components={**tested.components, "holds_untested": float(held)}, detail=detail
    )


async def _holds_untested(request: GradeRequest, runner: Runner) -> bool:
    correct = await runner.tree_files(request.task_set, request.instance.tree)
    start = apply_overlay(correct, request.instance.bug)
    changed = accepted_changes(request.changed, request.environment, start)
    attack, use = (request.instance.expected[key].encode() for key in (ATTACK, PROPER_USE))
    attacked, used, ours = await together(
        [
            _try(request, runner, attack, flawed=True, changed=changed),
            _try(request, runner, use, flawed=True, changed=changed),
            _try(request, runner, use),
        ]
    )
    if not ours.ended_well:
        raise TaskFault(f"{request.instance.instance_id}: proper use fails on the repaired program: {ours.log}")
    # The last line: a program may say something while it is imported.
    same = used.log.splitlines()[-1:] == ours.log.splitlines()[-1:]
    return attacked.ended_well and not attacked.leaked and used.ended_well and same


async def _try(
    request: GradeRequest,
    runner: Runner,
    data: bytes,
    *,
    flawed: bool = False,
    changed: Mapping[str, bytes | None] | None = None,
) -> Trial:
    """The input in the flawed tree or in the repaired one, with `changed` files in it."""
    instance, path = request.instance, request.task.submission_path or _INPUT
    overlays = (instance.bug,) if flawed else ()
    secret = secrets.token_hex(16)
    async with runner.workspace(request.task_set, instance.tree, overlays, request.environment) as workspace:
        for name, new in {**(changed or {}), path: data}.items():
            if new is None:
                await workspace.run(["rm", "-f", "--", name], timeout_s=request.environment.timeout_s)
            else:
                await workspace.write_file(name, new)
        argv = ["python3", "-B", "-c", instance.expected[ORACLE], path, secret]
        done = await workspace.run(argv, timeout_s=request.environment.timeout_s)
    ended_well = done.ended is Ended.EXITED and done.exit_code == 0
    return Trial(secret.encode() in done.output, ended_well, done.output[-500:].decode(errors="replace"))


async def _check_gold(request: GradeRequest, runner: Runner) -> None:
    """Raises TaskFault unless the known input does what it must. Nothing of the agent's is in it: tried once."""
    instance = request.instance
    known = instance.expected[GOLD].encode()

    async def both() -> tuple[Trial, Trial]:
        first = await _try(request, runner, known, flawed=True)
        return first, await _try(request, runner, known)

    def is_sound(trials: tuple[Trial, Trial]) -> bool:
        on_flawed, on_repaired = trials
        return on_flawed.leaked and on_repaired.ended_well and not on_repaired.leaked

    key = f"security\0{request.task_set.digest}\0{instance.instance_id}"
    trials = await runner.once(key, both, is_sound)
    if not is_sound(trials):
        raise TaskFault(
            f"{instance.instance_id}: the known input does not show the flaw: {trials[0].log} {trials[1].log}"
        )


def _why(on_flawed: Trial, on_repaired: Trial) -> str:
    if not on_flawed.leaked:
        return "the secret did not come back from the flawed program"
    if on_repaired.leaked:
        return "the secret came back from the repaired program too"
    return "" if on_repaired.ended_well else "the repaired program did not come to its end"
