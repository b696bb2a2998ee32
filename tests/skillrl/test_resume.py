"""What counts from an earlier start, and what may not have changed since."""

import asyncio
import dataclasses

import pytest
from configured import changed
from configured import evaluation as configured
from episodes import make_episode

from configs import tiny
from skillrl import exam, resume
from skillrl.evaluate import TaskScore, write_scores
from skillrl.limits import ConfigError
from skillrl.rollout.collector import ServiceFault
from skillrl.rollout.records import read_episodes, write_episodes
from skillrl.types import Outcome, Task

# Episodes.


def task(number, skill="editing", split="heldout_repositories"):
    return Task(f"t{number}", skill, f"i{number}", "r", "f", split, 0, {"instruction": "x"}, "digest")


def group(of, outcomes):
    made = [make_episode([1, 2], [False, True], number=i, outcome=o) for i, o in enumerate(outcomes)]
    return [dataclasses.replace(e, task=of) for e in made]


WON, LOST = Outcome(1.0), Outcome(None, reason="infra")


def test_only_finished_tasks_are_not_played_again(tmp_path):
    """Kept: all graded, or ungradable by the task's own fault. Again: too few, lost to the service, another set."""
    tasks = [task(n) for n in range(5)]
    other = dataclasses.replace(tasks[4], task_set="older")
    groups = [
        group(tasks[0], [WON, WON]),
        group(tasks[1], [WON, Outcome(None, reason="task")]),
        group(tasks[2], [WON]),
        group(tasks[3], [WON, LOST]),
        group(other, [WON, WON]),
    ]
    path = tmp_path / "episodes.jsonl"
    # Episodes end in any order.
    write_episodes(path, [e for n in (1, 0) for g in groups for e in g[n : n + 1]])
    with path.open("a") as file:
        file.write('{"cut')
    done = resume.finished_groups(path, tasks, 2)
    assert done.keys() == {"t0", "t1"}
    assert [len(group) for group in done.values()] == [2, 2]
    # The older set's episodes are nobody's; they stay, and so does their text.
    left = list(read_episodes(path))
    assert [e.task.task_id for e in left].count("t4") == 2
    assert {e.task.task_id for e in left} == {"t0", "t1", "t4"}
    assert all(e.tokens.tolist() == [1, 2] for e in left)
    assert resume.finished_groups(path, tasks, 2).keys() == done.keys()


def test_nothing_was_played_yet(tmp_path):
    assert resume.finished_groups(tmp_path / "episodes.jsonl", [task(0)], 3) == {}


# Conditions.


def keep(workdir, wanted):
    resume.same_conditions(workdir, wanted, begun=(workdir / "episodes.jsonl").exists())


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"eval__samples": 5}, "samples=3, not 5"),
        ({"eval__temperature": 0.0}, "temperature=1.0, not 0.0"),
        ({"rollout__max_turns": 7}, "budgets={"),
        ({"policy__source": "init:tiny"}, "player=hf:assets/base, not init:tiny"),
        ({"endpoint__url": "http://a/v1", "endpoint__model": "m"}, "player=hf:assets/base, not m at http://a/v1"),
    ],
)
def test_episodes_of_other_conditions_are_not_mixed(tmp_path, other, named):
    keep(tmp_path, exam.conditions(configured(eval__samples=1)))
    # Nothing was played: all may change.
    keep(tmp_path, exam.conditions(configured()))
    write_episodes(tmp_path / "episodes.jsonl", [])
    # More suites are welcome.
    keep(tmp_path, exam.conditions(configured("suite=security,tiny")))
    with pytest.raises(ConfigError, match=f"were played with {named}.*; give another --workdir"):
        keep(tmp_path, exam.conditions(configured(**other)))
    keep(tmp_path, exam.conditions(configured()))


def test_other_weights_in_the_same_folder_are_other_conditions(tmp_path):
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    config = configured(policy__source=f"hf:{folder}")
    keep(tmp_path, exam.conditions(config))
    write_episodes(tmp_path / "episodes.jsonl", [])
    (folder / "model.safetensors").write_bytes(b"22")
    with pytest.raises(ConfigError, match="were played with weights="):
        keep(tmp_path, exam.conditions(config))


TASKS = [task(n) for n in range(3)]


def trained(**values):
    return changed(tiny.get_config(), **values)


def test_a_run_goes_on_with_more_steps_and_another_learning_rate(tmp_path, capsys):
    resume.go_on(trained(), tmp_path, TASKS, None)
    assert capsys.readouterr().out == ""
    more = trained(num_steps=99, learner__learning_rate=1e-6, checkpoint__every_steps=0, sandbox__max_in_flight=3)
    resume.go_on(more, tmp_path, TASKS, 5)
    assert capsys.readouterr().out == "going on from step 5\n"


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"policy__source": "init:tiny"}, "player=hf:assets/base, not init:tiny"),
        ({"seed": 1}, "seed=0, not 1"),
        ({"eval__samples": 0}, "samples=3, not 0"),
        ({"eval__temperature": 0.5}, "temperature=1.0, not 0.5"),
        ({"eval__suites": ("train",)}, r"eval.suites=\['heldout_repositories', 'heldout_families'\], not \['train'\]"),
        ({"eval__max_tasks": 1}, "eval.max_tasks=0, not 1"),
        ({"tasks__kinds": ()}, r"tasks.kinds=\['bug_fixing'\], not \[\]"),
        ({"rollout__max_tokens": 256}, "budgets={'max_tokens': 512, .*, not {'max_tokens': 256,"),
        ({"reward__mode": "shaped"}, "reward.mode=paper, not shaped"),
    ],
)
def test_a_run_of_other_conditions_is_refused(tmp_path, other, named):
    """At any moment after something was played: then an evaluation may be there, and no checkpoint yet."""
    resume.go_on(trained(), tmp_path, TASKS, None)
    kept = (tmp_path / resume.PLAYED).read_bytes()
    (tmp_path / "episodes").mkdir()
    with pytest.raises(ConfigError, match=f"were played with {named}.*; give another --workdir"):
        resume.go_on(trained(**other), tmp_path, TASKS, None)
    assert (tmp_path / resume.PLAYED).read_bytes() == kept


