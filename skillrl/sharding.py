"""Mesh and the one table from logical axes to mesh axes; the only file that names mesh axes."""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "expert", "context", "tensor")

# Logical axis -> mesh axes. What is not here is an error; None is replicated.
RULES: Mapping[str, tuple[str, ...] | None] = {
    # Rows are split over `expert` too: outside of the experts its chips would only repeat each other's work.
    "batch": ("data", "fsdp", "expert"),
    "tokens": ("context",),
    "layer": None,
    # Stored in parts over every axis but `data` and `tensor`, and gathered where a layer uses them (ZeRO-3).
    "embed": ("fsdp", "context", "expert"),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": None,
    "mlp": ("tensor",),
    "norm": None,
    "router": None,
    "experts": ("expert",),
    "expert_embed": ("fsdp", "context"),
    "expert_mlp": ("tensor",),
}


class ShardingError(ValueError):
    """A mesh that does not fit the devices or the model."""


def make_mesh(axes: Mapping[str, int] | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh over `devices` (default: all) with the sizes of `axes`; absent axes are 1 and one axis may be -1 (the rest).

    The devices may be those of a topology, without a machine. Where they form several slices, `data` goes over the
    slices first: only the sum of gradients then crosses the slow network between them. Raises ShardingError where a
    name is unknown, the sizes do not multiply to the number of devices, or `data` is no multiple of the slices.
    """
    sizes = dict.fromkeys(MESH_AXES, 1) | dict(axes if axes is not None else {"fsdp": -1})
    devices = jax.devices() if devices is None else devices
    num_devices = len(devices)
    if unknown := sorted(set(sizes) - set(MESH_AXES)):
        raise ShardingError(f"unknown mesh axes {unknown}; use {list(MESH_AXES)}")
    free = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ShardingError(f"mesh {sizes}: sizes are positive and at most one is -1 (the remaining devices)")
    if free and num_devices % fixed == 0:
        sizes[free[0]] = num_devices // fixed
    if math.prod(sizes.values()) != num_devices:
        raise ShardingError(
            f"mesh {sizes} does not divide {num_devices} devices; choose sizes whose product is {num_devices}, "
            "or set one of them to -1"
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes["data"] % slices:
        raise ShardingError(f"mesh {sizes}: data must be a multiple of the {slices} slices that the devices form")
    if slices == 1:
        grid = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    else:
        inner = tuple((sizes | {"data": sizes["data"] // slices}).values())
        outer = (slices,) + (1,) * (len(MESH_AXES) - 1)
        grid = mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def spec(*logical: str | None) -> PartitionSpec:
    """PartitionSpec of an array whose dimensions have these logical axes (None: replicated)."""
    return PartitionSpec(*(None if name is None else RULES[name] for name in logical))


def named(mesh: Mesh, *logical: str | None) -> NamedSharding:
    return NamedSharding(mesh, spec(*logical))


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Pins the layout of an intermediate value under `jax.set_mesh`; without a mesh it does nothing."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*logical))


def parts(logical: str) -> int:
    """Parts into which the current mesh splits this logical axis; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[name] for name in RULES[logical] or ())


def platform() -> str:
    """Of the devices of the current mesh, also of devices that exist for the compiler only: "cpu", "tpu" or "gpu".

    Without a mesh, that of JAX's default backend.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return jax.default_backend()
    kind = device.device_kind.lower()
    return "tpu" if kind.startswith("tpu") else "cpu" if kind == "cpu" else "gpu"


def batch_shards(mesh: Mesh) -> int:
    """Number of parts into which the rows of a batch are split; the number of rows must be a multiple of it."""
    return math.prod(mesh.shape[name] for name in RULES["batch"])


def token_shards(mesh: Mesh) -> int:
    """Number of parts into which each row of a batch is split; the row length must be a multiple of it."""
    return math.prod(mesh.shape[name] for name in RULES["tokens"])


def check_divides(name: str, shape: Sequence[int], logical: Sequence[str | None], mesh: Mesh) -> None:
    """Raises ShardingError if a sharded dimension of the array `name` is no multiple of its mesh axes."""
    for size, axis in zip(shape, logical, strict=True):
        parts = math.prod(mesh.shape[m] for m in RULES[axis] or ()) if axis else 1
        if size % parts:
            raise ShardingError(
                f"{name}: {axis}={size} does not divide over {'*'.join(RULES[axis])}={parts}; "
                "choose mesh sizes that divide the model (or a model with other sizes)"
            )
