import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpu import gpu_mesh

from skillrl.models.cache import PagedCache
from skillrl.models.config import ModelConfig
from skillrl.models.policy import abstract_params
from skillrl.sampling import step
from skillrl.sampling.batches import batch_of
from skillrl.sampling.scheduler import Plan, Shapes

SAMPLE = jax.jit(step.sample)


def draw(logits, count, temperature=1.0, top_k=0, top_p=1.0):
    logits = jnp.tile(jnp.asarray(logits, jnp.float32), (count, 1))
    cuts = jnp.full(count, top_k), jnp.full(count, top_p)
    return SAMPLE(logits, jnp.arange(count), jnp.full(count, 3), jnp.full(count, temperature), *cuts)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_frequencies_follow_the_softmax(temperature):
    logits, draws = np.linspace(-2, 2, 30), 6000
    tokens, logprobs, support_logprobs, finite = draw(logits, draws, temperature)
    probs = np.asarray(jax.nn.softmax(logits / temperature))
    expected, seen = probs * draws, np.bincount(tokens, minlength=30)
    common = expected > 5
    chi_square = ((seen - expected)[common] ** 2 / expected[common]).sum()
    assert chi_square < common.sum() + 4 * np.sqrt(2 * common.sum())
    np.testing.assert_allclose(logprobs, np.log(probs)[tokens], atol=1e-5)
    np.testing.assert_array_equal(logprobs, support_logprobs)
    assert finite.all()


def test_a_token_without_probability_is_never_drawn():
    logits = np.full(300, -np.inf)
    logits[[17, 90, 91]] = [0.0, 1.0, -3.0]
    tokens, logprobs, _, finite = draw(logits, 5000)
    assert set(tokens.tolist()) == {17, 90, 91}
    assert np.isfinite(logprobs).all()
    assert finite.all()


def test_the_draw_depends_on_seed_and_position():
    logits = jnp.zeros((4, 500))
    seeds, positions = jnp.array([1, 1, 2, 1]), jnp.array([5, 6, 5, 5])
    tokens = SAMPLE(logits, seeds, positions, jnp.ones(4), jnp.zeros(4, int), jnp.ones(4))[0]
    assert tokens[0] == tokens[3]
    assert len(set(tokens.tolist())) == 3


def test_temperature_zero_is_greedy_with_the_logprob_at_one():
    tokens, logprobs, _, _ = draw([0.0, 2.0, 1.0], 1, temperature=0.0)
    assert tokens.tolist() == [1]
    np.testing.assert_allclose(logprobs, 2 - np.log(1 + np.e + np.e**2), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_reported(bad):
    assert not draw([0.0, bad, 1.0], 1)[3][0]


@pytest.mark.parametrize(("top_k", "top_p", "kept"), [
    (2, 1.0, [0, 1]),
    (0, 0.5, [0]),  # the first alone reaches half
    (0, 0.51, [0, 1]),
    (3, 0.9, [0, 1, 2]),  # of the three left, 0.8 / 0.95 is not yet 0.9
    (0, 1e-9, [0]),  # one is always left
])  # fmt: skip
def test_top_k_and_top_p_by_hand(top_k, top_p, kept):
    probs = np.array([0.5, 0.3, 0.15, 0.05])
    tokens, logprobs, support_logprobs, _ = draw(np.log(probs), 2000, top_k=top_k, top_p=top_p)
    assert set(tokens.tolist()) == set(kept)
    np.testing.assert_allclose(logprobs, np.log(probs)[tokens], atol=1e-5)
    np.testing.assert_allclose(support_logprobs, np.log(probs / probs[kept].sum())[tokens], atol=1e-5)


def test_rows_cut_their_support_each_for_itself():
    logits, ones = jnp.log(jnp.tile(jnp.array([0.5, 0.3, 0.2]), (300, 1))), jnp.ones(300)
    top_k = jnp.where(jnp.arange(300) < 150, 1, 0)
    tokens = SAMPLE(logits, jnp.arange(300), jnp.full(300, 3), ones, top_k, ones)[0]
    assert set(tokens[:150].tolist()) == {0}
    assert set(tokens[150:].tolist()) == {0, 1, 2}


@pytest.mark.slow
def test_a_call_copies_no_cache():
    """Neither its chunk nor a decode step: what it needs beside the cache is small against it."""
    cfg = ModelConfig(vocab=48, embed=32, layers=2, q_heads=2, kv_heads=1, head_dim=16, mlp=48, unroll=2)
    shapes = Shapes(rows=(4,), chunks=(16,), page_tokens=8)
    cache = jax.eval_shape(lambda: PagedCache.create(cfg, 20_000, 8))
    batch = batch_of([Plan(())], shapes, 12, 20_000, (5,))
    memory = step.step.lower(cfg, 4, abstract_params(cfg), cache, batch).compile().memory_analysis()
    (kv,) = cache.arrays
    assert memory.alias_size_in_bytes >= kv.size * 4
    assert memory.temp_size_in_bytes < kv.size * 4 / 10


def test_the_step_lowers_for_gpus_with_the_kernel():
    """Two replicas of two chips each, to Triton's language; to compile that takes a GPU."""
    shape = dict(vocab=256, embed=256, layers=2, q_heads=4, kv_heads=2, head_dim=128, mlp=256)
    shapes = Shapes(rows=(8,), chunks=(32,), page_tokens=16)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), batch_of([Plan(())] * 2, shapes, 8, 64, (0,))
    )

    def lowered(dtype):
        cfg = ModelConfig(**shape, dtype=dtype)
        cache = jax.eval_shape(lambda: PagedCache.create(cfg, 64, 16, replicas=2))
        assert cache.by_head
        traced = step.step.trace(cfg, 4, abstract_params(cfg), cache, batch)
        return traced.lower(lowering_platforms=("cuda",)).as_text()

    with jax.sharding.use_abstract_mesh(gpu_mesh(fsdp=2, tensor=2)):
        assert "paged_attention" in lowered("bfloat16")
        assert "paged_attention" not in lowered("float32")