def test_a_run_on_another_task_set_is_refused(tmp_path):
    resume.go_on(trained(), tmp_path, TASKS, None)
    with pytest.raises(ConfigError, match="were played with tasks=digest, not other"):
        resume.go_on(trained(), tmp_path, [dataclasses.replace(t, task_set="other") for t in TASKS], 3)


def test_a_run_that_does_not_say_how_it_was_begun_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds a run without its played.json; give another --workdir"):
        resume.go_on(trained(), tmp_path, TASKS, 3)
    assert not any(tmp_path.iterdir())


def test_weights_count_by_their_contents(tmp_path):
    """A copy with other times is the same; a byte at an end or in the middle of a large file is not."""
    one, other = tmp_path / "a" / "w.safetensors", tmp_path / "b" / "w.safetensors"
    contents = bytes(5 << 20)
    for path in (one, other):
        path.parent.mkdir()
        path.write_bytes(contents)
    assert resume.fingerprint([one]) == resume.fingerprint([other])
    for place in (0, len(contents) // 2, len(contents) - 1):
        other.write_bytes(contents[:place] + b"1" + contents[place + 1 :])
        assert resume.fingerprint([one]) != resume.fingerprint([other])


@pytest.mark.parametrize(
    ("step", "left"),
    [
        (None, {"before"}),
        (5, {"before", "step-5"}),
        # Of the same number of steps: the last evaluation goes on.
        (36, {"before", "step-5", "step-10", "after"}),
    ],
)
def test_evaluations_of_policies_still_to_be_learned_are_removed(tmp_path, step, left):
    resume.go_on(trained(), tmp_path, TASKS, None)
    for name in ("before", "step-5", "step-10", "after"):
        write_scores(tmp_path / "eval" / f"{name}.json", [TaskScore("t", "editing", "s", "i", 1.0, 1, 0)])
        write_episodes(tmp_path / "episodes" / f"eval-{name}.jsonl", [])
    resume.go_on(trained(), tmp_path, TASKS, step)
    assert {p.stem for p in (tmp_path / "eval").iterdir()} == left
    assert {p.stem.removeprefix("eval-") for p in (tmp_path / "episodes").iterdir()} == left


# Playing what is missing.


class Player:
    """Plays like a collector: members end last first; tasks in `lost` are lost to the service."""

    def __init__(self, lost=()):
        self.lost, self.asked = lost, []

    async def collect(self, tasks, group_size, *, seed, temperature, on_done):
        self.asked += [t.task_id for t in tasks]
        groups = []
        for of in tasks:
            outcomes = [LOST if of.task_id in self.lost else Outcome(float(n)) for n in range(group_size)]
            groups.append(
                [dataclasses.replace(e, episode_id=f"{of.task_id}/7.0/{n}") for n, e in enumerate(group(of, outcomes))]
            )
        for episode in reversed([e for g in groups for e in g]):
            on_done(episode)
        return groups


def play(player, path, told=None):
    config = trained(eval__samples=2, sandbox__max_infra_share=0.3)
    told = [] if told is None else told
    return asyncio.run(resume.play_missing(config, player, TASKS, path, on_done=told.append))


def test_an_evaluation_goes_on_with_the_tasks_that_are_missing(tmp_path, capsys):
    path = tmp_path / "episodes" / "eval-before.jsonl"
    with pytest.raises(ServiceFault, match="2 of 6 episodes were lost"):
        play(Player(lost={"t1"}), path)
    assert len(path.read_text().splitlines()) == 6
    player, told = Player(), []
    groups = play(player, path, told)
    assert player.asked == ["t1"]
    assert "eval-before: 2 of 3 tasks are finished" in capsys.readouterr().out
    assert told == [4, 1, 1]
    whole = play(Player(), tmp_path / "whole.jsonl")
    for made in (groups, whole):
        assert [e.episode_id for g in made for e in g] == [f"t{t}/7.0/{n}" for t in range(3) for n in range(2)]
    # In the order of the tasks and their groups, as if nothing had happened, tokens included.
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_few_lost_episodes_are_borne_and_not_played_again_at_once(tmp_path):
    config = trained(eval__samples=2, sandbox__max_infra_share=0.5)
    player = Player(lost={"t1"})
    groups = asyncio.run(resume.play_missing(config, player, TASKS, tmp_path / "e.jsonl", on_done=lambda n: None))
    assert [e.outcome.reason for e in groups[1]] == ["infra", "infra"] and player.asked == ["t0", "t1", "t2"]
