"""The scripts of the warm start on generated instances: what they read of an issue, and what they earn."""

import asyncio
import random
from collections import defaultdict

import pytest

from sandbox_service.client import SandboxClient
from sandbox_service.embedded import embedded_service
from skillrl.chat import CompactChat
from skillrl.demonstrators import CAREFUL, HASTY, reported_calls
from skillrl.evaluate import score_of
from skillrl.rollout.agents import ScriptedAgents
from skillrl.rollout.collector import Collector
from skillrl.rollout.episode import Budgets
from skillrl.skills import get_skill
from skillrl.tasks.source import read_tasks
from skillrl.tasks.world import SPLITS, generate, write_set
from skillrl.tokenizer import SentencePieceTokenizer
from skillrl.types import SKILLS, Status

BUDGETS = Budgets(max_tokens=1 << 14, max_turns=6, wall_s=300.0, max_observation_tokens=2048, exec_timeout_s=60.0)
INSTANCES = {"train": 10, "heldout_repositories": 5, "heldout_families": 5}


@pytest.mark.parametrize("split", SPLITS)
def test_reported_calls_are_those_of_the_issue(split):
    for index in range(70):
        made = generate(11, index, 0, split)
        calls = [(call.source, call.value) for call in made.solution.issue_calls]
        # The text may name them in any order.
        assert sorted(reported_calls(made.texts.issue)) == sorted(calls), made.texts.issue


@pytest.mark.parametrize(
    ("issue", "calls"),
    [
        ("f(1) should be 2 and f(0) should be 1.", [("f(1)", "2"), ("f(0)", "1")]),
        ('g({"x": 1}, [2]) must give "a. b". It does not.', [('g({"x": 1}, [2])', '"a. b"')]),
        ("h(-3) should be -4, k([[1]]) must be [[2, 3]];", [("h(-3)", "-4"), ("k([[1]])", "[[2, 3]]")]),
        ("f(1) is wrong (see above).", []),
    ],
)
def test_reported_calls_by_hand(issue, calls):
    assert reported_calls(issue) == calls


def null(task):
    yield from ()
    return "Done."


def scripted(scripts):
    return lambda task: scripts[task.skill](task, random.Random(task.task_id))


@pytest.fixture(scope="module")
def earned(tmp_path_factory):
    """Agent -> skill -> episodes, all played against one real service."""
    folder = tmp_path_factory.mktemp("demonstrations")
    write_set(folder / "tasks", seed=5, levels=(0,), counts=INSTANCES)
    tasks = [t for t in read_tasks(folder / "tasks") if t.skill in SKILLS]
    prompts = [get_skill(t.skill).make_prompt(t) for t in tasks]
    chat = CompactChat(SentencePieceTokenizer.train(prompts, folder / "t.model", 700))
    chosen = {
        "careful": (scripted(CAREFUL), tasks),
        # Strides that meet every skill.
        "null": (null, tasks[::5]),
        "hasty": (scripted(HASTY), [t for t in tasks if t.skill in HASTY][::6]),
    }

    async def play():
        async with embedded_service([folder / "tasks"]) as address, SandboxClient(address, run_id="test") as client:
            await client.wait_ready()
            played = {}
            for name, (script, some) in chosen.items():
                collector = Collector(ScriptedAgents(script, chat), client, chat, BUDGETS, max_in_flight=8)
                played[name] = [g[0] for g in await collector.collect(some, 1, seed=0)]
            return played

    by_skill = {name: defaultdict(list) for name in chosen}
    for name, episodes in asyncio.run(play()).items():
        for episode in episodes:
            by_skill[name][episode.task.skill].append(episode)
    return by_skill


@pytest.mark.deep
@pytest.mark.parametrize("skill", SKILLS)
def test_careful_scripts_earn_the_maximum(earned, skill):
    episodes = earned["careful"][skill]
    assert len(episodes) == 20 * (2 if skill == "review" else 1)
    short = [e for e in episodes if not e.outcome.graded or score_of(e) != 1.0]
    assert not short, [(e.outcome, [t.text for t in e.turns]) for e in short]
    assert {e.status for e in episodes} == {Status.SUBMITTED}


@pytest.mark.deep
@pytest.mark.parametrize("skill", SKILLS)
def test_the_null_agent_earns_the_minimum(earned, skill):
    rewards = [e.outcome.reward for e in earned["null"][skill]]
    assert rewards and set(rewards) == {get_skill(skill).reward_range[0]}


@pytest.mark.deep
def test_hasty_scripts_are_graded_and_sometimes_wrong(earned):
    scores = [score_of(e) for episodes in earned["hasty"].values() for e in episodes]
    assert set(earned["hasty"]) == set(HASTY)
    assert 0.0 in scores and 1.0 in scores
