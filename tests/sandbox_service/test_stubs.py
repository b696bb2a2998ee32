"""The committed stubs are what the proto gives."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sandbox_service"


def test_stubs_match_the_proto(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools (extra: dev) is not installed")
    command = [sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}"]
    command += [f"--grpc_python_out={tmp_path}", "sandbox_service/sandbox.proto"]
    subprocess.run(command, cwd=PACKAGE.parent, check=True)
    for name in ("sandbox_pb2.py", "sandbox_pb2_grpc.py"):
        made = (tmp_path / "sandbox_service" / name).read_text()
        assert made == (PACKAGE / name).read_text(), (
            f"{name} is out of date; run: python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. "
            "sandbox_service/sandbox.proto"
        )
