"""Whole builds in the sandbox: one package, several, stopped ones, and repositories that give no tasks."""

import asyncio
import json
import os
import subprocess

import pytest
import shelf

from sandbox_service.tasks import read_task_set
from skillrl.tasks.build.__main__ import main, parse
from skillrl.tasks.build.assemble import build_set, head_of, parts_of
from skillrl.tasks.build.manifest import Entry, Manifest
from skillrl.tasks.build.tree import BuildError
from skillrl.tasks.source import read_tasks
from skillrl.tasks.validate import validate
from skillrl.types import SKILLS

LICENCE = {"pyproject.toml": '[project]\nname = "NAME"\nlicense = "MIT"\n'}
PARTS = {"requirements", "baseline", "calls", "bugs", "mutants", "wrong candidates", "gold submissions", "texts"}
PARTS |= {"refactorings", "records"}


def repository(folder, files):
    for name, text in (LICENCE | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("NAME", folder.name))
    return folder


def build(manifest, out, steps=None):
    noted = steps if steps is not None else []
    return asyncio.run(
        build_set(manifest, out, jobs=2, progress=lambda entry, step, n: noted.append((entry.label, step)))
    )


def test_bad_arguments_give_one_clear_line(tmp_path, capsys):
    assert main(["--pypi=inflection", f"--out={tmp_path}"]) == 2
    assert "inflection==0.5.1" in capsys.readouterr().err
    (tmp_path / "set.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["--pypi=inflection==0.5.1", f"--out={tmp_path}"])
    assert "already holds a task set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "folder"),
    [
        (["--manifest=configs/tasks/pypi.json"], "tasks/pypi"),
        (["--pypi=semver==3.1.1"], "tasks/semver==3.1.1"),
        (["--repo=/srv/clones/shop/"], "tasks/shop"),
        (["--repo=/srv/clones/shop/", "--out=runs/a"], "runs/a"),
    ],
)
def test_where_a_set_goes(flags, folder):
    assert str(parse(flags).out) == folder


@pytest.mark.slow
def test_a_repository_becomes_a_proven_set_and_the_seed_decides_it(tmp_path):
    folder = repository(tmp_path / "shelf", shelf.FILES)
    manifest = Manifest("two", (Entry(repo=str(folder), instances=2),), seed=3)
    digest, (summary,) = build(manifest, tmp_path / "a")
    assert build(manifest, tmp_path / "b")[0] == digest == read_task_set(tmp_path / "a").digest
    assert summary["instances"] == 2 and summary["mutations"]["kept"] == 2 and summary["mutants"] >= 6
    assert {"localization", "editing", "reproduction", "bug_fixing"} <= summary["tasks"].keys()
    assert summary["suite_runs"] > 9 and set(summary["times_s"]) == PARTS
    assert summary["requirements"] == {"packages": [], "unmet": {}, "no_use": []}
    head = json.loads((tmp_path / "a" / "set.json").read_text())
    assert head["summary"]["packages"][0]["package"]["licence"] == "MIT"
    assert head["tasks"] == len(read_tasks(tmp_path / "a")) == sum(head["summary"]["tasks"].values())
    task_set = read_task_set(tmp_path / "a")
    for instance in task_set.instances.values():
        assert set(instance.fail_to_pass).isdisjoint(instance.pass_to_pass) and instance.pass_to_pass
        assert len({json.dumps(m, sort_keys=True) for m in instance.mutants}) == len(instance.mutants)
    assert {e.licence for e in task_set.environments.values()} == {"MIT"}
    report = asyncio.run(validate(tmp_path / "a", repeats=1))
    assert report.failures == {} and report.skills["unit_tests"].tasks >= 1


