import dataclasses
import json
import logging
import re
import shutil
import tracemalloc

import jax
import numpy as np
import pytest
from hf_folders import random_params
from safetensors.numpy import load_file, save_file

from skillrl import sharding
from skillrl.models import check
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.models.families import HfError
from skillrl.models.hf import differing_tensor, load_hf, save_hf

# Dense and expert layers, a shared expert, biases: every kind of tensor.
GLM = ModelConfig(
    family="glm4_moe", vocab=64, embed=16, layers=4, q_heads=4, kv_heads=2, head_dim=8, mlp=32, tied=False,
    qkv_bias=True, qk_norm=True, rope_share=0.5, experts=4, experts_per_token=2, expert_mlp=8, shared_mlp=16,
    first_dense_layers=2, router="sigmoid", router_scale=2.5, unroll=4,
)  # fmt: skip
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def _assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


@pytest.fixture(scope="module", params=["tied", "untied", "experts"])
def model(request, cfg):
    dense = dataclasses.replace(cfg, tied=request.param == "tied", rope_theta=5e5, norm_eps=1e-5)
    cfg = GLM if request.param == "experts" else dense
    return cfg, random_params(cfg)


@pytest.fixture(scope="module")
def glm():
    """Parameters whose bits are easily lost: negative zeros and a NaN."""
    params = random_params(GLM)
    gate = params["moe_blocks"]["expert_gate_EDF"]
    params["moe_blocks"]["expert_gate_EDF"] = gate.at[:, 1].set(-0.0).at[0, 2, 3, 4].set(np.nan)
    return params


def test_round_trip_is_bitwise_on_any_mesh(tmp_path, model):
    cfg, params = model
    save_hf(tmp_path, cfg, params)
    mesh = sharding.make_mesh({"fsdp": 2, "tensor": 2}, devices=jax.devices()[:4])
    again, loaded = load_hf(tmp_path, mesh)
    assert again == cfg
    _assert_same_bits(params, loaded)
    assert loaded["blocks"]["gate_DF"].sharding == models.param_shardings(cfg, mesh)["blocks"]["gate_DF"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, glm):
    """The same model in one file and in several."""
    one, several = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("several")
    save_hf(one, GLM, glm)
    save_hf(several, GLM, glm, max_file_bytes=3000)
    return one, several


@pytest.mark.parametrize("axes", [{"fsdp": 2, "expert": 2, "tensor": 2}, {"data": 2, "expert": 4}])
def test_sharded_meshes_read_in_pieces_and_write_the_same_bytes(tmp_path, axes, glm, folders):
    """Layer by layer (chunks of one byte) as well as whole; from several files as well as from one."""
    mesh = sharding.make_mesh(axes)
    one, several = folders
    _, pieces = load_hf(several, mesh, chunk_bytes=1)
    _assert_same_bits(glm, pieces)
    _assert_same_bits(pieces, load_hf(one, mesh)[1])
    for a, b in zip(jax.tree.leaves(pieces), jax.tree.leaves(models.param_shardings(GLM, mesh)), strict=True):
        assert a.sharding == b
    save_hf(tmp_path, GLM, pieces)
    assert (tmp_path / WEIGHTS).read_bytes() == (one / WEIGHTS).read_bytes()


def test_host_memory_stays_near_one_tensor(tmp_path, mesh):
    """numpy reports its memory to tracemalloc; the parameters themselves are device memory."""
    cfg = ModelConfig(vocab=64, embed=64, layers=24, q_heads=2, kv_heads=1, head_dim=32, mlp=1024)
    params = random_params(cfg)
    tensor_bytes, total_bytes = 4 * cfg.embed * cfg.mlp, sum(x.nbytes for x in jax.tree.leaves(params))
    assert total_bytes > 70 * tensor_bytes

    def peak(work):
        work()  # what is compiled stays
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # Two or three tensors are in flight; what the device has taken over is let go a little later.
    assert peak(lambda: save_hf(tmp_path, cfg, params)) < 6 * tensor_bytes
    assert peak(lambda: load_hf(tmp_path, mesh, chunk_bytes=1)) < 6 * tensor_bytes
    assert peak(lambda: differing_tensor(tmp_path, cfg, params)) < 6 * tensor_bytes


