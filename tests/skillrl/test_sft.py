"""The warm start: batches by hand, and the whole program from nothing to an exported policy."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from episodes import make_episode

from configs import sft as sft_config
from skillrl import sharding
from skillrl.chat import CompactChat, Final, ToolCall, ToolResult, User, render
from skillrl.metrics import read_metrics
from skillrl.models.hf import load_hf
from skillrl.rollout.collector import ServiceFault
from skillrl.rollout.records import append_episodes, read_finished_episodes
from skillrl.sft import Trajectories, keep_attempts, repeated_sequences
from skillrl.skills import get_skill
from skillrl.tasks.world import WORDS, generate
from skillrl.tasks.world.words import pool
from skillrl.tokenizer import SentencePieceTokenizer
from skillrl.types import Outcome, Task, Turn


def test_repeated_sequences_repeat_and_only_repetitions_count():
    batch = repeated_sequences(np.random.default_rng(0), rows=4, length=300, vocab=64)
    assert batch.loss_weights.sum() == pytest.approx(1.0, rel=1e-5)
    for r in range(4):
        # Segments of 128 tokens; the last one is what is left of the row.
        assert np.bincount(batch.segment_ids[r]).tolist() == [0, 128, 128, 44]
        for start, end in ((0, 128), (128, 256), (256, 300)):
            tokens, mask = batch.tokens[r, start:end], batch.loss_mask[r, start:end]
            period = int(np.argmax(mask))
            assert 6 <= period <= 24
            assert not mask[:period].any() and mask[period:].all()
            np.testing.assert_array_equal(tokens[period:], tokens[:-period])
            np.testing.assert_array_equal(batch.positions[r, start:end], np.arange(end - start))
    assert batch.tokens.min() >= 0 and batch.tokens.max() < 64
    assert ((batch.loss_weights > 0) == batch.loss_mask).all()
    assert (batch.skill_ids == 0).all()


def test_repeated_sequences_follow_the_generator():
    one, again, other = (repeated_sequences(np.random.default_rng(s), 2, 128, 64).tokens for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def config(**values):
    c = sft_config.get_config("smoke")
    c.sft.episodes_per_step = 4
    c.learner.micro_rows = 2
    c.update(values)
    return c


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """Eight demonstrated localizations as they are recorded, in a tokenizer of few words, and the one of the policy."""
    folder = tmp_path_factory.mktemp("tokenizers")
    made = [generate(3, i, 0, "train") for i in range(8)]
    texts = [m.texts.issue for m in made]
    recorded = CompactChat(SentencePieceTokenizer.train(texts, folder / "a.model", 560))
    names = [word for kind in ("first", "second", "places") for word in WORDS[kind]]
    learned = CompactChat(SentencePieceTokenizer.train(texts, folder / "b.model", 1000, names))
    episodes = []
    for i, m in enumerate(made):
        task = Task(f"t{i}", "localization", "i", "r", "f", "train", 0, {"issue": m.texts.issue})
        path = m.instance.target_path
        messages = [
            User(get_skill("localization").make_prompt(task)),
            ToolCall("bash", (f'grep -rl "def {m.instance.target_symbol}" *',)),
            ToolResult(path + "\n"),
            Final(f"<files>{path}</files>"),
        ]
        ids, mask = render(recorded, messages)
        texts = [
            ("user", messages[0].text),
            ("assistant", f"<|call|>bash<|arg|>{messages[1].args[0]}<|end|>"),
            ("tool", messages[2].text),
            ("assistant", f"{messages[3].text}<|end|>"),
        ]
        turns = tuple(Turn(role, 0, 0, text) for role, text in texts)
        episodes.append(replace(make_episode(ids, mask, number=i, skill="localization"), turns=turns))
    return episodes, learned


def test_a_drawn_batch_says_whole_renamed_conversations(demonstrations):
    episodes, chat = demonstrations
    batch = Trajectories(config(), episodes, chat).draw(np.random.default_rng(0))
    seen = 0
    for r in range(len(batch.tokens)):
        for segment in range(1, batch.segment_ids[r].max() + 1):
            here = batch.segment_ids[r] == segment
            tokens, mask = batch.tokens[r][here], batch.loss_mask[r][here]
            text = chat.tokenizer.decode(tokens)
            user, call, result, final = text.removesuffix("<|end|>").split("<|end|>")
            assert user.startswith("<|user|>Localization. ")
            path = result.removeprefix("<|tool|>").strip()
            assert final == f"<|assistant|><files>{path}</files>"
            function = call.removeprefix('<|assistant|><|call|>bash<|arg|>grep -rl "def ').removesuffix('" *')
            assert f"{function}(" in user
            assert pool(path.removesuffix(".py")) == "train" == pool(function)
            learned = chat.tokenizer.decode(tokens[mask])
            assert (
                learned
                == call.removeprefix("<|assistant|>") + "<|end|>" + final.removeprefix("<|assistant|>") + "<|end|>"
            )
            seen += 1
    assert seen == 4
    assert set(batch.advantages[batch.loss_mask]) == {1.0}


def test_draws_differ_and_follow_the_generator(demonstrations):
    episodes, chat = demonstrations
    batches = Trajectories(config(), episodes, chat)
    one, again, other = (batches.draw(np.random.default_rng(s)).tokens for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert one.shape != other.shape or (one != other).any()


def test_a_demonstration_cut_by_a_kill_is_dropped_and_done_again(tmp_path):
    path = tmp_path / "demonstrations.jsonl"
    episodes = [make_episode([1, 2], [False, True], number=i) for i in range(3)]
    append_episodes(path, episodes[:2])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"episode_id": "e2", "tok')
    assert [e.episode_id for e in read_finished_episodes(path)] == ["e0", "e1"]
    assert path.read_bytes() == whole
    append_episodes(path, episodes[2:])
    assert [e.episode_id for e in read_finished_episodes(path)] == ["e0", "e1", "e2"]


def test_demonstrations_that_the_service_lost_are_attempted_again(tmp_path):
    """What it did not lose is kept; a few lost ones are borne, and kept as attempts."""
    path, lost = tmp_path / "demonstrations.jsonl", Outcome(None, reason="infra")
    episodes = [make_episode([1, 2], [False, True], number=i, outcome=lost if i == 1 else None) for i in range(4)]
    with pytest.raises(ServiceFault, match="1 of 4 episodes were lost"):
        keep_attempts(path, episodes, 0.2)
    assert [e.episode_id for e in read_finished_episodes(path)] == ["e0", "e2", "e3"]
    path.unlink()
    keep_attempts(path, episodes, 0.25)
    assert [e.episode_id for e in read_finished_episodes(path)] == ["e0", "e2", "e3", "e1"]


@pytest.mark.deep
def test_the_program_makes_a_policy_and_goes_on(program, tmp_path):
    flags = (
        "--config=configs/sft.py:smoke", f"--workdir={tmp_path}", "--config.world.train=4",
        "--config.sft.episodes_per_step=4", "--config.sft.warmup_tokens=4096", "--config.packing.rows=8",
        "--config.sft.careful_share=1.0", "--config.sft.vocab_size=1000",
    )  # fmt: skip
    program.complete("skillrl.main", *flags, "--config.num_steps=2")
    demonstrated = (tmp_path / "demonstrations.jsonl").read_text()
    assert demonstrated.count("\n") == 4 * 6
    assert (tmp_path / "checkpoints" / "2").exists()
    first = json.loads((tmp_path / "hf" / "config.json").read_text())
    # One step of copying is 8 rows of 512 tokens; imitation has the rest. The same command with more steps goes on.
    program.complete("skillrl.main", *flags, "--config.num_steps=3")
    assert (tmp_path / "demonstrations.jsonl").read_text() == demonstrated
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert all(np.isfinite(row["loss"]) for row in rows)
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    cfg, _ = load_hf(tmp_path / "hf", mesh)
    tokenizer = SentencePieceTokenizer(tmp_path / "hf" / "tokenizer.model")
    assert tokenizer.vocab_size <= cfg.vocab == first["vocab_size"]
    # A name can be copied token by token.
    assert all(len(tokenizer.encode(word)) == 1 for kind in ("first", "second", "places") for word in WORDS[kind])
