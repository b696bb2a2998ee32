"""Plays scripted agents over a task set: python -m skillrl.rehearse DIR [--sample=N] [--jobs=2]

`tasks.validate` grades what is handed to the graders; here the same gold and null submissions take the way of a
policy's: prompts, tool calls in sessions of a real sandbox service, submissions read from messages, rewards over the
wire. Each gold episode must score its skill's maximum and each null episode the minimum. Prints a table and, as its
last line, one JSON object; exit status 1 names the episodes that scored anything else.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sandbox_service.client import SandboxClient, SandboxError
from sandbox_service.embedded import embedded_service
from sandbox_service.tasks import TaskSet, read_task_set
from skillrl.chat import CompactChat, ToolCall
from skillrl.rollout.agents import Script, ScriptedAgents
from skillrl.rollout.collector import Collector
from skillrl.rollout.episode import Budgets
from skillrl.skills import get_skill
from skillrl.tasks.source import TaskSetError, read_tasks
from skillrl.tasks.submissions import gold
from skillrl.tasks.validate import choose
from skillrl.tokenizer import SentencePieceTokenizer
from skillrl.types import Episode, Task

# A gold file of 100 kB is one message.
BUDGETS = Budgets(max_tokens=1 << 18, max_turns=40, wall_s=1800.0, max_observation_tokens=256, exec_timeout_s=60.0)
_VOCABULARY = 600


@dataclass
class Rehearsal:
    """Skill -> episodes that scored as they must, of gold and of null; what the others did."""

    tasks: Counter = field(default_factory=Counter)
    right: dict[str, Counter] = field(default_factory=lambda: {"gold": Counter(), "null": Counter()})
    # Tasks whose gold submission is a state of a container: no tool call makes it.
    not_played: list[str] = field(default_factory=list)
    # "TASK: AGENT got ...".
    failures: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    def as_json(self) -> dict:
        skills = {
            skill: {"tasks": count, "gold_max": self.right["gold"][skill], "null_min": self.right["null"][skill]}
            for skill, count in sorted(self.tasks.items())
        }
        rest = {"not_played": len(self.not_played), "failures": self.failures, "wall_s": round(self.wall_s, 1)}
        return {"tasks": self.tasks.total(), "skills": skills, **rest}


def gold_script(task_set: TaskSet) -> Script:
    """Hands in the gold submission by tool calls, as an agent must."""

    def script(task: Task) -> Generator[ToolCall, str, str]:
        handed = _gold(task_set, task)
        for path, content in handed.changed.items():
            if content is None:
                yield ToolCall("bash", (f"rm {path}",))
            else:
                yield ToolCall("str_replace", ("create", path, content.decode()))
        submission = handed.submission
        if submission.files:
            return "<files>" + "\n".join(submission.files) + "</files>"
        if submission.judgment:
            return f"<review>{submission.review}</review><judgment>{submission.judgment}</judgment>"
        return "Done."

    return script


def null_script(task: Task) -> Generator[ToolCall, str, str]:
    """Submits at once, and nothing."""
    yield from ()
    return "Done."


def _gold(task_set: TaskSet, task: Task):
    hidden = task_set.task(task.task_id)
    instance = task_set.instance_of(hidden)
    return gold(hidden, instance, task_set.tree_files(instance.tree))


async def rehearse(path: Path, *, sample: int | None = None, jobs: int = 2, seed: int = 0) -> Rehearsal:
    """Plays both agents on the set at `path`, or on `sample` tasks of it, the skills taking turns.

    Raises TaskSetError or SandboxError.
    """
    started, report = time.monotonic(), Rehearsal()
    task_set, tasks = read_task_set(path), []
    for task in choose(read_tasks(path), sample, seed):
        if _gold(task_set, task).script:
            report.not_played.append(task.task_id)
        else:
            tasks.append(task)
    report.tasks.update(task.skill for task in tasks)
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        prompts = [get_skill(task.skill).make_prompt(task) for task in tasks]
        chat = CompactChat(SentencePieceTokenizer.train(prompts, Path(folder, "tokenizer.model"), _VOCABULARY))
    async with embedded_service([path]) as address, SandboxClient(address, run_id="rehearsal") as client:
        await client.wait_ready()
        for name, script in (("gold", gold_script(task_set)), ("null", null_script)):
            agents = ScriptedAgents(script, chat)
            collector = Collector(agents, client, chat, BUDGETS, max_in_flight=jobs)
            groups = await collector.collect(tasks, 1, seed=seed, on_done=lambda e: print(".", end="", file=sys.stderr))
            _judge(report, name, [group[0] for group in groups])
    report.wall_s = time.monotonic() - started
    return report


def _judge(report: Rehearsal, name: str, episodes: Sequence[Episode]) -> None:
    for episode in episodes:
        task, outcome = episode.task, episode.outcome
        worst, best = get_skill(task.skill).reward_range
        expected = best if name == "gold" else worst
        if outcome.reward == expected:
            report.right[name][task.skill] += 1
        else:
            why = " ".join(filter(None, (outcome.reason, outcome.detail, episode.status.value)))
            report.failures.append(f"{task.task_id}: {name} got {outcome.reward}, not {expected} ({why})")


def show(report: Rehearsal, console: Console) -> None:
    table = Table("skill", "tasks", "gold max", "null min", title="rehearse")
    for skill, row in report.as_json()["skills"].items():
        table.add_row(skill, *map(str, row.values()))
    console.print(table)
    for line in report.failures:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m skillrl.rehearse", description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, metavar="DIR", help="a task set")
    parser.add_argument("--sample", type=int, default=None, help="play this many tasks only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="episodes at the same time")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    options = parser.parse_args(argv)
    if options.jobs < 1 or (options.sample is not None and options.sample < 1):
        parser.error("--jobs and --sample must be at least 1")
    try:
        report = asyncio.run(rehearse(options.path, sample=options.sample, jobs=options.jobs, seed=options.seed))
    except (SandboxError, TaskSetError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(file=sys.stderr)
    show(report, Console(width=None if sys.stdout.isatty() else 120))
    print(json.dumps(report.as_json()))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
