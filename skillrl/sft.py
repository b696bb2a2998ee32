"""Supervised warm start: copying first, then imitation of proven scripted trajectories.

The loop of `configs/sft.py`. Every stage leaves its result in the workdir, so a run that was stopped goes on.
"""

import asyncio
import dataclasses
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from skillrl import export, setup, task_sets
from skillrl.chat import CompactChat, Final, Message, ToolCall, ToolResult, User, render
from skillrl.checkpoint import Checkpoints
from skillrl.demonstrators import CAREFUL, HASTY, Steps
from skillrl.evaluate import score_of
from skillrl.limits import is_due
from skillrl.metrics import Metrics
from skillrl.models.config import variant
from skillrl.progress import progress
from skillrl.renaming import NAME_KINDS, renamed
from skillrl.rl.learner import TrainState
from skillrl.rl.packing import pack
from skillrl.rollout.agents import ScriptedAgents
from skillrl.rollout.collector import check_faults
from skillrl.rollout.records import append_episodes, read_finished_episodes
from skillrl.skills import get_skill
from skillrl.tasks.world import WORDS
from skillrl.tokenizer import ARG, CALL, END, SentencePieceTokenizer
from skillrl.types import SKILLS, Batch, Episode, Task

_CHUNK_TASKS = 100


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs every stage and exports the policy to WORKDIR/hf."""
    cfg = variant(config.policy.source.removeprefix("init:"), vocab=config.sft.vocab_size, dtype=config.policy.dtype)
    mesh = setup.make_mesh(config)
    learner = setup.make_learner(config, cfg, mesh, decay_steps=config.num_steps)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep)
    restored = checkpoints.restore_latest(learner.abstract_state())
    state = restored[0] if restored else learner.init(config.seed)
    setup.keep_config(config, workdir)

    rows, length = config.packing.rows, config.packing.row_tokens
    warmup_steps = config.sft.warmup_tokens // (rows * length)

    def train(name: str, state: TrainState, end: int, batch: Callable[[np.random.Generator], Batch]) -> TrainState:
        first = int(state.step)
        metrics = Metrics(workdir, from_step=first)
        with progress() as bars:
            bar = bars.add_task(name, total=end, completed=first)
            for step in range(first, end):
                state, scalars = learner.update(state, batch(np.random.default_rng([config.seed, step])))
                metrics.write(step, scalars)
                bars.update(bar, advance=1, description=f"{name}, loss {scalars['loss']:.3f}")
                if step + 1 == end or is_due(step + 1, config.checkpoint.every_steps):
                    checkpoints.save(step + 1, state, cfg)
        metrics.close()
        return state

    state = train("copying", state, warmup_steps, lambda rng: repeated_sequences(rng, rows, length, cfg.vocab))
    task_dir, tasks = task_sets.load_tasks(config, workdir)
    trajectories = asyncio.run(_demonstrations(config, workdir, task_dir, tasks))
    tokenizer = _train_tokenizer(config, trajectories, workdir / setup.TOKENIZER_FILE)
    batches = Trajectories(config, trajectories, CompactChat(tokenizer))
    state = train("imitating", state, config.num_steps, batches.draw)
    shutil.rmtree(workdir / "hf", ignore_errors=True)
    card = export.model_card(cfg, workdir, int(state.step))
    export.export(workdir / "hf", cfg, learner.policy_params(state), workdir / setup.TOKENIZER_FILE, card)


def _train_tokenizer(config: ConfigDict, trajectories: Sequence[Episode], path: Path) -> SentencePieceTokenizer:
    if path.exists():
        return SentencePieceTokenizer(path)
    texts = [turn.text for e in trajectories for turn in e.turns]
    words = [word for kind in NAME_KINDS for word in WORDS[kind]]
    return SentencePieceTokenizer.train(texts, path, config.sft.vocab_size, words)


# Demonstrations.


async def _demonstrations(config: ConfigDict, workdir: Path, task_dir: Path, tasks: Sequence[Task]) -> list[Episode]:
    """Proven trajectories. All attempts are kept on disk, so none is repeated when the run goes on."""
    path = workdir / "demonstrations.jsonl"
    tasks = [t for t in tasks if t.split == "train" and t.skill in SKILLS]
    random.Random(config.seed).shuffle(tasks)
    # Bytes are enough to record the text that the real tokenizer is made of.
    prompts = [get_skill(t.skill).make_prompt(t) for t in tasks]
    chat = CompactChat(SentencePieceTokenizer.train(prompts, workdir / "bootstrap.model", 600))
    attempted = {e.task.task_id: e for e in read_finished_episodes(path)} if path.exists() else {}
    missing = [task for task in tasks if task.task_id not in attempted]
    async with setup.sandbox_client(config, [task_dir], f"sft-{workdir.name}") as client:
        with progress() as bars:
            bar = bars.add_task("demonstrations", total=len(tasks), completed=len(attempted))
            for start in range(0, len(missing), _CHUNK_TASKS):
                episodes = await _attempt(config, client, chat, missing[start : start + _CHUNK_TASKS])
                keep_attempts(path, episodes, config.sandbox.max_infra_share)
                attempted |= {e.task.task_id: e for e in episodes}
                bars.update(bar, completed=len(attempted))
    # In the order of an uninterrupted run, which the batches are drawn by.
    attempted = [attempted[task.task_id] for task in tasks]
    proven = [e for e in attempted if e.outcome.graded and score_of(e) == 1.0]
    logging.warning("%d of %d demonstrations earned the maximal reward", len(proven), len(attempted))
    if len(proven) < config.sft.episodes_per_step:
        raise setup.ConfigError(
            f"{len(proven)} proven demonstrations are fewer than sft.episodes_per_step="
            f"{config.sft.episodes_per_step}; lower it or generate more tasks with --config.world.train"
        )
    return proven


def keep_attempts(path: Path, episodes: Sequence[Episode], max_infra_share: float) -> None:
    """Appends what was played. Raises ServiceFault when the service lost too many, which are then attempted again."""
    append_episodes(path, [e for e in episodes if e.outcome.reason != "infra"])
    check_faults([episodes], max_infra_share)
    append_episodes(path, [e for e in episodes if e.outcome.reason == "infra"])


async def _attempt(config: ConfigDict, client, chat: CompactChat, tasks: Sequence[Task]) -> list[Episode]:
    """One episode of each task, careful or hasty by the task's draw."""

    def script(task: Task) -> Steps:
        rng = random.Random(f"{config.seed}/{task.task_id}")
        careful = task.skill not in HASTY or rng.random() < config.sft.careful_share
        return (CAREFUL if careful else HASTY)[task.skill](task, rng)

    budgets = dataclasses.replace(setup.make_budgets(config), max_tokens=1 << 14)
    collector = setup.make_collector(config, ScriptedAgents(script, chat), client, chat, budgets, 16)
    return [group[0] for group in await collector.collect(tasks, 1, seed=config.seed)]


