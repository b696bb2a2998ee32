"""Slices that do not exist are refused before the compiler is asked; peaks are those of one device."""

import pytest

from skillrl.compile.chips import CHIPS
from skillrl.compile.compiler import parse_refusal
from skillrl.compile.topology import TopologyError, make_topology


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "unknown topology 'v9:2x2'"),
        ("v5p-128", "unknown topology 'v5p-128'"),
        ("v5p", "unknown topology 'v5p'"),
        ("", "unknown topology ''"),
        ("v5p:4x4", "v5p has 3 sizes"),
        ("v5e:4x4x4", "v5e has 2 sizes"),
        ("v5e:32x32", "a slice of v5e has 1 to 256 chips"),
        ("v5p:0x4x4", "a slice of v5p has 1 to 8960 chips"),
    ],
)
def test_a_wrong_name_lists_the_known_ones(name, message):
    with pytest.raises(TopologyError, match=message) as error:
        make_topology(name)
    assert "v5e, v5p, v6e, tpu7x" in str(error.value)
    assert "v5p:4x4x4" in str(error.value)


def test_no_slices_are_refused():
    with pytest.raises(TopologyError, match="slices=0; give at least 1"):
        make_topology("v5p:4x4x4", slices=0)


def test_half_a_chip_has_half_the_peaks():
    half = CHIPS["tpu7x"]
    assert half.devices_per_chip == 2
    assert half.flops == 2307e12 / 2
    assert CHIPS["v5p"].ici_bytes == 600e9  # 1200 GB/s count both directions
    assert CHIPS["v5p"].dcn_bytes == 6.25e9  # 50 Gbit/s


@pytest.mark.parametrize(
    ("message", "sizes"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (24.67G) exceeds available HBM (15.75G)",
            (24.67, 15.75),
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 1.50T of 95.73G hbm.", (1536.0, 95.73)),
        ("INTERNAL: something else", (None, None)),
    ],
)
def test_the_compilers_refusal_is_read(message, sizes):
    assert parse_refusal(message) == sizes
