import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from episodes import make_episode

from skillrl import sharding
from skillrl.models import policy as models
from skillrl.models.cache import PagedCache, Ragged
from skillrl.rl.learner import Learner, LearnerConfig, LearnerError
from skillrl.rl.logprobs import token_logprobs
from skillrl.rl.losses import LossConfig
from skillrl.rl.packing import loss_weights, pack

# Plain gradient descent would show gradients; AdamW hides their scale. Large clip, so that the norm shows as well.
CFG = LearnerConfig(
    loss=LossConfig(importance_cap=2.0), micro_rows=4, logprob_chunk=16, learning_rate=1e-2, max_grad_norm=1e3
)


@pytest.fixture(scope="module")
def learner(cfg, mesh):
    return Learner(cfg, CFG, mesh)


@pytest.fixture(scope="module")
def advantages(episodes):
    return np.random.default_rng(1).normal(size=len(episodes))


@pytest.fixture(scope="module")
def batch(episodes, advantages):
    return pack(episodes, advantages, length=40, rows_multiple=8)


def _gradient(learner, batch, params=None):
    """Accumulated gradient and loss of one update, before the optimizer."""
    params = learner.init(0).params if params is None else params
    grads, sums = learner._batch_gradient((params, {}), batch, {}, 1.0)
    return jax.device_get(grads), float(sums["loss"])


def _assert_close(left, right, atol=2e-6):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.fixture(scope="module")
def reference(learner, batch):
    return _gradient(learner, batch)


def test_logprobs_are_those_of_the_whole_softmax(cfg, mesh, episodes, learner, batch):
    """Chunked, sorted and skipped = log_softmax of all logits at the temperature; entropy as well."""
    policy = models.Policy.create(cfg, mesh, seed=0)
    hidden = jax.jit(policy.__call__)(batch.tokens, batch.positions, batch.segment_ids)
    full = jax.nn.log_softmax(policy.logits(hidden) / 0.7)
    want = np.take_along_axis(np.asarray(full[:, :-1]), batch.tokens[:, 1:, None], axis=-1)[..., 0]
    want = np.where(batch.loss_mask, np.pad(want, ((0, 0), (1, 0))), 0)
    want_entropy = np.where(batch.loss_mask, np.pad(-(jnp.exp(full) * full).sum(-1)[:, :-1], ((0, 0), (1, 0))), 0)
    score = jax.jit(functools.partial(token_logprobs, policy), static_argnums=4)
    for chunk in (16, 7, 100):
        got, entropy = score(hidden, batch.tokens, jnp.asarray(batch.loss_mask), 0.7, chunk)
        np.testing.assert_allclose(got, want, atol=1e-5)
        np.testing.assert_allclose(entropy, want_entropy, atol=1e-5)
    scored = learner.logprobs(models.split(policy), batch)
    assert scored.shape == batch.tokens.shape and not scored[~batch.loss_mask].any()


def test_decoding_gives_the_learners_logprobs(cfg, mesh, learner, episodes, batch):
    """What a sampler computes while it decodes is what the learner computes on packed rows."""
    params = learner.init(3).params
    policy = models.merge(cfg, params)
    scored = learner.logprobs(params, batch)
    episode = max(episodes, key=lambda e: len(e.tokens))
    n = len(episode.tokens)
    cache, outs, end = PagedCache.create(cfg, 8, 8), [], 0
    step = jax.jit(lambda t, r, c: policy.decode(t, r, c))
    for count in [5] + [1] * (n - 5):
        end += count
        ragged = Ragged(np.array([[0, count]]), np.array([[end]]), np.array([1]), np.arange(8)[None, None])
        hidden, cache = step(episode.tokens[None, end - count : end], ragged, cache)
        outs.append(hidden)
    logprobs = jax.nn.log_softmax(policy.logits(jnp.concatenate(outs, axis=1)))[0]
    decoded = np.asarray(logprobs[np.arange(n - 1), episode.tokens[1:]])
    row, start = next(
        (r, s)
        for r in range(len(batch.tokens))
        for s in range(40 - n + 1)
        if np.array_equal(batch.tokens[r, s : s + n], episode.tokens)
    )
    at = np.flatnonzero(episode.loss_mask)
    np.testing.assert_allclose(scored[row, start + at], decoded[at - 1], atol=1e-4)


