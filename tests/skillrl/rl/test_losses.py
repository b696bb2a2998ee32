import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillrl.rl import losses
from skillrl.rl.losses import LossConfig, policy_loss

# notes/rl_peers.md section 9.2: two episodes of 3 and 2 policy tokens.
OLD = jnp.array([[-1, -1, -1, -1], [-2, -0.5, -1.5, -1]])
NEW = jnp.array([[-0.5, -1.2, -1, -3], [-1.6, -0.5, -1.9, -1]])
ADVANTAGES = jnp.array([[1.0] * 4, [-1.0] * 4])
MASK = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
SEGMENTS = jnp.ones((2, 4), jnp.int32)
TOKEN_MEAN = MASK / 5
SEQUENCE_MEAN = MASK / jnp.array([[6.0], [4.0]])
CFG = LossConfig(clip_low=0.2, clip_high=0.28, dual_clip=3.0)


def _scalar(cfg, weights, new=NEW, **changes):
    given = dict(old_logprobs=OLD, advantages=ADVANTAGES, loss_mask=MASK, segment_ids=SEGMENTS, sampler_logprobs=OLD)
    given |= changes
    return (weights * policy_loss(cfg, new, **given)[0]).sum()


def _one_row(cfg, ratios, advantages, old=0.0):
    """Loss of each token of one row with these ratios."""
    old = jnp.broadcast_to(jnp.asarray(old, jnp.float32), (1, len(ratios)))
    new = old + jnp.log(jnp.array([ratios]))
    ones = jnp.ones(old.shape, bool)
    return policy_loss(cfg, new, old, jnp.array([advantages], jnp.float32), ones, ones.astype(jnp.int32), old)


@pytest.mark.parametrize(
    ("loss", "weights", "value", "gradient"),
    [
        ("grpo", TOKEN_MEAN, -0.121381, [[0, -0.163746, -0.2, 0], [0.298365, 0.2, 0, 0]]),
        ("grpo", MASK / 2, -0.303453, None),
        ("grpo", SEQUENCE_MEAN, 0.106501, None),
        ("grpo", MASK / 8, -0.075863, None),
        ("gspo", SEQUENCE_MEAN, 0.058116, [[-0.184195] * 3 + [0], [0.305351] * 2 + [0, 0]]),
        ("cispo", TOKEN_MEAN, 0.014895, [[-0.256, -0.163746, -0.2, 0], [0.256, 0.2, 0, 0]]),
    ],
)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_vectors(loss, weights, value, gradient, transform):
    cfg = dataclasses.replace(CFG, loss=loss)
    got, grad = transform(jax.value_and_grad(lambda new: _scalar(cfg, weights, new)))(NEW)
    np.testing.assert_allclose(got, value, atol=2e-6)
    if gradient is not None:
        np.testing.assert_allclose(grad, gradient, atol=2e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.0, 1.0, -1.0), (1.5, 1.0, -1.2), (1.5, -1.0, 1.5), (0.5, -1.0, 0.8), (0.5, 1.0, -0.5)],
)
def test_clipping_by_hand(ratio, advantage, expected):
    loss, metrics = _one_row(LossConfig(), [ratio], [advantage])
    np.testing.assert_allclose(loss, [[expected]], rtol=1e-6)
    np.testing.assert_allclose(metrics["clip_fraction"], [[float(abs(expected) != ratio)]])
    np.testing.assert_allclose(metrics["approx_kl"], [[ratio - 1 - np.log(ratio)]], atol=1e-6)


def test_dual_clip_vectors():
    loss, _ = _one_row(LossConfig(dual_clip=1.5), [2, 2, 0.5], [2, -2, 2])
    np.testing.assert_allclose(loss, [[-2.4, 3.0, -1.0]], rtol=1e-6)
    loss, _ = _one_row(LossConfig(dual_clip=3.0), [0.5, 1, 10], [1, -1, -4])
    np.testing.assert_allclose(loss, [[-0.5, 1, 12]], rtol=1e-6)


