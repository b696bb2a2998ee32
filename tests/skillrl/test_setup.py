import asyncio
import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from chats import make_folder
from configured import smoke as configured

from configs import common
from sandbox_service.embedded import embedded_service
from skillrl import export, limits, setup
from skillrl.chat import ChatError, CompactChat
from skillrl.checkpoint import Checkpoints
from skillrl.limits import ConfigError
from skillrl.models import policy as models
from skillrl.tasks.world import write_set
from skillrl.tokenizer import SentencePieceTokenizer


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "t.model"
    SentencePieceTokenizer.train(["some text\n"] * 20, path, 600)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer_file, cfg):
    """A policy whose vocabulary holds the tokenizer's."""
    cfg = dataclasses.replace(cfg, vocab=640)
    params = models.init_params(cfg, jax.random.key(0))
    return export.export(tmp_path_factory.mktemp("hf") / "policy", cfg, params, tokenizer_file, "")


@pytest.mark.parametrize(
    ("source", "tokenizer", "message"),
    [
        ("assets/base", "", "write hf:DIR or init:VARIANT"),
        ("hf:", "", "write hf:DIR or init:VARIANT"),
        ("hf:/none", "", "no policy at /none; give a Hugging Face folder"),
        ("run:/none", "", "no checkpoint in /none; give a training run with --config.policy.source=run:WORKDIR"),
        ("run:/none@3", "", "no checkpoint in /none;"),
        ("init:tiny", "", "has no tokenizer of its own; give --config.policy.tokenizer=FILE"),
        ("init:gpt", "{tokenizer}", "unknown model variant 'gpt'"),
        ("init:tiny", "/none.model", "no tokenizer model at /none.model"),
    ],
)
def test_a_policy_that_cannot_be_had(tokenizer_file, source, tokenizer, message):
    config = configured(policy__source=source, policy__tokenizer=tokenizer.format(tokenizer=tokenizer_file))
    config.mesh.data = 8
    config.mesh.fsdp = 1
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        setup.load_policy(config)


def one_device(config):
    config.mesh.data, config.mesh.fsdp = 1, 8
    return config


def test_a_policy_folder_brings_its_tokenizer(folder):
    policy = setup.load_policy(one_device(configured(policy__source=f"hf:{folder}")))
    assert policy.cfg.vocab == 640
    assert policy.tokenizer_file == folder / "tokenizer.model"
    assert policy.chat.tokenizer.vocab_size <= 640


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    other = tmp_path / "large.model"
    texts = [" ".join(f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx")] * 3
    size = SentencePieceTokenizer.train(texts, other, 1000).vocab_size
    config = one_device(configured(policy__source=f"hf:{folder}", policy__tokenizer=str(other)))
    with pytest.raises(ConfigError, match=f"has {size} tokens, the policy at {folder} 640; give the tokenizer"):
        setup.load_policy(config)


def test_random_weights_fit_the_tokenizer_and_follow_the_seed(tokenizer_file):
    first, other = (
        setup.load_policy(
            one_device(configured(policy__source="init:tiny", policy__tokenizer=str(tokenizer_file), seed=seed))
        )
        for seed in (0, 1)
    )
    assert first.cfg.vocab % 64 == 0 and 0 <= first.cfg.vocab - first.chat.tokenizer.vocab_size < 64
    pairs = zip(jax.tree.leaves(first.params), jax.tree.leaves(other.params), strict=True)
    assert not all(np.array_equal(a, b) for a, b in pairs)


def test_supervised_learning_sees_the_plain_distribution(cfg, mesh):
    """The learner divides logits by the sampler's temperature, but demonstrations were not sampled."""
    config = common.base_config()
    config.rollout.temperature = 0.5
    config.learner.micro_rows = 8
    assert setup.make_learner(config, cfg, mesh).cfg.temperature == 0.5
    config.loss.loss = "sft"
    assert setup.make_learner(config, cfg, mesh, decay_steps=7).cfg.temperature == 1.0


@pytest.mark.slow
def test_a_service_without_isolation_must_be_wanted(tmp_path):
    write_set(tmp_path, seed=0, levels=(0,), counts={"train": 1})

    async def connect(allow_unsafe):
        async with embedded_service([tmp_path], allow_unsafe=True) as address:
            config = configured(sandbox__address=address, sandbox__allow_unsafe=allow_unsafe)
            async with setup.sandbox_client(config, [tmp_path], "run") as client:
                return (await client.info()).unsafe

    with pytest.raises(ConfigError, match="--config.sandbox.allow_unsafe=True"):
        asyncio.run(connect(False))
    assert asyncio.run(connect(True))


TWO_PROCESSES = """
import sys, jax
rank, port = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(rank))
from configs import tiny
from skillrl import setup
try:
    setup.make_mesh(tiny.get_config())
except setup.ConfigError as e:
    print(e)
"""


@pytest.mark.deep
def test_devices_of_several_processes_are_refused():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    root = Path(__file__).parents[2]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(rank), str(port)],
            cwd=root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in started:
            output, _ = process.communicate(timeout=240)
            assert "the devices belong to 2 processes" in output, output
    finally:
        for process in started:
            process.kill()


# Tokenizer and chat format of a Hugging Face folder.


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("qwen"), "qwen3")


