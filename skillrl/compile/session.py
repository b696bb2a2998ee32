"""Compiles the programs of a config one after the other and prints what each needs."""

from collections.abc import Sequence
from dataclasses import asdict

from ml_collections import ConfigDict

from skillrl import setup, sharding
from skillrl.compile import report
from skillrl.compile.compiler import DoesNotFit, compile_program
from skillrl.compile.programs import device_bytes, programs
from skillrl.compile.topology import make_topology


def compile_config(config: ConfigDict, topology_name: str, slices: int, names: Sequence[str] = ()) -> dict:
    """Prints a table and returns its figures; `fits` is False where a program does not fit.

    Raises ValueError where topology, mesh or config cannot be had.
    """
    topology = make_topology(topology_name or config.topology, slices)
    mesh = sharding.make_mesh(config.mesh.to_dict(), topology.devices)
    cfg = setup.model_config(config)
    every = programs(config, cfg, mesh)
    known = [program.name for program in every]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"unknown programs {unknown}; the config has {', '.join(known)}")
    chosen = [program for program in every if not names or program.name in names]
    axes = {name: size for name, size in mesh.shape.items() if size > 1}
    result = {
        "topology": topology.name,
        "slices": topology.slices,
        "chips": topology.num_chips,
        "devices": len(topology.devices),
        "hbm_gib": topology.chip.hbm_gib,
        "peaks": asdict(topology.chip),
        "mesh": axes,
        "policy": config.policy.source,
        "params": cfg.num_params,
        "active_params": cfg.active_params,
        "programs": [],
        "misfits": [],
    }
    _print_head(config, cfg, topology, axes)
    for program in chosen:
        try:
            made = report.as_json(compile_program(program, topology), topology)
            result["programs"].append(made)
            print(report.line(made), flush=True)
        except DoesNotFit as e:
            held = device_bytes(program.held) / 2**30
            result["misfits"].append(
                {"program": program.name, "needed_gib": e.needed_gib, "held_gib": round(held, 2), "message": str(e)}
            )
            print(f"{program.name:<17} does not fit", flush=True)
    result["fits"] = not result["misfits"]
    result["step"] = report.step_summary(result["programs"], topology)
    _print_tail(result)
    return result


def _print_head(config, cfg, topology, axes):
    chip = topology.chip
    each = "chip" if chip.devices_per_chip == 1 else "device, half a chip"
    slices = "" if topology.slices == 1 else f"{topology.slices} slices of "
    print(
        f"{slices}{topology.name}: {topology.num_chips} chips, {chip.hbm_gib} GiB a {each}; "
        f"mesh {' '.join(f'{name}={size}' for name, size in axes.items()) or 'of one device'}\n"
        f"{config.policy.source}: {cfg.num_params:,} parameters, {cfg.active_params:,} active; {cfg.param_dtype} "
        f"parameters, {cfg.dtype} arithmetic, remat {cfg.remat}\n"
        f"published peaks of a {each}: {chip.flops / 1e12:.0f} TFLOP/s bfloat16, {chip.hbm_bytes / 1e9:.0f} GB/s "
        f"memory, {chip.ici_bytes / 1e9:.0f} GB/s links, {chip.dcn_bytes / 1e9:.2f} GB/s network ({chip.source})\n\n"
        f"{report.HEADER}",
        flush=True,
    )


def _print_tail(result):
    print()
    for program in result["programs"]:
        for text in report.collective_lines(program):
            print(text)
    step = result["step"]
    if step["micro_batches"] and result["fits"]:
        work, again = step["model_flops"] / 1e15, step["recomputed_flops"] / 1e15
        print(
            f"\na training step of {step['micro_batches']} micro-batches of full rows: {work:,.0f} PFLOP and "
            f"{again:,.0f} again; at least {step['bound_s']:.2f} s, at most {step['mfu_bound']:.0%} MFU"
        )
    for misfit in result["misfits"]:
        print(f"\nerror: {misfit['message']}")
