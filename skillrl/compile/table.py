"""The table of shipped configs, in Markdown."""

import contextlib
import importlib.util
import io
from pathlib import Path

import jax

from skillrl.compile.session import compile_config

_LEARNER = ("learner.accumulate", "learner.apply")
_HEAD = (
    "`:model=`",
    "parameters (active)",
    "slice, chips",
    "mesh",
    "micro-batch",
    "peak + held, GiB of HBM a chip",
    "PFLOP (again)",
    "sent, GiB a chip",
    "at least, s",
    "MFU at most",
)


def print_table(file: Path) -> list[dict]:
    """Compiles the learner of every model in the config file's MODELS, a row of the table each; returns all figures."""
    spec = importlib.util.spec_from_file_location("shipped", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}", flush=True)
    results = []
    for name in module.MODELS:
        with contextlib.redirect_stdout(io.StringIO()):
            result = compile_config(module.get_config(f"model={name}"), "", 1, _LEARNER)
        results.append({"model": name} | result)
        print(f"| {' | '.join(row(name, result))} |", flush=True)
        jax.clear_caches()
    return results


def row(name: str, result: dict) -> tuple[str, ...]:
    """The cells for one model, of its first program; a model that does not fit says so."""
    mesh = " ".join(f"{axis}={size}" for axis, size in result["mesh"].items())
    sizes = f"{result['params'] / 1e9:.1f}B ({result['active_params'] / 1e9:.1f}B)"
    cells = (name, sizes, f"{result['topology']}, {result['chips']}", mesh)
    if not result["fits"]:
        return (*cells, *["does not fit"] * (len(_HEAD) - len(cells)))
    first = result["programs"][0]
    sent = sum(c["bytes"] for c in first["collectives"].values()) / 2**30
    return (
        *cells,
        first["shape"],
        f"{first['peak_gib']:.1f} + {first['held_gib']:.1f} of {result['hbm_gib']:.1f} ({first['share_of_hbm']:.0%})",
        f"{first['model_flops'] / 1e15:.0f} ({first['recomputed_flops'] / 1e15:.0f})",
        f"{sent:.0f}",
        f"{first['bound_s']:.1f} ({first['limited_by']})",
        f"{first['mfu_bound']:.0%}",
    )
