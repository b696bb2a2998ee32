"""The learner: policy updates, reinforcement or supervised, over a mesh.

The batch is cut into micro-batches of a fixed shape, whose gradients are added up; their number may change from
batch to batch without another compilation. Denominators are in `Batch.loss_weights`, so the sum over micro-batches,
devices and hosts is the loss whatever the cut.
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from skillrl import sharding
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.rl.logprobs import token_logprobs
from skillrl.rl.losses import LossConfig, policy_loss
from skillrl.rl.packing import SKILL_NAMES
from skillrl.types import Batch

# Per-token metrics whose batch value is a maximum, not a mean.
_MAXIMA = ("mismatch_ratio_max",)


class LearnerError(RuntimeError):
    """Training cannot go on; the message names the remedy."""


@dataclass(frozen=True)
class LearnerConfig:
    loss: LossConfig = LossConfig()
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
    # Rows of a micro-batch, over the whole mesh.
    micro_rows: int = 8
    # Tokens of a row whose logits exist at the same time.
    logprob_chunk: int = 128
    # Of the log-probabilities; the sampler's temperature.
    temperature: float = 1.0
    # Passes over a batch, and optimizer updates in each. More than one update computes `old_logprobs` first.
    epochs: int = 1
    minibatches: int = 1
    # Updates with a non-finite loss or gradient in a row after which training stops.
    max_skipped: int = 5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that an update changes; a pytree."""

    params: models.Params
    opt_state: Any
    # Optimizer updates so far, skipped ones included.
    step: jax.Array
    # Policy version: batches learned from. Sampled tokens carry it.
    version: jax.Array
    # Typed key, never used twice; the learner itself draws nothing.
    rng: jax.Array
    # Updates skipped in a row.
    skipped: jax.Array