def chat_config(chat="", thinking=True):
    return configured(policy__chat=chat, policy__thinking=thinking)


def test_a_folder_of_a_family_brings_its_own_format(qwen_folder):
    source, chat = setup.load_chat(chat_config(), qwen_folder)
    assert source == qwen_folder and chat.calls.name == "qwen"
    quiet = setup.load_chat(chat_config("qwen", thinking=False), qwen_folder)[1]
    assert chat.tokenizer.decode(quiet.render_prompt("a")).endswith("</think>\n\n")
    assert "think" not in chat.tokenizer.decode(chat.render_prompt("a"))


def test_a_folder_of_ours_brings_the_compact_format(folder, tokenizer_file):
    for source in (folder, tokenizer_file):
        file, chat = setup.load_chat(chat_config(), source)
        assert file.is_file() and isinstance(chat, CompactChat)


def test_a_format_that_does_not_fit_its_tokenizer_is_named(qwen_folder, tokenizer_file):
    with pytest.raises(ConfigError, match="policy.chat='hermes'; one of , compact, qwen, qwen_coder, glm, llama"):
        limits.check(chat_config("hermes"))
    with pytest.raises(ConfigError, match="policy.chat=glm needs a folder with tokenizer.json"):
        setup.load_chat(chat_config("glm"), tokenizer_file)
    with pytest.raises(ChatError, match="does not write tool calls in policy.chat=glm"):
        setup.load_chat(chat_config("glm"), qwen_folder)
    with pytest.raises(FileNotFoundError, match="no tokenizer model at"):
        setup.load_chat(chat_config("compact"), qwen_folder)


def test_random_weights_with_a_familys_tokenizer_stop_at_its_tokens(qwen_folder):
    config = one_device(configured(policy__source="init:tiny", policy__tokenizer=str(qwen_folder)))
    policy = setup.load_policy(config)
    assert 0 <= policy.cfg.vocab - policy.chat.tokenizer.vocab_size < 64
    names = [policy.chat.tokenizer.decode([i]) for i in policy.chat.stop_ids]
    assert names == ["<|im_end|>", "<|endoftext|>"]


def test_a_run_keeps_a_tokenizer_that_loads_again(qwen_folder, tokenizer_file, tmp_path):
    setup.keep_tokenizer(qwen_folder, tmp_path)
    setup.keep_tokenizer(qwen_folder, tmp_path)
    kept, again = setup.load_chat(chat_config(), tmp_path / "tokenizer")
    assert kept == tmp_path / "tokenizer"
    assert again.render_prompt("a") == setup.load_chat(chat_config(), qwen_folder)[1].render_prompt("a")
    setup.keep_tokenizer(tokenizer_file, tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == tokenizer_file.read_bytes()


def test_a_checkpoint_is_the_newest_or_the_one_named(tmp_path):
    run = tmp_path / "a@b"
    for name in ("5", "20", "25.orbax-checkpoint-tmp"):
        (run / "checkpoints" / name).mkdir(parents=True)
    assert setup.checkpoint_of(str(run)) == (run, 20)
    assert setup.checkpoint_of(f"{run}@5") == (run, 5)
    with pytest.raises(ConfigError, match="has no checkpoint of step 25; it has 5, 20"):
        setup.checkpoint_of(f"{run}@25")


@pytest.mark.deep
def test_a_runs_checkpoint_brings_its_tokenizer_and_chat_format(folder, tokenizer_file, tmp_path, cfg, mesh):
    """Another model's tokenizer is refused; so is a folder that only looks like a run."""
    config = one_device(configured(policy__source=f"hf:{folder}", policy__thinking=False))
    cfg = dataclasses.replace(cfg, vocab=640)
    state = setup.make_learner(config, cfg, mesh).init(0)
    Checkpoints(tmp_path / "checkpoints").save(2, state, cfg, {})
    setup.keep_tokenizer(tokenizer_file, tmp_path)
    setup.keep_config(config, tmp_path)
    policy = setup.load_policy(one_device(configured(policy__source=f"run:{tmp_path}")))
    assert policy.cfg == cfg and isinstance(policy.chat, CompactChat)
    assert policy.tokenizer_file == tmp_path / "tokenizer.model"
    for a, b in zip(jax.tree.leaves(policy.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)

    texts = [" ".join(f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx")] * 3
    size = SentencePieceTokenizer.train(texts, tmp_path / "tokenizer.model", 1000).vocab_size
    with pytest.raises(ConfigError, match=f"has {size} tokens, the policy at .* 640; give the tokenizer"):
        setup.load_policy(one_device(configured(policy__source=f"run:{tmp_path}")))
    (tmp_path / "config.json").unlink()
    with pytest.raises((ConfigError, ValueError), match="config.json"):
        setup.load_policy(one_device(configured(policy__source=f"run:{tmp_path}")))
