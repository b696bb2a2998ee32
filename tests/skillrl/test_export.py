import json
import shutil

import jax
import numpy as np
import pytest
from hf_folders import random_params
from safetensors.numpy import load_file, save_file

from skillrl import export, sharding
from skillrl.chat.compact import TEMPLATE
from skillrl.checkpoint import Checkpoints
from skillrl.models.hf import load_hf
from skillrl.rl.learner import Learner, LearnerConfig
from skillrl.tokenizer import SentencePieceTokenizer

TEXTS = [f"def f{n}(x):\n    return x + {n}\n" for n in range(30)]


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    SentencePieceTokenizer.train(TEXTS, folder / "tokenizer.model", 500, ["return"])
    return folder


def _same(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return jax.tree.structure(left) == jax.tree.structure(right) and all(np.array_equal(a, b) for a, b in pairs)


def test_command_exports_a_checkpoint_that_reads_back_bitwise(tmp_path, cfg, mesh, tokenizer_dir, capsys):
    # Over all devices, as the command reads it; exported and read back on one.
    learner = Learner(cfg, LearnerConfig(micro_rows=8), sharding.make_mesh())
    first, second = learner.init(0), learner.init(1)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    checkpoints.save(1, first, cfg)
    checkpoints.save(2, second, cfg)
    shutil.copy(tokenizer_dir / "tokenizer.model", tmp_path / "run")

    assert export.main([f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'newest'}"]) == 0
    assert export.main([f"--workdir={tmp_path / 'run'}", "--step=1", f"--out={tmp_path / 'older'}"]) == 0
    for folder, state in (("newest", second), ("older", first)):
        again, params = load_hf(tmp_path / folder, mesh)
        assert _same(params, state.params)
        assert again == cfg
    for name in ("tokenizer.model", "README.md", "generation_config.json", "config.json", "model.safetensors"):
        assert (tmp_path / "newest" / name).is_file()
    assert (tmp_path / "newest" / "chat_template.jinja").read_text() == TEMPLATE
    ours = SentencePieceTokenizer(tokenizer_dir / "tokenizer.model")
    generation = json.loads((tmp_path / "newest" / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (ours.special_id("<|end|>"), 0)

    capsys.readouterr()
    assert export.main([f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'newest'}"]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert export.main([f"--workdir={tmp_path / 'none'}", f"--out={tmp_path / 'x'}"]) == 2
    assert "give the workdir of a run" in capsys.readouterr().err


def test_nothing_is_left_where_the_tokenizer_is_missing(tmp_path, cfg):
    params = random_params(cfg)
    with pytest.raises(export.ExportError, match="no tokenizer at"):
        export.export(tmp_path / "out", cfg, params, tmp_path / "nowhere", "card")
    assert not list(tmp_path.iterdir())


def test_verify_finds_a_changed_tensor(tmp_path, cfg, tokenizer_dir):
    params = random_params(cfg)
    out = export.export(tmp_path / "out", cfg, params, tokenizer_dir, "card")
    tensors = load_file(out / "model.safetensors")
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, out / "model.safetensors")
    with pytest.raises(export.ExportError, match="model.norm.weight reads back"):
        export.verify(out, cfg, params)


def _hf_tokenizer(folder, **config):
    folder.mkdir()
    added = [{"id": 7, "content": "<|im_end|>", "special": True}, {"id": 9, "content": "<|pad|>", "special": True}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model.safetensors").write_text("not a tokenizer's")
    return folder


def test_tokenizer_template_and_generation_config_of_a_hugging_face_folder_are_kept(tmp_path, cfg):
    """Where the model has its own generation config it stays as it is; otherwise it follows from the tokenizer."""
    params = random_params(cfg)
    source = _hf_tokenizer(tmp_path / "a", eos_token="<|im_end|>", pad_token={"content": "<|pad|>"})
    out = export.export(tmp_path / "out_a", cfg, params, source, "card")
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (out / "README.md").read_text() == "card"
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation == {"eos_token_id": 7, "pad_token_id": 9, "do_sample": True}

    (source / "generation_config.json").write_text('{"eos_token_id": [7, 8], "top_p": 0.8}')
    out = export.export(tmp_path / "out_b", cfg, params, source, "card", max_file_bytes=3000)
    assert (out / "generation_config.json").read_text() == '{"eos_token_id": [7, 8], "top_p": 0.8}'
    assert (out / "model.safetensors.index.json").is_file()


def test_model_card_has_the_numbers_of_the_run(tmp_path, cfg):
    rows = [{"step": s, "learner/tokens": 1000.0 + s, "score": 0.25 * s} for s in range(4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.json").write_text('{"program": "rl", "seed": 5, "policy": {"source": "hf:base"}}')
    (tmp_path / "summary.json").write_text('{"mean_before": 0.1, "mean_after": 0.4}')
    card = export.model_card(cfg, tmp_path, 3)
    assert f"{cfg.num_params:,} parameters" in card
    for line in ("| steps | 3 |", "| tokens learned from | 3,003 |", "| score, last step | 0.5 |", "| seed | 5 |",
                 "| started from | hf:base |", '"mean_after": 0.4', '"program": "rl"'):  # fmt: skip
        assert line in card
    assert "isolation" not in card
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row | {"unsafe": 4}) + "\n" for row in rows))
    assert "| training outcomes without proven isolation | 12 |" in export.model_card(cfg, tmp_path, 3)
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "Scores" not in export.model_card(cfg, tmp_path / "none", 0)
