import asyncio
import collections
import dataclasses

import numpy as np
import pytest

from sandbox_service import sandbox_pb2 as pb
from skillrl.chat import ToolCall
from skillrl.rollout.agents import ScriptedAgents
from skillrl.rollout.collector import Collector, episode_seed
from skillrl.rollout.records import append_episodes, episode_from_json, episode_to_json, read_episodes, write_episodes
from skillrl.types import Outcome, Status


def fix(task):
    yield ToolCall("str_replace", ("replace", "a.py", "x - y", "x + y"))
    return "Fixed."


def collect(sandbox, chat, budgets, tasks, group_size, *, script=fix, seed=0, max_in_flight=64, **options):
    collector = Collector(ScriptedAgents(script, chat), sandbox, chat, budgets, max_in_flight=max_in_flight)
    groups = asyncio.run(collector.collect(tasks, group_size, seed=seed, **options))
    assert not sandbox.open_sessions
    return groups


def test_groups_keep_order_and_size(sandbox, chat, budgets, make_task):
    tasks = [make_task(n) for n in (3, 1, 2)]
    groups = collect(sandbox, chat, budgets, tasks, 4)
    assert [[e.task.task_id for e in group] for group in groups] == [[t.task_id] * 4 for t in tasks]
    assert all(e.outcome.reward == 1.0 for group in groups for e in group)
    assert len({e.episode_id for group in groups for e in group}) == 12
    assert [len({e.group_id for e in group}) for group in groups] == [1, 1, 1]


def test_the_same_task_twice_is_two_groups(sandbox, chat, budgets, make_task):
    first, second = collect(sandbox, chat, budgets, [make_task(), make_task()], 2)
    assert first[0].group_id != second[0].group_id


def test_seeds_depend_on_seed_task_and_member_alone():
    seeds = {episode_seed(s, g, m) for s in range(3) for g in ("a", "b") for m in range(4)}
    assert len(seeds) == 24
    assert all(0 <= s < 2**31 for s in seeds)
    # Recorded: another value here means that old runs cannot be repeated.
    assert episode_seed(0, "task/0.0", 0) == 1692827257


def test_sessions_in_flight_are_bounded(sandbox, chat, budgets, make_task):
    collect(sandbox, chat, budgets, [make_task(n) for n in range(5)], 4, max_in_flight=3)
    assert sandbox.most_open == 3
    assert len(sandbox.sessions) == 20


def run_bash(task):
    yield ToolCall("bash", ("echo",))
    return "done"


def test_a_lost_episode_is_played_once_more_in_a_fresh_session(sandbox, chat, budgets, make_task):
    sandbox.failures_left = 2
    (group,) = collect(sandbox, chat, budgets, [make_task()], 4, script=run_bash)
    assert [e.status for e in group] == [Status.SUBMITTED] * 4
    assert len(sandbox.sessions) == 6


def test_an_episode_lost_three_times_stays_ungradable_and_loses_no_other(sandbox, chat, budgets, make_task):
    def script(task):
        yield ToolCall("bash", ("die" if task.task_id == "task-1" else "echo",))
        return "done"

    groups = collect(sandbox, chat, budgets, [make_task(n) for n in range(3)], 2, script=script)
    assert [[e.outcome.graded for e in group] for group in groups] == [[True] * 2, [False] * 2, [True] * 2]
    assert len(sandbox.sessions) == 2 + 3 * 2 + 2


def outage(sandbox, chat, budgets, make_task, max_outage_s, repaired_s):
    """Plays 60 episodes, at most 20 at once, on a service that fails until `repaired_s`; returns them."""

    async def run():
        loop = asyncio.get_running_loop()
        sandbox.failures_left = 10**9
        loop.call_later(repaired_s, setattr, sandbox, "failures_left", 0)
        agents = ScriptedAgents(run_bash, chat)
        collector = Collector(agents, sandbox, chat, budgets, max_in_flight=20, max_outage_s=max_outage_s)
        (group,) = await collector.collect([make_task()], 60, seed=0)
        return group, collector.take_replays()

    return asyncio.run(run())


def test_while_the_service_fails_new_episodes_wait(sandbox, chat, budgets, make_task):
    group, replays = outage(sandbox, chat, budgets, make_task, max_outage_s=60.0, repaired_s=0.5)
    # Sixteen failures open the breaker; those are at most five episodes that failed three times.
    assert sum(not e.outcome.graded for e in group) <= 5
    assert len(sandbox.sessions) <= 60 + 3 * 20
    assert replays <= 3 * 20


