"""Compiles one program and measures what the compiler says about it."""

import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax

from skillrl.compile import collectives
from skillrl.compile.programs import Program, device_bytes
from skillrl.compile.topology import Topology

GIB = 2**30


class DoesNotFit(RuntimeError):
    """A program that needs more memory than a device has; the message holds the compiler's own."""

    def __init__(self, message: str, needed_gib: float | None, available_gib: float):
        super().__init__(message)
        self.needed_gib, self.available_gib = needed_gib, available_gib


@dataclass(frozen=True)
class Compiled:
    """What is known of a compiled program, for each device where nothing else is said."""

    program: Program
    lower_s: float
    compile_s: float
    # Largest memory of the program itself, and of what the run holds beside it.
    peak_bytes: int
    held_bytes: int
    argument_bytes: int
    output_bytes: int
    collectives: dict[str, collectives.Collective]


def compile_program(program: Program, topology: Topology) -> Compiled:
    """Raises DoesNotFit when the program and what is held beside it take more memory than a device has."""
    start = time.monotonic()
    lowered = program.lower()
    lowered_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="skillrl-compile-") as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            memory = lowered.compile(compiler_options=options).memory_analysis()
        except jax.errors.JaxRuntimeError as e:
            raise _refused(program, e, topology) from None
        end = time.monotonic()
        text = next(Path(folder).glob("module_*.after_optimizations.txt")).read_text()
    peak, held = memory.peak_memory_in_bytes, device_bytes(program.held)
    limit = topology.chip.hbm_gib
    if peak + held > limit * GIB:
        needed = (peak + held) / GIB
        raise DoesNotFit(
            f"{program.name} ({program.shape}) does not fit: it needs {peak / GIB:.2f} GiB of each device beside "
            f"{held / GIB:.2f} GiB that the run holds, {needed:.2f} GiB of {limit} GiB",
            needed,
            limit,
        )
    return Compiled(
        program,
        lowered_at - start,
        end - lowered_at,
        peak,
        held,
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        collectives.parse(text, len(topology.devices), topology.slices),
    )


def _refused(program: Program, error: Exception, topology: Topology) -> Exception:
    """The compiler's refusal as DoesNotFit; any other error as it is."""
    message = str(error).strip()
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return error
    needed, _ = parse_refusal(message)
    first = message.splitlines()[0]
    return DoesNotFit(f"{program.name} ({program.shape}) does not fit: {first}", needed, topology.chip.hbm_gib)


def parse_refusal(message: str) -> tuple[float | None, float | None]:
    """GiB needed and available, of the compiler's message; None where it does not say."""
    sizes = re.search(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)", message) or re.search(
        r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", message
    )
    if sizes is None:
        return None, None
    unit = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2.0**10}
    return float(sizes[1]) * unit[sizes[2]], float(sizes[3]) * unit[sizes[4]]
