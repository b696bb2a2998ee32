r"""A fault drill: a training run whose two sandbox services are killed and paused under it.

    python -m skillrl.drill --config=configs/tiny.py --workdir=runs/drill                            # the whole demo
    python -m skillrl.drill --config=configs/tiny.py:smoke --workdir=runs/drill --pause_s=10         # a minute

The run is `python -m skillrl.main` with the same flags. The first service is killed with `kill -9` and started again
twice: at the run's first episodes, and after two thirds of its steps. After one third, the second service is stopped
(SIGSTOP) for --pause_s. Then:

- the run must have ended well;
- every graded episode is played again, token by token, on a service that nothing happens to: the reward must be the
  same. (Episodes that ran out of time cannot be repeated, and are counted apart; of these there may be few.)
- every episode without a reward must be counted in the report and in the evaluations.

The last line is one JSON object; the exit code is 0 when all of this holds.
"""

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from sandbox_service.client import SandboxClient, SandboxError
from sandbox_service.embedded import READY, embedded_service
from skillrl import setup, task_sets
from skillrl.evaluate import read_scores
from skillrl.metrics import read_metrics
from skillrl.report import ungradable
from skillrl.rollout.episode import Attempt, run_episode
from skillrl.rollout.records import read_episodes
from skillrl.sampling.turns import Sampled, SamplingError
from skillrl.types import Episode, Status

_REPEATS_AT_ONCE = 8
# Of the graded episodes, those that may stay without a comparison.
MAX_UNCHECKED = 0.02
_POLL_S = 0.1


class Service:
    """One sandbox service as a process."""

    def __init__(self, task_dir: Path, folder: Path, name: str):
        self.address, self._log = f"unix:{folder}/{name}", folder / f"{name}.log"
        arguments = [f"--tasks={task_dir}", f"--bind={self.address}", f"--state={folder / name}-state"]
        self._command = [sys.executable, "-m", "sandbox_service", *arguments]

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        if not any(line.startswith(READY) for line in self.process.stdout):
            raise RuntimeError(f"the sandbox service did not start:\n{self._log.read_text()[-2000:]}")

    async def open_sessions(self) -> int:
        async with SandboxClient(self.address, "drill") as client:
            return (await client.info()).open_sessions

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


async def inject(
    services: Sequence[Service], run: subprocess.Popen, workdir: Path, num_steps: int, pause_s: float
) -> list[str]:
    """Kills, pauses and kills, each time when the victim has sessions; returns what was done before the run ended.

    By the run's own progress, not by the clock: a faster run meets the same faults.
    """
    first, second = services
    done = []
    for third, (name, victim) in enumerate((("kill", first), ("pause", second), ("kill", first))):
        while run.poll() is None and _steps_played(workdir) < third * num_steps // 3:
            await asyncio.sleep(_POLL_S)
        await _until_busy(victim, run)
        if run.poll() is not None:
            return done
        print(f"drill: {name} {victim.address}", flush=True)
        if name == "kill":
            victim.end()
            await asyncio.to_thread(victim.start)
        else:
            victim.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(pause_s)
            victim.process.send_signal(signal.SIGCONT)
        done.append(name)
    return done


async def _until_busy(service: Service, run: subprocess.Popen) -> None:
    while run.poll() is None:
        with contextlib.suppress(SandboxError):
            if await service.open_sessions():
                return
        await asyncio.sleep(_POLL_S)


def _steps_played(workdir: Path) -> int:
    return len(list((workdir / "episodes").glob("train-*.jsonl")))


class Repeat:
    """An agent that says what a recorded episode's agent said."""

    def __init__(self, episode: Episode):
        self._episode = episode
        self._turns = [t for t in episode.turns if t.role == "assistant"]

    @asynccontextmanager
    async def open(self, task, *, seed, temperature):
        yield self

    async def act(self, message, new_tokens, *, max_tokens) -> Sampled:
        if not self._turns:
            raise SamplingError("the recorded episode has no further turn")
        turn, episode = self._turns.pop(0), self._episode
        part = slice(turn.start, turn.end)
        cut = not self._turns and turn is episode.turns[-1] and episode.status is Status.TRUNCATED_TOKENS
        return Sampled(episode.tokens[part], episode.sampler_logprobs[part], episode.versions[part], not cut)


