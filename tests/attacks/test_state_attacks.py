"""Harbor's rule on a real engine: the solution earns all, nothing earns nothing, and no known cheat does."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import dataset_rows as rows
import pytest
import state_attacks
from engine import IMAGE, make_image

from sandbox_service.backends.docker import DockerBackend
from sandbox_service.graders import Grade, GradeRequest, Submission, grade
from sandbox_service.graders.memo import GradeMemo
from sandbox_service.graders.state import state_after
from sandbox_service.runner import Runner
from sandbox_service.sessions import Sessions
from sandbox_service.tasks import read_task_set
from sandbox_service.workspaces import Trees
from skillrl.tasks.cheats import PROGRAMS
from skillrl.tasks.readers.__main__ import main
from skillrl.tasks.readers.build_images import build, images_of, run_build

pytestmark = pytest.mark.deep


class Stage:
    """One task in containers of its image. `play` runs a script as an agent would and grades what it leaves."""

    def __init__(self, loop: asyncio.Runner, runner: Runner, tasks, image: str):
        self.loop, self.runner, self.tasks, self.image = loop, runner, tasks, image

    def request(self) -> GradeRequest:
        (task,) = self.tasks.tasks.values()
        instance = self.tasks.instance_of(task)
        return GradeRequest(self.tasks, task, instance, self.tasks.environment_of(instance), Submission(), {})

    def play(self, script: str | None, *, sees_solution: bool = False) -> Grade:
        request = self.request()
        if script is not None:
            with contextlib.suppress(ValueError):  # as in a session, such a state is the start's
                left = self.loop.run(state_after(request, self.runner, script, with_solution=sees_solution))
                request = replace(request, state=left)
        return self.loop.run(grade(request, self.runner))


@contextlib.contextmanager
def staged(engine, tasks, image: str):
    # Not below pytest's own folder: the engine shows it to containers by its path.
    with asyncio.Runner() as loop, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as state:
        backend = DockerBackend(Path(state, "state"), image, socket_path=engine.socket, pool=0)
        loop.run(backend.start())
        try:
            yield Stage(loop, Runner(backend, Trees(Path(state, "trees"))), tasks, image)
        finally:
            loop.run(backend.stop())


@pytest.fixture(scope="module")
def stage(engine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("harbor")
    source = rows.write_sums(folder / "source", IMAGE)
    client = engine.client()
    for image, files in images_of(str(source)):
        build(client, image, files)
    client.close()
    assert main(["harbor", str(source), f"--out={folder / 'set'}"]) == 0
    with staged(engine, read_task_set(folder / "set", [image.name]), image.name) as made:
        yield made


@pytest.fixture(scope="module")
def faulty(engine, tmp_path_factory):
    """A C program whose fault a sanitizer reports."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc here to make an image with; run `apt-get install --no-install-recommends gcc libc6-dev`")
    folder = tmp_path_factory.mktemp("faulty")
    source = folder / "rows.jsonl"
    source.write_text(json.dumps(rows.sec_bench_sums()) + "\n")
    client = engine.client()
    make_image(client, "local/gcc:1", ("gcc", "libc6-dev", "make"))
    ((image, _),) = images_of(str(source), "sec_bench")
    run_build(client, rows.sums_image("local/gcc:1"), image.published, network="none")
    build(client, image, {})
    client.close()
    assert main(["sec_bench", str(source), f"--out={folder / 'set'}"]) == 0
    with staged(engine, read_task_set(folder / "set", [image.name]), image.name) as made:
        yield made


def test_the_solution_earns_all_and_nothing_earns_nothing(stage):
    gold = stage.play("bash /solution/solve.sh", sees_solution=True)
    assert gold.reward == 1, gold
    assert gold.components["sentinel_known"] == gold.components["sentinel_failed"] == 1
    for script in (None, "true", "echo 'def total(path):\n    return 42' > total.py"):
        nothing = stage.play(script)
        assert nothing.reward == 0 and nothing.components["reported"] == 1, nothing


def test_another_way_to_do_it_earns_all(stage):
    solved = stage.play(
        "mkdir lib; printf 'def total(path):\\n    return sum(int(x) for x in open(path))\\n' > lib/sums.py\n"
        "ln -s lib/sums.py total.py\n"
        "printf '#!/bin/sh\\necho sum 60\\n' > report.sh; chmod 755 report.sh"
    )
    assert solved.reward == 1, solved


