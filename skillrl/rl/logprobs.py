"""Log-probabilities of tokens without ever holding the logits of a whole batch."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from skillrl import sharding
from skillrl.models.policy import Policy


def token_logprobs(
    policy: Policy,
    hidden: Float[Array, "B T D"],
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    temperature: float,
    chunk: int,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probability of each masked token given what came before it, and the entropy there; 0 elsewhere.

    Every device works on its own rows and tokens: it moves what predicts a masked token to the front and goes through
    `chunk` tokens a row at a time; chunks without any are skipped, so prompts and tool output cost nothing here. The
    logits of one chunk exist at a time, and again in the backward pass. With the vocabulary split over the mesh the
    softmax is summed over its parts (arXiv:1909.08053, section 3).
    """
    # The output at t - 1 predicts the token at t; the first token is never masked in. The narrow arrays are shifted,
    # not the hidden states, which with split tokens would have to travel.
    targets = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)))
    wanted = jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        score = functools.partial(
            _local_logprobs, temperature=temperature, chunk=chunk, vocab_axes=(), row_axes=(), all_axes=()
        )
    else:
        narrow = sharding.spec("batch", "tokens")
        score = jax.shard_map(
            functools.partial(
                _local_logprobs,
                temperature=temperature,
                chunk=chunk,
                vocab_axes=sharding.RULES["vocab"],
                row_axes=(*sharding.RULES["batch"], *sharding.RULES["tokens"]),
                all_axes=tuple(mesh.axis_names),
            ),
            in_specs=(sharding.spec("batch", "tokens", None), sharding.spec(None, "vocab"), narrow, narrow),
            out_specs=(narrow, narrow),
        )
    head = policy.embed_VD[...].T if policy.cfg.tied else policy.head_DV[...]
    # In the dtype of the products, so that half as much is gathered.
    logprobs, entropy = score(hidden, head.astype(hidden.dtype), targets, wanted)

    def shifted_back(x):
        return jnp.where(mask.at[:, 0].set(False), jnp.pad(x[:, :-1], ((0, 0), (1, 0))), 0)

    return shifted_back(logprobs), shifted_back(entropy)


def _local_logprobs(hidden, head, targets, wanted, *, temperature, chunk, vocab_axes, row_axes, all_axes):
    """Of one device's rows and tokens: log-probability of `targets` at `wanted` positions, and the entropy there."""
    rows, length = targets.shape
    count, size = rows * length, rows * min(chunk, length)
    order = jnp.argsort(~wanted.reshape(count), stable=True)

    def chunks(x):
        x = x.reshape(count, *x.shape[2:]).at[order].get(unique_indices=True, mode="promise_in_bounds")
        x = jnp.pad(x, ((0, -count % size),) + ((0, 0),) * (x.ndim - 1))
        return x.reshape(-1, size, *x.shape[1:])

    # The devices wait for the slowest one anyway, and none may leave a sum over the vocabulary's parts to the others.
    used = jax.lax.pmax(wanted.sum(), row_axes) if row_axes else wanted.sum()
    # Copied to the devices outside of the loop: its gradient is then summed over them once, not with every chunk. The
    # chunks' gradients are added up in float32.
    copied = tuple(axis for axis in all_axes if axis not in vocab_axes)
    head = (jax.lax.pcast(head, copied, to="varying") if copied else head).astype(jnp.float32)
    score = functools.partial(_chunk_logprobs, head, temperature, vocab_axes)

    @jax.checkpoint
    def one(args):
        index, hidden, targets = args
        # Zeros that depend on the device as the values do.
        zeros = (targets * 0).astype(jnp.float32)
        return jax.lax.cond(index * size < used, score, lambda *_: (zeros, zeros), hidden, targets)

    parts = (jnp.arange(-(-count // size)), chunks(hidden), chunks(targets))
    logprobs, entropy = jax.lax.map(one, parts)

    def restore(x):
        x = x.reshape(-1)[:count]
        return jnp.zeros_like(x).at[order].set(x, unique_indices=True, mode="promise_in_bounds").reshape(rows, length)

    return restore(logprobs), restore(entropy)


def _chunk_logprobs(head, temperature, vocab_axes, hidden, targets):
    def total(x):
        return jax.lax.psum(x, vocab_axes) if vocab_axes else x

    logits = jnp.einsum("td,dv->tv", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)
    logits = logits / temperature
    largest = jax.lax.stop_gradient(logits).max(axis=-1)
    first = 0
    if vocab_axes:
        largest = jax.lax.pmax(largest, vocab_axes)
        first = jax.lax.axis_index(vocab_axes) * logits.shape[-1]
    normaliser = jnp.log(total(jnp.exp(logits - largest[:, None]).sum(axis=-1))) + largest
    # One of the vocabulary's parts holds the target.
    index = targets - first
    here = (index >= 0) & (index < logits.shape[-1])
    chosen = jnp.take_along_axis(logits, jnp.where(here, index, 0)[:, None], axis=-1)[:, 0]
    chosen = total(jnp.where(here, chosen, 0))
    free = jax.lax.stop_gradient(logits - normaliser[:, None])
    return chosen - normaliser, -total((jnp.exp(free) * free).sum(axis=-1))
