"""The loop: tasks -> episodes -> outcomes -> advantages -> learner -> checkpoint -> evaluation -> export.

Read this file first. One step draws groups of tasks from the mixture, plays them with the current policy against real
sandboxes, turns outcomes into advantages, learns, and hands the new weights to the sampler. Only this file knows
both `rollout/` and `rl/`. What a run leaves in its workdir:

    config.json       the config of the last start; played.json: what must stay the same from start to start
    tasks/            the generated world, unless a task set was given
    checkpoints/      parameters, optimizer, step, random state, mixture position (Orbax)
    episodes/         every episode, one JSON line each: train-STEP.jsonl, eval-NAME.jsonl (written as they end)
    metrics.jsonl     one line a step; tensorboard/ has the same
    eval/             scores of every evaluated task
    summary.json      before and after; report.html shows it all; hf/ is the exported policy
"""

import asyncio
import dataclasses
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from skillrl import evaluate, export, prompts, report, resume, setup, task_sets
from skillrl.checkpoint import Checkpoints
from skillrl.limits import is_due
from skillrl.metrics import Metrics, rollout_metrics
from skillrl.progress import progress
from skillrl.rl.advantages import group_advantages
from skillrl.rl.learner import Learner, TrainState
from skillrl.rl.outcomes import learnable
from skillrl.rl.packing import pack
from skillrl.rollout.agents import PolicyAgents
from skillrl.rollout.collector import Collector, check_faults
from skillrl.rollout.records import append_episodes, read_episodes, write_episodes
from skillrl.sampling.engine import Engine
from skillrl.tasks.mixture import Mixture
from skillrl.types import Episode, Task

_REPORT_EPISODES = 60


@dataclass
class Run:
    """The parts of a running training."""

    config: ConfigDict
    workdir: Path
    tasks: list[Task]
    policy: setup.Policy
    learner: Learner
    state: TrainState
    mixture: Mixture
    engine: Engine
    checkpoints: Checkpoints
    step: int
    # Made when the sandbox service is there.
    collector: Collector | None = None


def run(config: ConfigDict, workdir: Path) -> None:
    """Trains to `config.num_steps`, from the last checkpoint in `workdir` where there is one."""
    asyncio.run(_run(config, workdir))


async def _run(config: ConfigDict, workdir: Path) -> None:
    task_dir, tasks = task_sets.load_tasks(config, workdir)
    run = prepare(config, workdir, tasks)
    async with setup.sandbox_client(config, [task_dir], f"{workdir.name}-{time.time_ns()}") as client, run.engine:
        run.collector = setup.make_collector(run.config, PolicyAgents(run.engine), client, run.policy.chat)
        await _evaluate(run, "before")
        await _train(run)
        await _evaluate(run, "after")
    _finish(run)


def prepare(config: ConfigDict, workdir: Path, tasks: list[Task]) -> Run:
    """The parts but for the collector, from the last checkpoint where there is one."""
    policy = setup.load_policy(config)
    config, training = prompts.fit_prompts(config, policy, tasks)
    learner = setup.make_learner(config, policy.cfg, policy.mesh)
    mixture = Mixture(training, config.skills.to_dict(), config.seed)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep)
    restored = checkpoints.restore_latest(learner.abstract_state())
    if restored:
        state, extra = restored
        mixture.restore(extra["mixture"])
        step = extra["step"]
    else:
        state, step = learner.init(config.seed, policy.params), 0
    resume.go_on(config, workdir, tasks, step if restored else None)
    if not config.loss.kl_coef or config.learner.lora_rank:
        # The learner's state is the policy now; only a KL term without adapters needs what it started from.
        policy = dataclasses.replace(policy, params=None)
    setup.keep_config(config, workdir)
    setup.keep_tokenizer(policy.tokenizer_file, workdir)
    engine = setup.make_engine(config, policy, learner.policy_params(state), version=int(state.version))
    return Run(config, workdir, tasks, policy, learner, state, mixture, engine, checkpoints, step)


async def _train(run: Run) -> None:
    config = run.config
    metrics = Metrics(run.workdir, from_step=run.step)
    with progress() as bars:
        bar = bars.add_task("training", total=config.num_steps, completed=run.step)
        while run.step < config.num_steps:
            if is_due(run.step, config.eval.every_steps):
                await _evaluate(run, f"step-{run.step}")
            scalars = await _train_step(run)
            metrics.write(run.step, scalars)
            run.step += 1
            # Before an evaluation too: one that is cut short goes on with the same weights.
            if run.step == config.num_steps or is_due(run.step, config.checkpoint.every_steps, config.eval.every_steps):
                _save(run, run.mixture.state())
            text = f"training, score {scalars['score']:.2f}, {scalars['tokens_per_s']:.0f} tokens/s"
            bars.update(bar, advance=1, description=text)
    metrics.close()


def _save(run: Run, mixture: dict) -> None:
    run.checkpoints.save(run.step, run.state, run.policy.cfg, {"step": run.step, "mixture": mixture})