async def compare(workdir: Path, task_dir: Path, episodes: Sequence[Episode]) -> Counter[str]:
    """Plays graded episodes again; counts `same`, `wrong`, `timed_out` (not comparable) and `not_repeated`."""
    config = setup.kept_config(workdir)
    _, chat = setup.load_chat(config, workdir / "hf")
    budgets, counts, slots = setup.make_budgets(config), Counter(), asyncio.Semaphore(_REPEATS_AT_ONCE)
    async with embedded_service([task_dir]) as address, SandboxClient(address, "repeat") as client:

        async def repeat(episode: Episode) -> None:
            attempt = Attempt(episode.task, episode.group_id, episode.episode_id, 0, 1.0, config.reward.mode)
            async with slots:
                again = await run_episode(attempt, agents=Repeat(episode), sandbox=client, chat=chat, budgets=budgets)
            if episode.status is Status.TIMED_OUT:
                counts["timed_out"] += 1
            elif not again.outcome.graded:
                counts["not_repeated"] += 1
            elif again.outcome.reward == episode.outcome.reward:
                counts["same"] += 1
            else:
                counts["wrong"] += 1
                print(f"drill: {episode.episode_id}: {episode.outcome}, but again {again.outcome}", file=sys.stderr)

        await asyncio.gather(*map(repeat, episodes))
    return counts


def count(workdir: Path) -> dict[str, object]:
    """Episodes without a reward, as they are on disk, and whether report and evaluations say the same."""
    files = sorted((workdir / "episodes").glob("*.jsonl"))
    training = [e for f in files if f.name.startswith("train-") for e in read_episodes(f)]
    lost = sum(not e.outcome.graded for e in training)
    shown = re.search(
        r"training episodes without a reward</td><td>(\d+) of (\d+)", (workdir / "report.html").read_text()
    )
    told = shown is not None and (int(shown[1]), int(shown[2])) == (lost, len(training))
    figures = {"training_episodes": len(training), "training_ungradable": lost, "evaluation_ungradable": 0}
    for file in files:
        if file.name.startswith("eval-"):
            lost = sum(not e.outcome.graded for e in read_episodes(file))
            scores = read_scores(workdir / "eval" / f"{file.stem.removeprefix('eval-')}.json")
            told &= sum(s.ungradable for s in scores) == lost
            figures["evaluation_ungradable"] += lost
    return figures | {"report": ungradable(read_metrics(workdir)), "all_counted": told}


async def drill(config: ConfigDict, workdir: Path, arguments: Sequence[str], pause_s: float) -> dict:
    task_dir, _ = task_sets.load_tasks(config, workdir)
    with tempfile.TemporaryDirectory(prefix="drill-") as name:
        services = [Service(task_dir, Path(name), service) for service in ("a", "b")]
        try:
            for service in services:
                await asyncio.to_thread(service.start)
            address = ",".join(service.address for service in services)
            command = [sys.executable, "-m", "skillrl.main", *arguments, f"--config.sandbox.address={address}"]
            started = time.monotonic()
            run = await asyncio.to_thread(subprocess.Popen, command, stdin=subprocess.DEVNULL)
            try:
                faults = await inject(services, run, workdir, config.num_steps, pause_s)
                code = await asyncio.to_thread(run.wait)
            finally:
                run.kill()
            wall_s = time.monotonic() - started
        finally:
            for service in services:
                if hasattr(service, "process"):
                    service.end()
    figures = {"faults": faults, "exit_code": code, "run_s": round(wall_s, 1)}
    if code:
        return figures | {"passed": False}
    graded = [e for f in (workdir / "episodes").glob("*.jsonl") for e in read_episodes(f) if e.outcome.graded]
    figures |= count(workdir)
    counts = {"same": 0, "wrong": 0, "timed_out": 0, "not_repeated": 0}
    figures |= counts | await compare(workdir, task_dir, graded)
    repeated = figures["same"] > 0 and figures["not_repeated"] + figures["timed_out"] <= MAX_UNCHECKED * len(graded)
    right = not figures["wrong"] and repeated and figures["all_counted"]
    return figures | {"passed": bool(right and len(faults) == 3)}


def _main(argv: list[str]) -> None:
    config, workdir = _CONFIG.value, Path(_WORKDIR.value).resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    arguments = [a for a in sys.argv[1:] if not a.startswith("--pause_s")]
    figures = asyncio.run(drill(config, workdir, arguments, _PAUSE_S.value))
    for name, value in figures.items():
        print(f"{name:<22} {value}")
    print(json.dumps(figures))
    sys.exit(0 if figures["passed"] else 1)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/tiny.py", lock_config=True)
    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
    _PAUSE_S = flags.DEFINE_float("pause_s", 60.0, "Seconds that the second service is stopped.")
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(_main)
