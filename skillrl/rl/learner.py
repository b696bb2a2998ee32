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
from jax.sharding import Mesh

from skillrl import sharding
from skillrl.models import lora
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.rl import optimizer
from skillrl.rl.logprobs import token_logprobs
from skillrl.rl.losses import LossConfig, policy_loss
from skillrl.rl.optimizer import OptimizerConfig
from skillrl.rl.summary import merge_sums, summary, token_sums
from skillrl.types import Batch


class LearnerError(RuntimeError):
    """Training cannot go on; the message names the remedy."""


@dataclass(frozen=True)
class LearnerConfig(OptimizerConfig):
    loss: LossConfig = LossConfig()
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
    # Rank of low-rank adapters, which are then all that is trained; 0 trains every parameter.
    lora_rank: int = 0
    # The adapters' product is multiplied by lora_alpha / lora_rank.
    lora_alpha: float = 32.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that an update changes; a pytree."""

    # All parameters; with adapters they stay as they were.
    params: models.Params
    # Low-rank adapters as skillrl/models/lora.py describes them; empty without.
    adapters: models.Params
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
        self.schedule = optimizer.learning_rate_schedule(cfg)
        axes = models.param_axes(model)
        self._tx = optimizer.adamw(cfg, self.schedule, trained_part(axes, self._adapter_axes(axes)))
        self._abstract = models.abstract_params(model)
        self._shardings, self._opt_state_used = self._state_shardings()
        trained = trained_part(self._shardings.params, self._shardings.adapters)
        # With one micro-batch there is nothing to add up: the accumulator, 4 bytes a parameter, is saved.
        self._gradient = jax.jit(self._micro_gradient, out_shardings=(trained, None))
        self._accumulate = jax.jit(self._add_gradient, out_shardings=(trained, None), donate_argnums=0)
        self._apply = jax.jit(self._apply_gradient, out_shardings=(self._shardings, None), donate_argnums=0)
        self._score = jax.jit(lambda weights, micro: self._logprobs(weights, micro)[0])
        # Compiled at their first call; made here so that another call finds them.
        placed = functools.partial(jax.jit, out_shardings=self._shardings.params)
        self._fresh_params = placed(functools.partial(models.init_params, model))
        self._copy_params = placed(lambda params: jax.tree.map(jnp.copy, params))
        self._fresh_adapters = jax.jit(self._init_adapters, out_shardings=self._shardings.adapters)
        self._zeros = jax.jit(self._zero_gradient, out_shardings=trained)
        self._fresh_opt_state = jax.jit(
            functools.partial(optimizer.init_state, self._tx), out_shardings=self._shardings.opt_state
        )
        self._merge = placed(lora.merge_adapters)

    def init(self, seed: int, params: models.Params | None = None) -> TrainState:
        """A new state; with `params` (an imported or warm-started policy) instead of fresh ones where given."""
        # A copy of given ones: updates donate the state, and the caller's arrays must live on.
        params = self._fresh_params(jax.random.key(seed)) if params is None else self._copy_params(params)
        adapters = self._fresh_adapters(jax.random.key(seed + 2)) if self.cfg.lora_rank else {}
        opt_state = self._fresh_opt_state(trained_part(params, adapters))
        rest = jax.device_put((jnp.int32(0), jnp.int32(0), jax.random.key(seed + 1), jnp.int32(0)), self._replicated)
        return TrainState(params, adapters, opt_state, *rest)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state: what a checkpoint is restored into."""
        shapes = jax.eval_shape(self._fresh)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self._shardings)

    def policy_params(self, state: TrainState) -> models.Params:
        """What to sample from and to export: the parameters, adapters merged into them."""
        return self._merge(state.params, state.adapters) if state.adapters else state.params

    def logprobs(self, params: models.Params, batch: Batch, adapters: models.Params | None = None) -> np.ndarray:
        """Log-probability of each policy token of the batch, float32 [B, T]; 0 elsewhere."""
        weights = (params, adapters or {})
        with jax.set_mesh(self.mesh):
            return np.concatenate([np.asarray(self._score(weights, micro)) for micro in self._micro_batches(batch)])

    def lowered(self, row_tokens: int) -> dict[str, jax.stages.Lowered]:
        """Every program of an update on rows of that length, lowered for the mesh; nothing is allocated or run."""
        place = sharding.named(self.mesh, "batch", "tokens")

        def array(dtype):
            return jax.ShapeDtypeStruct((self.cfg.micro_rows, row_tokens), dtype, sharding=place)

        integers, floats = ("tokens", "segment_ids", "positions", "skill_ids"), ("advantages", "sampler_logprobs")
        micro = {name: array(jnp.int32) for name in integers}
        micro |= {name: array(jnp.float32) for name in (*floats, "loss_weights")} | {"loss_mask": array(jnp.bool_)}
        cfg, state, scale = self.cfg, self.abstract_state(), jax.ShapeDtypeStruct((), jnp.float32)
        weights, programs = (state.params, state.adapters), {}
        if cfg.epochs * cfg.minibatches > 1 or cfg.loss.kl_coef:
            programs["score"] = (self._score, weights, dict(micro))
        if cfg.epochs * cfg.minibatches > 1:
            micro["old_logprobs"] = array(jnp.float32)
        if cfg.loss.kl_coef:
            micro["ref_logprobs"] = array(jnp.float32)
        grads = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding), trained_part(*weights)
        )
        programs["gradient"] = (self._gradient, weights, micro, scale)
        programs["accumulate"] = (self._accumulate, grads, weights, micro, scale)
        programs["apply"] = (self._apply, state, grads, scale)
        with jax.set_mesh(self.mesh):
            return {name: program.lower(*args) for name, (program, *args) in programs.items()}

    def update(
        self, state: TrainState, batch: Batch, ref_params: models.Params | None = None
    ) -> tuple[TrainState, dict[str, float]]:
        """Learns from one batch and raises the policy version by one. `state` is donated.

        `ref_params` is the reference of the KL term; with adapters it is the policy without them unless given. Metrics
        are means over policy tokens, of the batch (`name`) and of each skill in it (`name/skill`). Raises LearnerError
        after `max_skipped` non-finite updates in a row.
        """
        cfg = self.cfg
        if ref_params is None and state.adapters:
            ref_params = state.params
        if cfg.loss.kl_coef and ref_params is None:
            raise LearnerError("kl_coef is set but update() was given no ref_params")
        extra = {}
        if cfg.epochs * cfg.minibatches > 1:
            extra["old_logprobs"] = self.logprobs(state.params, batch, state.adapters)
        if cfg.loss.kl_coef:
            extra["ref_logprobs"] = self.logprobs(ref_params, batch)
        totals: dict[str, Any] = {}
        updates = []
        first_step = int(state.step)
        for rows in self._minibatches(batch, first_step):
            part = _take(batch, rows)
            # The weights of a minibatch sum to 1 again, as those of the batch did.
            scale = 1.0 if len(rows) == len(batch.tokens) else 1 / max(float(part.loss_weights.sum()), 1e-9)
            grads, sums = self._batch_gradient(
                (state.params, state.adapters), part, {k: v[rows] for k, v in extra.items()}, scale
            )
            with jax.set_mesh(self.mesh):
                state, applied = self._apply(state, grads, sums["loss"])
            totals = sums if not totals else merge_sums(totals, sums)
            updates.append(applied)
        state = dataclasses.replace(state, version=state.version + 1)
        metrics = summary(jax.device_get(totals), jax.device_get(updates))
        metrics["learning_rate"] = float(self.schedule(first_step))
        metrics["version"] = float(state.version)
        if int(state.skipped) >= cfg.max_skipped:
            raise LearnerError(
                f"{int(state.skipped)} updates in a row had a non-finite loss or gradient; restart from the last "
                "checkpoint with a lower learning_rate or max_grad_norm"
            )
        return state, metrics

    # One update.

    def _batch_gradient(self, weights, batch, extra, scale):
        """Gradient and metric sums of all micro-batches."""
        with jax.set_mesh(self.mesh):
            if len(batch.tokens) == self.cfg.micro_rows:
                (micro,) = self._micro_batches(batch, extra)
                return self._gradient(weights, micro, jnp.float32(scale))
            grads, sums = self._zeros(), None
            for micro in self._micro_batches(batch, extra):
                grads, new = self._accumulate(grads, weights, micro, jnp.float32(scale))
                sums = new if sums is None else merge_sums(sums, new)
        return grads, sums

    def _add_gradient(self, grads, weights, micro, scale):
        new, sums = self._micro_gradient(weights, micro, scale)
        return jax.tree.map(jnp.add, grads, new), sums

    def _micro_gradient(self, weights, micro, scale):
        params, adapters = weights

        def loss_fn(trained):
            now = (params, adapters | trained) if adapters else (trained, adapters)
            logprobs, entropy = self._logprobs(now, micro)
            old = micro.get("old_logprobs", jax.lax.stop_gradient(logprobs))
            loss, metrics = policy_loss(
                self.cfg.loss, logprobs, old, micro["advantages"], micro["loss_mask"], micro["segment_ids"],
                micro["sampler_logprobs"], micro.get("ref_logprobs"),
            )  # fmt: skip
            weighted = scale * micro["loss_weights"] * loss
            return weighted.sum(), metrics | {"entropy": entropy, "logprob": jax.lax.stop_gradient(logprobs)}

        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained_part(params, adapters))
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
        return grads, {"loss": loss} | token_sums(metrics, micro["loss_mask"], micro["skill_ids"])

    def _logprobs(self, weights, micro):
        params, adapters = weights
        policy = models.merge(self.model, params)
        hidden = policy(micro["tokens"], micro["positions"], micro["segment_ids"], adapters)
        return token_logprobs(
            policy, hidden, micro["tokens"], micro["loss_mask"], self.cfg.temperature, self.cfg.logprob_chunk
        )

    def _apply_gradient(self, state: TrainState, grads, loss):
        trained = trained_part(state.params, state.adapters)
        opt_state = state.opt_state
        if self.cfg.optimizer_memory == "host":
            opt_state = jax.device_put(opt_state, self._opt_state_used)
        trained, opt_state, norm, finite = optimizer.update(self._tx, trained, opt_state, grads, loss)
        if self.cfg.optimizer_memory == "host":
            opt_state = jax.device_put(opt_state, self._shardings.opt_state)
        changed = {"adapters": state.adapters | trained} if state.adapters else {"params": trained}
        state = dataclasses.replace(
            state,
            **changed,
            opt_state=opt_state,
            step=state.step + 1,
            skipped=jnp.where(finite, 0, state.skipped + 1),
        )
        return state, {"grad_norm": norm, "skipped": ~finite}

    # Layout.

    @property
    def _replicated(self):
        return sharding.named(self.mesh)

    def _init_adapters(self, key):
        return lora.init_adapters(self._abstract, self.cfg.lora_rank, self.cfg.lora_alpha, key)

    def _adapter_axes(self, axes):
        return lora.adapter_axes(axes) if self.cfg.lora_rank else {}

    def _fresh(self) -> TrainState:
        params = models.init_params(self.model, jax.random.key(0))
        adapters = self._init_adapters(jax.random.key(0)) if self.cfg.lora_rank else {}
        zero = jnp.int32(0)
        opt_state = optimizer.init_state(self._tx, trained_part(params, adapters))
        return TrainState(params, adapters, opt_state, zero, zero, jax.random.key(0), zero)

    def _zero_gradient(self):
        adapters = self._init_adapters(jax.random.key(0)) if self.cfg.lora_rank else {}
        return jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), trained_part(self._abstract, adapters))

    def _state_shardings(self) -> tuple[TrainState, Any]:
        """Of the state between updates, and of the optimizer state during one."""
        params, adapters, abstract = models.param_shardings(self.model, self.mesh), {}, {}
        if self.cfg.lora_rank:
            axes = self._adapter_axes(models.param_axes(self.model))
            abstract = jax.eval_shape(self._init_adapters, jax.random.key(0))
            adapters = jax.tree.map(lambda _, names: sharding.named(self.mesh, *names), abstract, axes)
        used, stays = optimizer.state_shardings(
            self._tx, self.cfg, trained_part(self._abstract, abstract), trained_part(params, adapters), self.mesh
        )
        return TrainState(params, adapters, stays, *(self._replicated,) * 4), used

    def _micro_batches(self, batch: Batch, extra: Mapping[str, np.ndarray] | None = None):
        self._check_rows(batch)
        rows, size = len(batch.tokens), self.cfg.micro_rows
        arrays = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)} | dict(extra or {})
        place = sharding.named(self.mesh, "batch", "tokens")
        for start in range(0, rows, size):
            yield jax.device_put({name: a[start : start + size] for name, a in arrays.items()}, place)

    def _check_rows(self, batch: Batch) -> None:
        rows, size = len(batch.tokens), self.cfg.micro_rows
        if rows % size:
            raise LearnerError(f"{rows} rows are no multiple of micro_rows={size}; pack with rows_multiple={size}")
        length, parts = batch.tokens.shape[1], sharding.token_shards(self.mesh)
        if length % parts:
            raise LearnerError(
                f"rows of {length} tokens do not divide over the mesh's context={parts}; pack with a length that is a "
                f"multiple of {parts}"
            )

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


def trained_part(params: models.Params, adapters: models.Params) -> models.Params:
    """What an update changes: the adapters but for their scale where there are any, or else every parameter."""
    return {name: value for name, value in adapters.items() if name != "scale"} if adapters else params


def _take(batch: Batch, rows: np.ndarray) -> Batch:
    return Batch(**{f.name: getattr(batch, f.name)[rows] for f in dataclasses.fields(batch)})