async def _train_step(run: Run) -> dict[str, float]:
    """One step: draw, play, learn, update the sampler. Returns its metrics."""
    config, started = run.config, time.monotonic()
    position = run.mixture.state()
    try:
        admitted, played = await _draw_groups(run)
    except BaseException:
        # The steps since the last checkpoint are whole; the same command begins this one again.
        if run.step:
            _save(run, position)
        raise
    rollout_s = time.monotonic() - started
    scalars = rollout_metrics(played, evaluate.score_of)
    graded = [e for g in played for e in g if e.outcome.graded]
    scalars["score"] = sum(map(evaluate.score_of, graded)) / max(len(graded), 1)
    scalars["admitted_groups"] = len(admitted)
    scalars["replays"] = run.collector.take_replays()

    episodes = [e for group in admitted for e in group]
    learning = time.monotonic()
    if episodes:
        advantages = [a for group in admitted for a in group_advantages(group, config.advantages.estimator)]
        batch = pack(
            episodes,
            advantages,
            length=config.packing.row_tokens,
            rows_multiple=config.learner.micro_rows,
            denominator=config.packing.denominator,
        )
        run.engine.rest()
        # In a thread: the client's lease renewals go on meanwhile.
        run.state, update = await asyncio.to_thread(run.learner.update, run.state, batch, run.policy.params)
        scalars |= {f"learner/{name}": value for name, value in update.items()}
        params = run.learner.policy_params(run.state)
        await run.engine.update(params, int(run.state.version))
    tokens = sum(int(e.loss_mask.sum()) for g in played for e in g)
    scalars |= run.mixture.metrics() | {f"sampler/{k}": v for k, v in run.engine.counters().items()}
    return scalars | {
        "times/rollout_s": rollout_s,
        "times/learning_s": time.monotonic() - learning,
        "times/step_s": time.monotonic() - started,
        "tokens_per_s": tokens / max(rollout_s, 1e-9),
    }


async def _draw_groups(run: Run) -> tuple[list[list[Episode]], list[list[Episode]]]:
    """Groups for one update, and all that were played for it.

    A group that teaches nothing (equal rewards, or nothing to grade) is replaced by another of the same skill, for up
    to `rollout.refill` of the groups, so that the mixture is kept by what the learner sees.
    """
    config = run.config
    admitted: list[list[Episode]] = []
    played: list[list[Episode]] = []
    wanted, budget = config.rollout.groups_per_step, int(config.rollout.groups_per_step * config.rollout.refill)
    attempt, path = 0, run.workdir / "episodes" / f"train-{run.step:06d}.jsonl"
    write_episodes(path, [])
    while wanted > 0:
        tasks = [run.mixture.next_task() for _ in range(wanted)]
        seed = config.seed * 1_000_003 + run.step * 101 + attempt
        groups = await run.collector.collect(
            tasks, config.rollout.group_size, seed=seed, temperature=config.rollout.temperature
        )
        played += groups
        append_episodes(path, [e for g in groups for e in g])
        check_faults(groups, config.sandbox.max_infra_share)
        for group in groups:
            kept = learnable(group, config.reward.truncated)
            if kept:
                admitted.append(kept)
                run.mixture.admit(group[0].task.skill)
            else:
                run.mixture.drop(group[0].task.skill)
        wanted = min(config.rollout.groups_per_step - len(admitted), budget)
        budget -= wanted
        attempt += 1
    return admitted, played


async def _evaluate(run: Run, name: str) -> None:
    """Avg@k on the held-out suites into eval/NAME.json; done once."""
    config, path = run.config, run.workdir / "eval" / f"{name}.json"
    if path.exists() or not config.eval.samples:
        return
    tasks = task_sets.evaluation_tasks(run.tasks, config)
    with progress() as bars:
        bar = bars.add_task(f"evaluating {name}", total=len(tasks) * config.eval.samples)
        groups = await resume.play_missing(
            config,
            run.collector,
            tasks,
            run.workdir / "episodes" / f"eval-{name}.jsonl",
            on_done=lambda episodes: bars.advance(bar, episodes),
        )
    evaluate.write_scores(path, evaluate.task_scores(groups))


def _finish(run: Run) -> None:
    """Summary, export and report from what is on disk."""
    config, workdir = run.config, run.workdir
    if config.eval.samples:
        before, after = (evaluate.read_scores(workdir / "eval" / f"{n}.json") for n in ("before", "after"))
        summary = evaluate.summarise(before, after) | report.unsafe_outcomes(workdir)
        (workdir / export.SUMMARY_FILE).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        print(evaluate.table(summary))
    shutil.rmtree(workdir / "hf", ignore_errors=True)
    card = export.model_card(run.policy.cfg, workdir, run.step)
    export.export(workdir / "hf", run.policy.cfg, run.learner.policy_params(run.state), run.policy.tokenizer_file, card)
    facts = {"steps": run.step, "policy": config.policy.source, "parameters": f"{run.policy.cfg.num_params:,}"}
    sample = workdir / "episodes" / "eval-after.jsonl"
    episodes = list(read_episodes(sample)) if sample.exists() else []
    picked = episodes[:: max(1, len(episodes) // _REPORT_EPISODES)]
    page = report.write_report(workdir, f"skillrl: {workdir.name}", facts, picked)
    print(f"report: {page}\nexported policy: {workdir / 'hf'}")
