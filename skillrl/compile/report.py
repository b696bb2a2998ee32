"""What follows from a compiled program and the chip's published peaks, as text and as one JSON object."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from skillrl.compile.collectives import SEND
from skillrl.compile.compiler import GIB, Compiled
from skillrl.compile.topology import Topology


@dataclass(frozen=True)
class Bound:
    """Seconds that one call takes at least, by what is busy all the time; the largest is the bound."""

    arithmetic_s: float
    # Every argument is read and every result written once.
    memory_s: float
    links_s: float
    network_s: float

    @property
    def seconds(self) -> float:
        return max(asdict(self).values())

    @property
    def limited_by(self) -> str:
        times = asdict(self)
        return max(times, key=times.get).removesuffix("_s")


def bound(compiled: Compiled, topology: Topology) -> Bound:
    """Of one call, as if arithmetic, memory, links and network overlapped perfectly, each at its published peak."""
    chip = topology.chip
    sent = sum(c.bytes for c in compiled.collectives.values())
    between = sum(c.bytes for c in compiled.collectives.values() if c.over_network)
    return Bound(
        compiled.program.flops.total / (chip.flops * len(topology.devices)),
        (compiled.argument_bytes + compiled.output_bytes) / chip.hbm_bytes,
        (sent - between) / chip.ici_bytes,
        between / chip.dcn_bytes,
    )


def mfu(model_flops: float, seconds: float, topology: Topology) -> float:
    """Model FLOPs utilisation (arXiv:2204.02311, appendix B): recomputation does not count."""
    return model_flops / (seconds * topology.chip.flops * len(topology.devices)) if seconds else 0.0


def as_json(compiled: Compiled, topology: Topology) -> dict:
    flops, limit = compiled.program.flops, bound(compiled, topology)
    return {
        "program": compiled.program.name,
        "shape": compiled.program.shape,
        "compile_s": round(compiled.lower_s + compiled.compile_s, 1),
        "peak_gib": round(compiled.peak_bytes / GIB, 2),
        "held_gib": round(compiled.held_bytes / GIB, 2),
        "share_of_hbm": round((compiled.peak_bytes + compiled.held_bytes) / GIB / topology.chip.hbm_gib, 3),
        "model_flops": flops.model,
        "recomputed_flops": flops.recomputed,
        "collectives": {
            kind: {"count": c.count, "runs": c.runs, "bytes": round(c.bytes)}
            for kind, c in compiled.collectives.items()
        },
        "bound_s": limit.seconds,
        "bounds_s": asdict(limit),
        "limited_by": limit.limited_by,
        "mfu_bound": round(mfu(flops.model, limit.seconds, topology), 3),
        "calls_per_step": compiled.program.calls,
    }


def step_summary(programs: Sequence[dict], topology: Topology) -> dict:
    """A training step: gradients of all micro-batches of full rows, then the update; sampling is not in it."""
    parts = [p for p in programs if p["calls_per_step"]]
    seconds = sum(p["bound_s"] * p["calls_per_step"] for p in parts)
    model = sum(p["model_flops"] * p["calls_per_step"] for p in parts)
    again = sum(p["recomputed_flops"] * p["calls_per_step"] for p in parts)
    return {
        "micro_batches": max((p["calls_per_step"] for p in parts), default=0),
        "model_flops": model,
        "recomputed_flops": again,
        "bound_s": seconds,
        "mfu_bound": round(mfu(model, seconds, topology), 3),
    }


HEADER = (
    f"{'program':<17} {'compile s':>9} {'peak GiB':>9} {'held GiB':>9} {'of HBM':>7} {'PFLOP':>9} {'again':>8} "
    f"{'sent GiB':>9} {'bound s':>9} {'limited by':>10} {'MFU':>6}"
)


def line(program: dict) -> str:
    """One row of the table whose head is HEADER."""
    sent = sum(c["bytes"] for c in program["collectives"].values()) / GIB
    return (
        f"{program['program']:<17} {program['compile_s']:>9.1f} {program['peak_gib']:>9.2f} "
        f"{program['held_gib']:>9.2f} {program['share_of_hbm']:>7.0%} {program['model_flops'] / 1e15:>9.2f} "
        f"{program['recomputed_flops'] / 1e15:>8.2f} {sent:>9.2f} {program['bound_s']:>9.4f} "
        f"{program['limited_by']:>10} {program['mfu_bound']:>6.0%}"
    )


def collective_lines(program: dict) -> list[str]:
    return [
        f"  {program['program']:<17} {kind:<19} {c['count']:>5} in the program {c['runs']:>7} run "
        f"{c['bytes'] / GIB:>9.2f} GiB sent by each device{' between slices' if kind == SEND else ''}"
        for kind, c in program["collectives"].items()
    ]
