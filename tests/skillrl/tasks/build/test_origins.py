"""What a policy is evaluated on is not trained on, whatever name it comes by."""

import io
import subprocess
import tarfile

import pytest

from skillrl.tasks.build.__main__ import main
from skillrl.tasks.build.fetch import unpack
from skillrl.tasks.build.manifest import Entry
from skillrl.tasks.build.origins import Evaluated, addresses_in, hosted, key_of_clone

FLASK = r"is github:pallets/flask, which is in the evaluation set SWE-bench, [^$]*the split heldout_repositories"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://github.com/Pallets/Flask", "Pallets/Flask"), ("git@github.com:pallets/flask.git", "pallets/flask"),
        ("ssh://git@github.com:22/pallets/flask.git", "pallets/flask"), ("github.com/a/b/issues", "a/b"),
        ("git+https://user:pass@gitlab.com/pallets/flask/-/tree/main", "pallets/flask"), ("git://x.org/a/b.git", "a/b"),
        ("https://flask.example.org/", None), ("/srv/mirrors/flask.git", None), ("../flask/flask", None),
        ("file:///srv/a/b", None), ("", None),
    ],
)  # fmt: skip
def test_addresses_of_repositories(address, name):
    assert hosted([address, address]) == (() if name is None else (name,))


def test_a_clone_is_called_by_its_home():
    assert key_of_clone(["/srv/x", "https://gitlab.com/a/b", "git@github.com:Me/Shop.git"], "shop") == "github:me/shop"
    assert key_of_clone(["https://gitlab.com/a/b"], "Shop_Tools") == "repo:shop-tools"
    # A fork is its project.
    assert key_of_clone(["git@github.com:me/flask.git"], "flask") == "github:pallets/flask"


def archive(metadata):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("a-1/PKG-INFO")
        info.size = len(metadata)
        tar.addfile(info, io.BytesIO(metadata.encode()))
    return buffer.getvalue()


def test_addresses_in_the_metadata_of_an_archive():
    metadata = "Name: a\nHome-page: https://a.org\nProject-URL: Source, https://github.com/a/b\n\nHome-page: c"
    assert addresses_in(metadata) == ["https://a.org", "https://github.com/a/b"]
    package = unpack("a", "1", archive(f"License: MIT\n{metadata}"))
    assert package.repository == "pypi:a" and package.named == ("a/b",)
    assert unpack("flask", "1", archive("License: MIT\n")).repository == "github:pallets/flask"


@pytest.mark.parametrize(
    ("name", "remote", "urls"),
    [
        ("Flask", "", ""),
        ("other", "git@github.com:Mitsuhiko/flask.git", ""),
        ("other", "https://gitlab.com/pallets/flask", ""),
        ("other", "https://github.com/swesmith/pallets__flask.bc098406", ""),
        ("other", "", '[project.urls]\nSource = "https://github.com/pallets/flask/"\n'),
    ],
)
def test_a_clone_of_what_is_evaluated_on_is_refused_for_training_alone(tmp_path, name, remote, urls):
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\nlicense = "MIT"\n{urls}')
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", "-C", folder]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "First"]):
        subprocess.run([*git, *command], check=True)
    if remote:
        subprocess.run([*git, "remote", "add", "upstream", remote], check=True)
        subprocess.run([*git, "remote", "add", "origin", "/srv/elsewhere"], check=True)
    with pytest.raises(Evaluated, match=FLASK):
        Entry(repo=str(folder)).read()
    assert Entry(repo=str(folder), split="heldout_repositories").read().licence == "MIT"


def test_a_package_is_refused_before_it_is_fetched(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Evaluated, match=FLASK):
        Entry("Flask==3.0.0").read()


def test_the_command_says_so(tmp_path, capsys):
    assert main(["--pypi=requests==2.32.0", f"--out={tmp_path / 'set'}"]) == 2
    assert "error: requests==2.32.0 is github:psf/requests" in capsys.readouterr().err
