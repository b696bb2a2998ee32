"""The program of configs/eval.py: plays suites with one policy or endpoint, and says Avg@k with its standard error.

Nothing is learned. Episodes are those of training: the same collector, budgets, sandboxes and graders. What it leaves:

    config.json      the config of the last start; played.json: what must stay the same for episodes to count together
    tasks/           the generated suites, unless a task set was given
    episodes.jsonl   every episode, written when it ends; the same command plays only what is missing
    metrics.jsonl    one line for each chunk of tasks; tensorboard/ has the same
    scores.json      of every task; summary.json: the figures that are printed
"""

import asyncio
import contextlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from skillrl import evaluate, export, resume, setup, task_sets
from skillrl.chat import ChatFormat
from skillrl.metrics import Metrics, read_metrics, rollout_metrics
from skillrl.progress import progress
from skillrl.rollout.agents import Agents, PolicyAgents
from skillrl.rollout.collector import check_faults
from skillrl.rollout.endpoint import Endpoint, EndpointAgents, in_characters
from skillrl.rollout.episode import Budgets
from skillrl.rollout.records import append_episodes
from skillrl.types import Episode, Task

EPISODES, SCORES = "episodes.jsonl", "scores.json"
# Tasks between two looks at the faults of the service.
_CHUNK_TASKS = 64
_SHOWN_REASONS = 10


@dataclass(frozen=True)
class Player:
    """Who plays: agents, how their messages are written, and their limits."""

    agents: Agents
    chat: ChatFormat
    budgets: Budgets
    max_in_flight: int


def run(config: ConfigDict, workdir: Path) -> None:
    """Plays what is missing in `workdir`, then prints a table and, as the last line, the same figures as JSON."""
    check(config)
    if (workdir / "checkpoints").exists():
        raise setup.ConfigError(f"{workdir} holds a training run; give the evaluation another --workdir")
    played_under = conditions(config)
    sets = task_sets.load_suites(config, workdir)
    resume.same_conditions(workdir, played_under, begun=(workdir / EPISODES).exists())
    setup.keep_config(config, workdir)
    tasks = [task for chosen in sets.values() for task in chosen]
    path = workdir / EPISODES
    groups = resume.finished_groups(path, tasks, config.eval.samples)
    missing = [task for task in tasks if task.task_id not in groups]
    if missing:
        if groups:
            print(f"going on: {len(groups)} of {len(tasks)} tasks are finished")
        groups |= asyncio.run(_play(config, workdir, list(sets), missing, len(tasks)))
    scores = evaluate.task_scores(groups[task.task_id] for task in tasks)
    evaluate.write_scores(workdir / SCORES, scores)
    summary = _summary(played_under["player"], config.eval.samples, workdir, scores)
    if unsafe := sum(episode.outcome.unsafe for task in tasks for episode in groups[task.task_id]):
        summary["unsafe_outcomes"] = unsafe
    (workdir / export.SUMMARY_FILE).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(evaluate.standing_table(summary["suites"], config.eval.samples))
    for (reason, detail), count in _ungradable(groups[task.task_id] for task in tasks):
        print(f"{count} ungradable ({reason}): {detail}")
    print(json.dumps(summary, allow_nan=False))


def check(config: ConfigDict) -> None:
    """Raises ConfigError for what would be noticed only when tasks were generated."""
    if unknown := set(config.eval.suites) - set(evaluate.EXAM_SUITES):
        raise setup.ConfigError(f"eval.suites has {sorted(unknown)}; known are {', '.join(evaluate.EXAM_SUITES)}")
    if config.eval.samples < 1:
        raise setup.ConfigError(f"eval.samples={config.eval.samples}; at least 1 episode of each task is played")
    if bool(config.endpoint.url) != bool(config.endpoint.model):
        raise setup.ConfigError("an endpoint needs both --config.endpoint.url=URL and --config.endpoint.model=NAME")
    if config.endpoint.url:
        _endpoint(config)


