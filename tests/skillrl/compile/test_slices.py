"""What ships compiles with the real TPU compiler, fits its slice, and sends what it sent before.

Each case is one run of the command, in a process of its own, shared by the tests that look at it.
"""

import functools
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

# The longest file: it must not begin when the others end.
pytestmark = [pytest.mark.deep, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
LEARNER = "--programs=learner.accumulate,learner.apply"
SAMPLER = "--programs=sampler.step"
JOINT = "--config=configs/joint.py:model="
# Where no programs are named all are compiled: the learner's two and the sampler's.
CASES = {
    "qwen3-8b on v5e": [
        f"{JOINT}qwen3-8b", "--topology=v5e:8x8", "--config.mesh.fsdp=8", "--config.mesh.context=2",
        "--config.mesh.tensor=4", "--config.learner.micro_rows=8", "--config.rollout.rows=8",
    ],
    "qwen3-8b on v6e": [f"{JOINT}qwen3-8b", "--topology=v6e:4x8", "--config.rollout.rows=32"],
    "qwen3-32b on v5p": [f"{JOINT}qwen3-32b"],
    "qwen3-coder-30b-a3b on v5p": [f"{JOINT}qwen3-coder-30b-a3b"],
    "qwen3-coder-30b-a3b's sampler on v6e": [
        f"{JOINT}qwen3-coder-30b-a3b", SAMPLER, "--topology=v6e:16x16", "--config.mesh.fsdp=64",
        "--config.learner.micro_rows=256", "--config.rollout.rows=64",
    ],
    # In bfloat16 the weights alone take 14.2 GiB of a chip: no more than four can share them, one for each of the
    # key/value heads.
    "qwen3-coder-30b-a3b's int8 sampler on v5e": [
        f"{JOINT}qwen3-coder-30b-a3b", SAMPLER, "--topology=v5e:16x16", "--config.mesh.fsdp=64",
        "--config.learner.micro_rows=256", "--config.rollout.rows=64", "--config.rollout.max_tokens=16384",
        "--config.rollout.weights_dtype=int8",
    ],
    "glm-4.5-air on 64 chips of v5p": [f"{JOINT}glm-4.5-air", LEARNER],
    # The smallest slice that holds it: on 16 chips weights, gradients and moments alone take 112 GiB of each.
    "glm-4.5-air on 32 chips of v5p": [
        f"{JOINT}glm-4.5-air", "--topology=v5p:2x4x4", "--config.mesh.fsdp=4", "--config.mesh.context=2",
        "--config.learner.micro_rows=16", "--config.rollout.rows=32",
    ],
    "glm-4.5-air with 128K tokens on 256 chips of v5p": [f"{JOINT}glm-4.5-air-128k", LEARNER],
    "qwen3-8b on two slices of v5p": [
        f"{JOINT}qwen3-8b", LEARNER, "--slices=2", "--config.mesh.data=2", "--config.learner.micro_rows=64",
    ],
}  # fmt: skip
GOLDENS = json.loads(Path(__file__).with_name("goldens.json").read_text())


@functools.cache
def compiled(case: str) -> tuple[int, dict, str]:
    """Exit status, figures, and everything that was printed."""
    return command(*CASES[case])


def command(*flags: str) -> tuple[int, dict, str]:
    done = subprocess.run(
        [sys.executable, "-m", "skillrl.compile", *flags], cwd=ROOT, capture_output=True, text=True, timeout=3600
    )
    assert done.stdout.endswith("}\n"), done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
def test_it_fits(case):
    status, result, printed = compiled(case)
    assert status == 0, printed
    assert result["fits"]
    programs = {program["program"]: program for program in result["programs"]}
    assert programs.keys() == GOLDENS["programs"][case].keys()
    for program in programs.values():
        assert 0 < program["share_of_hbm"] < 1
        assert program["peak_gib"] + program["held_gib"] < result["hbm_gib"]
    if "learner.accumulate" in programs:
        # The accumulator and the parameters are in the program; their parts alone bound its peak from below.
        assert programs["learner.accumulate"]["peak_gib"] > 8 * result["params"] / result["devices"] / 2**30
        assert 0.3 < result["step"]["mfu_bound"] <= 1


@pytest.mark.parametrize("case", CASES)
def test_it_sends_what_it_sent_and_needs_the_memory_that_it_needed(case):
    """A refactor that adds a collective or a buffer fails here. After a wanted change what is printed is the golden."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    if versions != GOLDENS["versions"]:
        pytest.skip(f"the goldens are of {GOLDENS['versions']}, this is {versions}: compilers differ in their choices")
    _, result, _ = compiled(case)
    found = {program["program"]: _golden(program) for program in result["programs"]}
    golden = GOLDENS["programs"][case]
    for name, program in found.items():
        assert program["collectives"] == golden[name]["collectives"], json.dumps({case: found})
        for memory in ("peak_gib", "held_gib"):
            assert program[memory] == pytest.approx(golden[name][memory], rel=0.03), json.dumps({case: found})


def _golden(program: dict) -> dict:
    counts = {kind: [c["count"], c["runs"]] for kind, c in program["collectives"].items()}
    return {"peak_gib": program["peak_gib"], "held_gib": program["held_gib"], "collectives": counts}


def test_chips_and_tokens_are_those_that_the_case_names():
    assert compiled("glm-4.5-air on 64 chips of v5p")[1]["chips"] == 64
    assert compiled("glm-4.5-air on 32 chips of v5p")[1]["chips"] == 32
    assert compiled("glm-4.5-air on 32 chips of v5p")[1]["programs"][0]["shape"] == "16 rows x 32768 tokens"
    assert compiled("glm-4.5-air with 128K tokens on 256 chips of v5p")[1]["chips"] == 256
    shape = compiled("glm-4.5-air with 128K tokens on 256 chips of v5p")[1]["programs"][0]["shape"]
    assert shape.endswith("rows x 131072 tokens")


def test_only_gradients_cross_the_network_between_slices():
    """Each chip hands on its part of its slice's gradients, rounded to bfloat16 but for the embedding's, and sums."""
    _, result, _ = compiled("qwen3-8b on two slices of v5p")
    sent = result["programs"][0]["collectives"]["send"]["bytes"]
    chips = result["chips"] // result["slices"]
    assert 2 * result["params"] / chips < sent < 1.1 * (2 * result["params"] + 2 * 151_936 * 4096) / chips


def test_a_misfit_is_refused_with_the_compilers_words():
    status, result, _ = command(
        f"{JOINT}qwen3-8b", LEARNER, "--topology=v5e:4x4", "--config.mesh.fsdp=16", "--config.learner.micro_rows=16"
    )
    assert status == 1
    assert not result["fits"]
    misfit = result["misfits"][0]
    assert misfit["program"] == "learner.accumulate"
    assert "RESOURCE_EXHAUSTED" in misfit["message"]
    assert misfit["needed_gib"] > 15.75


def test_host_memory_frees_the_chip_of_moments_and_activations():
    """Low-rank adapters of 0.6 billion parameters on four chips, a row each."""
    small = [
        f"{JOINT}qwen3-8b", LEARNER, "--topology=v5p:2x2x1", "--config.policy.source=init:qwen3-0.6b",
        "--config.mesh.fsdp=4", "--config.learner.micro_rows=4", "--config.rollout.max_tokens=16384",
        "--config.packing.row_tokens=16384", "--config.learner.lora_rank=64",
    ]  # fmt: skip
    host = [*small, "--config.learner.optimizer_memory=host", "--config.policy.remat=offload"]
    made = []
    for flags in (small, host):
        status, result, printed = command(*flags)
        assert status == 0, printed
        made.append({program["program"]: program for program in result["programs"]})
    plain, offloaded = made
    # Of 28 layers, 64 values a width: the seven of 1024 are in four parts, the others whole on each chip.
    adapters = 28 * 64 * (7 * 1024 / 4 + 2 * 2048 + 2 * 1024 + 3 * 3072)
    assert plain["learner.accumulate"]["held_gib"] == pytest.approx(8 * adapters / 2**30, abs=0.006)
    assert offloaded["learner.accumulate"]["held_gib"] == 0
    # What is on its way to the host takes some of the room that the layers' inputs leave, 2 bytes a value.
    inputs = 28 * 16_384 * 1024 * 2 / 2**30
    freed = plain["learner.accumulate"]["peak_gib"] - offloaded["learner.accumulate"]["peak_gib"]
    assert 0.5 * inputs < freed < 1.1 * inputs
    # Frozen weights have neither gradient nor moments, 4 and 8 bytes each.
    frozen = 4 * result["params"] / 4
    assert plain["learner.apply"]["peak_gib"] < (frozen + 5 * 4 * adapters) / 2**30


def test_every_program_of_the_demo_compiles_from_its_folder():
    status, result, printed = command("--config=configs/tiny.py", "--topology=v5p:2x2x1")
    assert status == 0, printed
    names = [program["program"] for program in result["programs"]]
    assert names == ["learner.accumulate", "learner.apply", "sampler.step"]
    assert result["policy"] == "hf:assets/base"
    assert result["params"] == 886_144
