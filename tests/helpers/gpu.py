"""A GPU that is not there: enough to lower a program for it."""

import inspect

import jax

from skillrl import sharding


def gpu_mesh(**sizes: int) -> jax.sharding.AbstractMesh:
    """A mesh of such GPUs with the project's axes, as `with jax.sharding.use_abstract_mesh(...)` takes it."""
    # From jax 0.12 on kernels ask which GPU they are for; jax 0.9 describes a device without its platform.
    fields = {"device_kind": "NVIDIA H100 80GB HBM3", "num_cores": None, "platform": "gpu"}
    known = inspect.signature(jax.sharding.AbstractDevice).parameters
    gpu = jax.sharding.AbstractDevice(**{name: value for name, value in fields.items() if name in known})
    one = sharding.make_mesh({}, devices=jax.devices()[:1]).abstract_mesh
    shape = tuple((dict(one.shape) | sizes).values())
    return jax.sharding.AbstractMesh(shape, one.axis_names, axis_types=one.axis_types, abstract_device=gpu)
