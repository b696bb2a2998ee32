"""Hugging Face folders of five families, both ways, exact, and streamed between files and a sharded mesh.

Import reads the slices that this process's devices need, a few layers of one parameter at a time, into their place.
Export gathers one tensor at a time. Neither holds more than about one tensor of the model in host memory.
"""

import functools
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.models.families import HfError, from_hf_config, prediction_layers, to_hf_config
from skillrl.models.hf_files import TensorFiles, TensorInfo, read_json, write_tensors
from skillrl.models.hf_tensors import Layout, Parameter, leaf, parameters

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 5_000_000_000
# Small tensors are moved together, up to this size.
_CHUNK_BYTES = 1 << 27
# Buffers of old files that follow from the config.
_DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def load_hf(
    path: str | Path, mesh: Mesh, *, chunk_bytes: int = _CHUNK_BYTES, **changes: Any
) -> tuple[ModelConfig, models.Params]:
    """Reads a folder onto `mesh`; `changes` replace fields that no folder fixes (param_dtype, dtype, remat, unroll).

    A few layers of a parameter pass through host memory together where they take at most `chunk_bytes`.
    Raises HfError when config or tensors do not fit this decoder.
    """
    path = Path(path)
    config, cfg = _configs(path)
    cfg = ModelConfig(**{**vars(cfg), "unroll": min(cfg.layers, 4), **changes})
    abstract = models.abstract_params(cfg, mesh)
    expected = parameters(cfg, abstract)
    params: models.Params = {}
    with TensorFiles(path) as files:
        _check(path, cfg, config, files, expected)
        for parameter in expected:
            *parents, key = parameter.path
            part = functools.reduce(lambda node, name: node.setdefault(name, {}), parents, params)
            part[key] = _load(parameter, leaf(abstract, parameter.path).sharding, files, chunk_bytes)
    return cfg, jax.tree.map(lambda _, x: x, abstract, params)


def check_hf(path: str | Path, mesh: Mesh) -> ModelConfig:
    """Raises HfError for a folder that `load_hf` refuses: by its config, names, shapes, dtypes or cut files.

    No tensor is read.
    """
    path = Path(path)
    config, cfg = _configs(path)
    with TensorFiles(path) as files:
        _check(path, cfg, config, files, parameters(cfg, models.abstract_params(cfg, mesh)))
    return cfg


