import jax
import numpy as np
import pytest

from skillrl import sharding
from skillrl.compile.topology import make_topology
from skillrl.models.cache import PagedCache
from skillrl.models.config import ModelConfig
from skillrl.models.policy import abstract_params
from skillrl.sampling import step
from skillrl.sampling.batches import batch_of
from skillrl.sampling.scheduler import Plan, Shapes

pytestmark = pytest.mark.deep

SHAPES = Shapes(rows=(16,), chunks=(256,), page_tokens=128)
CFG = ModelConfig(
    vocab=1024, embed=512, layers=4, q_heads=8, kv_heads=4, head_dim=128, mlp=1024, dtype="bfloat16", experts=4,
    experts_per_token=2, expert_mlp=256, first_dense_layers=2,
)  # fmt: skip


@pytest.mark.parametrize(("name", "dtype"), [
    ("v5e:2x2", ""),
    ("v5p:2x2x1", ""),
    ("v6e:2x2", ""),
    ("v5e:2x2", "float8_e4m3fn"),
])  # fmt: skip
def test_the_step_compiles_for_tpus_with_the_kernel(name, dtype):
    """Two replicas of two chips each; the cache is updated in place."""
    mesh = sharding.make_mesh({"fsdp": 2, "tensor": 2}, devices=make_topology(name).devices[:4])
    cache = jax.eval_shape(lambda: PagedCache.create(CFG, 64, 128, replicas=2, dtype=dtype, by_head=False))
    place = sharding.named(mesh, *cache.logical_axes())
    cache = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), cache)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding.named(mesh)),
        batch_of([Plan(())] * 2, SHAPES, 8, 64, (0,)),
    )
    with jax.set_mesh(mesh):
        lowered = step.step.lower(CFG, 16, abstract_params(CFG, mesh), cache, batch)
        assert lowered.as_text().count("tpu_custom_call") >= 2
        memory = lowered.compile().memory_analysis()
    (kv,) = cache.arrays
    assert memory.alias_size_in_bytes >= kv.size * kv.dtype.itemsize / 4
