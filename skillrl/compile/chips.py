"""Published figures of TPU generations, for each device that JAX sees."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One JAX device: a chip, or half of one where `devices_per_chip` is 2. Rates are peaks, a second."""

    generation: str
    # Number of sizes in a topology's name, and the largest slice.
    dimensions: int
    max_chips: int
    devices_per_chip: int
    # What the compiler lets a program use; a little less than what is sold.
    hbm_gib: float
    # Of bfloat16 matrix products.
    flops: float
    hbm_bytes: float
    # Over all links to neighbours, one direction.
    ici_bytes: float
    # Over the data-centre network, between slices.
    dcn_bytes: float
    source: str


def _chip(generation, dimensions, max_chips, per_chip, hbm_gib, tflops, hbm_gb, ici_gb, dcn_gbit) -> Chip:
    """Figures of a whole chip as the tables have them: links both directions, network in gigabits."""
    return Chip(
        generation, dimensions, max_chips, per_chip, hbm_gib,
        flops=tflops * 1e12 / per_chip,
        hbm_bytes=hbm_gb * 1e9 / per_chip,
        ici_bytes=ici_gb * 1e9 / 2 / per_chip,
        dcn_bytes=dcn_gbit * 1e9 / 8 / per_chip,
        source=f"docs.cloud.google.com/tpu/docs/{generation}",
    )  # fmt: skip


# Each row is the table of key specifications at docs.cloud.google.com/tpu/docs/GENERATION (read in 2026), but for
# hbm_gib: that is the limit that libtpu 0.0.52 names when it refuses a program. The network of v5e and v6e is given
# for a whole pod there (6.4 and 25.6 Tbit/s), here divided by its 256 chips.
CHIPS = {
    chip.generation: chip
    for chip in (
        _chip("v5e", 2, 256, 1, 15.75, tflops=197, hbm_gb=819, ici_gb=400, dcn_gbit=25),
        _chip("v5p", 3, 8960, 1, 95.73, tflops=459, hbm_gb=2765, ici_gb=1200, dcn_gbit=50),
        _chip("v6e", 2, 256, 1, 31.24, tflops=918, hbm_gb=1640, ici_gb=800, dcn_gbit=100),
        _chip("tpu7x", 3, 9216, 2, 94.74, tflops=2307, hbm_gb=7380, ici_gb=1200, dcn_gbit=100),
    )
}