class Learner:
    """Holds the compiled functions of one model, configuration and mesh; the state is the caller's."""

    def __init__(self, model: ModelConfig, cfg: LearnerConfig, mesh: Mesh):
        self.model, self.cfg, self.mesh = model, cfg, mesh
        shards = sharding.batch_shards(mesh)
        if cfg.micro_rows % shards:
            raise sharding.ShardingError(
                f"micro_rows={cfg.micro_rows} is no multiple of the mesh's {shards} row shards"
            )
        self.schedule = _schedule(cfg)
        self._tx = _optimizer(cfg, self.schedule, models.param_axes(model))
        self._abstract = models.abstract_params(model)
        self._shardings = self._state_shardings()
        self._gradient = jax.jit(self._micro_gradient, donate_argnums=1)
        self._apply = jax.jit(self._apply_gradient, donate_argnums=0)
        self._score = jax.jit(lambda params, micro: self._logprobs(params, micro)[0])
        # Compiled at their first call; made here so that another call finds them.
        placed = functools.partial(jax.jit, out_shardings=self._shardings.params)
        self._fresh_params = placed(functools.partial(models.init_params, model))
        self._copy_params = placed(lambda params: jax.tree.map(jnp.copy, params))
        self._zeros = placed(lambda: jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), self._abstract))
        self._fresh_opt_state = jax.jit(self._tx.init, out_shardings=self._shardings.opt_state)

    def init(self, seed: int, params: models.Params | None = None) -> TrainState:
        """A new state; with `params` (an imported or warm-started policy) instead of fresh ones where given."""
        # A copy of given ones: updates donate the state, and the caller's arrays must live on.
        params = self._fresh_params(jax.random.key(seed)) if params is None else self._copy_params(params)
        opt_state = self._fresh_opt_state(params)
        rest = jax.device_put((jnp.int32(0), jnp.int32(0), jax.random.key(seed + 1), jnp.int32(0)), self._replicated)
        return TrainState(params, opt_state, *rest)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state: what a checkpoint is restored into."""
        shapes = jax.eval_shape(self._fresh)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self._shardings)

    def logprobs(self, params: models.Params, batch: Batch) -> np.ndarray:
        """Log-probability of each policy token of the batch, float32 [B, T]; 0 elsewhere."""
        with jax.set_mesh(self.mesh):
            return np.concatenate([np.asarray(self._score(params, micro)) for micro in self._micro_batches(batch)])

    def update(
        self, state: TrainState, batch: Batch, ref_params: models.Params | None = None
    ) -> tuple[TrainState, dict[str, float]]:
        """Learns from one batch and raises the policy version by one. `state` is donated.

        `ref_params` is the reference of the KL term. Metrics are means over policy tokens, of the batch (`name`) and
        of each skill in it (`name/skill`). Raises LearnerError after `max_skipped` non-finite updates in a row.
        """
        cfg = self.cfg
        if cfg.loss.kl_coef and ref_params is None:
            raise LearnerError("kl_coef is set but update() was given no ref_params")
        extra = {}
        if cfg.epochs * cfg.minibatches > 1:
            extra["old_logprobs"] = self.logprobs(state.params, batch)
        if cfg.loss.kl_coef:
            extra["ref_logprobs"] = self.logprobs(ref_params, batch)
        totals: dict[str, Any] = {}
        updates = []
        first_step = int(state.step)
        for rows in self._minibatches(batch, first_step):
            part = _take(batch, rows)
            # The weights of a minibatch sum to 1 again, as those of the batch did.
            scale = 1.0 if len(rows) == len(batch.tokens) else 1 / max(float(part.loss_weights.sum()), 1e-9)
            state, sums, applied = self._one_update(state, part, {k: v[rows] for k, v in extra.items()}, scale)
            totals = sums if not totals else _merge_sums(totals, sums)
            updates.append(applied)
        state = dataclasses.replace(state, version=state.version + 1)
        metrics = _summary(jax.device_get(totals), jax.device_get(updates))
        metrics["learning_rate"] = float(self.schedule(first_step))
        metrics["version"] = float(state.version)
        if int(state.skipped) >= cfg.max_skipped:
            raise LearnerError(
                f"{int(state.skipped)} updates in a row had a non-finite loss or gradient; restart from the last "
                "checkpoint with a lower learning_rate or max_grad_norm"
            )
        return state, metrics

    # One update.

    def _one_update(self, state, batch, extra, scale):
        with jax.set_mesh(self.mesh):
            grads, sums = self._zeros(), None
            for micro in self._micro_batches(batch, extra):
                grads, new = self._gradient(state.params, grads, micro, jnp.float32(scale))
                sums = new if sums is None else _merge_sums(sums, new)
            state, applied = self._apply(state, grads, sums["loss"])
        return state, sums, applied

    def _micro_gradient(self, params, grads, micro, scale):
        def loss_fn(params):
            logprobs, entropy = self._logprobs(params, micro)
            old = micro.get("old_logprobs", jax.lax.stop_gradient(logprobs))
            loss, metrics = policy_loss(
                self.cfg.loss, logprobs, old, micro["advantages"], micro["loss_mask"], micro["segment_ids"],
                micro["sampler_logprobs"], micro.get("ref_logprobs"),
            )  # fmt: skip
            weighted = scale * micro["loss_weights"] * loss
            return weighted.sum(), metrics | {"entropy": entropy, "logprob": jax.lax.stop_gradient(logprobs)}

        (loss, metrics), new = jax.value_and_grad(loss_fn, has_aux=True)(params)
        grads = jax.tree.map(lambda total, g: total + g.astype(jnp.float32), grads, new)
        return grads, {"loss": loss} | _token_sums(metrics, micro["loss_mask"], micro["skill_ids"])

    def _logprobs(self, params, micro):
        policy = models.merge(self.model, params)
        hidden = policy(micro["tokens"], micro["positions"], micro["segment_ids"])
        return token_logprobs(
            policy, hidden, micro["tokens"], micro["loss_mask"], self.cfg.temperature, self.cfg.logprob_chunk
        )

    def _apply_gradient(self, state: TrainState, grads, loss):
        norm = optax.global_norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        grads = jax.tree.map(lambda g, p: jnp.where(finite, g, 0).astype(p.dtype), grads, state.params)
        changes, opt_state = self._tx.update(grads, state.opt_state, state.params)

        def keep(new, old):
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        state = dataclasses.replace(
            state,
            params=keep(optax.apply_updates(state.params, changes), state.params),
            opt_state=keep(opt_state, state.opt_state),
            step=state.step + 1,
            skipped=jnp.where(finite, 0, state.skipped + 1),
        )
        return state, {"grad_norm": norm, "skipped": ~finite}

    # Layout.

    @property
    def _replicated(self):
        return sharding.named(self.mesh)

    def _fresh(self) -> TrainState:
        params = models.init_params(self.model, jax.random.key(0))
        zero = jnp.int32(0)
        return TrainState(params, self._tx.init(params), zero, zero, jax.random.key(0), zero)

    def _state_shardings(self) -> TrainState:
        params = models.param_shardings(self.model, self.mesh)
        opt_state = optax.tree_utils.tree_map_params(
            self._tx,
            lambda _, s: s,
            jax.eval_shape(self._tx.init, self._abstract),
            params,
            transform_non_params=lambda _: self._replicated,
        )
        return TrainState(params, opt_state, *(self._replicated,) * 4)

    def _micro_batches(self, batch: Batch, extra: Mapping[str, np.ndarray] | None = None):
        self._check_rows(batch)
        rows, size = len(batch.tokens), self.cfg.micro_rows
        arrays = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)} | dict(extra or {})
        place = sharding.named(self.mesh, "batch", None)
        for start in range(0, rows, size):
            yield jax.device_put({name: a[start : start + size] for name, a in arrays.items()}, place)

    def _check_rows(self, batch: Batch) -> None:
        rows, size = len(batch.tokens), self.cfg.micro_rows
        if rows % size:
            raise LearnerError(f"{rows} rows are no multiple of micro_rows={size}; pack with rows_multiple={size}")

    def _minibatches(self, batch: Batch, step: int):
        """Row indices of each update: whole micro-batches, shuffled where there are several updates."""
        self._check_rows(batch)
        cfg, rows = self.cfg, len(batch.tokens)
        if rows < cfg.minibatches * cfg.micro_rows:
            raise LearnerError(f"{rows} rows are too few for {cfg.minibatches} minibatches of {cfg.micro_rows} rows")
        for epoch in range(cfg.epochs):
            order = np.arange(rows)
            if cfg.minibatches > 1:
                order = np.random.default_rng([step, epoch]).permutation(rows)
            micro = order.reshape(-1, cfg.micro_rows)
            yield from (part.ravel() for part in np.array_split(micro, cfg.minibatches))


def _token_sums(metrics, mask, skill_ids):
    """Per skill: number of policy tokens, and the sum (or maximum) of each metric over them."""
    member = mask[..., None] & (skill_ids[..., None] == jnp.arange(len(SKILL_NAMES)))
    sums = {"tokens": member.sum(axis=(0, 1)).astype(jnp.float32)}
    for name, value in metrics.items():
        spread = jnp.where(member, value[..., None], 0)
        sums[name] = spread.max(axis=(0, 1)) if name in _MAXIMA else spread.sum(axis=(0, 1))
    return sums


def _merge_sums(left, right):
    return {n: jnp.maximum(left[n], right[n]) if n in _MAXIMA else left[n] + right[n] for n in left}


def _summary(sums, updates) -> dict[str, float]:
    """Means over tokens of the whole batch (`name`) and of each skill in it (`name/skill`)."""
    counts = sums["tokens"]
    out = {
        "loss": float(sums["loss"]) / len(updates),
        "tokens": float(counts.sum()),
        "grad_norm": float(np.mean([u["grad_norm"] for u in updates])),
        "skipped_updates": float(sum(bool(u["skipped"]) for u in updates)),
    }
    out |= {f"tokens/{skill}": float(n) for skill, n in zip(SKILL_NAMES, counts, strict=True) if n}
    for name, values in sums.items():
        if name in ("loss", "tokens"):
            continue
        maximum = name in _MAXIMA
        out[name] = float(values.max() if maximum else values.sum() / max(counts.sum(), 1))
        for skill, value, n in zip(SKILL_NAMES, values, counts, strict=True):
            if n:
                out[f"{name}/{skill}"] = float(value if maximum else value / n)
    return out


def _take(batch: Batch, rows: np.ndarray) -> Batch:
    return Batch(**{f.name: getattr(batch, f.name)[rows] for f in dataclasses.fields(batch)})


def _schedule(cfg: LearnerConfig) -> optax.Schedule:
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


def _optimizer(cfg: LearnerConfig, schedule: optax.Schedule, axes) -> optax.GradientTransformation:
    """AdamW behind a clip of the global norm; norms' scales do not decay."""
    decays = jax.tree.map(lambda names: "norm" not in names, axes, is_leaf=lambda x: isinstance(x, tuple))
    return optax.chain(
        optax.clip_by_global_norm(cfg.max_grad_norm),
        optax.adamw(schedule, cfg.beta1, cfg.beta2, cfg.epsilon, weight_decay=cfg.weight_decay, mask=decays),
    )