def test_packed_equals_one_episode_a_row(learner, episodes, advantages, batch, reference):
    alone = [pack([e], [a], length=40) for e, a in zip(episodes, advantages, strict=True)]
    rows = {f.name: np.concatenate([getattr(b, f.name) for b in alone]) for f in dataclasses.fields(batch)}
    whole = {e.tokens.tobytes(): w for e, w in zip(episodes, loss_weights(episodes, "skill_token_mean"), strict=True)}
    rows["loss_weights"] = np.stack(
        [np.where(m, whole[e.tokens.tobytes()], 0) for m, e in zip(rows["loss_mask"], episodes, strict=True)]
    ).astype(np.float32)
    rows = {n: np.concatenate([x, np.zeros((3, 40), x.dtype)]) for n, x in rows.items()}
    grads, loss = _gradient(learner, type(batch)(**rows))
    assert loss == pytest.approx(reference[1], abs=1e-6)
    _assert_close(grads, reference[0])


@pytest.mark.parametrize("change", [{"micro_rows": 8, "logprob_chunk": 40}, {"micro_rows": 2}], ids=str)
def test_the_cut_into_micro_batches_does_not_matter(cfg, mesh, batch, reference, change):
    grads, loss = _gradient(Learner(cfg, dataclasses.replace(CFG, **change), mesh), batch)
    assert loss == pytest.approx(reference[1], abs=1e-6)
    _assert_close(grads, reference[0])


@pytest.mark.parametrize("axes", [{"fsdp": 4}, {"fsdp": 2, "tensor": 2}], ids=str)
def test_any_mesh_learns_the_same(cfg, learner, batch, axes):
    mesh = sharding.make_mesh(axes, devices=jax.devices()[:4])
    states = []
    for one in (learner, Learner(cfg, CFG, mesh)):
        state = one.init(0, jax.device_get(learner.init(0).params))
        for _ in range(2):
            state, metrics = one.update(state, batch)
        states.append((jax.device_get(state.params), metrics))
    _assert_close(states[0][0], states[1][0], atol=1e-4)
    for name, value in states[0][1].items():
        assert states[1][1][name] == pytest.approx(value, abs=1e-4, rel=1e-3), name


