"""A base policy for tests, made in seconds: it looks once, then guesses a verdict or says that it is done."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from episodes import make_episode

from skillrl import export, sharding
from skillrl.chat import CompactChat, Final, ToolCall, ToolResult, User, render
from skillrl.models.config import ModelConfig
from skillrl.rl.learner import Learner, LearnerConfig
from skillrl.rl.losses import LossConfig
from skillrl.rl.packing import pack
from skillrl.skills import get_skill
from skillrl.tokenizer import SentencePieceTokenizer
from skillrl.types import Task

LISTING = "README.md\nsource\ntests\n"
VERDICTS = [f"<review>seen</review><judgment>{verdict}</judgment>" for verdict in ("YES", "NO")]


def make_tokenizer(path: Path, tasks: Sequence[Task]) -> SentencePieceTokenizer:
    texts = [get_skill(task.skill).make_prompt(task) for task in tasks]
    return SentencePieceTokenizer.train([*texts, *VERDICTS * 50], path, 640)


def make_policy(folder: Path, tasks: Sequence[Task], *, steps: int = 30) -> Path:
    """A Hugging Face folder of a policy whose groups of review episodes differ in their rewards."""
    tokenizer_file = folder.with_suffix(".model")
    tokenizer = make_tokenizer(tokenizer_file, tasks)
    chat = CompactChat(tokenizer)
    # Heads like the tiny variant's, for which sampling is bitwise the same whatever else is sampled (Engine.generate).
    cfg = ModelConfig(
        vocab=-(-tokenizer.vocab_size // 64) * 64, embed=48, layers=2, q_heads=4, kv_heads=2, head_dim=32, mlp=96,
        unroll=2,
    )  # fmt: skip
    episodes = []
    for task in tasks:
        for answer in VERDICTS if task.skill == "review" else ["Done.", "Done."]:
            messages = [User(get_skill(task.skill).make_prompt(task))]
            if len(episodes) % 2:
                messages += [ToolCall("bash", ("ls",)), ToolResult(LISTING)]
            ids, mask = render(chat, [*messages, Final(answer)])
            episodes.append(make_episode(ids, mask, number=len(episodes)))
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    learner = Learner(cfg, LearnerConfig(loss=LossConfig(loss="sft"), learning_rate=1e-2, micro_rows=4), mesh)
    state = learner.init(0)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        chosen = [episodes[i] for i in rng.permutation(len(episodes))[:10]]
        state, metrics = learner.update(state, pack(chosen, [1.0] * len(chosen), length=384, rows_multiple=4))
    assert metrics["loss"] < 0.5, metrics
    return export.export(folder, cfg, state.params, tokenizer_file, "For tests.\n")