def _endpoint(config: ConfigDict) -> Endpoint:
    """The configured endpoint, with the key from its environment variable."""
    c = config.endpoint
    url = c.url.rstrip("/")
    if not re.fullmatch(r"https?://[^/@\s?#]+(/[^@\s?#]*)?", url):
        raise setup.ConfigError(
            "endpoint.url is no address; write http://HOST:PORT/v1, and name the variable that holds the key with "
            "--config.endpoint.key_variable=NAME"
        )
    key = ""
    if c.key_variable:
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", c.key_variable):
            # It may be the key itself, so it is not shown.
            raise setup.ConfigError(
                "endpoint.key_variable is no name of an environment variable, as OPENAI_API_KEY is one"
            )
        key = os.environ.get(c.key_variable, "").strip()
        if not re.fullmatch(r"[!-~]+", key):
            what = "is not set" if not key else "holds no key"
            raise setup.ConfigError(f"the environment variable {c.key_variable} {what}; export {c.key_variable}=KEY")
    try:
        fields = json.loads(c.fields or "{}")
    except ValueError as e:
        raise setup.ConfigError(f"endpoint.fields is no JSON ({e}); write '{{\"NAME\": VALUE}}'") from None
    if not isinstance(fields, dict) or {"messages", "model", "stream"} & fields.keys():
        raise setup.ConfigError("endpoint.fields is a JSON object without messages, model and stream")
    for name in ("max_in_flight", "max_reply_tokens", "tries"):
        if c[name] < 1:
            raise setup.ConfigError(f"endpoint.{name}={c[name]}; give at least 1")
    return Endpoint(
        url, c.model, key, timeout_s=c.timeout_s, tries=c.tries, max_reply_tokens=c.max_reply_tokens, fields=fields
    )


def conditions(config: ConfigDict) -> dict:
    """What must be the same for episodes to count together, as JSON values."""
    if not config.endpoint.url:
        return resume.conditions(config)
    fields = {name: config.endpoint[name] for name in ("max_reply_tokens", "fields")}
    player = f"{config.endpoint.model} at {config.endpoint.url}"
    return {"player": player, "endpoint": fields} | resume.play_conditions(config)


# Playing.


async def _play(
    config: ConfigDict, workdir: Path, task_dirs: Sequence[Path], tasks: Sequence[Task], total: int
) -> dict[str, list[Episode]]:
    """Plays the tasks, chunk by chunk. Raises ServiceFault when too many episodes of a chunk were lost."""
    done, samples = total - len(tasks), config.eval.samples
    groups = {}
    async with _player(config) as player, contextlib.AsyncExitStack() as stack:
        run_id = f"{workdir.name}-{time.time_ns()}"
        client = await stack.enter_async_context(setup.sandbox_client(config, task_dirs, run_id))
        collector = setup.make_collector(
            config, player.agents, client, player.chat, player.budgets, player.max_in_flight
        )
        chunks = len(read_metrics(workdir))
        metrics = Metrics(workdir, from_step=chunks)
        stack.callback(metrics.close)
        bars = stack.enter_context(progress())
        bar = bars.add_task("evaluating", total=total * samples, completed=done * samples)

        def keep(episode: Episode) -> None:
            append_episodes(workdir / EPISODES, [episode])
            bars.advance(bar)

        for start in range(0, len(tasks), _CHUNK_TASKS):
            chunk = tasks[start : start + _CHUNK_TASKS]
            played = await collector.collect(
                chunk, samples, seed=config.seed + 7, temperature=config.eval.temperature, on_done=keep
            )
            scalars = rollout_metrics(played, evaluate.score_of) | {"replays": collector.take_replays()}
            metrics.write(chunks + start // _CHUNK_TASKS, scalars | _usage(player.agents))
            check_faults(played, config.sandbox.max_infra_share)
            groups |= {group[0].task.task_id: [resume.without_tokens(e) for e in group] for group in played}
    return groups


@contextlib.asynccontextmanager
async def _player(config: ConfigDict) -> AsyncIterator[Player]:
    budgets = setup.make_budgets(config)
    if config.endpoint.url:
        async with EndpointAgents(_endpoint(config)) as agents:
            await agents.check()
            yield Player(agents, agents.chat, in_characters(budgets), config.endpoint.max_in_flight)
    else:
        policy = setup.load_policy(config)
        async with setup.make_engine(config, policy, policy.params, version=0) as engine:
            yield Player(PolicyAgents(engine), policy.chat, budgets, config.sandbox.max_in_flight)


def _usage(agents: Agents) -> dict[str, int]:
    """What the endpoint counted since this was last asked."""
    if not isinstance(agents, EndpointAgents):
        return {}
    usage = {f"endpoint/{name}": count for name, count in agents.counts.items()}
    agents.counts.update({name: -count for name, count in agents.counts.items()})
    return usage


def _summary(player: str, samples: int, workdir: Path, scores: Sequence[evaluate.TaskScore]) -> dict:
    rows = read_metrics(workdir)
    names = sorted({name for row in rows for name in row if name.startswith("endpoint/")})
    usage = {name.removeprefix("endpoint/"): int(sum(row.get(name, 0) for row in rows)) for name in names}
    return {"player": player, "samples": samples, "suites": evaluate.standing(scores), "endpoint": usage}


def _ungradable(groups: Iterable[Sequence[Episode]]) -> list[tuple[tuple[str, str], int]]:
    """Why there was no reward, the most frequent reasons first."""
    outcomes = (episode.outcome for group in groups for episode in group)
    return Counter((o.reason, o.detail) for o in outcomes if not o.graded).most_common(_SHOWN_REASONS)
