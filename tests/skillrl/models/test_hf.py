import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from skillrl import sharding
from skillrl.models import policy as models
from skillrl.models.families import HfError
from skillrl.models.hf import load_hf, save_hf


def _params(cfg, mesh, seed=0):
    """Random everywhere: norm scales of one would hide a swapped name."""
    params = models.split(models.Policy.create(cfg, mesh, seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


@pytest.fixture(scope="module", params=["tied", "untied"])
def model(request, cfg, mesh):
    cfg = dataclasses.replace(cfg, tied=request.param == "tied", rope_theta=5e5, norm_eps=1e-5)
    return cfg, _params(cfg, mesh)


def test_round_trip_is_bitwise_on_any_mesh(tmp_path, model):
    cfg, params = model
    save_hf(tmp_path, cfg, params)
    mesh = sharding.make_mesh({"fsdp": 2, "tensor": 2}, devices=jax.devices()[:4])
    again, loaded = load_hf(tmp_path, mesh)
    assert again == cfg
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded["blocks"]["gate_DF"].sharding == models.param_shardings(cfg, mesh)["blocks"]["gate_DF"]


def test_layout_by_hand(tmp_path, model):
    """Theirs is [out, in]; query head n fills rows n H to (n + 1) H."""
    cfg, params = model
    save_hf(tmp_path, cfg, params)
    tensors = load_file(tmp_path / "model.safetensors")
    q = np.asarray(params["blocks"]["q_DNH"])
    np.testing.assert_array_equal(tensors["model.layers.1.self_attn.q_proj.weight"][2 * 8 + 3], q[1, :, 2, 3])
    o = np.asarray(params["blocks"]["o_NHD"])
    np.testing.assert_array_equal(tensors["model.layers.0.self_attn.o_proj.weight"][:, 2 * 8 + 3], o[0, 2, 3])
    assert ("lm_head.weight" in tensors) == (not cfg.tied)
    assert tensors["model.layers.0.mlp.down_proj.weight"].shape == (16, 32)


def test_sharded_files_and_repeated_embeddings_load(tmp_path, cfg, mesh):
    params = _params(cfg, mesh)
    save_hf(tmp_path, cfg, params)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    names = sorted(tensors)
    weight_map = {}
    for i, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, tmp_path / f"model-{i}.safetensors")
        weight_map |= dict.fromkeys(part, f"model-{i}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    _, loaded = load_hf(tmp_path, mesh)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(a, b)


def test_missing_and_extra_tensors_are_one_error(tmp_path, cfg, mesh):
    save_hf(tmp_path, cfg, _params(cfg, mesh))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.mlp.extra"] = tensors.pop("model.norm.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(HfError, match=r"1 missing \['model.norm.weight'\], 1 unknown \['model.layers.0.mlp.extra'\]"):
        load_hf(tmp_path, mesh)
    with pytest.raises(HfError, match="holds no config.json"):
        load_hf(tmp_path / "nowhere", mesh)
    tensors["model.norm.weight"] = np.ones(3, np.float32)
    del tensors["model.layers.0.mlp.extra"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(HfError, match="model.norm.weight has shape"):
        load_hf(tmp_path, mesh)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transformers_gives_the_same_logits(tmp_path, model):
    torch = pytest.importorskip("torch", reason="the oracle needs torch")
    transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")
    cfg, params = model
    save_hf(tmp_path, cfg, params)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = np.random.default_rng(0).integers(0, cfg.vocab, (2, 21)).astype(np.int32)
    policy = models.merge(cfg, params)
    got = policy.logits(policy(tokens, np.tile(np.arange(21), (2, 1)), np.ones_like(tokens)))
    with torch.no_grad():
        want = theirs(torch.from_numpy(tokens).long()).logits.numpy()
    np.testing.assert_allclose(got, want, atol=1e-4)