# Batches.


class Trajectories:
    """Draws batches of proven trajectories, renamed anew each time."""

    def __init__(self, config: ConfigDict, trajectories: Sequence[Episode], chat: CompactChat):
        self._config, self._trajectories, self._chat = config, trajectories, chat

    def draw(self, rng: np.random.Generator) -> Batch:
        chosen = rng.choice(len(self._trajectories), self._config.sft.episodes_per_step, replace=False)
        names = random.Random(int(rng.integers(1 << 62)))
        episodes = [self._renamed(self._trajectories[i], names) for i in chosen]
        episodes = [e for e in episodes if len(e.tokens) <= self._config.packing.row_tokens]
        return pack(
            episodes,
            [1.0] * len(episodes),
            length=self._config.packing.row_tokens,
            rows_multiple=self._config.learner.micro_rows,
            denominator=self._config.packing.denominator,
        )

    def _renamed(self, episode: Episode, rng: random.Random) -> Episode:
        texts = renamed(episode.task.skill, [turn.text for turn in episode.turns], rng)
        messages = [_message(turn.role, text) for turn, text in zip(episode.turns, texts, strict=True)]
        ids, mask = render(self._chat, messages)
        return dataclasses.replace(
            episode,
            tokens=np.array(ids, np.int32),
            loss_mask=np.array(mask),
            sampler_logprobs=np.zeros(len(ids), np.float32),
            versions=np.full(len(ids), -1, np.int32),
        )


def _message(role: str, text: str) -> Message:
    if role != "assistant":
        return User(text) if role == "user" else ToolResult(text)
    text = text.removesuffix(END)
    name, *args = text.removeprefix(CALL).split(ARG)
    return ToolCall(name, tuple(args)) if text.startswith(CALL) else Final(text)


def repeated_sequences(rng: np.random.Generator, rows: int, length: int, vocab: int) -> Batch:
    """Rows of segments of 128 tokens, each a random sequence of 6 to 24 tokens said again and again.

    The loss falls on every repetition. Learning them makes the attention heads that copy from context
    (arXiv:2209.11895). Each segment's alphabet is small: what to copy is then learned soon, and where from after it
    (drawn from the whole vocabulary, 6M tokens taught neither to the tiny variant).
    """
    shape = (rows, length)
    tokens = np.zeros(shape, np.int32)
    segments, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask = np.zeros(shape, bool)
    for r in range(rows):
        for segment, start in enumerate(range(0, length, 128), 1):
            end = min(start + 128, length)
            alphabet = rng.choice(vocab, rng.integers(8, 25), replace=False)
            period = int(rng.integers(6, 25))
            tokens[r, start:end] = np.resize(rng.choice(alphabet, period), end - start)
            segments[r, start:end] = segment
            positions[r, start:end] = np.arange(end - start)
            mask[r, start + period : end] = True
    return Batch(
        tokens=tokens,
        segment_ids=segments,
        positions=positions,
        loss_mask=mask,
        advantages=mask.astype(np.float32),
        sampler_logprobs=np.zeros(shape, np.float32),
        skill_ids=np.where(segments > 0, 0, -1).astype(np.int32),
        loss_weights=(mask / mask.sum()).astype(np.float32),
    )
