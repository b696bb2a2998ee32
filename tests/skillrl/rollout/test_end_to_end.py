"""Episodes against the real sandbox service: scripted agents that earn their rewards, and a sampled policy."""

import asyncio

import jax
import numpy as np
import pytest

from sandbox_service.client import SandboxClient
from sandbox_service.embedded import embedded_service
from skillrl.chat import ToolCall
from skillrl.models.config import variant
from skillrl.models.policy import init_params
from skillrl.rollout.agents import PolicyAgents, ScriptedAgents
from skillrl.rollout.collector import Collector
from skillrl.rollout.episode import Budgets
from skillrl.sampling.engine import Engine
from skillrl.tasks.source import read_tasks
from skillrl.tasks.world import generate, write_set
from skillrl.types import Status

pytestmark = pytest.mark.slow

BUDGETS = Budgets(max_tokens=1500, max_turns=4, wall_s=120.0, max_observation_tokens=100, exec_timeout_s=20.0)


@pytest.fixture(scope="module")
def task_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "tasks"
    write_set(path, seed=0, levels=(0,), counts={"train": 1})
    return path


def with_service(task_dir, play):
    async def run():
        async with embedded_service([task_dir]) as address, SandboxClient(address, run_id="test") as client:
            await client.wait_ready()
            result = await play(client)
            assert (await client.info()).open_sessions == 0
            return result

    return asyncio.run(run())


def test_gold_earns_the_reward_and_null_does_not(task_dir, chat):
    """The gold agent repairs the code with the world's own solution; the null agent submits at once."""
    (solution,) = generate(0, 0, 0, "train").solution.edits
    task = next(t for t in read_tasks(task_dir) if t.skill == "editing")

    def gold(task):
        seen = yield ToolCall("bash", (f"cat {solution.path}; exit 3",))
        assert seen.endswith("[exit 3]")
        edited = yield ToolCall("str_replace", ("replace", solution.path, solution.old, solution.new))
        assert "edited" in edited
        return "Done."

    def null(task):
        yield from ()
        return "Done."

    async def play(client):
        rewards = []
        for script in (gold, null):
            collector = Collector(ScriptedAgents(script, chat), client, chat, BUDGETS, max_in_flight=2)
            ((episode,),) = await collector.collect([task], 1, seed=0)
            assert episode.status is Status.SUBMITTED
            rewards.append(episode.outcome.reward)
        return rewards

    assert with_service(task_dir, play) == [1.0, 0.0]


def test_a_sampled_policy_plays_every_skill(task_dir, chat):
    """Random weights earn little, but every episode is graded, in groups, and twice the same."""
    vocab = chat.tokenizer.vocab_size
    cfg = variant("tiny", vocab=vocab, embed=32, layers=2, mlp=64)
    tasks = [t for t in read_tasks(task_dir) if t.skill in ("localization", "editing", "review")]

    async def play(client):
        async with Engine(
            cfg, init_params(cfg, jax.random.key(0)), stop_ids=chat.stop_ids, streams=4, max_tokens=BUDGETS.max_tokens
        ) as engine:
            collector = Collector(PolicyAgents(engine), client, chat, BUDGETS, max_in_flight=6)
            return [await collector.collect(tasks, 2, seed=5) for _ in range(2)]

    first, second = with_service(task_dir, play)
    assert len(first) == len(tasks)
    for one, other in zip(sum(first, []), sum(second, []), strict=True):
        assert one.outcome.graded, one.outcome.detail
        assert one.sampler_logprobs[one.loss_mask].max() < 0
        assert set(one.versions[one.loss_mask]) == {0}
        np.testing.assert_array_equal(one.tokens, other.tokens)
