"""The service with the docker backend: program, client, session, edit, grade."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine import IMAGE
from service_support import BUGGY, CORRECT, write_task_set

from sandbox_service.backends.docker_engine import RUN_LABEL
from sandbox_service.client import SandboxClient
from sandbox_service.sandbox_pb2 import Submission


@pytest.mark.deep
def test_the_service_grades_in_containers(engine, tmp_path):
    others = {container["Id"] for container in engine.containers()}
    digest = write_task_set(tmp_path / "tasks")
    address = f"unix:{tmp_path}/s"
    command = [sys.executable, "-m", "sandbox_service", f"--tasks={tmp_path}/tasks", f"--bind={address}"]
    command += ["--backend=docker", f"--image={IMAGE}", "--pool=1", f"--state={tmp_path}/state"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "DOCKER_HOST": f"unix://{engine.socket}"}
    with (tmp_path / "log").open("wb") as log:
        service = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    async def episode() -> tuple[float, float]:
        rewards = []
        async with SandboxClient(address, run_id="run-9") as client:
            for text in (BUGGY, CORRECT.decode()):
                session = await client.open(digest, "t-editing", "editing")
                done = await session.exec(f"cat > pkg/core.py <<'X'\n{text}X\npython -m pytest -q 2>&1 | tail -1")
                assert "passed" in done.output or "failed" in done.output
                assert engine.containers(label=f"{RUN_LABEL}=run-9")
                rewards.append((await session.score(Submission())).reward)
                await session.close()
        return tuple(rewards)

    try:
        deadline = time.monotonic() + 300.0
        while b"serving on" not in (tmp_path / "log").read_bytes():
            assert service.poll() is None and time.monotonic() < deadline, Path(tmp_path, "log").read_text()
            time.sleep(0.1)
        rewards = asyncio.run(asyncio.wait_for(episode(), 300.0))
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(60)
    assert rewards == (0.0, 1.0), Path(tmp_path, "log").read_text()
    assert {container["Id"] for container in engine.containers()} <= others