@pytest.mark.slow
def test_a_failing_package_stops_nothing_and_the_same_command_goes_on(tmp_path):
    good = repository(tmp_path / "good", shelf.FILES)
    bad = repository(tmp_path / "bad", {"bad.py": "def f():\n    return 1\n"})
    manifest = Manifest("both", tuple(Entry(repo=str(f), instances=1) for f in (good, bad)))
    out, steps = tmp_path / "out", []
    with pytest.raises(BuildError, match=r"bad: .* ships no tests[^$]*1 other packages are finished and kept"):
        build(manifest, out, steps)
    assert ("good", "built") in steps and not out.exists()
    repository(
        bad,
        {"tests/test_bad.py": "import bad\n\n\ndef test_f():\n    assert bad.f() == 1\n\n\ndef test_g():\n    pass\n"},
    )
    # One of the two tests may not be more than the allowed share of the suite, so this stays a package without bugs.
    with pytest.raises(BuildError, match="no usable bug among"):
        build(manifest, out, steps)
    assert ("good", "built before") in steps
    evaluated = Entry(repo=str(repository(tmp_path / "flask", shelf.FILES)))
    digest, summaries = build(Manifest("both", (evaluated, *manifest.packages[:1])), out, steps)
    assert len(summaries) == 1 and read_task_set(out).digest == digest and not parts_of(out).exists()
    ((label, reason),) = head_of(out)["summary"]["refused"].items()
    assert label == "flask" and "in the evaluation set SWE-bench" in reason and ("flask", "left out") in steps
    with pytest.raises(BuildError, match="flask is github:pallets/flask"):
        build(Manifest("one", (evaluated,)), tmp_path / "none")


def test_a_requirement_that_brings_the_package_itself_is_refused(tmp_path):
    """The runner's own plugin library, under another name."""
    files = {"pluggy/__init__.py": "def f():\n    return 1\n", "tests/test_f.py": "def test_f():\n    pass\n"}
    folder = repository(tmp_path / "mine", files)
    with pytest.raises(BuildError, match=r"mine==0: beside the agent, .* first pluggy/__init__.py; take"):
        build(Manifest("mine", (Entry(repo=str(folder)),)), tmp_path / "out")


@pytest.mark.deep
def test_a_package_of_one_file_gives_no_localization(tmp_path, capsys):
    files = {"till.py": shelf.PRICES, "version.py": "version = '1'\n"}
    files["tests/test_till.py"] = shelf.FILES["tests/test_prices.py"].replace("shelf.prices", "till")
    files["tests/conftest.py"] = shelf.FILES["tests/conftest.py"]
    out = tmp_path / "out"
    assert main([f"--repo={repository(tmp_path / 'till', files)}", f"--out={out}", "--instances=1"]) == 0
    printed = capsys.readouterr().out
    made = json.loads(printed.splitlines()[-1])
    assert made["tasks"]["editing"] == 1 and "localization" not in made["tasks"]
    (package,) = made["packages"]
    assert package["left_out"]["localization"] == {"its repository has no other source file": 1}
    assert "1 its repository has no other source file" in printed
    assert f"To prove it: python -m skillrl.tasks.validate {out}\n" in printed
    # No second is in two parts: they add up to what the package took, and the command took longer.
    assert package["times_s"].keys() <= PARTS and sum(package["times_s"].values()) < made["wall_s"]


def undated(summary):
    """Without what differs between two builds of the same."""
    return {k: v for k, v in summary.items() if k not in ("suite_runs", "times_s", "baseline")}


@pytest.mark.deep
def test_a_stopped_build_does_not_prove_again(tmp_path):
    folder = repository(tmp_path / "shelf", shelf.FILES)
    manifest = Manifest("shelf", (Entry(repo=str(folder), instances=2),))

    class Stopped(Exception):
        pass

    def stop(entry, step, made):
        if made == 1:
            raise Stopped

    with pytest.raises(Stopped):
        asyncio.run(build_set(manifest, tmp_path / "out", jobs=2, progress=stop))
    proven = len((parts_of(tmp_path / "out") / "shelf.jsonl").read_bytes().splitlines())
    assert proven > 5
    digest, (summary,) = build(manifest, tmp_path / "out")
    whole, (straight,) = build(manifest, tmp_path / "straight")
    assert digest == whole and summary["suite_runs"] <= straight["suite_runs"] - 3
    assert undated(summary) == undated(straight)


