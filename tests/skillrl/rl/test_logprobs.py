import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skillrl import sharding
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.rl.logprobs import token_logprobs

ROWS, LENGTH, VOCAB, EMBED = 8, 32, 128, 16
MESHES = [{"fsdp": 4, "context": 2}, {"data": 2, "context": 2, "tensor": 2}, {"expert": 2, "tensor": 4}]


@pytest.fixture(scope="module")
def policy():
    cfg = ModelConfig(vocab=VOCAB, embed=EMBED, layers=1, q_heads=2, kv_heads=2, head_dim=8, mlp=16, tied=False)
    return nnx.merge(*nnx.split(models.Policy(cfg, rngs=nnx.Rngs(0))))


@pytest.fixture(scope="module")
def case():
    """Hidden states, tokens and a mask that is empty in one row, full in another and uneven in the rest."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(ROWS, LENGTH, EMBED)).astype(np.float32)
    mask = rng.random((ROWS, LENGTH)) < np.linspace(0, 1, ROWS)[:, None]
    mask[0], mask[1, 5:], mask[-1] = False, False, True
    return jnp.asarray(hidden), jnp.asarray(rng.integers(0, VOCAB, (ROWS, LENGTH))), jnp.asarray(mask)


def _values(policy, hidden, tokens, mask):
    """Log-probabilities, entropies, and the gradient of a weighted sum by hidden states and output weights."""
    weights = np.linspace(-1, 1, ROWS * LENGTH, dtype=np.float32).reshape(ROWS, LENGTH)
    params = models.split(policy)

    def loss(hidden, head):
        now = models.merge(policy.cfg, params | {"head_DV": head})
        logprobs, entropy = token_logprobs(now, hidden, tokens, mask, 0.7, 4)
        return (weights * logprobs).sum(), (logprobs, entropy)

    grads, values = jax.grad(loss, argnums=(0, 1), has_aux=True)(hidden, params["head_DV"])
    return *values, *grads


@pytest.fixture(scope="module")
def want(policy, case):
    return jax.device_get(jax.jit(lambda *args: _values(policy, *args))(*case))


def _placed(mesh, hidden, tokens, mask):
    wide, narrow = sharding.named(mesh, "batch", "tokens", None), sharding.named(mesh, "batch", "tokens")
    return jax.device_put(hidden, wide), jax.device_put(tokens, narrow), jax.device_put(mask, narrow)


def test_one_device_gives_the_whole_softmax(policy, case, want):
    hidden, tokens, mask = (case[0], *map(np.asarray, case[1:]))
    free = jax.nn.log_softmax(policy.logits(hidden) / 0.7)[:, :-1]
    logprobs = np.take_along_axis(np.asarray(free), tokens[:, 1:, None], axis=-1)[..., 0]
    # The first token follows nothing: 0, though its row is masked in.
    np.testing.assert_allclose(want[0][:, 1:], np.where(mask[:, 1:], logprobs, 0), atol=1e-5)
    np.testing.assert_allclose(want[1][:, 1:], np.where(mask[:, 1:], -(np.exp(free) * free).sum(-1), 0), atol=1e-5)
    assert not want[0][:, 0].any() and not want[1][:, 0].any()


@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_any_mesh_gives_the_same(policy, case, want, axes):
    mesh = sharding.make_mesh(axes, devices=jax.devices()[:8])
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda *args: _values(policy, *args)).lower(*_placed(mesh, *case)).compile()
        got = jax.device_get(compiled(*_placed(mesh, *case)))
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert got[0].any() and not got[0][~np.asarray(case[2])].any()


def test_hidden_states_stay_where_they_are(policy, case):
    """No collective carries more than the output weights, and nothing holds logits of a row."""
    mesh = sharding.make_mesh({"fsdp": 4, "context": 2}, devices=jax.devices()[:8])
    with jax.set_mesh(mesh):
        text = jax.jit(lambda *args: _values(policy, *args)).lower(*_placed(mesh, *case)).compile().as_text()
    moved = re.findall(r"= (.*?) (?:all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter)\(", text)
    sizes = [
        int(np.prod([int(n) for n in dims.split(",") if n])) for s in moved for dims in re.findall(r"\[(.*?)\]", s)
    ]
    assert sizes and max(sizes) <= VOCAB * EMBED
    shapes = {tuple(int(n) for n in dims.split(",")) for dims in re.findall(r"f32\[([\d,]+)\]", text)}
    with_vocab = [shape for shape in shapes if VOCAB in shape and EMBED not in shape]
    assert with_vocab and max(int(np.prod(shape)) for shape in with_vocab) <= 8 * VOCAB
    assert not any(int(np.prod(shape)) >= ROWS * LENGTH * EMBED for shape in shapes)


def test_a_row_is_cut_into_chunks_of_any_size(policy, case):
    hidden, tokens, mask = case
    score = jax.jit(lambda chunk: token_logprobs(policy, hidden, tokens, mask, 0.7, chunk), static_argnums=0)
    for chunk in (5, LENGTH, 100):
        for ours, theirs in zip(score(chunk), score(4), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_nothing_masked_in_is_all_zero(policy, case):
    hidden, tokens, mask = case
    logprobs, entropy = jax.jit(lambda m: token_logprobs(policy, hidden, tokens, m, 1.0, 8))(jnp.zeros_like(mask))
    assert not logprobs.any() and not entropy.any()
