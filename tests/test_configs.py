"""Every config loads with its arguments, and what is wrong on the command line is one clear line."""

import importlib
import math
import subprocess
import sys
from pathlib import Path

import pytest

from configs import common, joint
from skillrl.evaluate import EXAM_SUITES

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem not in ("__init__", "common"))
ARGUMENTS = {
    "joint": [f"model={name}" for name in joint.MODELS],
    "tiny": ["smoke", "smoke=true", "smoke=false"],
    "sft": ["smoke"],
    "single_skill": ["skill=review", "skill=editing,smoke"],
    "eval": [*(f"suite={name}" for name in EXAM_SUITES), "suite=security,tiny"],
}


def load(name, arg=""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


def fields(config):
    return {key: fields(value) if hasattr(value, "items") else type(value) for key, value in config.items()}


@pytest.mark.parametrize(("name", "arg"), [(n, a) for n in CONFIGS for a in ["", *ARGUMENTS.get(n, [])]])
def test_every_config_has_the_fields_of_the_common_one(name, arg):
    config = load(name, arg)
    assert config.is_locked
    assert fields(config) == fields(common.base_config())


@pytest.mark.parametrize(("name", "arg"), [(n, a) for n in CONFIGS for a in ["", *ARGUMENTS.get(n, [])]])
def test_every_config_passes_the_check(name, arg):
    from skillrl import limits

    limits.check(load(name, arg))


@pytest.mark.parametrize("name", joint.MODELS)
def test_a_joint_config_fills_its_slice(name):
    """Mesh, rows and lengths agree with the slice; whether the model fits is tested with the compiler."""
    from skillrl import sharding

    config = load("joint", f"model={name}")
    chips = math.prod(int(size) for size in config.topology.partition(":")[2].split("x"))
    assert math.prod(config.mesh.values()) == chips
    rows = math.prod(config.mesh[axis] for axis in sharding.RULES["batch"])
    assert config.learner.micro_rows % rows == 0
    assert config.rollout.rows % rows == 0
    assert config.packing.row_tokens == config.rollout.max_tokens >= 32_768


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown model 'gpt-2'; one of qwen3-8b, llama-3.1-8b, "):
        load("joint", "model=gpt-2")


def test_smoke_is_smaller():
    for name in ("tiny", "sft"):
        assert load(name, "smoke").num_steps < load(name).num_steps
        assert load(name, "smoke=false").num_steps == load(name).num_steps


def test_a_single_skill_is_the_only_one():
    config = load("single_skill", "skill=review")
    assert {name for name, weight in config.skills.items() if weight} == {"review"}


def test_arguments_are_typed():
    parsed = common.parse_arg("steps=3,fast,name=x", steps=1, fast=False, name="", rate=0.5)
    assert parsed.to_dict() == {"steps": 3, "fast": True, "name": "x", "rate": 0.5}


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("smok", "unknown config argument 'smok'; known: smoke, steps"),
        ("smoke=1", "config argument smoke takes true or false, not '1'"),
        ("steps=many", "config argument steps takes a int, not 'many'"),
    ],
)
def test_wrong_arguments_are_named(arg, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        common.parse_arg(arg, smoke=False, steps=1)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--config=configs/tiny.py", "--config.rollout.group_siez=4"], ["rollout.group_siez=4", '"group_size"']),
        (["--config=configs/tiny.py", "--config.nope=4"], ["--config.nope=4", "configs/common.py"]),
        (["--config=configs/tiny.py", "--config.skills.cooking=1"], ["--config.skills.cooking=1"]),
        (["--config=configs/tiny.py", "--config.num_steps=many"], ["--config.num_steps=many", "int"]),
        (["--config=configs/tiny.py", "--config.learner.learning_rate=high"], ["learning_rate=high", "float"]),
        (["--config=configs/tiny.py", "--config.rollout=3"], ["--config.rollout=3", "not a dict"]),
        (["--config=configs/tiny.py:smkoe"], ["'smkoe'", "known: smoke"]),
        (["--config=configs/single_skill.py:skill=cooking"], ["'cooking'", "localization"]),
        (["--config=configs/eval.py:suite=swe"], ["'swe'", "one of bug_fixing, refactoring", "all"]),
        (["--config=configs/tony.py"], ["No such file", "configs/tony.py"]),
        (["--config=configs/tiny.py", "--confg.seed=1"], ["'confg.seed'"]),
        (["--config=configs/tiny.py", "extra"], ["'extra'", "--flag=value"]),
        (["--config=configs/tiny.py", "--workdir=gs://bucket/run"], ["--workdir=gs://bucket/run", "mount the bucket"]),
        (["--config=configs/tiny.py", "--config.rollout.group_size=1"], ["rollout.group_size=1", "at least 2"]),
        ([], ["--config"]),
    ],
)
def test_a_wrong_command_line_is_one_clear_error(tmp_path, flags, parts):
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "skillrl.main", f"--workdir={workdir}", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode not in (0, None)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr
    assert done.stdout == ""
    assert not workdir.exists() and not (ROOT / "gs:").exists()
