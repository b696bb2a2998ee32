"""Every kernel of packed rows against one naive softmax, in values and gradients, on one device and on meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpu import gpu_mesh

from skillrl import sharding
from skillrl.models.attention import packed_attention


def naive(q, k, v, segment_ids):
    groups = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x, groups, axis=2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / q.shape[-1] ** 0.5
    causal = jnp.tril(jnp.ones((q.shape[1], q.shape[1]), bool))
    mask = causal & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)), v)


def rows(count, length, q_heads, kv_heads, width, dtype=np.float32):
    """q, k, v and segment ids: three segments of uneven length, then padding; the last row is padding alone."""
    rng = np.random.default_rng(length + width)
    q, k, v = (rng.normal(size=(count, length, heads, width)).astype(dtype) for heads in (q_heads, kv_heads, kv_heads))
    cuts = np.array([length // 3 + 5, length // 3 + 6, length - 11])
    segments = np.where(np.arange(length) >= cuts[-1], 0, 1 + (np.arange(length)[:, None] >= cuts[:2]).sum(axis=1))
    segments = np.tile(segments, (count, 1)).astype(np.int32)
    segments[-1] = 0
    return q, k, v, segments


@functools.partial(jax.jit, static_argnums=0)
def outputs(attention, q, k, v, segment_ids):
    """The output and the gradients of a loss in which every output counts differently."""

    def loss(q, k, v):
        out = attention(q, k, v, segment_ids)
        return (jnp.sin(out.astype(jnp.float32)) * jnp.linspace(0.5, 1.5, out.shape[-1])).sum(), out

    grads, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    return out, *grads


def assert_same(got, want, atol):
    for name, a, b in zip(("out", "q", "k", "v"), got, want, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), atol=atol, err_msg=name)


def with_kernel(kernel):
    return functools.partial(packed_attention, kernel=kernel)


@pytest.mark.parametrize("kernel", ["jnp", "splash", "triton"])
@pytest.mark.parametrize(("q_heads", "kv_heads", "width", "length"), [(2, 2, 64, 256), (6, 2, 128, 200)], ids=str)
def test_every_kernel_gives_the_naive_result(kernel, q_heads, kv_heads, width, length):
    """256 tokens are several blocks, 200 are padded to whole ones."""
    inputs = rows(2, length, q_heads, kv_heads, width)
    assert_same(outputs(with_kernel(kernel), *inputs), outputs(naive, *inputs), atol=2e-5)


@pytest.mark.parametrize("kernel", ["splash", "triton"])
def test_kernels_compute_in_bfloat16(kernel):
    inputs = rows(2, 256, 4, 2, 64, jnp.bfloat16)
    exact = outputs(naive, *(x.astype(np.float32) if x.dtype == jnp.bfloat16 else x for x in inputs))
    got = outputs(with_kernel(kernel), *inputs)
    assert got[0].dtype == jnp.bfloat16
    for a, b in zip(got, exact, strict=True):  # bfloat16 has 8 bits
        assert np.abs(np.asarray(a, np.float32) - b).mean() < 2**-6 * np.abs(b).mean()


@pytest.mark.parametrize("kernel", ["jnp", "splash"])
@pytest.mark.parametrize("axes", [{"context": 2, "fsdp": 2, "tensor": 2}, {"context": 4, "expert": 2}], ids=str)
def test_tokens_split_over_the_mesh_change_nothing(kernel, axes):
    """1000 tokens: each device holds two chunks, and the last is padded."""
    inputs = rows(2, 1000, 4, 2, 64)
    mesh = sharding.make_mesh(axes, devices=jax.devices())
    want = outputs(naive, *inputs)
    with jax.set_mesh(mesh):
        got = outputs(
            with_kernel(kernel), *(jax.device_put(x, sharding.named(mesh, "batch", "tokens")) for x in inputs)
        )
    assert_same(got, want, atol=2e-5)


@pytest.mark.parametrize("kernel", ["splash", "triton"])
def test_kernels_run_on_meshes_of_rows_and_heads(kernel):
    inputs = rows(4, 256, 4, 2, 64)
    with jax.set_mesh(sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, devices=jax.devices())):
        got = outputs(with_kernel(kernel), *inputs)
    assert_same(got, outputs(naive, *inputs), atol=2e-5)


@pytest.mark.slow
def test_long_rows_take_memory_for_a_part_at_a_time():
    length = 4224
    inputs = rows(1, length, 2, 1, 8)
    inputs[-1][:] = np.arange(length) >= 3000
    assert_same(outputs(packed_attention, *inputs), outputs(naive, *inputs), atol=1e-4)
    compiled = outputs.lower(packed_attention, *inputs).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * length * length * 4 / 2


@pytest.mark.parametrize("shards", [2, 3, 8])
def test_devices_share_the_causal_triangle_evenly(shards):
    from skillrl.models import splash

    kernel = splash._kernel(256 * shards, 1, shards, interpret=True)
    positions = kernel.fwd_mask_info.q_sequence
    assert sorted(positions.tolist()) == list(range(256 * shards))
    work = (positions + 1).reshape(shards, -1).sum(axis=1)
    assert (work == work[0]).all()


@pytest.mark.parametrize("shards", [1, 2])
def test_two_corners_prepare_the_kernel_that_the_full_mask_prepares(shards):
    from skillrl.models import splash

    length = 512 * shards
    corners = splash._kernel(length, 2, shards, interpret=True)
    full = splash.masks.CausalMask((length, length))
    full.q_sequence = np.asarray(corners.fwd_mask_info.q_sequence)
    sizes = corners.kwargs["block_sizes"]
    want = splash.splash.make_splash_mha(
        splash.masks.MultiHeadMask([full] * 2), block_sizes=sizes, head_shards=1, q_seq_shards=shards
    )
    for name in ("fwd_mask_info", "dq_mask_info", "dkv_mask_info"):
        jax.tree.map(np.testing.assert_array_equal, getattr(corners, name), getattr(want, name))


def test_auto_is_plain_jax_on_a_cpu_and_bad_requests_name_the_remedy():
    inputs = rows(1, 16, 2, 1, 32)
    np.testing.assert_array_equal(packed_attention(*inputs), packed_attention(*inputs, kernel="jnp"))
    with pytest.raises(ValueError, match="'splash'.* head_dim .* multiple of 64, not 32; use attention='auto'"):
        packed_attention(*inputs, kernel="splash")
    with (
        jax.set_mesh(sharding.make_mesh({"context": 2}, devices=jax.devices()[:2])),
        pytest.raises(ValueError, match="cannot split tokens over the mesh axis 'context'"),
    ):
        packed_attention(*inputs, kernel="triton")


def test_the_triton_kernel_lowers_for_cuda():
    """Forward and backward to Triton's language; to compile that takes a GPU."""
    from jax import export

    from skillrl.models.triton import triton_attention

    q, k, v, ids = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in rows(1, 256, 4, 2, 64, jnp.bfloat16))
    attention = functools.partial(triton_attention, interpret=False)
    program = jax.jit(lambda *inputs: outputs(attention, *inputs))
    unsafe = [export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")]  # no promise that it stays stable
    with jax.sharding.use_abstract_mesh(gpu_mesh()):
        lowered = export.export(program, platforms=["cuda"], disabled_checks=unsafe)(q, k, v, ids).mlir_module()
    assert 'name = "mha_forward"' in lowered and 'name = "mha_backward"' in lowered