def save_hf(path: Path, cfg: ModelConfig, params: models.Params, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
    """Writes config.json and the weights into the folder `path`, which exists.

    All processes of a run take part; the first one writes.
    """
    config, found = to_hf_config(cfg), parameters(cfg, params)
    if jax.process_index() == 0:
        (path / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        infos = [TensorInfo(name, p.dtype.name, p.tensor_shape) for p in found for name in p.names()]
        write_tensors(path, infos, (bits for _, bits in _gathered(found, params)), max_file_bytes)
    else:
        for _ in _gathered(found, params):
            pass
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("save_hf")


def differing_tensor(path: Path, cfg: ModelConfig, params: models.Params) -> str | None:
    """Name of a tensor of the folder that is not bit by bit the one of `params`; None where all are the same.

    All processes of a run take part; the first one reads and gets the answer.
    """
    if jax.process_index() > 0:
        for _ in _gathered(parameters(cfg, params), params):
            pass
        return None
    different = None
    with TensorFiles(path) as files:
        for name, bits in _gathered(parameters(cfg, params), params):
            if different is None and not np.array_equal(files.read(name).view(bits.dtype), bits):
                different = name
    return different


def _configs(path: Path) -> tuple[dict[str, Any], ModelConfig]:
    """The folder's own config, and what it means here."""
    if not (path / "config.json").is_file():
        raise HfError(f"{path} holds no config.json; give the folder of a model as huggingface.co or export has it")
    config = read_json(path / "config.json")
    return config, from_hf_config(config, str(path / "config.json"))


def _check(path: Path, cfg: ModelConfig, config: dict, files: TensorFiles, expected: Sequence[Parameter]) -> None:
    _check_names(path, cfg, config, files, {name for parameter in expected for name in parameter.names()})
    for parameter in expected:
        for name in parameter.names():
            files.check(name, parameter.tensor_shape)


def _check_names(path: Path, cfg: ModelConfig, config: dict, files: TensorFiles, expected: set[str]) -> None:
    names = files.names()
    extra = names - expected
    # Some folders repeat the embedding as the head.
    unused = {n for n in extra if _DERIVED.fullmatch(n) or (cfg.tied and n == "lm_head.weight")}
    for layer in prediction_layers(config):
        found = {n for n in extra if n.startswith(f"model.layers.{layer}.")}
        unused |= found
        if found:
            logger.warning(
                "%s: %d tensors model.layers.%d.* are an extra prediction layer and not used", path, len(found), layer
            )
    if names - unused != expected:
        missing, unknown = sorted(expected - names), sorted(extra - unused)
        raise HfError(
            f"{path}: tensors do not match config.json: {len(missing)} missing {missing[:4]}, {len(unknown)} unknown "
            f"{unknown[:4]}; the folder is damaged or of another architecture"
        )


def _load(parameter: Parameter, sharding: Sharding, files: TensorFiles, chunk_bytes: int) -> jax.Array:
    if not parameter.stacked:
        return _place(parameter, parameter.shape, sharding, files, 0)
    layers = parameter.shape[0]
    layer_bytes = max(1, np.prod(parameter.shape[1:], dtype=np.int64) * parameter.dtype.itemsize)
    chunk = next(n for n in range(layers, 0, -1) if n == 1 or (layers % n == 0 and n * layer_bytes <= chunk_bytes))
    shape = (chunk, *parameter.shape[1:])
    if chunk == layers:
        return _place(parameter, shape, sharding, files, 0)
    stack = jnp.zeros(parameter.shape, parameter.dtype, device=sharding)
    for first in range(0, layers, chunk):
        stack = _insert(stack, _place(parameter, shape, sharding, files, first), first)
        stack.block_until_ready()  # otherwise chunks pile up in host memory
    return stack


@functools.partial(jax.jit, donate_argnums=0)
def _insert(stack: jax.Array, chunk: jax.Array, first: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(stack, chunk, first, 0)


def _place(
    parameter: Parameter, shape: tuple[int, ...], sharding: Sharding, files: TensorFiles, first: int
) -> jax.Array:
    """The layers from `first` on, `shape` as a whole, read into the devices that hold them."""
    blocks: dict[tuple, np.ndarray] = {}

    def block(index: tuple[slice, ...]) -> np.ndarray:
        cuts = [slice(*s.indices(size)[:2]) for s, size in zip(index, shape, strict=True)]
        if parameter.stacked:
            cuts[0] = slice(cuts[0].start + first, cuts[0].stop + first)
        key = tuple((s.start, s.stop) for s in cuts)
        if key not in blocks:  # devices that hold copies share one
            blocks[key] = parameter.read_block(cuts, files.read)
        return blocks[key]

    return jax.make_array_from_callback(shape, sharding, block)


def _gathered(found: list[Parameter], params: models.Params) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor's name and bits, as unsigned integers, in their layout; small experts of a layer come together."""
    for parameter in found:
        x = leaf(params, parameter.path)
        together = 1
        if parameter.stacked == 2:
            experts = parameter.shape[1]
            fits = max(1, _CHUNK_BYTES // max(1, parameter.tensor_bytes))
            together = next(n for n in range(min(experts, fits), 0, -1) if experts % n == 0)
        gather = _gatherer(parameter.layout, parameter.stacked, together, _replicated(x))
        bits = None
        for index in np.ndindex(*parameter.stack):
            expert = index[1] if parameter.stacked == 2 else 0
            if expert % together == 0:
                del bits  # before the next ones are there
                bits = np.asarray(gather(x, index[0] if index else 0, expert).addressable_data(0))
            yield parameter.name(*index), bits[expert % together] if parameter.stacked == 2 else bits


def _replicated(x: jax.Array) -> Sharding | None:
    return NamedSharding(x.sharding.mesh, PartitionSpec()) if isinstance(x.sharding, NamedSharding) else None


@functools.lru_cache(maxsize=256)
def _gatherer(layout: Layout, stacked: int, together: int, out: Sharding | None) -> Callable[..., jax.Array]:
    def gather(x: jax.Array, layer: int, expert: int) -> jax.Array:
        if stacked:
            x = jax.lax.dynamic_index_in_dim(x, layer, 0, keepdims=False)
        # Integers pass a collective unchanged; a float's -0.0 would become 0.0 in a sum over the expert axis.
        bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
        bits = bits[None] if stacked < 2 else jax.lax.dynamic_slice_in_dim(bits, expert, together, 0)
        bits = bits.transpose(0, *(1 + axis for axis in layout.rows + layout.columns))
        rows = np.prod([bits.shape[1 + i] for i in range(len(layout.rows))], dtype=int)
        bits = bits.reshape(together, rows, -1) if layout.columns else bits.reshape(together, rows)
        return bits if stacked == 2 else bits[0]

    return jax.jit(gather, out_shardings=out)