def test_cispo_clamp_vector():
    """The gradient with respect to a token's log-probability is minus its clamped ratio."""
    cfg = LossConfig(loss="cispo", clip_low=0.2, clip_high=0.28)
    ratios = [1, 1.14, 1.56, 0.4]
    old = jnp.zeros((1, 4))
    ones = jnp.ones((1, 4))

    def loss(new):
        return policy_loss(cfg, new, old, ones, ones > 0, ones.astype(jnp.int32), old)[0].sum()

    np.testing.assert_allclose(jax.grad(loss)(jnp.log(jnp.array([ratios]))), [[-1, -1.14, -1.28, -0.8]], rtol=1e-6)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("token", [1.648721, 0.606531, 2]),
        ("sequence", [2] * 3),
        ("geometric", [1.395612] * 3),
    ],
)
def test_importance_weight_vectors(level, expected):
    """Log-ratios learner - sampler of .5, -.5, 1, cap 2; a fourth token, of another episode, is not in the product."""
    log_ratio, segments = jnp.array([[0.5, -0.5, 1, 3]]), jnp.array([[1, 1, 1, 2]])
    mask = jnp.ones((1, 4), bool)
    cfg = LossConfig(importance_cap=2.0, importance_level=level)
    loss, metrics = policy_loss(cfg, log_ratio, log_ratio, mask * 1.0, mask, segments, jnp.zeros((1, 4)))
    np.testing.assert_allclose(metrics["importance_weight"], [[*expected, 2]], rtol=1e-6)
    np.testing.assert_allclose(loss, -metrics["importance_weight"])
    uncapped = dataclasses.replace(cfg, importance_cap=100.0)
    if level == "sequence":
        weight = losses.importance_weights(log_ratio, mask, segments, uncapped)
        np.testing.assert_allclose(weight[0, :3], [2.718282] * 3, rtol=1e-6)


def test_kl_vectors():
    """Row 1 of section 9.2 with the old policy as reference: k3 of d = new - reference."""
    d = jnp.array([0.5, -0.2, 0, -2])
    np.testing.assert_allclose(losses.k3(-d), [0.106531, 0.021403, 0, 4.389056], atol=1e-6)
    cfg = dataclasses.replace(CFG, kl_coef=0.1)
    got = _scalar(cfg, TOKEN_MEAN, ref_logprobs=OLD) - _scalar(CFG, TOKEN_MEAN)
    second = losses.k3(OLD[1, :2] - NEW[1, :2]).sum()
    np.testing.assert_allclose(got, 0.1 * (0.106531 + 0.021403 + second) / 5, atol=1e-6)


def test_mismatch_metrics_by_hand():
    sampler = OLD - jnp.array([[0.1, -0.2, 0, 9], [0, 0, 9, 9]])  # learner above the sampler by these
    _, metrics = policy_loss(CFG, NEW, OLD, ADVANTAGES, MASK, SEGMENTS, sampler)
    np.testing.assert_allclose(metrics["mismatch_k1"], [[-0.1, 0.2, 0, 0], [0, 0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(metrics["mismatch_k3"][0, :2], np.exp([0.1, -0.2]) - 1 - [0.1, -0.2], atol=1e-6)
    np.testing.assert_allclose(metrics["mismatch_ratio_max"].max(), np.exp(0.2), rtol=1e-5)


@pytest.mark.parametrize("loss", losses.LOSSES)
@pytest.mark.parametrize("garbage", [-jnp.inf, jnp.nan, 1e30])
def test_masked_tokens_do_not_matter(loss, garbage):
    cfg = dataclasses.replace(CFG, loss=loss, importance_cap=2.0, importance_level="sequence", kl_coef=0.1)

    def dirty(x):
        return jnp.where(MASK, x, garbage)

    def run(new, clean):
        f = (lambda x: x) if clean else dirty
        changes = dict(
            old_logprobs=f(OLD), sampler_logprobs=f(OLD - 0.1), ref_logprobs=f(OLD), advantages=f(ADVANTAGES)
        )
        return jax.value_and_grad(lambda n: _scalar(cfg, TOKEN_MEAN, n, **changes))(f(new))

    for got, want in zip(run(NEW, clean=False), run(NEW, clean=True), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_sampler_value_that_is_missing_is_neutral():
    cfg = dataclasses.replace(CFG, importance_cap=2.0)
    sampler = OLD.at[0, 0].set(jnp.nan).at[1, 0].set(-jnp.inf)
    _, metrics = policy_loss(cfg, NEW, OLD, ADVANTAGES, MASK, SEGMENTS, sampler)
    np.testing.assert_array_equal(metrics["importance_weight"], MASK)
    assert float(metrics["mismatch_k3"].sum()) == 0


def test_sft_is_cross_entropy():
    ones = jnp.ones((2, 4))
    got, grad = jax.value_and_grad(lambda n: _scalar(LossConfig(loss="sft"), TOKEN_MEAN, n, advantages=ones))(NEW)
    np.testing.assert_allclose(got, (0.5 + 1.2 + 1 + 1.6 + 0.5) / 5, rtol=1e-6)
    np.testing.assert_allclose(grad, -TOKEN_MEAN)


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="loss='ppo'; one of"):
        LossConfig(loss="ppo")
    with pytest.raises(ValueError, match="importance_level"):
        LossConfig(importance_level="word")
    with pytest.raises(ValueError, match="dual_clip"):
        LossConfig(dual_clip=1.0)
