"""The programs that a config's run executes, with abstract arguments in the places where the run has real ones."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from skillrl import limits, setup, sharding
from skillrl.compile.flops import Flops, decode_flops, forward_flops, gradient_flops, prefill_flops
from skillrl.models.cache import PagedCache
from skillrl.models.config import ModelConfig
from skillrl.sampling import step, weights
from skillrl.sampling.batches import batch_of
from skillrl.sampling.scheduler import Plan, Shapes, num_pages


@dataclass(frozen=True)
class Program:
    """One compiled function of the run."""

    name: str
    # Its arguments of one call, in words.
    shape: str
    lower: Callable[[], jax.stages.Lowered]
    # Of one call; of the sampler's, of its chunk and one of its decode steps.
    flops: Flops
    # What the run keeps on the devices beside the arguments while the program runs.
    held: Any
    # Calls in one training step; 0 where that depends on the episodes.
    calls: int


def programs(config: ConfigDict, cfg: ModelConfig, mesh: Mesh) -> list[Program]:
    """Learner and sampler as the run makes them. Raises ShardingError and ConfigError as the run would."""
    limits.check(config)
    learner = setup.make_learner(config, cfg, mesh)
    state = learner.abstract_state()
    chips, dtype = config.rollout.replica_chips, config.rollout.weights_dtype
    sampler_mesh = weights.replica_mesh(mesh, chips) if chips else mesh
    copies = weights.abstract_weights(cfg, sampler_mesh, dtype) if chips or dtype else ()
    # Without adapters the reference of the KL term is a policy of its own; with them it is the one that they adapt.
    reference = state.params if learner.cfg.loss.kl_coef and not state.adapters else ()
    shapes, cache = _cache(config, cfg, sampler_mesh)
    return [
        *_learner_programs(config, cfg, learner, state, reference),
        *_sampler_programs(config, cfg, sampler_mesh, shapes, state, copies, reference, cache),
    ]


def micro_batches(config: ConfigDict) -> int:
    """Of a training step in which every episode is as long as it may be."""
    tokens = config.rollout.groups_per_step * config.rollout.group_size * config.rollout.max_tokens
    return math.ceil(tokens / (config.packing.row_tokens * config.learner.micro_rows))


def _learner_programs(config, cfg, learner, state, reference):
    rows, tokens, micro = config.learner.micro_rows, config.packing.row_tokens, micro_batches(config)
    updates = learner.cfg.epochs * learner.cfg.minibatches
    lowered = functools.cache(lambda: learner.lowered(tokens))
    shape, held = f"{rows} rows x {tokens} tokens", (state.opt_state, reference)

    def program(name, shape, flops, held, calls):
        return Program(f"learner.{name}", shape, lambda: lowered()[name], flops, held, calls)

    # By the policy before its first update where there are several, and by the reference.
    if scored := (updates > 1) + bool(learner.cfg.loss.kl_coef):
        yield program("score", shape, forward_flops(cfg, rows, tokens), held, scored * micro)
    name = "gradient" if micro == 1 else "accumulate"
    yield program(name, shape, gradient_flops(cfg, rows, tokens), held, learner.cfg.epochs * micro)
    # A dozen operations a parameter: nothing beside the gradient's.
    yield program("apply", "all parameters", Flops(0.0, 0.0), reference, updates)


def _sampler_programs(config, cfg, mesh, shapes: Shapes, state, copies, reference, cache):
    replicas = sharding.batch_shards(mesh)
    rows, chunk, context = shapes.rows[-1], shapes.chunks[-1], config.rollout.max_tokens

    def lower():
        with jax.set_mesh(mesh):
            return step.step.lower(cfg, shapes.decode_steps, copies or state.params, cache, batch)

    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.named(mesh)),
        batch_of([Plan(())] * replicas, shapes.largest, -(-context // shapes.page_tokens), 1, (0,)),
    )
    pages = cache.entries // cfg.layers
    yield Program(
        "sampler.step",
        f"{replicas} x ({chunk} tokens, then {rows} rows), cache {pages} pages x {cache.page_tokens}",
        lower,
        prefill_flops(cfg, replicas, chunk, context) + decode_flops(cfg, replicas * rows, context),
        # What is sampled from is a copy where there are places of its own for it, or adapters merged into it.
        (state.opt_state, state.adapters, state.params if copies or state.adapters else (), reference),
        calls=0,
    )


def _cache(config, cfg, mesh):
    """The sampler's cache and the shapes of its calls, as the engine makes them on TPUs."""
    replicas, rollout = sharding.batch_shards(mesh), config.rollout
    shapes = Shapes.default(-(-rollout.rows // replicas), cfg.active_params, "tpu")
    pages = num_pages(shapes, replicas, rollout.rows, rollout.max_tokens, rollout.cache_tokens)
    made = cfg, pages, shapes.page_tokens, replicas, rollout.cache_dtype
    shape = jax.eval_shape(lambda: PagedCache.create(*made, by_head=False))
    place = sharding.named(mesh, *shape.logical_axes())
    return shapes, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shape)


def device_bytes(tree: Any) -> int:
    """Bytes that these arrays take on each device."""
    leaves = [x for x in jax.tree.leaves(tree) if x.sharding.memory_kind in (None, "device")]
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * _itemsize(x.dtype) for x in leaves)


def _itemsize(dtype) -> int:
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else jnp.dtype(dtype).itemsize
