import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillrl.sampling import step


def draw(logits, count, temperature=1.0):
    logits = jnp.tile(jnp.asarray(logits, jnp.float32), (count, 1))
    return jax.jit(step.sample)(logits, jnp.arange(count), jnp.full(count, 3), jnp.full(count, temperature))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_frequencies_follow_the_softmax(temperature):
    logits, draws = np.linspace(-2, 2, 30), 6000
    tokens, logprobs, finite = draw(logits, draws, temperature)
    probs = np.asarray(jax.nn.softmax(logits / temperature))
    expected, seen = probs * draws, np.bincount(tokens, minlength=30)
    common = expected > 5
    chi_square = ((seen - expected)[common] ** 2 / expected[common]).sum()
    assert chi_square < common.sum() + 4 * np.sqrt(2 * common.sum())
    np.testing.assert_allclose(logprobs, np.log(probs)[tokens], atol=1e-5)
    assert finite.all()


def test_a_token_without_probability_is_never_drawn():
    logits = np.full(300, -np.inf)
    logits[[17, 90, 91]] = [0.0, 1.0, -3.0]
    tokens, logprobs, finite = draw(logits, 5000)
    assert set(tokens.tolist()) == {17, 90, 91}
    assert np.isfinite(logprobs).all()
    assert finite.all()


def test_the_draw_depends_on_seed_and_position():
    logits = jnp.zeros((4, 500))
    tokens, _, _ = step.sample(logits, jnp.array([1, 1, 2, 1]), jnp.array([5, 6, 5, 5]), jnp.ones(4))
    assert tokens[0] == tokens[3]
    assert len(set(tokens.tolist())) == 3


def test_temperature_zero_is_greedy_with_the_logprob_at_one():
    tokens, logprobs, _ = draw([0.0, 2.0, 1.0], 1, temperature=0.0)
    assert tokens.tolist() == [1]
    np.testing.assert_allclose(logprobs, 2 - np.log(1 + np.e + np.e**2), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_reported(bad):
    assert not draw([0.0, bad, 1.0], 1)[2][0]
