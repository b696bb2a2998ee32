import jax
import numpy as np
import pytest

from skillrl.checkpoint import Checkpoints, load_policy
from skillrl.models import lora
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.rl.learner import Learner, LearnerConfig, trained_part
from skillrl.rl.losses import LossConfig
from skillrl.rl.packing import pack

CFG = LearnerConfig(
    loss=LossConfig(kl_coef=0.1), micro_rows=8, logprob_chunk=40, learning_rate=1e-2, lora_rank=3, lora_alpha=6.0
)


@pytest.fixture(scope="module")
def learner(cfg, mesh):
    return Learner(cfg, CFG, mesh)


@pytest.fixture(scope="module")
def batch(episodes):
    return pack(episodes, np.linspace(-1, 1, 9), length=40, rows_multiple=8)


@pytest.fixture(scope="module")
def run(learner, batch):
    """The state after three updates, and the metrics of each."""
    state, metrics = learner.init(0), []
    for _ in range(3):
        state, now = learner.update(state, batch)
        metrics.append(now)
    return state, metrics


@pytest.fixture(scope="module")
def learned(run):
    return run[0]


def _assert_equal(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_merged_weights_are_worked_out_by_hand(learner, learned):
    merged = jax.device_get(learner.policy_params(learned)["blocks"])
    base, adapters = jax.device_get((learned.params["blocks"], learned.adapters["blocks"]))
    assert float(learned.adapters["scale"]) == 2.0
    q, o, down = (adapters[name] for name in ("q_DNH", "o_NHD", "down_FD"))
    want = base["q_DNH"] + 2 * np.einsum("ldr,lrnh->ldnh", q["a"], q["b"])
    np.testing.assert_allclose(merged["q_DNH"], want, atol=1e-6)
    want = base["o_NHD"] + 2 * np.einsum("lnhr,lrd->lnhd", o["a"], o["b"])
    np.testing.assert_allclose(merged["o_NHD"], want, atol=1e-6)
    want = base["down_FD"] + 2 * np.einsum("lfr,lrd->lfd", down["a"], down["b"])
    np.testing.assert_allclose(merged["down_FD"], want, atol=1e-6)
    assert np.abs(merged["q_DNH"] - base["q_DNH"]).max() > 1e-3
    np.testing.assert_array_equal(merged["attention_norm_D"], base["attention_norm_D"])


def test_only_adapters_are_trained(learner, learned):
    fresh = learner.init(0)
    _assert_equal(learned.params, fresh.params)
    assert float(learned.adapters["scale"]) == float(fresh.adapters["scale"])
    for name, adapter in learned.adapters["blocks"].items():
        for part in ("a", "b"):
            assert (adapter[part] != fresh.adapters["blocks"][name][part]).any(), (name, part)
    numbers = sum(x.size for x in jax.tree.leaves(trained_part(fresh.params, fresh.adapters)))
    assert sum(x.size for x in jax.tree.leaves(learned.opt_state) if x.ndim) == 2 * numbers


def test_fresh_adapters_change_nothing_and_learn_through_b_first(learner, batch):
    state = learner.init(0)
    plain = learner.logprobs(state.params, batch)
    np.testing.assert_array_equal(learner.logprobs(state.params, batch, state.adapters), plain)
    extra = {"ref_logprobs": plain}
    grads, _ = learner._batch_gradient((state.params, state.adapters), batch, extra, 1.0)
    assert set(grads) == {"blocks"}
    for adapter in grads["blocks"].values():
        assert not adapter["a"].any() and adapter["b"].any()


def test_the_merged_policy_computes_what_the_adapters_do(learner, learned, batch):
    with_adapters = learner.logprobs(learned.params, batch, learned.adapters)
    np.testing.assert_allclose(learner.logprobs(learner.policy_params(learned), batch), with_adapters, atol=1e-6)
    assert np.abs(with_adapters - learner.logprobs(learned.params, batch)).max() > 1e-3


def test_the_reference_of_the_penalty_is_the_policy_without_adapters(run):
    first, *_, last = run[1]
    assert first["ref_kl"] == pytest.approx(0, abs=1e-9) and last["ref_kl"] > 1e-6


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, mesh, learner, learned, batch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, learned, learner.model, {"n": 3})
    want_policy = jax.device_get(learner.policy_params(learned))
    state, extra = checkpoints.restore_latest(learner.abstract_state())
    assert extra == {"n": 3}
    _assert_equal(jax.device_get(state.adapters), jax.device_get(learned.adapters))
    resumed, _ = learner.update(state, batch)
    straight = learner.init(0)
    for _ in range(4):
        straight, _ = learner.update(straight, batch)
    _assert_equal((resumed.adapters, resumed.opt_state), (straight.adapters, straight.opt_state))
    checkpoints.close()

    _, model, params, _ = load_policy(tmp_path, mesh)
    assert model == learner.model
    _assert_equal(params, want_policy)


def test_experts_are_left_alone_and_what_stands_beside_them_is_adapted():
    cfg = ModelConfig(
        vocab=64, embed=16, layers=3, q_heads=4, kv_heads=2, head_dim=8, mlp=32, experts=4, experts_per_token=2,
        expert_mlp=8, shared_mlp=8, first_dense_layers=1, family="glm4_moe", router="sigmoid",
    )  # fmt: skip
    abstract = models.abstract_params(cfg)
    adapters = jax.eval_shape(lambda key: lora.init_adapters(abstract, 2, 4.0, key), jax.random.key(0))
    attention = {"q_DNH", "k_DKH", "v_DKH", "o_NHD"}
    assert set(adapters["blocks"]) == attention | {"gate_DF", "up_DF", "down_FD"}
    assert set(adapters["moe_blocks"]) == attention | {"shared_gate_DF", "shared_up_DF", "shared_down_FD"}
    assert adapters["moe_blocks"]["o_NHD"]["a"].shape == (2, 4, 8, 2)
    assert adapters["moe_blocks"]["o_NHD"]["b"].shape == (2, 2, 16)
    axes = lora.adapter_axes(models.param_axes(cfg))["moe_blocks"]["q_DNH"]
    assert axes == {"a": ("layer", "embed", None), "b": ("layer", None, "heads", "head_dim")}
