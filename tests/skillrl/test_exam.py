"""The evaluation program: what it plays, what it keeps, and what it says."""

import json
import threading
import time

import jax
import pytest
from chat_server import Answer, ChatServer, Model, chat_server, replies
from configured import evaluation as configured
from program import Family
from readme import undefined_metrics

from configs import tiny
from sandbox_service.tasks import read_task_set
from skillrl import exam, setup, sharding, task_sets
from skillrl.checkpoint import Checkpoints
from skillrl.limits import ConfigError
from skillrl.metrics import read_metrics
from skillrl.models.hf import load_hf
from skillrl.rollout.collector import ServiceFault
from skillrl.rollout.records import read_episodes
from skillrl.tasks.source import read_tasks
from skillrl.tasks.submissions import gold
from skillrl.types import COMPOSITE_KINDS, SKILLS

# Bad input.

ENDPOINT = {"endpoint__url": "http://localhost:8000/v1", "endpoint__model": "m"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"policy__source": "run:/none"}, "no checkpoint in /none; give a training run"),
        ({"policy__source": "hf:/none"}, "no policy at /none; give a Hugging Face folder"),
        ({"eval__suites": ("swe",)}, r"eval.suites has \['swe'\]; known are bug_fixing"),
        ({"eval__samples": 0}, "eval.samples=0; at least 1"),
        ({"endpoint__url": "http://localhost:8000/v1"}, "needs both --config.endpoint.url=URL and"),
        ({"endpoint__model": "m"}, "needs both"),
        ({**ENDPOINT, "endpoint__url": "localhost:8000"}, "no address; write http://HOST:PORT/v1"),
        ({**ENDPOINT, "endpoint__url": "http://me:secret@host/v1"}, "name the variable that holds the key"),
        ({**ENDPOINT, "endpoint__key_variable": "SKILLRL_NO_KEY"}, "SKILLRL_NO_KEY is not set; export SKILLRL_NO_KEY="),
        ({**ENDPOINT, "endpoint__key_variable": "SKILLRL_BAD_KEY"}, "SKILLRL_BAD_KEY holds no key"),
        ({**ENDPOINT, "endpoint__key_variable": "sk-secret-9"}, "is no name of an environment variable"),
        ({**ENDPOINT, "endpoint__fields": "{top_p: 1}"}, "endpoint.fields is no JSON"),
        ({**ENDPOINT, "endpoint__fields": '{"stream": true}'}, "without messages, model and stream"),
        ({**ENDPOINT, "endpoint__fields": "[1]"}, "endpoint.fields is a JSON object"),
        ({**ENDPOINT, "endpoint__tries": 0}, "endpoint.tries=0; give at least 1"),
    ],
)
def test_what_cannot_be_evaluated_is_one_clear_error(values, message, tmp_path, monkeypatch):
    monkeypatch.setenv("SKILLRL_BAD_KEY", "two words")
    with pytest.raises(ConfigError, match=message) as error:
        exam.run(configured(**values), tmp_path)
    assert "secret" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_a_training_runs_folder_is_left_alone(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="holds a training run; give the evaluation another --workdir"):
        exam.run(configured(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


def test_a_suite_without_tasks_says_what_there_is(world_dir, tmp_path):
    with pytest.raises(ConfigError, match="no task of terminal in .* which has heldout_families bug_fixing, .*another"):
        task_sets.load_suites(configured("suite=terminal", tasks__source=str(world_dir)), tmp_path)


def test_suites_are_generated_once_and_only_those_named(tmp_path):
    config = configured("suite=bug_fixing", world__heldout_repositories=1, world__heldout_families=1)
    ((folder, tasks),) = task_sets.load_suites(config, tmp_path).items()
    assert folder == tmp_path / "tasks" / "world"
    assert [(t.skill, t.split) for t in tasks] == [
        ("bug_fixing", "heldout_repositories"), ("bug_fixing", "heldout_families"),
    ]  # fmt: skip
    written = (folder / "set.json").stat().st_mtime_ns
    config.eval.suites = ("heldout_families",)
    ((_, tasks),) = task_sets.load_suites(config, tmp_path).items()
    assert {t.skill for t in tasks} == {*SKILLS, "bug_fixing"} and {t.split for t in tasks} == {"heldout_families"}
    assert (folder / "set.json").stat().st_mtime_ns == written


# The whole program.


def planned(folder):
    """Each held-out task of a set, and what a model says to solve it."""
    hidden, made = read_task_set(folder), []
    for public in read_tasks(folder):
        if public.split != "train":
            record = hidden.task(public.task_id)
            instance = hidden.instance_of(record)
            made.append((public, replies(public, gold(record, instance, hidden.tree_files(instance.tree)))))
    return made


@pytest.fixture(scope="module")
def plans(world_dir):
    return planned(world_dir)


def asking(server, world_dir, **values):
    return configured(
        "suite=heldout_families",
        **{
            "tasks__source": str(world_dir),
            "endpoint__url": server.url,
            "endpoint__model": "model-7",
            "eval__samples": 2,
            **values,
        },
    )


TITLE = "Avg@2 (0 to 1)                       score    s.e.   tasks  ungradable"


@pytest.mark.slow
def test_gold_answers_through_an_endpoint_score_the_maximum(plans, world_dir, tmp_path, capsys):
    """One family: five skills, two candidates to review, and bug fixing; some requests meet a fault first."""
    model, asked = Model(plans), []

    def answer(body):
        asked.append(body)
        return Answer(status=429, headers={"Retry-After": "0.05"}) if len(asked) % 7 == 3 else model(body)

    with chat_server(answer) as server:
        exam.run(asking(server, world_dir), tmp_path)
    said = capsys.readouterr().out.splitlines()
    *table, last = said[said.index(TITLE) :]
    summary = json.loads(last)
    part = summary["suites"]["heldout_families"]
    assert part["skills"].keys() == set(SKILLS) and part["composite"].keys() == {"bug_fixing"}
    for name, row in (part["skills"] | part["composite"]).items():
        assert row == {"score": 1.0, "stderr": None, "n": 2 if name == "review" else 1, "ungradable": 0}, name
    assert "  mean of the skills                 1.000       -       6           0" in table
    assert summary["player"] == f"model-7 at {server.url}" and "unsafe_outcomes" not in summary
    assert summary["endpoint"]["requests"] == len(server.requests)
    assert summary["endpoint"]["prompt_tokens"] > 0 < summary["endpoint"]["failed_tries"]
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert undefined_metrics(name for row in read_metrics(tmp_path) for name in row if name != "step") == set()
    assert len(json.loads((tmp_path / "scores.json").read_text())) == 7
    assert len(list(read_episodes(tmp_path / "episodes.jsonl"))) == 14

    # All is finished: the figures are said again, and nobody is asked.
    exam.run(asking(server, world_dir), tmp_path)
    assert capsys.readouterr().out.splitlines() == [*table, last]


@pytest.mark.slow
def test_wrong_answers_score_the_minimum_and_no_answers_are_none(plans, world_dir, tmp_path, capsys):
    """Says that it is done, and nothing else. The endpoint fails on one task, which stops the evaluation; when it works
    again, only that one is played."""
    tasks = [public for public, _ in plans if public.split == "heldout_families"]
    failing = Model([(tasks[-1], [])])

    def answer(body):
        return Answer(status=500) if failing.knows(body) else Answer("Done.")

    values = {"endpoint__tries": 1, "sandbox__max_infra_share": 0.1, "eval__samples": 1, "sandbox__allow_unsafe": True}
    with chat_server(answer) as server:
        with pytest.raises(ServiceFault, match="1 of 7 episodes were lost to faults of the service.*status 500"):
            exam.run(asking(server, world_dir, **values), tmp_path)
        assert not (tmp_path / "scores.json").exists()
        failing.forget()
        exam.run(asking(server, world_dir, **values), tmp_path)
    said = capsys.readouterr().out
    assert "going on: 6 of 7 tasks are finished" in said
    # What the service stamped stays with every outcome.
    assert json.loads(said.splitlines()[-1])["unsafe_outcomes"] == 7
    assert all(e.outcome.unsafe for e in read_episodes(tmp_path / "episodes.jsonl"))
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert {row["task_id"]: row["score"] for row in scores} == {task.task_id: 0.0 for task in tasks}


@pytest.mark.deep
@pytest.mark.parametrize("kind", [kind for kind in COMPOSITE_KINDS if kind != "bug_fixing"])
def test_gold_answers_to_a_generated_suite_score_the_maximum(kind, tmp_path, capsys):
    values = {"tasks__source": "", "eval__suites": (kind,), "composite__instances": 1, "eval__samples": 1}
    config = asking(ChatServer("http://localhost/v1"), "", **values)
    ((folder, tasks),) = task_sets.load_suites(config, tmp_path).items()
    with chat_server(Model(planned(folder))) as server:
        config.endpoint.url = server.url
        exam.run(config, tmp_path)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    row = summary["suites"]["heldout_repositories"]["composite"][kind]
    assert (row["score"], row["n"], row["ungradable"]) == (1.0, len(tasks), 0)


@pytest.mark.slow
@pytest.mark.deep
def test_kill_9_loses_only_what_was_being_played(program, plans, world_dir, tmp_path):
    """The endpoint answers for some tasks, then for none; after a kill those that ended are not asked for again."""
    plans = [(public, plan) for public, plan in plans if public.split == "heldout_families"]
    model, first, opened = Model(plans), Model(plans[:3]), threading.Event()

    def answer(body):
        if len(body["messages"]) > 1 and not first.knows(body):
            opened.wait(120)
        return model(body)

    with chat_server(answer) as server:
        flags = (
            "--config=configs/eval.py:suite=heldout_families",
            f"--config.tasks.source={world_dir}",
            f"--config.endpoint.url={server.url}",
            "--config.endpoint.model=model-7",
            "--config.eval.samples=2",
            f"--workdir={tmp_path / 'run'}",
        )
        process = program.start("skillrl.main", *flags)
        family, episodes = Family(process.pid), tmp_path / "run" / "episodes.jsonl"
        deadline = time.monotonic() + 300
        while not episodes.exists() or episodes.read_bytes().count(b"\n") < 6:
            assert process.poll() is None and time.monotonic() < deadline
            family.alive()
            time.sleep(0.05)
        assert family.kill_9(process) == set()
        opened.set()
        asked = len(server.requests)
        done = program.complete("skillrl.main", *flags)
        assert "going on: 3 of 7 tasks are finished" in done.stdout
        assert not any(first.knows(body) for body in server.requests[asked:])
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["suites"]["heldout_families"]["mean"]["score"] == 1.0
    assert len(list(read_episodes(episodes))) == 14


@pytest.mark.slow
@pytest.mark.deep
def test_a_policy_plays_the_suite_like_its_checkpoint(program, policy_dir, world_dir, tmp_path):
    """The same weights as a folder and as a run's checkpoint: the same episodes, token by token."""
    run = checkpointed(policy_dir, tmp_path / "training")
    played = []
    for source in (f"hf:{policy_dir}", f"run:{run}", f"run:{run}@3"):
        workdir = tmp_path / f"exam-{len(played)}"
        done = program.complete(
            "skillrl.main",
            "--config=configs/eval.py:suite=heldout_families,tiny",
            f"--config.policy.source={source}",
            f"--config.tasks.source={world_dir}",
            "--config.rollout.max_tokens=320",
            f"--workdir={workdir}",
        )
        summary = json.loads(done.stdout.splitlines()[-1])
        played.append({e.episode_id: e.tokens.tolist() for e in read_episodes(workdir / "episodes.jsonl")})
        assert summary["player"] == source.removesuffix("@3") + "@3" * source.startswith("run:")
        assert summary["samples"] == 3
        assert summary["suites"]["heldout_families"]["mean"]["ungradable"] == 0
    assert len(played[0]) == 21
    assert played[0] == played[1] == played[2]


def checkpointed(policy_dir, workdir):
    """A training run's folder whose checkpoint 3 is the policy."""
    config = tiny.get_config("smoke")
    config.policy.source = f"hf:{policy_dir}"
    config.mesh.update(dict(data=1, fsdp=1))
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    cfg, params = load_hf(policy_dir, mesh)
    state = setup.make_learner(config, cfg, mesh).init(0, params)
    workdir.mkdir()
    Checkpoints(workdir / "checkpoints").save(3, state, cfg, {})
    setup.keep_tokenizer(policy_dir / "tokenizer.model", workdir)
    setup.keep_config(config, workdir)
    return workdir