def test_several_files_are_indexed(folders, glm):
    _, several = folders
    index = json.loads((several / INDEX).read_text())
    files = sorted(several.glob("*.safetensors"))
    assert len(files) > 5
    found = {name: file.name for file in files for name in load_file(file)}
    assert index["weight_map"] == found
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in jax.tree.leaves(glm))
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    largest = max(sum(x.nbytes for x in load_file(f).values()) for f in files)
    assert largest <= max(3000, GLM.vocab * GLM.embed * 4)  # a tensor is never cut


def test_bfloat16_is_exact_and_float32_beside_it_stays_aligned(tmp_path, glm, mesh):
    cfg = dataclasses.replace(GLM, param_dtype="bfloat16")
    params = jax.tree.map(lambda x, y: x.astype(y.dtype), glm, models.abstract_params(cfg))
    save_hf(tmp_path, cfg, params)
    again, loaded = load_hf(tmp_path, mesh, param_dtype="bfloat16")
    assert again == cfg
    _assert_same_bits(params, loaded)
    _, wide = load_hf(tmp_path, mesh)  # float32 by default, which holds every bfloat16
    np.testing.assert_array_equal(
        np.asarray(wide["embed_VD"]), np.asarray(params["embed_VD"]).astype(np.float32), strict=True
    )
    assert load_file(tmp_path / WEIGHTS)["model.embed_tokens.weight"].dtype == "bfloat16"
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


def test_layout_by_hand(tmp_path, model):
    """Theirs is [out, in]; query head n fills rows n H to (n + 1) H."""
    cfg, params = model
    save_hf(tmp_path, cfg, params)
    tensors = load_file(tmp_path / WEIGHTS)
    q = np.asarray(params["blocks"]["q_DNH"])
    np.testing.assert_array_equal(tensors["model.layers.1.self_attn.q_proj.weight"][2 * 8 + 3], q[1, :, 2, 3])
    o = np.asarray(params["blocks"]["o_NHD"])
    np.testing.assert_array_equal(tensors["model.layers.0.self_attn.o_proj.weight"][:, 2 * 8 + 3], o[0, 2, 3])
    assert ("lm_head.weight" in tensors) == (not cfg.tied)
    assert tensors["model.layers.0.mlp.down_proj.weight"].shape == (16, 32)
    if cfg.experts:  # the first layer with experts is layer 2
        up = np.asarray(params["moe_blocks"]["expert_up_EDF"])
        np.testing.assert_array_equal(tensors["model.layers.3.mlp.experts.2.up_proj.weight"], up[1, 2].T)
        bias = np.asarray(params["blocks"]["k_bias_KH"])
        np.testing.assert_array_equal(tensors["model.layers.1.self_attn.k_proj.bias"], bias[1].reshape(-1))
        assert "model.layers.1.mlp.gate.weight" not in tensors