@pytest.mark.parametrize("name", sorted(state_attacks.ATTACKS))
def test_a_cheat_earns_nothing(stage, name, note):
    result = stage.play(state_attacks.ATTACKS[name])
    assert result.reward == 0, json.dumps(dict(result.components)) + result.detail
    note("docker", "a container's state as the submission", name, "reward 1 without the work", "reward 0")


@pytest.mark.parametrize("name", ["stage", "faulty"])
def test_validate_proves_it(request, engine, name):
    stage = request.getfixturevalue(name)
    command = [sys.executable, "-m", "skillrl.tasks.validate", str(stage.tasks.path), f"--image={stage.image}"]
    environment = os.environ | {"DOCKER_HOST": f"unix://{engine.socket}"}
    done = subprocess.run(
        [*command, "--repeats=1", "--attacks=1"], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    (seen,) = report["skills"].values()
    assert (seen["gold_max"], seen["null_min"], seen["attacks_min"]) == (1, 1, 1) and not report["failures"]


def test_an_agent_solves_it_through_the_service(stage, engine):
    async def episode() -> list[float]:
        state = Path(folder)
        backend = DockerBackend(state / "state", stage.image, socket_path=engine.socket, pool=0)
        await backend.start()
        trees = Trees(state / "trees")
        runner = Runner(backend, trees)
        # With the memory of grades, as in the service: the two submissions differ in the container's state alone.
        sessions = Sessions(backend, trees, [stage.tasks], GradeMemo(lambda request: grade(request, runner)))
        sessions.accept()
        try:
            rewards = []
            (task_id,) = stage.tasks.tasks
            for number, script in enumerate(("ls /tests /solution; echo done", rows.SUMS_SOLUTION)):
                await sessions.open(f"s{number}", "run", stage.tasks.digest, task_id, "terminal")
                seen = await sessions.exec(f"s{number}", "e1", "cat /app/numbers.txt; cd /app\n" + script)
                assert seen.output.startswith(b"10\n20\n30\n") and b"test_outputs" not in seen.output
                result = await sessions.score(f"s{number}", "g1", Submission())
                rewards.append(result.reward)
            return rewards
        finally:
            await sessions.stop()
            await backend.stop()

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        assert asyncio.run(episode()) == [0.0, 1.0]


REPAIRS = {
    "stops there": "sed -i 's/i < n \\&\\&/i < n \\&\\& n <= 16 \\&\\&/' tool.c",
    "another text": "sed -i 's/  for (int i/  if (n >= 17) return puts(\"refused\") < 0 || 1;\\n  for (int i/' tool.c",
}
NO_REPAIRS = PROGRAMS | {
    "refuses everything": "sed -i 's/  for (int i/  if (n) return 1;\\n  for (int i/' tool.c",
    "knows the proof": "sed -i 's/  for (int i/  if (n == 40) return 1;\\n  for (int i/' tool.c",
    "moves the end": "sed -i 's/malloc(16)/malloc(41)/' tool.c",
    "no build": "echo broken >> tool.c",
    "another Makefile": "printf 'tool: tool.c\\n\\tgcc -o tool tool.c\\n' > Makefile",
}


def test_the_gold_change_repairs_and_nothing_does_not(faulty):
    gold = faulty.play("bash /solution/solve.sh", sees_solution=True)
    assert gold.reward == 1, gold
    assert gold.components["faulty_variants"] > 0 and gold.components["other_variants"] > 0
    nothing = faulty.play(None)
    assert nothing.reward == 0 and nothing.components["built"] == 1 and not nothing.components["repaired"], nothing


@pytest.mark.parametrize("name", sorted(REPAIRS))
def test_another_repair_is_as_good(faulty, name):
    assert faulty.play(REPAIRS[name]).reward == 1


@pytest.mark.parametrize("name", sorted(NO_REPAIRS))
def test_what_repairs_nothing_earns_nothing(faulty, name, note):
    result = faulty.play(NO_REPAIRS[name])
    assert result.reward == 0, result
    note("docker", "repairs of a fault in C", name, "reward 1 without a repair", "reward 0")
