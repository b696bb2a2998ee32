"""The loop as a process: what it leaves, that it goes on after anything, and that nothing else runs on after it."""

import gc
import json
import math
import os
import random
import re
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from board import scalars
from program import Family
from readme import undefined_metrics

from configs import tiny
from skillrl import sharding, train
from skillrl.checkpoint import load_policy
from skillrl.evaluate import read_scores
from skillrl.metrics import read_metrics
from skillrl.models.hf import load_hf
from skillrl.rollout.records import read_episodes
from skillrl.tasks.source import read_tasks
from skillrl.types import SKILLS

pytestmark = pytest.mark.slow

STEPS = 3


@pytest.fixture(scope="module")
def flags(world_dir, policy_dir):
    return (
        "--config=configs/tiny.py:smoke",
        f"--config.policy.source=hf:{policy_dir}",
        f"--config.tasks.source={world_dir}",
        f"--config.num_steps={STEPS}",
        "--config.rollout.max_tokens=320",
        # The test's policy has a choice in this skill alone.
        "--config.skills.review=4",
    )


@pytest.fixture(scope="module")
def uninterrupted(program, flags, tmp_path_factory):
    """A finished run: its folder and how it ended."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, program.complete("skillrl.main", *flags, f"--workdir={workdir}")


def checkpoint(workdir):
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    step, _, params, extra = load_policy(workdir / "checkpoints", mesh)
    return step, [np.asarray(x) for x in jax.tree.leaves(params)], extra


def measured(workdir):
    """The metrics that are no times and no counts of the sampler's calls, which follow the times."""
    return [
        {name: value for name, value in row.items() if not name.startswith(("times/", "sampler/", "tokens_per_s"))}
        for row in read_metrics(workdir)
    ]


def played(path):
    return [(e.episode_id, e.tokens.tolist(), e.sampler_logprobs.tolist(), e.outcome) for e in read_episodes(path)]


def assert_same_run(one, other):
    """All that is not a time is bitwise the same."""
    (step, params, extra), (step_2, params_2, extra_2) = checkpoint(one), checkpoint(other)
    assert (step, extra) == (step_2, extra_2)
    for a, b in zip(params, params_2, strict=True):
        np.testing.assert_array_equal(a, b)
    assert measured(one) == measured(other)
    names = sorted(p.name for p in (one / "episodes").iterdir())
    assert names == sorted(p.name for p in (other / "episodes").iterdir())
    for name in names:
        assert played(one / "episodes" / name) == played(other / "episodes" / name)
    for name in ("before.json", "after.json"):
        assert read_scores(one / "eval" / name) == read_scores(other / "eval" / name)
    assert (one / "summary.json").read_text() == (other / "summary.json").read_text()


def test_a_run_leaves_what_is_documented(uninterrupted, policy_dir):
    workdir, done = uninterrupted
    summary = json.loads((workdir / "summary.json").read_text())
    assert set(summary["skills"]) == set(SKILLS)
    keys = {"before", "after", "stderr", "n", "ungradable"}
    for scores in (*summary["skills"].values(), summary["composite"]["bug_fixing"]):
        assert scores.keys() == keys
        assert scores["ungradable"] == 0
        assert 0 <= scores["before"] <= 1 and 0 <= scores["after"] <= 1
    # Two held-out instances, each with one task of a skill and two candidates to review.
    assert [summary["skills"][s]["n"] for s in SKILLS] == [2, 2, 2, 2, 4]
    assert {"mean_before", "mean_after", "mean_stderr"} <= summary.keys()
    assert summary["heldout_families"]["skills"].keys() == set(SKILLS)

    assert [row["step"] for row in read_metrics(workdir)] == list(range(STEPS))
    learned = [row for row in read_metrics(workdir) if row["admitted_groups"]]
    assert learned and all(abs(row["learner/mismatch_k1"]) < 1e-3 for row in learned)
    page = (workdir / "report.html").read_text()
    assert "judgment" in page and "Not evaluated yet" not in page
    assert "held-out" in done.stdout or "heldout" in done.stdout
    # Without a terminal, plain lines say how far it came.
    assert re.search(rf"^training, score \S+ \S+ tokens/s: {STEPS}/{STEPS}, ", done.stderr, re.MULTILINE)
    assert "evaluating before: 21/21, " in done.stderr
    episodes = [e for step in range(STEPS) for e in read_episodes(workdir / "episodes" / f"train-{step:06d}.jsonl")]
    assert len(episodes) == STEPS * 5 * 4
    assert len(list(read_episodes(workdir / "episodes" / "eval-before.jsonl"))) == 21


