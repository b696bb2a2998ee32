import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import kernel as jax_kernel
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ref_ragged_paged_attention

from skillrl.models import paged
from skillrl.models import policy as models
from skillrl.models.cache import PagedCache, Ragged

PAGE, WIDTH = 8, 6


@pytest.fixture(scope="module")
def policy(cfg, mesh):
    return models.Policy.create(cfg, mesh, seed=0)


def ragged_of(counts, lengths, table):
    """One replica; `counts` new tokens of each row, which then has `lengths`."""
    starts = np.cumsum([0, *counts])
    rows = np.asarray([len(counts)])
    return Ragged(*(jnp.asarray(x, jnp.int32) for x in (starts[None], [lengths], rows, np.asarray(table)[None])))


@functools.partial(jax.jit, static_argnums=0)
def _decode(cfg, params, tokens, ragged, cache):
    policy = models.merge(cfg, params)
    hidden, cache = policy.decode(tokens, ragged, cache)
    return jax.nn.log_softmax(policy.logits(hidden)), cache


def decode(policy, cache, tokens, counts, lengths, table, size=32):
    """Log-probabilities of the new tokens of each row, and the cache."""
    new = [row[end - count : end] for row, count, end in zip(tokens, counts, lengths, strict=False)]
    flat = np.concatenate(new)
    flat = np.pad(flat, (0, size - len(flat)))[None]
    logprobs, cache = _decode(policy.cfg, models.split(policy), flat, ragged_of(counts, lengths, table), cache)
    return np.split(np.asarray(logprobs[0, : sum(counts)]), np.cumsum(counts)[:-1]), cache


def packed(policy, tokens):
    tokens = jnp.asarray(tokens)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return jax.nn.log_softmax(policy.logits(policy(tokens, positions, jnp.ones_like(tokens))))


def some_tokens(rows, length):
    return np.random.default_rng(0).integers(0, 64, (rows, length)).astype(np.int32)


def test_positions_by_hand():
    # Rows of 2, 0 and 3 new tokens that then hold 5, 0 and 3; a fourth row lies beyond `rows`.
    ragged = Ragged(jnp.array([[0, 2, 2, 5, 6]]), jnp.array([[5, 0, 3, 9]]), jnp.array([3]), jnp.zeros((1, 4, 1), int))
    rows, positions = ragged.positions(8)
    assert positions.tolist() == [[3, 4, 0, 1, 2, -1, -1, -1]]
    assert rows[0, :5].tolist() == [0, 0, 2, 2, 2]


LAYOUTS = pytest.mark.parametrize("by_head", [False, True], ids=["interleaved", "by head"])


@LAYOUTS
@pytest.mark.parametrize("schedule", [[(9, 5), (1, 1), (1, 1)], [(7, 20), (16, 1), (0, 2)], [(23, 7)]], ids=str)
def test_decoding_gives_the_packed_logprobs(cfg, policy, schedule, by_head):
    """Ragged chunks and single steps, over pages in any order."""
    tokens, table = some_tokens(2, 24), np.random.default_rng(1).permutation(2 * WIDTH).reshape(2, WIDTH)
    want = np.asarray(packed(policy, tokens))
    cache, lengths = PagedCache.create(cfg, 2 * WIDTH, PAGE, by_head=by_head), np.zeros(2, int)
    for counts in schedule:
        lengths = lengths + counts
        got, cache = decode(policy, cache, tokens, counts, lengths, table)
        for row, (logprobs, count, length) in enumerate(zip(got, counts, lengths, strict=True)):
            np.testing.assert_allclose(logprobs, want[row, length - count : length], atol=1e-4)


@LAYOUTS
def test_padding_is_written_nowhere(cfg, policy, by_head):
    cache = PagedCache.create(cfg, 4, PAGE, by_head=by_head)
    _, after = decode(policy, cache, some_tokens(2, 8), (3, 0), (3, 0), [[2, 3], [0, 1]], size=16)
    for written in after.arrays:
        written = np.asarray(written).any(axis=(1, 3) if by_head else (2, 3)).reshape(cfg.layers, 4, PAGE)
        for layer in written:
            assert [page.any() for page in layer] == [False, False, True, False]
            assert layer[2].tolist() == [True] * 3 + [False] * 5


@LAYOUTS
def test_what_is_stale_changes_nothing(cfg, policy, by_head):
    """Neither what stands in the pages from before, nor what other rows do: bit by bit."""
    tokens, empty = some_tokens(3, 40), PagedCache.create(cfg, 18, PAGE, by_head=by_head)
    clean, _ = decode(policy, empty, tokens, (20, 0, 0), (20, 0, 0), np.zeros((3, 6)) + range(6))
    noise = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape) * 100, empty)
    table = np.arange(18).reshape(3, 6)
    among, _ = decode(policy, noise, tokens, (20, 11, 1), (20, 11, 40), table)
    np.testing.assert_array_equal(clean[0], among[0])


@LAYOUTS
def test_what_is_not_finite_never_gets_into_pages(cfg, policy, by_head):
    params = models.split(policy)
    broken = models.merge(cfg, dict(params, embed_VD=params["embed_VD"] * jnp.nan))
    empty = PagedCache.create(cfg, 4, PAGE, by_head=by_head)
    logprobs, cache = decode(broken, empty, some_tokens(1, 8), (5,), (5,), [[0, 1]])
    assert np.isnan(logprobs[0]).all()
    assert all(np.isfinite(x).all() for x in cache.arrays)