def test_after_a_long_outage_episodes_are_lost_without_being_played(sandbox, chat, budgets, make_task):
    group, _ = outage(sandbox, chat, budgets, make_task, max_outage_s=0.0, repaired_s=60.0)
    assert not any(e.outcome.graded for e in group)
    unplayed = [e for e in group if e.outcome.detail.startswith("not played: the sandbox service has been failing")]
    assert len(unplayed) >= 30
    assert all(len(e.tokens) == 0 and e.status is Status.INFRA_ERROR for e in unplayed)
    assert len(sandbox.sessions) < 60


def test_a_faulty_task_is_not_played_again(sandbox, chat, budgets, make_task):
    sandbox.reply = pb.ScoreReply(graded=False, reason="task", detail="gold fails")
    (group,) = collect(sandbox, chat, budgets, [make_task()], 2)
    assert [e.outcome.reason for e in group] == ["task", "task"]
    assert len(sandbox.sessions) == 2


def test_progress_is_reported_and_its_failure_loses_nothing(sandbox, chat, budgets, make_task):
    done = []

    def on_done(episode):
        done.append(episode)
        raise KeyError("a broken bar")

    (group,) = collect(sandbox, chat, budgets, [make_task()], 3, on_done=on_done)
    assert sorted(e.episode_id for e in done) == [e.episode_id for e in group]


def test_cancelling_closes_every_session(sandbox, chat, budgets, make_task):
    def sleeper(task):
        yield ToolCall("bash", ("sleep 30",))
        return "done"

    async def run():
        collector = Collector(ScriptedAgents(sleeper, chat), sandbox, chat, budgets, max_in_flight=8)
        running = asyncio.create_task(collector.collect([make_task()], 12, seed=0))
        while len(sandbox.open_sessions) < 8:
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not sandbox.open_sessions

    asyncio.run(run())


def assert_same(a, b):
    for field in dataclasses.fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other


def test_episodes_survive_the_disk(sandbox, chat, budgets, make_task, tmp_path):
    sandbox.failures_left = 1
    (group,) = collect(sandbox, chat, budgets, [make_task()], 2, script=run_bash)
    awkward = dataclasses.replace(
        group[0],
        sampler_logprobs=np.full(len(group[0].tokens), -0.1, np.float32) / 3,
        outcome=Outcome(None, reason="infra", detail="line\nbreak \u2028 and \u2581"),
    )
    path = tmp_path / "new" / "episodes.jsonl"
    write_episodes(path, [awkward])
    append_episodes(path, group)
    back = list(read_episodes(path))
    for one, other in zip([awkward, *group], back, strict=True):
        assert_same(one, other)
    write_episodes(path, group[:1])
    assert len(list(read_episodes(path))) == 1


def test_a_line_that_is_no_episode_is_named(sandbox, chat, budgets, make_task, tmp_path):
    ((episode,),) = collect(sandbox, chat, budgets, [make_task()], 1)
    line = episode_to_json(episode)
    assert_same(episode_from_json(line), episode)
    path = tmp_path / "episodes.jsonl"
    for bad in (line[:-20], "{}", "[]", line.replace('"submitted"', '"done"')):
        path.write_text(line + "\n" + bad + "\n")
        with pytest.raises(ValueError, match=r"episodes\.jsonl:2 is not an episode"):
            collections.deque(read_episodes(path))


@pytest.mark.parametrize("reply", [dict(graded=True, reward=1.0), dict(reason="task"), dict(reason="news to us")])
def test_what_the_service_stamped_unsafe_stays_so(sandbox, chat, budgets, make_task, tmp_path, reply):
    """In the outcome, graded or not, and in the file of episodes."""
    for unsafe in (False, True):
        sandbox.reply = pb.ScoreReply(**reply, unsafe=unsafe)
        (group,) = collect(sandbox, chat, budgets, [make_task()], 2)
        write_episodes(tmp_path / "episodes.jsonl", group)
        assert [e.outcome.unsafe for e in read_episodes(tmp_path / "episodes.jsonl")] == [unsafe] * 2
        assert [e.outcome for e in read_episodes(tmp_path / "episodes.jsonl")] == [e.outcome for e in group]
