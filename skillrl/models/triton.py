"""JAX's Pallas attention kernel for GPUs (through Triton) on the current mesh: rows and heads split.

cuDNN's kernel is not used: through JAX's public API it knows segments only as a bias or mask of [T, T].
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu import attention as pallas
from jaxtyping import Array, Float, Int

from skillrl import sharding

# The kernel's own forward tile, of which the others are divisors.
_BLOCK = 128


def triton_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    segment_ids: Int[Array, "B T"],
    *,
    interpret: bool,
) -> Float[Array, "B T N H"]:
    """Causal attention within segments, in memory linear in T; `interpret` runs the kernel without a GPU, for tests.

    T is padded to whole blocks. Each key and value head is repeated for its queries: the kernel has no groups.
    """
    length = q.shape[1]
    padding = -length % _BLOCK
    if padding:
        q, k, v, segment_ids = (
            jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2)) for x in (q, k, v, segment_ids)
        )
    local = functools.partial(_local, interpret=interpret)
    if not jax.sharding.get_abstract_mesh().empty:
        q_spec, kv_spec = sharding.spec("batch", None, "heads", None), sharding.spec("batch", None, "kv_heads", None)
        local = jax.shard_map(
            local,
            in_specs=(q_spec, kv_spec, kv_spec, sharding.spec("batch", None)),
            out_specs=q_spec,
            check_vma=False,  # Pallas calls do not say over which axes their results vary
        )
    return local(q, k, v, segment_ids)[:, :length]


def _local(q, k, v, segment_ids, *, interpret):
    """One device's rows and heads."""
    groups = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x, groups, axis=2) for x in (k, v))
    return pallas.mha(q, k, v, segment_ids, sm_scale=q.shape[-1] ** -0.5, causal=True, interpret=interpret)
