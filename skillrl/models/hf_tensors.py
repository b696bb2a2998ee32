"""Parameters <-> tensors of a Hugging Face folder: names, shapes and blocks, the same for all families."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skillrl.models.config import ModelConfig


@dataclass(frozen=True)
class Layout:
    """One tensor: its name, and which axes of our parameter are flattened into its rows and its columns.

    Theirs is [out, in]. A name of a layer stands below "model.layers.N."; {} is the number of the expert.
    """

    name: str
    rows: tuple[int, ...] = (0,)
    columns: tuple[int, ...] = ()


_TOP = {
    "embed_VD": Layout("model.embed_tokens.weight", (0,), (1,)),
    "final_norm_D": Layout("model.norm.weight"),
    "head_DV": Layout("lm_head.weight", (1,), (0,)),
}
_LAYER = {
    "attention_norm_D": Layout("input_layernorm.weight"),
    "q_DNH": Layout("self_attn.q_proj.weight", (1, 2), (0,)),
    "k_DKH": Layout("self_attn.k_proj.weight", (1, 2), (0,)),
    "v_DKH": Layout("self_attn.v_proj.weight", (1, 2), (0,)),
    "q_bias_NH": Layout("self_attn.q_proj.bias", (0, 1)),
    "k_bias_KH": Layout("self_attn.k_proj.bias", (0, 1)),
    "v_bias_KH": Layout("self_attn.v_proj.bias", (0, 1)),
    "q_norm_H": Layout("self_attn.q_norm.weight"),
    "k_norm_H": Layout("self_attn.k_norm.weight"),
    "o_NHD": Layout("self_attn.o_proj.weight", (2,), (0, 1)),
    "mlp_norm_D": Layout("post_attention_layernorm.weight"),
    "gate_DF": Layout("mlp.gate_proj.weight", (1,), (0,)),
    "up_DF": Layout("mlp.up_proj.weight", (1,), (0,)),
    "down_FD": Layout("mlp.down_proj.weight", (1,), (0,)),
    "router_DE": Layout("mlp.gate.weight", (1,), (0,)),
    "router_bias_E": Layout("mlp.gate.e_score_correction_bias"),
    "expert_gate_EDF": Layout("mlp.experts.{}.gate_proj.weight", (1,), (0,)),
    "expert_up_EDF": Layout("mlp.experts.{}.up_proj.weight", (1,), (0,)),
    "expert_down_EFD": Layout("mlp.experts.{}.down_proj.weight", (1,), (0,)),
    "shared_gate_DF": Layout("mlp.shared_experts.gate_proj.weight", (1,), (0,)),
    "shared_up_DF": Layout("mlp.shared_experts.up_proj.weight", (1,), (0,)),
    "shared_down_FD": Layout("mlp.shared_experts.down_proj.weight", (1,), (0,)),
}


# Rows of theirs that are transposed together; 32 to 128 were measured to be the fastest.
_STRIP_ROWS = 64


@dataclass(frozen=True)
class Parameter:
    """One parameter of ours as a stack of tensors of theirs."""

    path: tuple[str, ...]
    layout: Layout
    shape: tuple[int, ...]
    dtype: np.dtype
    # Leading axes that number tensors: none, (layer) or (layer, expert).
    stacked: int
    # Number of the layer at index 0.
    first_layer: int

    @property
    def stack(self) -> tuple[int, ...]:
        return self.shape[: self.stacked]

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Shape of each of the tensors in the folder."""
        sizes = self.shape[self.stacked :]
        groups = [group for group in (self.layout.rows, self.layout.columns) if group]
        return tuple(math.prod(sizes[axis] for axis in group) for group in groups)

    @property
    def tensor_bytes(self) -> int:
        return math.prod(self.tensor_shape) * self.dtype.itemsize

    def name(self, *index: int) -> str:
        """Name of the tensor at this index of the stack."""
        if not index:
            return self.layout.name
        return f"model.layers.{self.first_layer + index[0]}." + self.layout.name.format(*index[1:])

    def names(self) -> Iterator[str]:
        return (self.name(*index) for index in np.ndindex(*self.stack))

    def read_block(self, index: Sequence[slice], read: Callable[[str, tuple[slice, ...]], np.ndarray]) -> np.ndarray:
        """The block `index` of the parameter; `read` gives a block of a tensor by name, [rows] or [rows, columns]."""
        ranges = [range(*s.indices(size)) for s, size in zip(index, self.shape, strict=True)]
        inner = ranges[self.stacked :]
        block = np.empty([len(r) for r in ranges], self.dtype)
        lead, *rest = self.layout.rows
        strip = max(1, _STRIP_ROWS // math.prod(self.shape[self.stacked + axis] for axis in rest))
        for place in itertools.product(*(enumerate(r) for r in ranges[: self.stacked])):
            at, where = tuple(i for i, _ in place), tuple(number for _, number in place)
            _copy(block[at], self._read_tensor(self.name(*where), inner, read), lead, strip)
        return block

    def _read_tensor(self, name: str, ranges: Sequence[range], read: Callable) -> np.ndarray:
        sizes, layout = self.shape[self.stacked :], self.layout
        groups = [group for group in (layout.rows, layout.columns) if group]
        cuts, shape = [], []
        for lead, *rest in groups:
            width = math.prod(sizes[axis] for axis in rest)
            cuts.append(slice(ranges[lead].start * width, ranges[lead].stop * width))
            shape += [len(ranges[lead]), *(sizes[axis] for axis in rest)]
        order = layout.rows + layout.columns
        value = read(name, tuple(cuts)).reshape(shape).transpose(np.argsort(order))
        leads = {group[0] for group in groups}
        return value[tuple(slice(None) if a in leads else slice(r.start, r.stop) for a, r in enumerate(ranges))]


def _copy(target: np.ndarray, source: np.ndarray, axis: int, width: int) -> None:
    """target[...] = source in strips of an axis: as one piece, a transposed copy was measured four times slower."""
    target, source = np.moveaxis(target, axis, 0), np.moveaxis(source, axis, 0)
    for start in range(0, len(target), width):
        target[start : start + width] = source[start : start + width]


def parameters(cfg: ModelConfig, params: Mapping[str, Any]) -> list[Parameter]:
    """What the nested `params` (arrays, or their shapes) consist of; widest dtype first, as safetensors aligns."""
    found = [
        Parameter((key,), _TOP[key], tuple(x.shape), np.dtype(x.dtype), 0, 0)
        for key, x in params.items()
        if key in _TOP
    ]
    for part, first_layer in (("blocks", 0), ("moe_blocks", cfg.first_dense_layers)):
        for key, x in params.get(part, {}).items():
            layout = _LAYER[key]
            stacked = 2 if "{}" in layout.name else 1
            found.append(Parameter((part, key), layout, tuple(x.shape), np.dtype(x.dtype), stacked, first_layer))
    return sorted(found, key=lambda parameter: -parameter.dtype.itemsize)


def leaf(params: Mapping[str, Any], path: Sequence[str]) -> Any:
    for key in path:
        params = params[key]
    return params
