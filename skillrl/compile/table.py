"""The table of shipped configs, in Markdown."""

import contextlib
import importlib.util
import io
from pathlib import Path

import jax

from skillrl.compile.session import compile_config

_PROGRAMS = ("learner.accumulate", "learner.apply", "sampler.step")
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
    "sampler",
    "its peak + held",
    "its sent",
)


def print_table(file: Path) -> list[dict]:
    """Compiles every model in the config file's MODELS, a row of the table each; returns all figures."""
    spec = importlib.util.spec_from_file_location("shipped", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}", flush=True)
    results = []
    for name in module.MODELS:
        with contextlib.redirect_stdout(io.StringIO()):
            result = compile_config(module.get_config(f"model={name}"), "", 1, _PROGRAMS)
        results.append({"model": name} | result)
        print(f"| {' | '.join(row(name, result))} |", flush=True)
        jax.clear_caches()
    return results


def row(name: str, result: dict) -> tuple[str, ...]:
    """The cells for one model, of its gradients and of its sampler; a model that does not fit says so."""
    mesh = " ".join(f"{axis}={size}" for axis, size in result["mesh"].items())
    sizes = f"{result['params'] / 1e9:.1f}B ({result['active_params'] / 1e9:.1f}B)"
    cells = (name, sizes, f"{result['topology']}, {result['chips']}", mesh)
    if not result["fits"]:
        return (*cells, *["does not fit"] * (len(_HEAD) - len(cells)))
    programs = {program["program"]: program for program in result["programs"]}
    first, sampler = programs[_PROGRAMS[0]], programs[_PROGRAMS[-1]]
    return (
        *cells,
        first["shape"],
        f"{_memory(first)} of {result['hbm_gib']:.1f} ({first['share_of_hbm']:.0%})",
        f"{first['model_flops'] / 1e15:.0f} ({first['recomputed_flops'] / 1e15:.0f})",
        f"{_sent_gib(first):.0f}",
        f"{first['bound_s']:.1f} ({first['limited_by']})",
        f"{first['mfu_bound']:.0%}",
        sampler["shape"],
        f"{_memory(sampler)} ({sampler['share_of_hbm']:.0%})",
        f"{_sent_gib(sampler):.1f}",
    )


def _memory(program: dict) -> str:
    return f"{program['peak_gib']:.1f} + {program['held_gib']:.1f}"


def _sent_gib(program: dict) -> float:
    return sum(c["bytes"] for c in program["collectives"].values()) / 2**30
