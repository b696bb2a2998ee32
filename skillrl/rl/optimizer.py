"""AdamW over a mesh: learning rate, dtypes and place of its state, and the update that skips what is not finite."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from skillrl import sharding

_CHOICES = {"first_moment_dtype": ("float32", "bfloat16"), "optimizer_memory": ("device", "host")}
_HOST = "pinned_host"


class OptimizerError(ValueError):
    """An optimizer that cannot be made; the message names the field and the remedy."""


@dataclass(frozen=True)
class OptimizerConfig:
    learning_rate: float = 1e-4
    # Updates of linear warm-up, from learning_rate / (warmup_steps + 1).
    warmup_steps: int = 0
    # Updates until a cosine decay has reached `final_learning_rate`; 0 keeps the rate constant.
    decay_steps: int = 0
    final_learning_rate: float = 0.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    # "bfloat16" saves 2 bytes a parameter. The second moment is always float32: its small changes, (1 - beta2) of it,
    # would be lost in 8 bits.
    first_moment_dtype: str = "float32"
    # Where the moments stay between updates. "host" frees 6 to 8 bytes a parameter on the device while gradients are
    # computed, and brings them over for each update.
    optimizer_memory: str = "device"

    def __post_init__(self):
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise OptimizerError(f"{name}={getattr(self, name)!r}; one of {', '.join(map(repr, known))}")


def learning_rate_schedule(cfg: OptimizerConfig) -> optax.Schedule:
    first = cfg.learning_rate / (cfg.warmup_steps + 1)
    if cfg.decay_steps:
        return optax.warmup_cosine_decay_schedule(
            first,
            cfg.learning_rate,
            cfg.warmup_steps,
            max(cfg.decay_steps, cfg.warmup_steps + 1),
            cfg.final_learning_rate,
        )
    if cfg.warmup_steps:
        return optax.linear_schedule(first, cfg.learning_rate, cfg.warmup_steps)
    return optax.constant_schedule(cfg.learning_rate)


def adamw(cfg: OptimizerConfig, schedule: optax.Schedule, axes: Any) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) behind a clip of the global norm; only matrices decay, not norms' scales and biases.

    `axes` is the tree of the parameters' logical axes.
    """
    decays = jax.tree_util.tree_map_with_path(_decays, axes, is_leaf=lambda x: isinstance(x, tuple))
    return optax.chain(
        optax.clip_by_global_norm(cfg.max_grad_norm),
        optax.adamw(
            schedule,
            cfg.beta1,
            cfg.beta2,
            cfg.epsilon,
            mu_dtype=cfg.first_moment_dtype,
            weight_decay=cfg.weight_decay,
            mask=decays,
        ),
    )


def init_state(tx: optax.GradientTransformation, params: Any) -> Any:
    # Moments take their dtype from the parameters; those of bfloat16 parameters stay float32 too.
    return tx.init(jax.tree.map(lambda p: p.astype(jnp.float32), params))


def state_shardings(
    tx: optax.GradientTransformation, cfg: OptimizerConfig, params: Any, shardings: Any, mesh: Mesh
) -> tuple[Any, Any]:
    """Shardings of the optimizer state while it is used, and where it stays between updates.

    `params` are abstract. Raises OptimizerError where the platform has no host memory that programs can address.
    """
    abstract = jax.eval_shape(lambda params: init_state(tx, params), params)

    def of_params(change) -> Any:
        return optax.tree_utils.tree_map_params(
            tx, lambda _, s: change(s), abstract, shardings, transform_non_params=lambda _: sharding.named(mesh)
        )

    used = of_params(lambda s: s)
    if cfg.optimizer_memory == "device":
        return used, used
    check_host_memory(mesh.devices.flat[0])
    return used, of_params(lambda s: NamedSharding(mesh, s.spec, memory_kind=_HOST))


def update(
    tx: optax.GradientTransformation, params: Any, opt_state: Any, grads: Any, loss: jax.Array
) -> tuple[Any, Any, jax.Array, jax.Array]:
    """New parameters and state, the gradient's norm, and whether gradient and loss were finite.

    Where they were not, parameters and state are returned as they were.
    """
    norm = optax.global_norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(loss)
    grads = jax.tree.map(lambda g: jnp.where(finite, g, 0).astype(jnp.float32), grads)
    changes, new_state = tx.update(grads, opt_state, params)

    def keep(new, old):
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    return keep(optax.apply_updates(params, changes), params), keep(new_state, opt_state), norm, finite


def _decays(path, axes: tuple[str | None, ...]) -> bool:
    return "norm" not in axes and "_bias" not in jax.tree_util.keystr(path)


def check_host_memory(device: jax.Device) -> None:
    """Raises OptimizerError where programs of this device cannot address the host's memory."""
    kinds = {memory.kind for memory in device.addressable_memories()}
    if _HOST not in kinds:
        raise OptimizerError(
            f"optimizer_memory='host': {device.platform} has no {_HOST} memory, only {sorted(kinds)}; "
            "use optimizer_memory='device' and, to save memory, first_moment_dtype='bfloat16'"
        )