NETWORK = "import socket\n\n\ndef test_net():\n    socket.create_connection(('192.0.2.1', 80), 1)\n"
# Fails in seven of eight runs.
FLAKY = "import os\n\n\ndef test_odd():\n    assert all(byte % 2 for byte in os.urandom(3))\n"


@pytest.mark.parametrize(
    ("tests", "told"),
    [
        ({}, "ships no tests"),
        ({"tests/test_a.py": "def test_a():\n    assert False\n"}, "no test of tests passes\n- a missing requirement"),
        (
            {"tests/test_a.py": "import nowhere\n"},
            "nowhere is not installed: name[^$]*No module named",
        ),
        ({"tests/test_a.py": NETWORK}, "no test of tests passes[^$]*Network is unreachable"),
    ],
)
def test_suites_that_cannot_be_relied_on(tmp_path, tests, told):
    folder = repository(tmp_path / "mod", {"mod.py": "def f(x):\n    return x + 1\n", **tests})
    with pytest.raises(BuildError, match=told):
        build(Manifest("mod", (Entry(repo=str(folder)),)), tmp_path / "out")


@pytest.mark.deep
def test_unreliable_tests_are_dropped_and_counted(tmp_path):
    files = {name: text for name, text in shelf.FILES.items()}
    files |= {"tests/test_network.py": NETWORK, "tests/test_flaky.py": FLAKY}
    folder = repository(tmp_path / "shelf", files)
    _, (summary,) = build(Manifest("shelf", (Entry(repo=str(folder), instances=1),)), tmp_path / "out")
    dropped = summary["baseline"]["dropped"]
    assert dropped.pop("always failed") >= 1 and sum(dropped.values()) <= 1
    (instance,) = read_task_set(tmp_path / "out").instances.values()
    assert instance.pass_to_pass and not any("network" in test_id for test_id in instance.pass_to_pass)


@pytest.mark.deep
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a small file system")
def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path, program):
    folder = repository(tmp_path / "shelf", shelf.FILES)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", small], check=True)
    try:
        command = ("skillrl.tasks.build", f"--repo={folder}", f"--out={small / 'out'}", "--instances=1")
        done = program.run(*command)
        assert done.code == 2 and "No space left on device" in done.stderr and "make room there" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        again = json.loads(program.complete(*command).stdout.splitlines()[-1])
        fresh = program.complete(*command[:-2], f"--out={tmp_path / 'fresh'}", "--instances=1")
        straight = json.loads(fresh.stdout.splitlines()[-1])
        assert again["digest"] == straight["digest"] and again["packages"][0]["instances"] == 1
        # At least the three runs on the correct tree.
        assert again["packages"][0]["suite_runs"] <= straight["packages"][0]["suite_runs"] - 3
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.deep
def test_a_real_package(tmp_path, capsys):
    """Fetched by name, version and digest; needs the package registry."""
    status = main(["--pypi=inflection==0.5.1", f"--out={tmp_path / 'set'}", "--instances=1", "--jobs=2"])
    captured = capsys.readouterr()
    if status == 2 and "pip cannot fetch" in captured.err:
        pytest.skip(f"no package registry here: {captured.err.strip().splitlines()[-1][:200]}")
    assert status == 0
    made = json.loads(captured.out.splitlines()[-1])
    (package,) = made["packages"]
    assert package["package"]["licence"] == "MIT" and package["baseline"]["tests"] == 455
    # One file, so that there is nothing to localize.
    assert made["tasks"] == dict.fromkeys(sorted({*SKILLS, "bug_fixing"} - {"localization"}), 1) | {"review": 2}
    report = asyncio.run(validate(tmp_path / "set", repeats=2))
    assert report.failures == {} and sum(s.tasks for s in report.skills.values()) == 6
