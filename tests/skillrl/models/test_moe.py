import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillrl import sharding
from skillrl.models import moe
from skillrl.models import policy as models
from skillrl.models.cache import PagedCache, Ragged
from skillrl.models.config import ModelConfig

CFG = ModelConfig(
    vocab=32, embed=8, layers=2, q_heads=4, kv_heads=2, head_dim=4, mlp=8, experts=4, experts_per_token=2,
    expert_mlp=4, shared_mlp=4, first_dense_layers=1, router="sigmoid", router_scale=2.0,
)  # fmt: skip


def _route(scores, bias=None, **changes):
    """Route one token whose router has exactly these scores before the softmax or sigmoid."""
    cfg = dataclasses.replace(CFG, **changes)
    x = jnp.ones((1, 1))
    bias = None if bias is None else jnp.array(bias)
    weights, chosen = moe.route(cfg, x, jnp.array([scores]), bias)
    return dict(zip(chosen[0].tolist(), weights[0].tolist(), strict=True))


def _logit(p):
    return float(np.log(p / (1 - p)))


def test_softmax_router_by_hand():
    scores = np.log([0.1, 0.5, 0.3, 0.1]).tolist()
    plain = _route(scores, router="softmax", router_normalize=False, router_scale=1.0)
    assert plain == pytest.approx({1: 0.5, 2: 0.3}, rel=1e-6)
    shared = _route(scores, router="softmax", router_scale=1.0)
    assert shared == pytest.approx({1: 5 / 8, 2: 3 / 8}, rel=1e-6)


def test_sigmoid_router_by_hand():
    """The bias lifts expert 3 over expert 2; the weights are those of the scores alone."""
    scores = [_logit(p) for p in (0.1, 0.9, 0.5, 0.3)]
    assert _route(scores, [0, 0, 0, 0]) == pytest.approx({1: 2 * 0.9 / 1.4, 2: 2 * 0.5 / 1.4}, rel=1e-5)
    assert _route(scores, [0, 0, 0, 0.3]) == pytest.approx({1: 2 * 0.9 / 1.2, 3: 2 * 0.3 / 1.2}, rel=1e-5)
    assert _route(scores, [0, 0, 0, 0.3], router_normalize=False) == pytest.approx({1: 1.8, 3: 0.6}, rel=1e-5)


def test_dispatch_repeats_and_combine_adds():
    order = jnp.array([3, 0, 2, 1])  # of two rows, each for two experts
    inverse = jnp.argsort(order)
    x = jnp.array([[1.0], [10.0]])
    np.testing.assert_array_equal(moe.dispatch(x, order, inverse)[:, 0], [10, 1, 10, 1])
    y = jnp.array([[1.0], [2.0], [3.0], [4.0]])  # rows 3, 0, 2, 1
    np.testing.assert_array_equal(moe.combine(y, order, inverse, 2)[:, 0], [2 + 4, 3 + 1])


def _weights(experts=4, embed=8, width=4, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = (experts, embed, width), (experts, embed, width), (experts, width, embed)
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def _one_by_one(x, weights, chosen, gate, up, down):
    """Every expert on every token, then the chosen ones picked."""
    hidden = jax.nn.silu(jnp.einsum("nd,edf->nef", x, gate)) * jnp.einsum("nd,edf->nef", x, up)
    out = jnp.einsum("nef,efd->ned", hidden, down)
    return (jnp.take_along_axis(out, chosen[..., None], axis=1) * weights[..., None]).sum(axis=1)


_CHOICES = {
    "even": [[0, 1], [2, 3], [1, 0], [3, 2], [0, 2], [1, 3]],
    "all to the same": [[2, 1]] * 6,
    "one expert is idle": [[0, 1], [3, 1], [1, 0], [3, 0], [0, 1], [1, 3]],
}


@functools.cache
def _programs():
    def gradients(function):
        def loss(x, weights, chosen, *experts):
            return jnp.sin(function(x, weights, chosen, *experts)).sum()

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 3, 4, 5)))

    return gradients(moe.experts), gradients(_one_by_one)