@LAYOUTS
def test_decoding_updates_the_cache_in_place(cfg, policy, by_head):
    cache = PagedCache.create(cfg, 8, PAGE, by_head=by_head)
    ragged = ragged_of((1, 1), (9, 3), np.arange(8).reshape(2, 4))
    step = jax.jit(lambda c: policy.decode(jnp.zeros((1, 2), jnp.int32), ragged, c)[1], donate_argnums=0)
    assert step.lower(cache).compile().memory_analysis().alias_size_in_bytes >= sum(x.nbytes for x in cache.arrays)


def attention_inputs(counts, lengths, *, heads=4, kv_heads=2, width=16, tokens=32):
    """Queries, keys and values as the kernel for TPUs takes them, and the rows."""
    rng = np.random.default_rng(0)
    rows, pages = len(counts), len(counts) * WIDTH
    return (
        jnp.asarray(rng.normal(size=(tokens, heads, width)), jnp.float32),
        jnp.asarray(rng.normal(size=(pages, PAGE, 2 * kv_heads, width)), jnp.float32),
        jnp.asarray(lengths, jnp.int32),
        jnp.asarray(rng.permutation(pages).reshape(rows, WIDTH), jnp.int32),
        jnp.asarray(np.cumsum([0, *counts]), jnp.int32),
        jnp.int32(rows),
    )


def interleaved(kv):
    return PagedCache((kv,))


def by_head(kv):
    return PagedCache(tuple(kv[:, :, j::2].swapaxes(1, 2) for j in range(2)))


@functools.partial(jax.jit, static_argnums=0)
def attend(form, q, kv, *rest):
    """With one of FORMS."""
    function, layout = form
    return function(q, layout(kv), *rest)


RAGGED = [((1, 1, 1, 1), (1, 48, 17, 8)), ((20, 1, 7, 1), (20, 33, 40, 8))]
FORMS = [
    (paged.attend_pages, interleaved),
    (paged.attend_pages, by_head),
    (paged.attend_pages_on_cpu, interleaved),
    (functools.partial(paged.attend_pages_on_gpu, interpret=True), by_head),
]
FORM_NAMES = ["jnp", "jnp by head", "CPU", "GPU"]


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize("sizes", [{}, {"heads": 16, "kv_heads": 8, "width": 128}], ids=["few heads", "many heads"])
@pytest.mark.parametrize(
    ("counts", "lengths", "tokens"), [(*RAGGED[0], 4), (*RAGGED[0], 32), (*RAGGED[1], 32)], ids=str
)
def test_attention_over_pages_is_that_of_the_kernels_reference(form, sizes, counts, lengths, tokens):
    inputs = attention_inputs(counts, lengths, tokens=tokens, **sizes)
    *arrays, rows = inputs
    want = ref_ragged_paged_attention(*arrays, rows[None], sm_scale=inputs[0].shape[-1] ** -0.5)
    np.testing.assert_allclose(attend(form, *inputs)[: len(want)], want, atol=1e-5)


@pytest.fixture
def interpreted(monkeypatch):
    """jax's kernel in Pallas' plain interpreter, which emulates its copies and semaphores on any platform.

    The TPU interpreter (`force_tpu_interpret_mode`) stumbles over the kernel's reshaped references, and the plain one
    over the type of its literal indices, which lacks a shape; both in jax 0.10.2.
    """
    interpreter = types.SimpleNamespace(**vars(pallas))
    interpreter.pallas_call = functools.partial(pallas.pallas_call, interpret=True)
    monkeypatch.setattr(jax_kernel, "pl", interpreter)
    monkeypatch.setattr("jax._src.literals.TypedInt.shape", (), raising=False)
    yield
    # What was traced with the interpreter is not to be found by others.
    jax_kernel.ragged_paged_attention.clear_cache()


@pytest.mark.deep
@pytest.mark.parametrize(("counts", "lengths", "dtype", "cache_dtype"), [
    (*RAGGED[1], "float32", "float32"),
    (*RAGGED[0], "float32", "float32"),
    (*RAGGED[1], "bfloat16", "bfloat16"),
    (*RAGGED[1], "bfloat16", "float8_e4m3fn"),
], ids=str)  # fmt: skip
def test_the_kernel_for_tpus_agrees_with_the_reference_and_with_our_forms(
    interpreted, counts, lengths, dtype, cache_dtype
):
    q, kv, *rest, rows = attention_inputs(counts, lengths, width=128, tokens=sum(counts))
    inputs = q.astype(dtype), kv.astype(cache_dtype), *rest
    scale = None if dtype == cache_dtype else 1.0
    reference = ref_ragged_paged_attention(*inputs, rows[None], sm_scale=128**-0.5, k_scale=scale, v_scale=scale)
    got = np.asarray(attend((paged.attend_pages_on_tpu, interleaved), *inputs, rows), np.float32)
    forms = [form for form in FORMS if cache_dtype == dtype or form is not FORMS[-1]]
    for want in (reference, *(attend(form, *inputs, rows) for form in forms)):
        np.testing.assert_allclose(got, np.asarray(want, np.float32), atol=1e-5 if dtype == "float32" else 2e-2)


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_a_row_s_attention_is_the_same_bits_beside_others(form):
    q, kv, lengths, table, starts, rows = attention_inputs((1, 1, 1, 1), (17, 48, 1, 8), tokens=4)
    beside = attend(form, q, kv, lengths, table, starts, rows)
    alone = attend(form, q, kv, lengths * (jnp.arange(4) == 0), table, starts, rows)
    np.testing.assert_array_equal(alone[0], beside[0])
