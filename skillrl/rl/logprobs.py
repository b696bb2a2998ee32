"""Log-probabilities of tokens without ever holding the logits of a whole batch."""

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

    Logits of `chunk` tokens a row exist at a time, and again in the backward pass. The masked tokens of each row are
    moved to its front first, and chunks without any are skipped: prompts and tool output cost nothing here.
    """
    batch, length = tokens.shape
    # The output at t - 1 predicts the token at t; the first token is never masked in.
    mask = mask.at[:, 0].set(False)
    order = jnp.argsort(~mask, axis=1, stable=True)
    sorted_mask = jnp.take_along_axis(mask, order, axis=1)
    targets = jnp.take_along_axis(tokens, order, axis=1)
    source = jnp.maximum(order - 1, 0)
    hidden = jnp.take_along_axis(hidden, source[..., None], axis=1)

    chunk = min(chunk, length)
    padding = -length % chunk

    def chunks(x):
        x = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, -1, chunk, *x.shape[2:]), 1, 0)

    def score(hidden, targets):
        logits = sharding.constrain(policy.logits(hidden) / temperature, "batch", None, "vocab")
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        free = jax.lax.stop_gradient(logits - normaliser[..., None])
        return chosen - normaliser, -(jnp.exp(free) * free).sum(axis=-1)

    @jax.checkpoint
    def one(args):
        hidden, targets, mask = args
        zero = jnp.zeros(targets.shape, jnp.float32)
        return jax.lax.cond(mask.any(), score, lambda *_: (zero, zero), hidden, targets)

    logprobs, entropy = jax.lax.map(one, (chunks(hidden), chunks(targets), chunks(sorted_mask)))
    back = jnp.argsort(order, axis=1)

    def restore(x):
        x = jnp.moveaxis(x, 0, 1).reshape(batch, -1)[:, :length]
        return jnp.where(mask, jnp.take_along_axis(x, back, axis=1), 0)

    return restore(logprobs), restore(entropy)
