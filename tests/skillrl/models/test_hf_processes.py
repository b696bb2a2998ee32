"""Two processes, each with half of the devices, import and export one model."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hf_folders import random_params

from skillrl.models.config import ModelConfig
from skillrl.models.hf import save_hf

CFG = ModelConfig(
    family="qwen3_moe", vocab=64, embed=16, layers=2, q_heads=4, kv_heads=2, head_dim=8, mlp=32, experts=4,
    experts_per_token=2, expert_mlp=8,
)  # fmt: skip
PROGRAM = """
import sys, jax
rank, port, source, out, tokenizer = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, int(rank))
from skillrl import export, sharding
from skillrl.models.hf import load_hf
cfg, params = load_hf(source, sharding.make_mesh({"expert": 2, "fsdp": 2}))
assert not params["moe_blocks"]["expert_up_EDF"].is_fully_addressable
export.export(out, cfg, params, tokenizer, "card")
"""


@pytest.mark.slow
def test_two_processes_read_their_own_parts_and_the_first_writes(tmp_path):
    (tmp_path / "source").mkdir()
    save_hf(tmp_path / "source", CFG, random_params(CFG))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    root = Path(__file__).parents[3]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    arguments = [str(port), str(tmp_path / "source"), str(tmp_path / "out"), str(root / "assets" / "base")]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), *arguments],
            cwd=root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in started:
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output
    finally:
        for process in started:
            process.kill()
    written = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert written == (tmp_path / "source" / "model.safetensors").read_bytes()