def test_values_under_the_mask_do_not_matter(learner, batch, reference):
    dirty = dataclasses.replace(
        batch,
        advantages=np.where(batch.loss_mask, batch.advantages, np.nan).astype(np.float32),
        sampler_logprobs=np.where(batch.loss_mask, batch.sampler_logprobs, -np.inf).astype(np.float32),
    )
    grads, loss = _gradient(learner, dirty)
    assert loss == reference[1]
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(reference[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_metrics_per_skill_add_up(learner, episodes, batch):
    state, metrics = learner.update(learner.init(0), batch)
    assert (int(state.step), int(state.version), metrics["version"]) == (1, 1, 1)
    counts = {skill: sum(int(e.loss_mask.sum()) for e in episodes if e.task.skill == skill) for skill in
              ("editing", "review", "localization")}  # fmt: skip
    assert {s: metrics[f"tokens/{s}"] for s in counts} == counts
    assert metrics["tokens"] == sum(counts.values())
    for name in ("mismatch_k3", "entropy", "clip_fraction", "importance_weight"):
        mean = sum(metrics[f"{name}/{s}"] * n for s, n in counts.items()) / metrics["tokens"]
        assert metrics[name] == pytest.approx(mean, rel=1e-5, abs=1e-9)
    assert metrics["mismatch_ratio_max"] == max(metrics[f"mismatch_ratio_max/{s}"] for s in counts)
    assert "tokens/reproduction" not in metrics
    assert metrics["clip_fraction"] == metrics["approx_kl"] == 0  # on policy


def test_one_on_policy_update_equals_one_with_scored_old_logprobs(cfg, mesh, learner, batch):
    """Two epochs at learning rate 0: the second starts from ratio 1 as well, and nothing moves."""
    still = Learner(cfg, dataclasses.replace(CFG, epochs=2, learning_rate=0.0), mesh)
    state, metrics = still.update(still.init(0), batch)
    _, once = learner.update(learner.init(0), batch)
    assert metrics["loss"] == pytest.approx(once["loss"], abs=1e-6)
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-9)
    _assert_close(state.params, still.init(0).params, atol=0)
    assert (int(state.step), int(state.version)) == (2, 1)


def test_minibatches_update_several_times_and_drift_is_measured(cfg, mesh, batch):
    several = Learner(cfg, dataclasses.replace(CFG, epochs=2, minibatches=2), mesh)
    state, metrics = several.update(several.init(0), batch)
    again, repeated = several.update(several.init(0), batch)
    assert int(state.step) == 4 and int(state.version) == 1
    assert metrics["approx_kl"] > 0 and metrics == repeated
    _assert_close(state.params, again.params, atol=0)
    with pytest.raises(LearnerError, match="too few for 3 minibatches"):
        bad = Learner(cfg, dataclasses.replace(CFG, minibatches=3), mesh)
        bad.update(bad.init(0), batch)


def test_kl_to_itself_is_zero_and_needs_a_reference(cfg, mesh, batch):
    penalised = Learner(cfg, dataclasses.replace(CFG, loss=LossConfig(kl_coef=0.5)), mesh)
    state = penalised.init(0)
    with pytest.raises(LearnerError, match="ref_params"):
        penalised.update(state, batch)
    _, metrics = penalised.update(state, batch, ref_params=penalised.init(0).params)
    assert metrics["ref_kl"] == pytest.approx(0, abs=1e-9)
    _, metrics = penalised.update(penalised.init(0), batch, ref_params=penalised.init(5).params)
    assert metrics["ref_kl"] > 0.01


def test_a_poisoned_update_is_skipped_counted_and_fatal_in_a_row(cfg, mesh, learner, batch):
    advantages = batch.advantages.copy()
    advantages[tuple(np.argwhere(batch.loss_mask)[0])] = np.nan
    poisoned = dataclasses.replace(batch, advantages=advantages)
    clean = learner.init(0)
    before = jax.device_get((clean.params, clean.opt_state))
    state, metrics = learner.update(clean, poisoned)
    assert metrics["skipped_updates"] == 1 and int(state.skipped) == 1
    _assert_close((state.params, state.opt_state), before, atol=0)
    state, _ = learner.update(state, batch)
    assert int(state.skipped) == 0

    for _ in range(CFG.max_skipped - 1):
        state, _ = learner.update(state, poisoned)
    with pytest.raises(LearnerError, match="5 updates in a row .* lower learning_rate"):
        learner.update(state, poisoned)


def test_layout_errors_name_the_remedy(cfg, learner, episodes):
    with pytest.raises(LearnerError, match="pack with rows_multiple=4"):
        learner.update(learner.init(0), pack(episodes, [0.0] * 9, length=40, rows_multiple=5))
    with pytest.raises(sharding.ShardingError, match="micro_rows=4 is no multiple of the mesh's 8 row shards"):
        Learner(cfg, CFG, sharding.make_mesh({"fsdp": 8}))
    halves = Learner(cfg, CFG, sharding.make_mesh({"context": 2}, devices=jax.devices()[:2]))
    with pytest.raises(LearnerError, match="rows of 39 tokens do not divide over the mesh's context=2"):
        halves.logprobs({}, pack(episodes, [0.0] * 9, length=39, rows_multiple=4))


def test_schedule_and_decay(cfg, mesh):
    warm = Learner(cfg, dataclasses.replace(CFG, warmup_steps=3, decay_steps=10, final_learning_rate=1e-3), mesh)
    rates = [float(warm.schedule(step)) for step in range(12)]
    assert rates[0] == pytest.approx(0.25e-2) and rates[3] == pytest.approx(1e-2)
    assert rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)
    assert rates[10] == rates[11] == pytest.approx(1e-3)


def test_imported_parameters_are_not_consumed(learner, batch):
    mine = models.split(models.merge(learner.model, learner.init(7).params))
    state = learner.init(0, mine)
    learner.update(state, batch)
    assert np.isfinite(np.asarray(mine["embed_VD"])).all()


@pytest.mark.slow
def test_copying_is_learned(cfg, mesh):
    """Sequences a b c d | a b c d: the supervised loss on the second half falls towards 0."""
    task = Learner(cfg, dataclasses.replace(CFG, loss=LossConfig(loss="sft"), learning_rate=3e-3, micro_rows=16), mesh)
    state, rng = task.init(0), np.random.default_rng(0)
    losses = []
    for _ in range(400):
        halves = rng.integers(0, 16, (64, 4))
        episodes = [make_episode([*h, 20, *h], [0] * 5 + [1] * 4, number=i) for i, h in enumerate(halves)]
        state, metrics = task.update(state, pack(episodes, [1.0] * 64, length=36, rows_multiple=16))
        losses.append(metrics["loss"])
    assert losses[0] > 2.5 and np.mean(losses[-10:]) < 0.5, losses[::40]
