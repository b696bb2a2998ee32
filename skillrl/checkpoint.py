"""Checkpoints of training: Orbax, atomic, checked against what they are restored into.

A step directory holds three items: `params` (with adapters) and `rest` (optimizer, step, version, rng), arrays by
dotted path, and `meta` (format, model, shapes, and the caller's own JSON). Orbax writes into a temporary directory and
renames it, so a process killed in the middle leaves the previous step as the latest.
"""

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from skillrl import sharding
from skillrl.models import lora
from skillrl.models import policy as models
from skillrl.models.config import ModelConfig
from skillrl.rl.learner import TrainState

_FORMAT = "skillrl-checkpoint-1"
_ITEMS = ("params", "rest", "meta")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the path, what is wrong and the remedy."""


class Checkpoints:
    """The checkpoints of one run in one directory."""

    def __init__(self, directory: str | Path, keep: int = 3):
        self.directory = _absolute(directory)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            # Arrays are donated to the next update, and on CPU the host copy of an array is the array.
            enable_async_checkpointing=False,
        )
        self._manager = ocp.CheckpointManager(self.directory, item_names=_ITEMS, options=options)

    def save(self, step: int, state: TrainState, model: ModelConfig, extra: dict[str, Any] | None = None) -> None:
        """Writes `state` and the JSON value `extra` as checkpoint `step`; a step that exists is left as it is."""
        if step in self._manager.all_steps():
            return
        params, rest = _flatten(state)
        meta = {
            "format": _FORMAT,
            "model": dataclasses.asdict(model),
            "arrays": _describe(params | rest),
            # As text: key order and every number come back as they were.
            "extra": json.dumps(extra if extra is not None else {}),
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params), rest=ocp.args.StandardSave(rest), meta=ocp.args.JsonSave(meta)
            ),
        )
        self._manager.wait_until_finished()

    def restore_latest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest state, in the shapes and shardings of `abstract`, and its `extra`; None where there is none.

        Raises CheckpointError when it is damaged, not ours, or of another model or optimizer.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        path = self.directory / str(step)
        meta = _read_meta(self._manager, step, path)
        params, rest = _flatten(abstract)
        _check_arrays(meta["arrays"], _describe(params | rest), path)
        restored = _restore(self._manager, step, path, params=params, rest=rest)
        return _unflatten(abstract, restored["params"] | restored["rest"]), json.loads(meta["extra"])

    def close(self) -> None:
        self._manager.close()


def load_policy(
    directory: str | Path, mesh: Mesh, step: int | None = None
) -> tuple[int, ModelConfig, models.Params, dict[str, Any]]:
    """Step, model, parameters on `mesh` and `extra` of checkpoint `step` (default: the newest) of a run.

    Low-rank adapters are merged into the parameters.
    """
    directory = _absolute(directory)
    if not directory.exists():
        raise CheckpointError(f"no checkpoints at {directory}; give the workdir of a run")
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(directory, item_names=_ITEMS, options=options) as manager:
        steps = manager.all_steps()
        if not steps or (step is not None and step not in steps):
            wanted = "any checkpoint" if step is None else f"step {step}"
            raise CheckpointError(f"{directory} does not hold {wanted}; it holds steps {sorted(steps)}")
        step = max(steps) if step is None else step
        path = directory / str(step)
        meta = _read_meta(manager, step, path)
        model = ModelConfig(**meta["model"])
        abstract = {"params": models.abstract_params(model, mesh)}
        if adapters := _abstract_adapters(meta["arrays"], model, mesh):
            abstract["adapters"] = adapters
        flat = _by_path(abstract)
        restored = _restore(manager, step, path, params=flat)["params"]
        policy = jax.tree.unflatten(jax.tree.structure(abstract), [restored[name] for name in flat])
        params = policy["params"]
        if adapters:
            place = models.param_shardings(model, mesh)
            params = jax.jit(lora.merge_adapters, out_shardings=place)(params, policy["adapters"])
        return step, model, params, json.loads(meta["extra"])


def _abstract_adapters(saved: dict[str, str], model: ModelConfig, mesh: Mesh) -> models.Params | None:
    """Shapes and places of the adapters that a checkpoint holds; None where it holds none."""
    ranks = {int(x.rstrip("]").rpartition(",")[2]) for n, x in saved.items() if re.fullmatch(r"adapters\..*\.a", n)}
    if not ranks:
        return None
    make = functools.partial(lora.init_adapters, models.abstract_params(model), ranks.pop(), 1.0)
    axes = lora.adapter_axes(models.param_axes(model))
    return jax.tree.map(
        lambda x, names: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.named(mesh, *names)),
        jax.eval_shape(make, jax.random.key(0)),
        axes,
    )


def _absolute(directory: str | Path) -> epath.Path:
    text = str(directory)
    return epath.Path(text if "://" in text else str(Path(text).absolute()))


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _flatten(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and everything else as flat dicts; the typed key becomes its words."""
    if isinstance(state.rng, jax.ShapeDtypeStruct):
        words = jax.eval_shape(jax.random.key_data, state.rng)
        words = jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=state.rng.sharding)
    else:
        words = jax.random.key_data(state.rng)
    flat = _by_path(dataclasses.replace(state, rng=words))
    params = {name: leaf for name, leaf in flat.items() if name.startswith(("params.", "adapters."))}
    return params, {name: leaf for name, leaf in flat.items() if name not in params}


def _unflatten(abstract: TrainState, flat: dict[str, Any]) -> TrainState:
    names = list(_by_path(abstract))
    state = jax.tree.unflatten(jax.tree.structure(abstract), [flat[name] for name in names])
    return dataclasses.replace(state, rng=jax.random.wrap_key_data(state.rng))


def _describe(flat: dict[str, Any]) -> dict[str, str]:
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in flat.items()}


def _check_arrays(saved: dict[str, str], wanted: dict[str, str], path: Any) -> None:
    if saved == wanted:
        return
    names = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    shown = "; ".join(f"{n}: {saved.get(n, 'absent')} there, {wanted.get(n, 'absent')} here" for n in names[:4])
    raise CheckpointError(
        f"checkpoint {path} is of another model or optimizer: {len(names)} arrays differ ({shown}); restore it "
        "with the configuration that wrote it, or use another workdir"
    )


def _read_meta(manager: ocp.CheckpointManager, step: int, path: Any) -> dict[str, Any]:
    try:
        meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    except Exception as e:
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({type(e).__name__}: {e}); it is damaged or was not written by skillrl: "
            "remove that directory to continue from an older one, or use another workdir"
        ) from e
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
        raise CheckpointError(f"checkpoint {path} was not written by this version of skillrl; use another workdir")
    return meta


def _restore(manager: ocp.CheckpointManager, step: int, path: Any, **items: Any) -> dict[str, Any]:
    args = ocp.args.Composite(**{name: ocp.args.StandardRestore(flat) for name, flat in items.items()})
    try:
        return manager.restore(step, args=args)
    except Exception as e:
        raise CheckpointError(
            f"checkpoint {path} is damaged ({type(e).__name__}: {str(e)[:300]}); remove that directory to go on from "
            "an older one"
        ) from e
