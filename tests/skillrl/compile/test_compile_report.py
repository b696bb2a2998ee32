"""Bounds from published peaks, by hand; and bad input of the command is one clear error."""

import subprocess
import sys
from pathlib import Path

import pytest

from skillrl.compile import report
from skillrl.compile.chips import CHIPS
from skillrl.compile.collectives import Collective
from skillrl.compile.compiler import Compiled
from skillrl.compile.flops import Flops
from skillrl.compile.programs import Program
from skillrl.compile.topology import Topology

ROOT = Path(__file__).parents[3]
V5P = Topology("v5p:2x2x1", 1, CHIPS["v5p"], devices=(None,) * 4)


def compiled(flops: Flops, argument_bytes=0, sent=0.0, between=0.0, calls=1) -> Compiled:
    program = Program("learner.gradient", "8 rows", lambda: None, flops, held=None, calls=calls)
    found = {"all-gather": Collective("all-gather", 1, 1, sent), "send": Collective("send", 1, 1, between)}
    return Compiled(program, 1.0, 2.0, 2**30, 2**29, argument_bytes, 0, found)


def test_the_slowest_part_bounds_a_call():
    work = Flops(model=4 * 459e12, recomputed=2 * 459e12)  # 1.5 s of four chips
    assert report.bound(compiled(work), V5P).seconds == 1.5
    assert report.bound(compiled(work), V5P).limited_by == "arithmetic"
    assert report.bound(compiled(work, argument_bytes=2 * 2765e9), V5P).seconds == 2.0
    assert report.bound(compiled(work, argument_bytes=2 * 2765e9), V5P).limited_by == "memory"
    assert report.bound(compiled(work, sent=3 * 600e9), V5P).limited_by == "links"
    network = report.bound(compiled(work, sent=3 * 600e9, between=4 * 6.25e9), V5P)
    assert (network.seconds, network.limited_by) == (4.0, "network")


def test_recomputation_does_not_count_as_utilisation():
    made = report.as_json(compiled(Flops(model=3e15, recomputed=1e15)), V5P)
    assert made["mfu_bound"] == 0.75
    assert made["share_of_hbm"] == round(1.5 / 95.73, 3)
    assert (made["peak_gib"], made["held_gib"]) == (1.0, 0.5)


def test_a_step_is_its_micro_batches_and_the_update():
    part = report.as_json(compiled(Flops(4 * 459e12, 0.0), calls=3), V5P)
    update = report.as_json(compiled(Flops(0.0, 0.0), argument_bytes=2765e9), V5P)
    step = report.step_summary([part, update, part | {"calls_per_step": 0}], V5P)
    assert step["micro_batches"] == 3
    assert step["bound_s"] == 4.0
    assert step["mfu_bound"] == 0.75


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/joint.py", "--topology=v9:2x2"], "unknown topology 'v9:2x2'; a topology is one of v5e"),
        (["--config=configs/joint.py:model=gpt-2"], "unknown model 'gpt-2'; one of qwen3-8b"),
        (["--config=configs/joint.py", "--config.mesh.fsdp=7", "--topology=v5p:4x4x4"], "does not divide 64 devices"),
        (["--config=configs/joint.py", "--programs=learner.train"], "unknown programs ['learner.train']; the config"),
        (["--config=configs/tiny.py"], "unknown topology ''"),
    ],
)
@pytest.mark.deep
def test_bad_input_is_one_clear_error(flags, message):
    command = [sys.executable, "-m", "skillrl.compile", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in error
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
