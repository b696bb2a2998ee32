"""The parts of a build that touch the disk: checkouts, manifests and what was proven."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skillrl.tasks.build.__main__ import manifest_of, parse
from skillrl.tasks.build.checkout import _git, read_checkout
from skillrl.tasks.build.ledger import Ledger
from skillrl.tasks.build.manifest import SHIPPED, Entry, Manifest, known, read_manifest
from skillrl.tasks.build.tree import BuildError

ROOT = Path(__file__).parents[4]
MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy\nof this software ..."
FILES = {
    "pyproject.toml": '[project]\nname = "Shop_Tools"\n',
    "LICENSE.txt": MIT,
    "shop/__init__.py": "x = 1\n",
    "tests/test_shop.py": "",
    "CHANGES.md": "Fixed x.",
}


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def git(folder, *arguments):
    identity = ("-c", "user.name=A", "-c", "user.email=a@b.c")
    subprocess.run(["git", *identity, "-C", folder, *arguments], check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path):
    folder = write(tmp_path / "clone", FILES)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "First")
    return folder


def test_a_folder_without_its_history(tmp_path):
    folder = write(tmp_path, FILES)
    os.symlink("/etc/passwd", folder / "shop" / "secrets.py")
    package = read_checkout(folder)
    assert sorted(package.files) == ["LICENSE.txt", "pyproject.toml", "shop/__init__.py", "tests/test_shop.py"]
    assert (package.origin, package.name, package.version, package.licence) == ("repo", "shop-tools", "0", "MIT")
    assert package.stripped == {"links and special files": 1, "changelogs": 1}


def test_a_clone_gives_what_is_committed(clone):
    before = read_checkout(clone)
    write(clone, {"shop/draft.py": "y = 2\n"})
    again = read_checkout(clone)
    assert again.files == before.files and again.sha256 == before.sha256 and len(before.version) >= 12
    assert not any(path.startswith(".git") for path in before.files)


def test_changes_that_are_not_committed_are_refused(clone):
    write(clone, {"shop/__init__.py": "x = 2\n"})
    with pytest.raises(BuildError, match=r"not committed \(M shop/__init__.py\); commit or undo"):
        read_checkout(clone)


@pytest.mark.parametrize(
    ("pyproject", "text", "licence"),
    [
        ('license = "Apache-2.0"', "", "Apache-2.0"),
        ('license = {text = "BSD License"}', "", "BSD-3-Clause"),
        ('classifiers = ["Programming Language :: Python", "License :: OSI Approved :: MIT License"]', "", "MIT"),
        ('license = {file = "LICENSE"}', "Redistribution ... Neither the name of\nthe holder ...", "BSD-3-Clause"),
    ],
)
def test_licences_of_repositories(tmp_path, pyproject, text, licence):
    write(tmp_path, {"pyproject.toml": f'[project]\nname = "a"\n{pyproject}\n', "LICENSE": text, "a.py": ""})
    assert read_checkout(tmp_path).licence == licence


@pytest.mark.parametrize(
    ("text", "named"), [("GNU GENERAL PUBLIC LICENSE\nVersion 3", "GPL"), ("All mine.", "unknown")]
)
def test_other_licences_need_consent(tmp_path, text, named):
    write(tmp_path, {"LICENSE": text, "a.py": ""})
    with pytest.raises(BuildError, match=f"--allow_licence='{named}'"):
        read_checkout(tmp_path)
    if named == "GPL":
        assert read_checkout(tmp_path, allow_licence="GPL").licence == "GPL"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"pyproject.toml": "[project\n"}, "pyproject.toml cannot be read"),
        ({"LICENSE": MIT, "big.bin": "0" * (5 << 20)}, "too large"),
        ({"LICENSE": MIT, "pyproject.toml": '[project]\nname = "pytest"\n'}, "part of the test runner"),
    ],
)
def test_repositories_that_cannot_be_read(tmp_path, files, told):
    write(tmp_path, files)
    with pytest.raises(BuildError, match=told):
        read_checkout(tmp_path)


def test_a_git_that_does_not_end_is_told(clone):
    with pytest.raises(BuildError, match="git status did not end within 0 s; run it there by hand"):
        _git(clone, "status", timeout_s=1e-6)


def test_no_folder(tmp_path):
    with pytest.raises(BuildError, match="give the root of a repository"):
        read_checkout(tmp_path / "none")


def test_the_shipped_manifest():
    manifest = read_manifest(SHIPPED)
    assert len(manifest.packages) == 10 and sum(e.instances for e in manifest.packages) == 50
    assert all(len(e.sha256) == 64 and e.requirement.count("==") == 1 for e in manifest.packages)
    assert {e.split for e in manifest.packages} == {"train", "heldout_repositories", "heldout_families"}
    assert known("Python_Slugify==9.2.0").packages == ("text-unidecode==1.3",)
    assert known("inflection==0.5.0") is None


def test_a_manifest_is_read_strictly(tmp_path):
    file = tmp_path / "m.json"

    def written(**fields):
        entry = {"requirement": "a==1"} | fields.pop("entry", {})
        file.write_text(json.dumps({"name": "n", "packages": [entry]} | fields))
        return read_manifest(file)

    assert written() == Manifest("n", (Entry("a==1"),))
    # Not named, and none.
    assert written().packages[0].packages is None and written(entry={"packages": []}).packages[0].packages == ()
    for fields, told in [
        ({"entry": {"instance": 3}}, "instance"),
        ({"entry": {"instances": "3"}}, "instances"),
        ({"entry": {"refactorings": -1}}, "refactorings must be at least 0"),
        ({"entry": {"split": "test"}}, "split 'test'"),
        ({"entry": {"repo": "."}}, "either a requirement or a repo"),
        ({"packages": []}, "at least one package"),
        ({"packages": [{"requirement": "a==1"}] * 2}, "none twice"),
        ({"schema_version": 2}, "schema version 2"),
    ]:
        with pytest.raises(BuildError, match=told) as error:
            written(**fields)
        assert str(file) in str(error.value)
    file.write_text("{")
    with pytest.raises(BuildError, match="compare it with"):
        read_manifest(file)
    with pytest.raises(BuildError, match="No such file"):
        read_manifest(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("flags", "packages"),
    [
        (["--pypi=a==1"], None),
        (["--pypi=a==1", "--packages="], ()),
        (["--pypi=a==1", "--packages=b==1,c==2"], ("b==1", "c==2")),
        (["--pypi=inflection==0.5.1"], ()),
        (["--pypi=python-slugify==9.2.0"], ("text-unidecode==1.3",)),
        (["--pypi=python-slugify==9.2.0", "--packages=b==1"], ("b==1",)),
    ],
)
def test_packages_that_are_named_are_all(flags, packages, tmp_path):
    (entry,) = manifest_of(parse([*flags, f"--out={tmp_path / 'out'}"])).packages
    assert entry.packages == packages


def kept(path, subject):
    ledger = Ledger(path, subject)
    try:
        return {key: ledger.get(key) for key in ("a", "b")}
    finally:
        ledger.close()


def test_what_was_proven_is_there_after_a_stop(tmp_path):
    file = tmp_path / "parts" / "p.jsonl"
    ledger = Ledger(file, {"tree": 1})
    ledger.put("a", (1, ["x"]))
    ledger.put("b", False)
    assert ledger.get("a") == [1, ["x"]]
    ledger.close()
    # Stopped in the middle of a line.
    file.write_bytes(file.read_bytes()[:-2])
    assert kept(file, {"tree": 1}) == {"a": [1, ["x"]], "b": None}
    assert kept(file, {"tree": 2}) == {"a": None, "b": None}
    assert kept(file, {"tree": 1}) == {"a": None, "b": None}


def test_no_stop_at_any_byte_loses_what_was_proven_before(tmp_path):
    file = tmp_path / "p.jsonl"
    ledger = Ledger(file, "tree")
    ledger.put("a", [1, "x"])
    ledger.put("b", "y")
    ledger.close()
    whole = file.read_bytes()
    subject, first, _ = whole.splitlines(keepends=True)
    for size in range(len(whole) + 1):
        file.write_bytes(whole[:size])
        Ledger(file, "tree").close()
        complete = whole[:size].rfind(b"\n") + 1
        assert file.read_bytes() == (whole[:complete] or subject)
        expected = {"a": [1, "x"] if size >= len(subject + first) else None, "b": "y" if size == len(whole) else None}
        assert kept(file, "tree") == expected
        after = Ledger(file, "tree")
        after.put("b", "z")
        after.close()
        assert kept(file, "tree") == expected | {"b": "z"}


OPENS = """
import resource, sys
from pathlib import Path
from skillrl.tasks.build.ledger import Ledger

resource.setrlimit(resource.RLIMIT_FSIZE, (40, resource.RLIM_INFINITY))
ledger = Ledger(Path(sys.argv[1]), "tree")
ledger.put("c", "more than the disk takes")
"""


def test_a_start_without_room_for_a_single_line_keeps_what_was_proven(tmp_path):
    """So that a start which is killed does too: nothing is written that was written before."""
    file = tmp_path / "p.jsonl"
    ledger = Ledger(file, "tree")
    ledger.put("a", "x" * 40)
    ledger.put("b", "y")
    ledger.close()
    done = subprocess.run([sys.executable, "-c", OPENS, file], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "File too large" in done.stderr
    assert kept(file, "tree") == {"a": "x" * 40, "b": "y"}