def test_tensors_that_are_known_and_not_used(tmp_path, cfg, mesh, glm, caplog):
    """A repeated embedding, old buffers, and GLM's extra prediction layer."""
    dense, moe = tmp_path / "dense", tmp_path / "moe"
    dense.mkdir()
    moe.mkdir()
    params = random_params(cfg)
    save_hf(dense, cfg, params)
    tensors = load_file(dense / WEIGHTS)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    save_file(tensors, dense / WEIGHTS)
    _assert_same_bits(params, load_hf(dense, mesh)[1])

    save_hf(moe, GLM, glm)
    config = json.loads((moe / "config.json").read_text())
    assert config["num_nextn_predict_layers"] == 0
    extra = {f"model.layers.4.{name}": np.ones(3, np.float32) for name in ("eh_proj.weight", "mlp.gate.weight")}
    save_file(load_file(moe / WEIGHTS) | extra, moe / WEIGHTS)
    with pytest.raises(HfError, match=r"0 missing \[\], 2 unknown \['model.layers.4.eh_proj.weight'"):
        load_hf(moe, mesh)
    (moe / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    with caplog.at_level(logging.WARNING):
        _assert_same_bits(glm, load_hf(moe, mesh)[1])
    assert "2 tensors model.layers.4.* are an extra prediction layer and not used" in caplog.text


def test_a_changed_bit_is_found(tmp_path, glm):
    save_hf(tmp_path, GLM, glm)
    assert differing_tensor(tmp_path, GLM, glm) is None
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    size = int.from_bytes(data[:8], "little")
    start, _ = json.loads(data[8 : 8 + size])["model.layers.3.mlp.experts.2.up_proj.weight"]["data_offsets"]
    data[8 + size + start + 3] ^= 128  # the sign of its first number
    (tmp_path / WEIGHTS).write_bytes(data)
    assert differing_tensor(tmp_path, GLM, glm) == "model.layers.3.mlp.experts.2.up_proj.weight"


def _tensor(name, change):
    def spoil(folder):
        tensors = load_file(folder / WEIGHTS)
        value = change(tensors.pop(name, None))
        save_file(tensors | ({} if value is None else {name: value}), folder / WEIGHTS)

    return spoil


def _config(**changes):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return spoil


def _write(name, text):
    return lambda folder: (folder / name).write_text(text)


def _truncate(keep):
    def spoil(folder):
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(data[: int(len(data) * keep)])

    return spoil


_NORM, _EXPERT = "model.norm.weight", "model.layers.2.mlp.experts.3.up_proj.weight"
SPOILED = {
    "missing": (_tensor(_EXPERT, lambda x: None), rf"1 missing \['{_EXPERT}'\], 0 unknown \[\]; the folder is damaged"),
    "extra": (_tensor("model.x", lambda x: np.ones(2, np.float32)), r"0 missing \[\], 1 unknown \['model.x'\]"),
    "shape": (_tensor(_NORM, lambda x: x[:3]), rf"{WEIGHTS}: {_NORM} has shape \[3\], config.json says \[16\]"),
    "transposed": (_tensor(_EXPERT, lambda x: x.T.copy()), r"up_proj.weight has shape \[16, 8\], .* says \[8, 16\]"),
    "dtype": (_tensor(_NORM, lambda x: x.astype(np.int8)), f"{_NORM} has dtype I8, only F32, .*before quantization"),
    "double": (_tensor(_NORM, lambda x: x.astype(np.float64)), f"{_NORM} has dtype F64"),
    "quantized": (_config(quantization_config={"bits": 4}), "quantization_config="),
    "truncated": (_truncate(0.7), f"{WEIGHTS} cannot be read .*truncated or damaged: copy it again"),
    "header cut": (_truncate(0.001), f"{WEIGHTS} cannot be read"),
    "empty": (_truncate(0), f"{WEIGHTS} cannot be read"),
    "unknown field": (_config(logit_scale=2.0), "config.json: fields logit_scale=2.0 are not known"),
    "unknown family": (_config(model_type="gemma3"), "model_type='gemma3' is not supported; one of qwen2"),
    "other sizes": (_config(vocab_size=65), r"model.embed_tokens.weight has shape \[64, 16\], .* says \[65, 16\]"),
    "no object": (_write("config.json", "[]"), "config.json holds no JSON object"),
    "no json": (_write("config.json", "{"), "config.json cannot be read .*copy it again"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "holds neither .*convert the weights to safetensors"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no config.json; give the folder"),
    "index": (_write(INDEX, "{}"), f"{INDEX} holds no weight_map"),
    "index outside": (_write(INDEX, '{"weight_map": {"a": "../b"}}'), f"{INDEX} holds no weight_map"),
    "file missing": (_write(INDEX, '{"weight_map": {"a": "b.safetensors"}}'), "b.safetensors is missing; copy"),
    "other file": (_write(INDEX, f'{{"weight_map": {{"a": "{WEIGHTS}"}}}}'), rf"{WEIGHTS} lacks \['a'\], which"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_bad_folders_are_one_clear_error(tmp_path, folders, mesh, case):
    spoil, message = SPOILED[case]
    folder = tmp_path / "folder"
    shutil.copytree(folders[0], folder)
    spoil(folder)
    with pytest.raises(HfError, match=message):
        load_hf(folder, mesh)


@pytest.mark.parametrize("case", SPOILED)
def test_the_check_beside_transformers_refuses_them_first(tmp_path, folders, capsys, case):
    spoil, message = SPOILED[case]
    folder = tmp_path / "folder"
    shutil.copytree(folders[0], folder)
    spoil(folder)
    assert check.main([str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and re.search(message, captured.err) and captured.out == ""


def test_a_mesh_that_does_not_divide_is_named_before_anything_is_read(folders):
    with pytest.raises(sharding.ShardingError, match="does not divide"):
        load_hf(folders[0], sharding.make_mesh({"tensor": 8}))
