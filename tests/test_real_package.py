"""A real package from the index through the whole loop: built, proven, trained on, evaluated, and scored by scripts."""

import asyncio
import json

import pytest

from sandbox_service.client import SandboxClient
from sandbox_service.embedded import embedded_service
from sandbox_service.tasks import read_task_set
from skillrl.chat import CompactChat, ToolCall
from skillrl.metrics import read_metrics
from skillrl.rollout.agents import ScriptedAgents
from skillrl.rollout.collector import Collector
from skillrl.rollout.episode import Budgets
from skillrl.rollout.records import read_episodes
from skillrl.skills import get_skill
from skillrl.tasks.source import read_tasks
from skillrl.tasks.submissions import gold
from skillrl.tokenizer import SentencePieceTokenizer
from skillrl.types import SKILLS, Status

pytestmark = pytest.mark.slow

BUDGETS = Budgets(max_tokens=1 << 17, max_turns=20, wall_s=600.0, max_observation_tokens=256, exec_timeout_s=60.0)
KINDS = {*SKILLS, "bug_fixing"}


@pytest.fixture(scope="module")
def package_dir(program, tmp_path_factory):
    """Two bugs planted in inflection, by the command of the README."""
    folder = tmp_path_factory.mktemp("package") / "tasks"
    done = program.run("skillrl.tasks.build", "--pypi=inflection==0.5.1", f"--out={folder}", "--instances=2")
    if done.code == 2 and "pip cannot fetch" in done.stderr:
        pytest.skip(f"no package index here: {done.stderr.strip().splitlines()[-1][:200]}")
    assert done.code == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    # The summary: tasks of every skill, and what was left out and why.
    (package,) = made["packages"]
    assert package["instances"] == 2 and made["tasks"] == dict.fromkeys(KINDS, 2) | {"review": 4}
    assert package["package"]["name"] == "inflection" and package["baseline"]["tests"] > 400
    assert {"left_out", "mutations", "notes"} <= package.keys()
    return folder


def test_validate_proves_it(program, package_dir):
    done = program.complete("skillrl.tasks.validate", str(package_dir), "--sample=7", "--repeats=1")
    proven = json.loads(done.stdout.splitlines()[-1])
    assert proven["failures"] == {} and proven["tasks"] == 7
    assert proven["skills"].keys() == KINDS
    assert all(s["gold_max"] == s["null_min"] == s["tasks"] for s in proven["skills"].values())


def test_the_main_command_trains_and_evaluates_on_it(program, package_dir, policy_dir, tmp_path):
    done = program.complete(
        "skillrl.main", "--config=configs/tiny.py:smoke", f"--workdir={tmp_path}",
        f"--config.tasks.source={package_dir}", f"--config.policy.source=hf:{policy_dir}",
        "--config.eval.suites=('train',)", "--config.skills.review=4", "--config.rollout.max_tokens=1024",
        "--config.packing.row_tokens=1024",
    )  # fmt: skip
    assert "train" in done.stdout
    trained = [e for step in range(2) for e in read_episodes(tmp_path / "episodes" / f"train-{step:06d}.jsonl")]
    evaluated = list(read_episodes(tmp_path / "episodes" / "eval-after.jsonl"))
    assert len(trained) == 2 * 5 * 4 and len(evaluated) == 14
    for episode in trained + evaluated:
        assert episode.outcome.graded, episode.outcome
        assert episode.status is not Status.INFRA_ERROR
    assert any(row["admitted_groups"] for row in read_metrics(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["skills"] == {} and summary["train"]["skills"].keys() == set(SKILLS)
    assert summary["train"]["composite"]["bug_fixing"]["n"] == 2
    assert (tmp_path / "report.html").exists() and (tmp_path / "hf" / "model.safetensors").exists()


def gold_script(task_set):
    """Hands in the gold submission by tool calls, as an agent must."""

    def script(task):
        hidden = task_set.task(task.task_id)
        instance = task_set.instance_of(hidden)
        handed = gold(hidden, instance, task_set.tree_files(instance.tree))
        for path, content in handed.changed.items():
            if content is None:
                yield ToolCall("bash", (f"rm {path}",))
            else:
                yield ToolCall("str_replace", ("create", path, content.decode()))
        submission = handed.submission
        if submission.files:
            return "<files>" + "\n".join(submission.files) + "</files>"
        if submission.judgment:
            return f"<review>{submission.review}</review><judgment>{submission.judgment}</judgment>"
        return "Done."

    return script


def null_script(task):
    yield from ()
    return "Done."


def test_gold_and_null_agents_score_maximum_and_minimum(package_dir, tmp_path):
    tasks = read_tasks(package_dir)
    prompts = [get_skill(task.skill).make_prompt(task) for task in tasks]
    chat = CompactChat(SentencePieceTokenizer.train(prompts, tmp_path / "t.model", 600))

    async def play():
        async with embedded_service([package_dir]) as address, SandboxClient(address, run_id="test") as client:
            await client.wait_ready()
            played = []
            for script in (gold_script(read_task_set(package_dir)), null_script):
                collector = Collector(ScriptedAgents(script, chat), client, chat, BUDGETS, max_in_flight=4)
                played.append([group[0] for group in await collector.collect(tasks, 1, seed=0)])
            return played

    for name, episodes, best in zip(("gold", "null"), asyncio.run(play()), (1, 0), strict=True):
        assert {e.task.skill for e in episodes} == KINDS
        for episode in episodes:
            expected = get_skill(episode.task.skill).reward_range[best]
            assert episode.outcome.reward == expected, (name, episode.task.skill, episode.outcome, episode.turns[1:])