def test_every_metric_is_on_the_board_and_in_the_readme(uninterrupted):
    workdir, _ = uninterrupted
    rows = read_metrics(workdir)
    written = {(name, row["step"]): value for row in rows for name, value in row.items() if name != "step"}
    board = scalars(workdir / "tensorboard")
    assert board == {key: np.float32(value) for key, value in written.items() if math.isfinite(value)}
    names = {name for name, _ in board}
    of_skills = ("reward", "score", "pass_rate", "tokens", "turns", "truncated", "malformed", "ungradable")
    assert {f"{skill}/{name}" for skill in SKILLS for name in (*of_skills, "zero_variance")} <= names
    assert undefined_metrics(name for name, _ in written) == set()
    assert undefined_metrics({"scores", "editing/rewards", "learner/unheard_of"}) == {
        "scores",
        "editing/rewards",
        "learner/unheard_of",
    }


def test_the_exported_policy_is_the_last_checkpoint(uninterrupted, policy_dir):
    workdir, _ = uninterrupted
    step, trained, extra = checkpoint(workdir)
    assert (step, extra["step"]) == (STEPS, STEPS)
    mesh = sharding.make_mesh({}, devices=jax.devices()[:1])
    _, exported = load_hf(workdir / "hf", mesh)
    _, imported = load_hf(policy_dir, mesh)
    for a, b in zip(trained, jax.tree.leaves(exported), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not all(np.array_equal(a, b) for a, b in zip(trained, jax.tree.leaves(imported), strict=True))


def test_kill_9_at_any_moment_changes_nothing(program, flags, uninterrupted, tmp_path):
    """Killed right after a checkpoint, then at random moments; in the end the run is the uninterrupted one."""
    whole, done = uninterrupted
    command = ("skillrl.main", *flags, f"--workdir={tmp_path / 'killed'}")
    rng = random.Random(0)
    for moment_s in (None, rng.uniform(0.1, 0.6) * done.wall_s, rng.uniform(0.1, 0.6) * done.wall_s):
        process = program.start(*command)
        family, started = Family(process.pid), time.monotonic()
        while process.poll() is None:
            family.alive()
            if time.monotonic() - started > moment_s if moment_s else (tmp_path / "killed/checkpoints/1").exists():
                break
            time.sleep(0.01)
        assert moment_s or process.poll() is None
        assert family.kill_9(process) == set()
    assert "going on from step" in program.complete(*command).stdout
    assert_same_run(whole, tmp_path / "killed")


def wait_until(met, process, family, patience_s=300.0):
    deadline = time.monotonic() + patience_s
    while not met():
        assert process.poll() is None and time.monotonic() < deadline
        family.alive()
        time.sleep(0.01)


def lines(path):
    return path.read_bytes().splitlines() if path.exists() else []


@pytest.mark.deep
def test_a_service_that_dies_takes_no_work_with_it(program, flags, uninterrupted, tmp_path):
    """Killed in the first evaluation, then its service killed after a step: all that had ended is there, and in the end
    the run is the uninterrupted one. No checkpoint was due before the last step."""
    whole, _ = uninterrupted
    workdir = tmp_path / "run"
    command = ("skillrl.main", *flags, f"--workdir={workdir}", "--config.checkpoint.every_steps=0")
    evaluated = workdir / "episodes" / "eval-before.jsonl"

    process = program.start(*command, "--config.sandbox.max_in_flight=2")
    family = Family(process.pid)
    wait_until(lambda: len(lines(evaluated)) > 5, process, family)
    assert family.kill_9(process) == set()
    *ended, _ = lines(evaluated)
    assert not (workdir / "eval" / "before.json").exists()

    process = program.start(*command)
    family = Family(process.pid)
    wait_until(lambda: len(read_metrics(workdir)) > 0, process, family)
    (service,) = (pid for pid in family.alive() - {process.pid} if is_service(pid))
    os.kill(service, signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    (error,) = (line for line in said.splitlines() if line.startswith("error: "))
    assert "episodes were lost to faults of the service" in error and "run the same command" in error
    assert said.splitlines()[-1] == error
    # The evaluation was not played again; of the failed step, every episode is there to look at.
    assert set(ended) <= set(lines(evaluated))
    step, _, extra = checkpoint(workdir)
    assert step == extra["step"] == len(read_metrics(workdir)) in (1, 2)
    assert len(lines(workdir / "episodes" / f"train-{step:06d}.jsonl")) == 20

    assert f"going on from step {step}" in program.complete(*command).stdout
    assert_same_run(whole, workdir)


def is_service(pid):
    """Whether it is the service itself, whose first process carries its name; sandboxes are below it."""
    parts = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b"sandbox_service" in parts and any(part.startswith(b"--bind=") for part in parts)


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(program, flags, uninterrupted):
    """With another loss, too: its KL term is to the policy that the run began with, which the steps have moved off."""
    workdir, _ = uninterrupted
    before = (workdir / "eval" / "before.json").read_text()
    more = (f"--config.num_steps={STEPS + 1}", "--config.loss.kl_coef=0.1")
    done = program.complete("skillrl.main", *flags, f"--workdir={workdir}", *more)
    assert f"going on from step {STEPS}" in done.stdout
    assert checkpoint(workdir)[0] == STEPS + 1
    assert [row["step"] for row in read_metrics(workdir)] == list(range(STEPS + 1))
    assert (workdir / "eval" / "before.json").read_text() == before
    assert read_scores(workdir / "eval" / "after.json")
    last = read_metrics(workdir)[-1]
    assert last["admitted_groups"] and last["learner/ref_kl"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--config.skills.review=2", "the saved mixture position belongs to other tasks, weights or another seed"),
        ("--config.eval.samples=2", "were played with samples=1, not 2; give another --workdir"),
    ],
)
def test_a_changed_run_is_refused_and_takes_nothing_away(program, flags, uninterrupted, change, message):
    workdir, _ = uninterrupted
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    done = program.run("skillrl.main", *flags, f"--workdir={workdir}", change)
    assert done.code != 0
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(("kl_coef", "copies"), [(0.0, 3), (0.1, 4)])
def test_the_weights_are_held_once(world_dir, policy_dir, tmp_path, kl_coef, copies):
    """Parameters and two moments; what was imported is kept only as the reference of a KL term."""
    config = tiny.get_config("smoke")
    config.policy.source = f"hf:{policy_dir}"
    config.loss.kl_coef = kl_coef
    shape = (640, 48)
    assert load_hf(policy_dir, sharding.make_mesh({}, devices=jax.devices()[:1]))[1]["embed_VD"].shape == shape
    gc.collect()
    earlier = {id(x) for x in jax.live_arrays()}
    run = train.prepare(config, tmp_path, read_tasks(world_dir))
    gc.collect()
    held = [x for x in jax.live_arrays() if id(x) not in earlier and x.shape == shape]
    assert len(held) == copies
    assert (run.policy.params is None) == (not kl_coef)
    run.checkpoints.close()