@pytest.mark.parametrize("case", _CHOICES)
def test_no_token_is_dropped_and_gradients_are_exact(case):
    grouped, dense = _programs()
    x = jax.random.normal(jax.random.key(1), (6, 8))
    routed = jax.random.uniform(jax.random.key(2), (6, 2)), jnp.array(_CHOICES[case])
    got, want = grouped(x, *routed, *_weights()), dense(x, *routed, *_weights())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_shares_of_the_experts_add_up():
    """Half of the experts on each of two chips: what a chip does not hold counts nothing."""
    x = jax.random.normal(jax.random.key(1), (6, 8))
    weights, chosen = jax.random.uniform(jax.random.key(2), (6, 2)), jnp.array(_CHOICES["even"])
    halves = [moe.experts(x, weights, chosen - a, *(w[a : a + 2] for w in _weights())) for a in (0, 2)]
    want = moe.experts(x, weights, chosen, *_weights())
    np.testing.assert_allclose(halves[0] + halves[1], want, rtol=1e-5, atol=1e-5)
    assert min(np.abs(half).max() for half in halves) > 0.1


@functools.partial(jax.jit, static_argnums=0)
def _packed(cfg, params, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return models.merge(cfg, params)(tokens, positions, jnp.ones_like(tokens))


@functools.partial(jax.jit, static_argnums=0)
def _decoded(cfg, params, tokens, ragged, cache):
    return models.merge(cfg, params).decode(tokens, ragged, cache)


@functools.cache
def _params():
    return jax.jit(models.init_params, static_argnums=0)(CFG, jax.random.key(0))


@pytest.mark.slow
def test_decoding_with_experts_is_the_packed_pass():
    """A prefill of several tokens and a single step, dense layer first, on a mesh whose tokens axis is not used."""
    params = _params()
    tokens = np.random.default_rng(0).integers(0, 32, (4, 6)).astype(np.int32)
    want = np.asarray(_packed(CFG, params, tokens))
    mesh = sharding.make_mesh({"fsdp": 2, "expert": 2, "context": 2})
    with jax.set_mesh(mesh):
        params = jax.device_put(params, models.param_shardings(CFG, mesh))
        cache, got = jax.jit(lambda: PagedCache.create(CFG, 1, 8, replicas=4))(), []
        table, rows = np.zeros((4, 1, 1), np.int32), np.ones(4, np.int32)
        for span in (slice(0, 5), slice(5, 6)):
            starts, lengths = np.tile([0, span.stop - span.start], (4, 1)), np.full((4, 1), span.stop)
            hidden, cache = _decoded(CFG, params, tokens[:, span], Ragged(starts, lengths, rows, table), cache)
            got.append(hidden)
    np.testing.assert_allclose(np.concatenate(got, axis=1), want, atol=2e-5)


def test_the_choice_has_no_gradient():
    params = _params()
    tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
    grads = jax.jit(jax.grad(lambda p: jnp.square(_packed(CFG, p, tokens))[..., 0].sum()))(params)["moe_blocks"]
    assert not np.asarray(grads["router_bias_E"]).any()
    assert all(np.asarray(grads[name]).any() for name in grads if name != "router_bias_E")


def test_bad_experts_are_refused():
    with pytest.raises(ValueError, match=r"experts_per_token=5 must lie in 1..experts=4"):
        dataclasses.replace(CFG, experts_per_token=5)
    with pytest.raises(ValueError, match="expert_mlp=0"):
        dataclasses.replace(CFG, expert_mlp=0)
    with pytest.raises(ValueError, match=r"first_dense_layers=3 must lie in 0..layers=2"):
        dataclasses.replace(CFG, first_dense_layers=3)
    mesh = sharding.make_mesh({"expert": 8})
    with pytest.raises(sharding.ShardingError, match="experts=4 does not divide over expert=8"):
        models.param_shardings(CFG, mesh)
