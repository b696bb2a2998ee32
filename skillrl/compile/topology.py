"""TPU slices that exist for the compiler only."""

import math
import re
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from skillrl.compile.chips import CHIPS, Chip

EXAMPLES = ("v5e:4x4", "v5e:16x16", "v5p:2x2x1", "v5p:4x4x4", "v5p:4x4x8", "v6e:4x4", "v6e:16x16", "tpu7x:4x4x4")


class TopologyError(ValueError):
    """A slice that does not exist; the message names those that do."""


@dataclass(frozen=True)
class Topology:
    """`slices` equal slices, joined by the data-centre network."""

    name: str
    slices: int
    chip: Chip
    devices: tuple[jax.Device, ...]

    @property
    def num_chips(self) -> int:
        return len(self.devices) // self.chip.devices_per_chip


def make_topology(name: str, slices: int = 1) -> Topology:
    """The slices called `name` (GENERATION:AxB or GENERATION:AxBxC, in chips). Raises TopologyError."""
    known = f"a topology is one of {', '.join(CHIPS)} and its sizes in chips, as {', '.join(EXAMPLES)}"
    match = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)+)", name)
    if match is None or match[1] not in CHIPS:
        raise TopologyError(f"unknown topology {name!r}; {known}")
    chip, sizes = CHIPS[match[1]], [int(size) for size in match[2].split("x")]
    if len(sizes) != chip.dimensions:
        raise TopologyError(f"topology {name!r}: {chip.generation} has {chip.dimensions} sizes; {known}")
    if not 0 < math.prod(sizes) <= chip.max_chips:
        raise TopologyError(f"topology {name!r}: a slice of {chip.generation} has 1 to {chip.max_chips} chips; {known}")
    if slices < 1:
        raise TopologyError(f"slices={slices}; give at least 1")
    try:
        described = topologies.get_topology_desc(name, platform="tpu", **({"num_slices": slices} if slices > 1 else {}))
    except (jax.errors.JaxRuntimeError, RuntimeError) as e:
        if "libtpu" in str(e) and "INVALID_ARGUMENT" not in str(e):
            raise TopologyError(f"the TPU compiler is missing ({e}); install it with pip install '.[compile]'") from e
        raise TopologyError(f"topology {name!r}: {e}; {known}") from e
    return Topology(name, slices, chip, tuple(described.devices))
