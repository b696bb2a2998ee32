"""python -m skillrl.models.check: its last line, exit status and errors."""

import builtins
import re

import numpy as np
import pytest
from hf_folders import random_params, write_folder
from safetensors.numpy import load_file, save_file

from skillrl.models import check
from skillrl.models.hf import load_hf, save_hf


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_agreement_and_disagreement(tmp_path, mesh, capsys):
    write_folder(tmp_path, "qwen3", head_dim=8)
    assert check.main([str(tmp_path), "--tokens=16"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert float(re.fullmatch(r"max_abs_logit_diff=(\S+)", last)[1]) < 1e-4

    ours = check.our_logits(*load_hf(tmp_path, mesh), mesh, np.zeros((1, 8), np.int32))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"][0] *= 1.01
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    agrees, difference = check.within_tolerance(ours, check.their_logits(tmp_path, np.zeros((1, 8), np.int32)))
    assert not agrees
    assert difference > 1e-3


def test_the_tolerance_grows_with_the_logits():
    small, large = np.array([0.1, -0.2]), np.array([100.0, -300.0])
    assert check.within_tolerance(small + 9e-5, small)[0]
    assert not check.within_tolerance(small + 2e-4, small)[0]
    assert check.within_tolerance(large + 0.02, large)[0]
    assert not check.within_tolerance(large + 0.05, large)[0]
    agrees, difference = check.within_tolerance(np.array([np.nan]), np.array([1.0]))
    assert not agrees
    assert np.isnan(difference)


def test_errors_name_the_remedy(tmp_path, cfg, capsys, monkeypatch):
    assert check.main([str(tmp_path / "none")]) == 2
    assert "none holds no config.json; give the folder of a model" in capsys.readouterr().err
    save_hf(tmp_path, cfg, random_params(cfg))
    real = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert check.main([str(tmp_path)]) == 2
    assert "error: torch is missing; pip install 'transformers>=5.0' torch" in capsys.readouterr().err
