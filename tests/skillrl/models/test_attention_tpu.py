"""Splash attention through the real TPU compiler, which needs no TPU; interpreted runs are in test_attention.py."""

import os

import jax
import jax.numpy as jnp
import pytest

from skillrl import sharding
from skillrl.models.attention import packed_attention
from skillrl.models.remat import remat

pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def topology():
    """Compile-only devices of a topology, by name."""
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # libtpu reads it when the first topology is made
    from jax.experimental import topologies

    return lambda name: topologies.get_topology_desc(name, platform="tpu").devices


def lowered(mesh, shape, dtype=jnp.bfloat16, policy="full"):
    """Forward and backward of a loop over two layers of attention alone.

    `shape` is rows, tokens, query heads, key/value heads and head width.
    """
    rows, tokens, q_heads, kv_heads, width = shape

    def array(dtype, *logical, heads=()):
        return jax.ShapeDtypeStruct((rows, tokens, *heads), dtype, sharding=sharding.named(mesh, *logical))

    q = array(dtype, "batch", "tokens", "heads", None, heads=(q_heads, width))
    k = array(dtype, "batch", "tokens", "kv_heads", None, heads=(kv_heads, width))
    attention = remat(packed_attention, policy)

    def loss(q, k, v, segment_ids):
        out, _ = jax.lax.scan(lambda x, _: (attention(x, k, v, segment_ids), None), q, length=2)
        return out.astype(jnp.float32).sum()

    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, k, array(jnp.int32, "batch", "tokens"))


@pytest.mark.parametrize(
    ("name", "axes", "shape", "dtype"),
    [
        ("v5e:2x4", {"fsdp": 4, "tensor": 2}, (4, 4096, 32, 8, 128), jnp.bfloat16),
        ("v5p:2x2x2", {"data": 2, "expert": 2, "tensor": 2}, (4, 4096, 32, 8, 128), jnp.bfloat16),
        ("v6e:2x4", {"context": 4, "tensor": 2}, (1, 32768, 32, 8, 64), jnp.bfloat16),
        ("v5p:2x2x1", {"fsdp": 4}, (4, 1000, 8, 2, 128), jnp.float32),
    ],
    ids=str,
)
def test_splash_compiles_for_tpus(topology, name, axes, shape, dtype):
    """Tiles fit the chip's memory on each generation, for rows, heads, tokens split and for lengths that are padded."""
    program = lowered(sharding.make_mesh(axes, devices=topology(name)), shape, dtype)
    # Forward, forward again, the queries' gradient, the keys' and values' gradient.
    assert program.as_text().count("tpu_custom_call") == 4
    program.compile()


def test_128k_tokens_of_a_large_model_fit(topology):
    """GLM-4.5-Air's attention over 131,072 tokens on 8 chips; scores would take 96 x 32 GiB a layer."""
    mesh = sharding.make_mesh({"context": 8}, devices=topology("v5p:2x2x2"))
    compiled = lowered(mesh, (1, 131_072, 96, 8, 128)).compile()
    assert compiled.memory_analysis().peak_memory_in_bytes < 6 * 2**30


def test_saved_outputs_spare_the_forward_kernel_in_the_backward_pass(topology):
    mesh = sharding.make_mesh({"fsdp": 4}, devices=topology("v5p:2x2x1"))
    kernels = {
        policy: lowered(mesh, (4, 256, 2, 1, 64), policy=policy).as_text().count("tpu_custom_call")
        for policy in ("full", "attention")
    }
    assert kernels == {"full": 4, "attention": 3}


def test_narrow_heads_fall_back_to_plain_jax(topology):
    mesh = sharding.make_mesh({"fsdp": 4}, devices=topology("v5p:2x2x1"))
    assert "tpu_custom_call" not in lowered(mesh, (4, 256, 4, 2, 32)).as_text()
