import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillrl.rl import optimizer
from skillrl.rl.learner import Learner, LearnerConfig
from skillrl.rl.losses import LossConfig
from skillrl.rl.optimizer import OptimizerConfig, OptimizerError
from skillrl.rl.packing import pack

CFG = OptimizerConfig(learning_rate=0.1, beta1=0.5, beta2=0.5, epsilon=0.0, weight_decay=0.5, max_grad_norm=10.0)
AXES = {"q_DNH": ("embed", "heads"), "q_bias_NH": ("heads", "head_dim"), "attention_norm_D": ("norm",)}


def _params(dtype=jnp.float32):
    return {name: jnp.full((2, 2), 2.0, dtype) for name in AXES}


def _tx(cfg=CFG):
    return optimizer.adamw(cfg, optimizer.learning_rate_schedule(cfg), AXES)


def test_first_step_is_the_sign_of_the_gradient_and_only_matrices_decay():
    """m / sqrt(v) of a first gradient is its sign; decay adds 0.5 * 2 before the rate of 0.1."""
    tx, params = _tx(), _params()
    grads = {name: jnp.array([[3.0, -3.0], [1.0, -1.0]]) for name in AXES}
    new, _, norm, finite = optimizer.update(tx, params, optimizer.init_state(tx, params), grads, jnp.float32(1))
    assert finite and float(norm) == pytest.approx(np.sqrt(3 * 20))
    np.testing.assert_allclose(new["attention_norm_D"], [[1.9, 2.1], [1.9, 2.1]], rtol=1e-6)
    np.testing.assert_allclose(new["q_bias_NH"], [[1.9, 2.1], [1.9, 2.1]], rtol=1e-6)
    np.testing.assert_allclose(new["q_DNH"], [[1.8, 2.0], [1.8, 2.0]], rtol=1e-6)


@pytest.mark.parametrize("loss, gradient", [(np.nan, 1.0), (1.0, np.inf)])
def test_what_is_not_finite_changes_nothing(loss, gradient):
    tx, params = _tx(), _params()
    state = optimizer.init_state(tx, params)
    grads = {name: jnp.full((2, 2), gradient) for name in AXES}
    new, new_state, _, finite = optimizer.update(tx, params, state, grads, jnp.float32(loss))
    assert not finite
    for a, b in zip(jax.tree.leaves((new, new_state)), jax.tree.leaves((params, state)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_moments_have_their_own_dtypes():
    """Whatever the parameters': the first as configured, the second always float32, also after an update."""
    tx, params = _tx(dataclasses.replace(CFG, first_moment_dtype="bfloat16")), _params(jnp.bfloat16)
    state = optimizer.init_state(tx, params)
    for _ in range(2):
        adam = state[1][0]
        assert {x.dtype.name for x in jax.tree.leaves(adam.mu)} == {"bfloat16"}
        assert {x.dtype.name for x in jax.tree.leaves(adam.nu)} == {"float32"}
        grads = {name: jnp.ones((2, 2)) for name in AXES}
        params, state, _, _ = optimizer.update(tx, params, state, grads, jnp.float32(1))
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"bfloat16"}


def test_bfloat16_first_moments_learn_nearly_the_same():
    moments = {}
    for dtype in ("float32", "bfloat16"):
        tx, params = _tx(dataclasses.replace(CFG, first_moment_dtype=dtype, beta1=0.9)), _params()
        state = optimizer.init_state(tx, params)
        for step in range(5):
            grads = {name: jnp.full((2, 2), 1.0 + 0.3 * step) for name in AXES}
            params, state, _, _ = optimizer.update(tx, params, state, grads, jnp.float32(1))
        moments[dtype] = np.asarray(params["q_bias_NH"])
    assert not np.array_equal(moments["float32"], moments["bfloat16"])
    np.testing.assert_allclose(moments["bfloat16"], moments["float32"], rtol=5e-3)


@pytest.mark.parametrize("field", ["first_moment_dtype", "optimizer_memory"])
def test_unknown_choices_name_the_known_ones(field):
    with pytest.raises(OptimizerError, match=f"{field}='float8'; one of '"):
        OptimizerConfig(**{field: "float8"})


def test_state_on_the_host_learns_bitwise_the_same(cfg, mesh, episodes):
    """Between updates the moments lie in the host's memory; parameters stay on the devices."""
    batch = pack(episodes, np.linspace(-1, 1, 9), length=40, rows_multiple=8)
    states = []
    for memory in ("device", "host"):
        loss = LossConfig(importance_cap=2.0)
        learner = Learner(cfg, LearnerConfig(loss=loss, micro_rows=8, logprob_chunk=40, optimizer_memory=memory), mesh)
        state = learner.init(0)
        for _ in range(2):
            state, _ = learner.update(state, batch)
        states.append(state)
    kinds = {x.sharding.memory_kind for x in jax.tree.leaves(states[1].opt_state) if x.ndim}
    assert kinds == {"pinned_host"}
    assert {x.sharding.memory_kind for x in jax.tree.leaves(states[1].params)} == {"device"}
    for a, b in zip(*(jax.tree.leaves((s.params, s.opt_state)) for s in states), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_platform_without_host_memory_is_refused():
    device = SimpleNamespace(platform="abacus", addressable_memories=lambda: [SimpleNamespace(kind="beads")])
    with pytest.raises(OptimizerError, match="abacus has no pinned_host memory, only .'beads'.; use optimizer_memory="):
        optimizer.check_host_memory(device)
