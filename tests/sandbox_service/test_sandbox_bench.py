"""The service's benchmark: its arithmetic by hand, and a short run of the command."""

import json
import math
import os
import subprocess
import sys
import venv

import pytest

from sandbox_service.bench.__main__ import figures
from sandbox_service.bench.cycles import Latencies, quantile
from sandbox_service.bench.grading import Cost


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3.0, 1.0, 2.0], 0.5, 2.0), ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0), ([1.0, 2.0], 0.99, 2.0), ([7.0], 0.0, 7.0)],
)
def test_quantile_is_the_smallest_value_that_covers_the_share(values, share, expected):
    assert quantile(values, share) == expected


def test_quantile_of_nothing():
    assert math.isnan(quantile([], 0.5))


def test_overhead_is_what_a_grade_takes_beside_its_test_runs():
    assert Cost(grade_s=1.5, tests_s=1.2, runs=7).overhead_share == pytest.approx(0.25)
    assert Cost(grade_s=0.001, tests_s=0.0, runs=0).overhead_share == 0.0


def test_figures_are_ratios_of_medians_and_null_where_a_contender_is_absent():
    cycles = {
        "subprocess": Latencies([0.0], [0.002], [0.0]),
        "jail": Latencies([0.001, 0.003, 0.002], [0.005] * 3, [0.001] * 3),
        "service": Latencies([0.004], [0.006], [0.002]),
    }
    execs = {"subprocess": [0.002, 0.002, 0.9], "jail": [0.005, 0.006, 0.9], "service": [0.008]}
    one, many = {"service": 20.0, "jail": 30.0}, {"service": 4.0, "jail": 5.0, "docker run": 0.5}
    costs = {"editing": Cost(1.2, 1.0, 7.0), "review": Cost(0.0, 0.0, 0.0)}
    found = figures(cycles, execs, one, many, costs, 0.3)
    assert found["exec_ratio_subprocess_p50"] == 3.0 and found["service_exec_ratio_subprocess_p50"] == 4.0
    assert (found["fork_ms_p50"], found["fork_ms_p99"], found["cycle_ms_p50"]) == (2.0, 3.0, 12.0)
    assert found["grading_overhead_share"] == pytest.approx(0.2) and found["grade_editing_ms"] == 1200.0
    assert found["episodes_ratio_docker"] == 8.0 and found["episodes_ratio_docker_backend"] is None
    assert found["exec_ratio_swerex_p50"] is None


@pytest.mark.deep
def test_the_command_ends_with_one_json_object():
    command = [sys.executable, "-m", "sandbox_service.bench", "--turns=2", "--seconds=0.2", "--gradings=1", "--cases=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cycles_per_s"] > 0 and found["episodes_ratio_docker"] is None
    assert "--docker-image" in found["absent"]["docker run"] and "--swerex-python" in found["absent"]["SWE-ReX local"]


@pytest.mark.deep
def test_docker_and_swe_rex_are_measured_beside_it(engine, tmp_path):
    from engine import IMAGE

    venv.create(tmp_path / "rex", with_pip=True)
    python = tmp_path / "rex/bin/python"
    if subprocess.run([python, "-m", "pip", "install", "-q", "swe-rex"]).returncode:
        pytest.skip("swe-rex cannot be installed: no package index")
    command = [sys.executable, "-m", "sandbox_service.bench", "--turns=2", "--seconds=0.2", "--gradings=1", "--cases=1"]
    done = subprocess.run(
        [*command, f"--docker-image={IMAGE}", f"--swerex-python={python}"],
        env=os.environ | {"DOCKER_HOST": f"unix://{engine.socket}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["absent"].keys() <= {"bubblewrap"}, "what else is there is measured"
    for name in ("episodes_ratio_docker", "episodes_ratio_docker_backend", "exec_ratio_swerex_p50"):
        assert found[name] > 0, name
