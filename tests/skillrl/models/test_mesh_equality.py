"""The same loss and gradients on one device and on eight, whatever is split over them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillrl import sharding
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig

pytestmark = pytest.mark.deep

ROWS, TOKENS = 8, 16
_DENSE = ModelConfig(
    vocab=32, embed=16, layers=2, q_heads=8, kv_heads=8, head_dim=4, mlp=16, tied=False, qkv_bias=True
)  # fmt: skip
_MOE = ModelConfig(
    vocab=32, embed=16, layers=2, q_heads=8, kv_heads=8, head_dim=4, mlp=16, experts=8, experts_per_token=3,
    expert_mlp=8, shared_mlp=8, first_dense_layers=1, router="sigmoid", router_scale=1.5, remat="full",
)  # fmt: skip
MODELS = {"dense": _DENSE, "moe": _MOE}
MESHES = {
    "dense": [
        {"fsdp": 8},
        {"tensor": 8},
        {"context": 8},
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"fsdp": 2, "context": 2, "tensor": 2},
    ],
    "moe": [
        {"fsdp": 8},
        {"tensor": 8},
        {"expert": 8},
        {"context": 8},
        {"data": 2, "fsdp": 2, "expert": 2},
        {"expert": 2, "context": 2, "tensor": 2},
    ],
}


# Compiled without optimization, in three quarters of the time; the partition over devices is the same.
@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def _loss_and_gradients(cfg, params, tokens, positions, segments):
    def loss(params):
        policy = models.merge(cfg, params)
        logprobs = jax.nn.log_softmax(policy.logits(policy(tokens, positions, segments)))
        return -jnp.take_along_axis(logprobs, jnp.roll(tokens, -1, axis=1)[..., None], axis=-1).mean()

    return jax.value_and_grad(loss)(params)


@functools.cache
def _case(model):
    """Parameters, a packed batch of two segments a row, and loss and gradients on one device."""
    cfg = MODELS[model]
    params = jax.jit(models.init_params, static_argnums=0)(cfg, jax.random.key(0))
    if cfg.experts:  # so that the choice of experts differs from that of the highest scores
        params["moe_blocks"]["router_bias_E"] = 0.3 * jax.random.normal(jax.random.key(1), (1, cfg.experts))
    tokens = np.random.default_rng(0).integers(0, cfg.vocab, (ROWS, TOKENS)).astype(np.int32)
    lengths = np.random.default_rng(1).integers(3, TOKENS - 3, (ROWS, 1))
    index = np.arange(TOKENS, dtype=np.int32)
    segments = (1 + (index >= lengths)).astype(np.int32)
    positions = np.where(segments == 1, index, index - lengths).astype(np.int32)
    batch = tokens, positions, segments
    return params, batch, jax.device_get(_loss_and_gradients(cfg, params, *batch))


@pytest.mark.parametrize(("model", "axes"), [(m, axes) for m in MODELS for axes in MESHES[m]], ids=str)
def test_eight_devices_compute_what_one_does(model, axes):
    params, batch, (loss, gradients) = _case(model)
    cfg, mesh = MODELS[model], sharding.make_mesh(axes)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, models.param_shardings(cfg, mesh))
        rows = jax.device_put(batch, sharding.named(mesh, "batch", "tokens"))
        got_loss, got = jax.device_get(_loss_and_gradients(cfg, placed, *rows))
    np.testing.assert_allclose(got_loss, loss, rtol=1e-6)
    # Sums run in another order: float32 rounding (6e-8) of values that add up over about 1,000 terms, some of which
    # cancel. A term that is missing or counted twice changes a gradient by percents.
    for (path, want), value in zip(jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(got), strict=True):
        assert np.abs(value - want).max() <= 1e-5 * np.abs(want).max(), jax.tree_util.keystr(path)
