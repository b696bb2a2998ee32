import asyncio
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillrl import sharding
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.models.quantised import dequantised, quantise
from skillrl.sampling import weights
from skillrl.sampling.engine import UPDATES, Engine
from skillrl.sampling.turns import SamplingError

CFG = ModelConfig(
    vocab=64, embed=16, layers=2, q_heads=4, kv_heads=2, head_dim=8, mlp=32, dtype="bfloat16", experts=4,
    experts_per_token=2, expert_mlp=16, first_dense_layers=1, family="glm4_moe", router="sigmoid", qkv_bias=True,
)  # fmt: skip


def hidden(params):
    tokens = jnp.arange(24).reshape(2, 12)
    positions, segments = jnp.broadcast_to(jnp.arange(12), (2, 12)), jnp.ones((2, 12), jnp.int32)
    policy = models.merge(CFG, params)
    return policy.logits(policy(tokens, positions, segments))


def test_rounded_weights_are_the_same_policy():
    """The layers round weights to the arithmetic's dtype themselves; what they do not round stays as it is."""
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    params = models.init_params(CFG, jax.random.key(0))
    copies = weights.copied(CFG, mesh, "", params)
    assert copies["blocks"]["gate_DF"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(hidden(copies), hidden(params))


def test_int8_steps_by_hand():
    """A stack of one layer with two inputs and two channels: each channel's largest weight is 127 steps."""
    held = quantise(jnp.asarray([[[1.27, 0.0], [-0.014, 0.0]]]), (1,))
    np.testing.assert_array_equal(held.values, [[[127, 0], [-1, 0]]])
    np.testing.assert_allclose(held.scale, [[[0.01, 0.0]]], rtol=1e-6)
    np.testing.assert_allclose(dequantised({"w": held}, jnp.float32)["w"], [[[1.27, 0.0], [-0.01, 0.0]]], rtol=1e-6)
    broken = dequantised(quantise(jnp.asarray([[[jnp.nan, 1.0]]]), (1,)), jnp.float32)
    assert np.isnan(broken[0, 0, 0]) and broken[0, 0, 1] == 1


def test_int8_weights_hold_the_projections_alone_and_are_half_a_step_off_at_most():
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    params = models.init_params(CFG, jax.random.key(0))
    held = weights.copied(CFG, mesh, "int8", params)
    names = {path for path, x in jax.tree_util.tree_leaves_with_path(held) if x.dtype == jnp.int8}
    kept = {str(path[-1].key) for path, x in jax.tree_util.tree_leaves_with_path(held) if x.dtype == jnp.bfloat16}
    assert len(names) == 4 + 3 + 4 + 3
    assert kept == {"embed_VD", "head_DV", "q_bias_NH", "k_bias_KH", "v_bias_KH"} - ({"head_DV"} if CFG.tied else set())
    for stack, name in (("blocks", "o_NHD"), ("moe_blocks", "expert_down_EFD"), ("moe_blocks", "expert_gate_EDF")):
        weight, restored = params[stack][name], dequantised(held, jnp.float32)[stack][name]
        assert (jnp.abs(weight - restored) <= held[stack][name].scale * 0.5001).all()
        assert held[stack][name].scale.size < weight.size


@pytest.mark.parametrize("mode", UPDATES)
def test_int8_weights_sample_as_the_weights_that_they_stand_for(mode):
    """What is sampled is what a policy of the restored weights samples, before and after an update."""
    cfg = dataclasses.replace(CFG, dtype="float32")
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    old = jax.tree.map(lambda x: x * 2 if x.ndim > 2 else x, models.init_params(cfg, jax.random.key(0)))
    new = jax.tree.map(lambda x: x * 2 if x.ndim > 2 else x, models.init_params(cfg, jax.random.key(1)))
    place = functools.partial(weights.copied, cfg, mesh, "int8")

    async def play(params, other, place):
        engine = Engine(cfg, params, stop_ids=(-1,), streams=2, max_tokens=32, place=place)
        async with engine:
            stream = await engine.open(seed=1)
            first = await engine.generate(stream, [3, 4, 5], budget=6)
            await engine.update(other, version=1, mode=mode)
            return [first, await engine.generate(stream, [6], budget=6)]

    restored = [dequantised(place(params), jnp.float32) for params in (old, new)]
    turns = asyncio.run(play(old, new, place)), asyncio.run(play(*restored, lambda params: params))
    for one, other in zip(*turns, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


@pytest.mark.deep
def test_replicas_hold_all_weights_and_sample_as_the_learner_s_mesh_does():
    learner_mesh = sharding.make_mesh({"fsdp": 4, "expert": 2})
    mesh = weights.replica_mesh(learner_mesh, 2)
    params = models.split(models.Policy.create(CFG, learner_mesh, seed=0))
    copies = weights.copied(CFG, mesh, "", params)
    gate = copies["moe_blocks"]["expert_gate_EDF"]
    assert gate.sharding.shard_shape(gate.shape) == (1, 4, 16, 8)

    async def play(mesh, place):
        async with Engine(CFG, params, stop_ids=(0,), streams=8, max_tokens=32, mesh=mesh, place=place) as engine:
            stream = await engine.open(seed=1, temperature=0.0)
            first = await engine.generate(stream, [3, 4, 5], budget=6)
            await engine.update(jax.tree.map(lambda x: x * 1.5, params), version=1)
            return [first, await engine.generate(stream, [6], budget=6)]

    apart = asyncio.run(play(mesh, functools.partial(weights.copied, CFG, mesh, "")))
    shared = asyncio.run(play(learner_mesh, lambda params: params))
    for one, other in zip(apart, shared, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        # bfloat16 sums in another order.
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=0.05)


def test_replicas_that_do_not_divide_are_refused():
    with pytest.raises(sharding.ShardingError, match="3"):
        weights.replica_mesh(sharding.make_mesh(), 3)
    with pytest.raises(sharding.ShardingError, match="kv_heads|k_DKH"):
        weights.abstract_weights(CFG, weights.replica_mesh(sharding.make_mesh(), 4))


def test_a_resting_sampler_needs_new_weights_first():
    cfg = ModelConfig(vocab=32, embed=16, layers=1, q_heads=2, kv_heads=1, head_dim=8, mlp=16)
    params = models.init_params(cfg, jax.random.key(0))

    async def run():
        async with Engine(cfg, params, stop_ids=(0,), streams=2, max_tokens=24) as engine:

            async def turn():
                stream = await engine.open(seed=1)
                try:
                    return await engine.generate(stream, [3, 4, 5], budget=6)
                finally:
                    engine.release(stream)

            before = await turn()
            stream = await engine.open(seed=1)
            with pytest.raises(ValueError, match="1 streams are open"):
                engine.rest()
            engine.release(stream)
            engine.rest()
            with pytest.raises(SamplingError, match="update"):
                await turn()
            await engine.update(params, version=1)
            return before, await turn()

    before, after = asyncio.run(run())
    np.testing.assert_array_equal(before.tokens, after.tokens)
    np.testing.assert_array_equal(before.logprobs, after.logprobs)
