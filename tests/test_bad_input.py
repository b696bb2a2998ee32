"""Bad input is one clear error that names the remedy, and takes nothing away.

The command line itself is in test_configs.py; expired sessions and oversized messages are in tests/sandbox_service
(test_sessions.py, test_server.py, test_client.py).
"""

import hashlib
import shutil

import jax
import pytest

from skillrl import sharding
from skillrl.checkpoint import Checkpoints
from skillrl.models.config import variant
from skillrl.rl.learner import Learner, LearnerConfig
from skillrl.tokenizer import SentencePieceTokenizer

pytestmark = pytest.mark.slow

UNREACHABLE = "127.0.0.1:1"


def contents(folder) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def flags(world_dir, policy_dir):
    """A run that would go, by field."""
    return {"policy.source": f"hf:{policy_dir}", "tasks.source": str(world_dir), "rollout.max_tokens": "320"}


@pytest.fixture(scope="module")
def command(program, flags):
    """Arguments of the main command with some fields replaced."""

    def made(workdir, changes=None):
        fields = flags | (changes or {})
        overrides = [f"--config.{name}={value}" for name, value in fields.items()]
        return ["skillrl.main", "--config=configs/tiny.py:smoke", f"--workdir={workdir}", *overrides]

    return made


@pytest.fixture(scope="module", autouse=True)
def unreachable(program, command, tmp_path_factory):
    """Started first: it waits for the service while the other tests run."""
    process = program.start(*command(tmp_path_factory.mktemp("unreachable") / "run", {"sandbox.address": UNREACHABLE}))
    yield process
    process.kill()
    process.communicate()


def assert_clear(code, stderr, *parts):
    assert code not in (0, None), stderr
    assert "Traceback" not in stderr
    assert [line.startswith("error: ") for line in stderr.splitlines()].count(True) == 1, stderr
    for part in parts:
        assert part in stderr


def test_missing_task_set(program, command, tmp_path):
    done = program.run(*command(tmp_path / "run", {"tasks.source": tmp_path / "none"}))
    assert_clear(done.code, done.stderr, f"no task set at {tmp_path / 'none'}", "python -m skillrl.tasks.world")


@pytest.mark.parametrize(
    ("name", "number", "kind"), [("tasks.jsonl", 5, "task"), ("hidden/instances.jsonl", 3, "Instance")]
)
def test_damaged_record(program, command, world_dir, tmp_path, name, number, kind):
    """The trainer finds it in the public half, the service in the hidden one."""
    broken = shutil.copytree(world_dir, tmp_path / "tasks")
    lines = (broken / name).read_text().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1][: len(lines[number - 1]) // 2] + "\n"
    (broken / name).write_text("".join(lines))
    done = program.run(*command(tmp_path / "run", {"tasks.source": broken}))
    assert_clear(done.code, done.stderr, f"{broken / name}:{number}: damaged {kind} record", "rebuild the task set")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"policy.source": "hf:{tmp}/none"}, ["no policy at {tmp}/none", "--config.policy.source=hf:DIR"]),
        ({"policy.source": "hf:{tmp}"}, ["{tmp}", "tokenizer"]),
        ({"policy.source": "tiny"}, ["policy.source='tiny'", "write hf:DIR or init:VARIANT"]),
        ({"policy.tokenizer": "{tmp}/large.model"}, ["large.model has", "give the tokenizer that the policy"]),
        ({"skills.editing": "-1"}, ["-1", "editing"]),
        ({"reward.mode": "papre"}, ["reward.mode='papre'", "paper, shaped"]),
        ({"eval.suites": "('train', 'test')", "tasks.kinds": "('cooking',)"}, ["cooking", "bug_fixing"]),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_put_together(program, command, tmp_path, changes, parts):
    texts = [" ".join(f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx")] * 3
    SentencePieceTokenizer.train(texts, tmp_path / "large.model", 1000)
    filled = {name: value.format(tmp=tmp_path) for name, value in changes.items()}
    done = program.run(*command(tmp_path / "run", filled))
    assert_clear(done.code, done.stderr, *(part.format(tmp=tmp_path) for part in parts))


def test_foreign_checkpoint_in_the_workdir(program, command, tmp_path):
    """A run of another model was here: nothing of it is touched."""
    workdir = tmp_path / "run"
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    other = variant("tiny", vocab=128, layers=1, embed=32, mlp=32)
    state = Learner(other, LearnerConfig(), mesh).init(0)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(7, state, other, {"step": 7, "mixture": {}})
    checkpoints.close()
    for name in ("metrics.jsonl", "tokenizer.model", "summary.json", "eval/after.json", "episodes/train-000000.jsonl"):
        (workdir / name).parent.mkdir(exist_ok=True)
        (workdir / name).write_text("of the other run\n")
    before = contents(workdir)
    done = program.run(*command(workdir))
    assert_clear(done.code, done.stderr, f"{workdir}/checkpoints/7 is of another model", "use another workdir")
    assert contents(workdir) == before


def test_unreachable_service(unreachable):
    stdout, stderr = unreachable.communicate(timeout=90)
    assert_clear(unreachable.returncode, stderr, UNREACHABLE, "python -m sandbox_service")
