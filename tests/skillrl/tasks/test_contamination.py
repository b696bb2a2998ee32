"""Evaluation stays out of training: by repository, by patch and by text."""

import json

import dataset_rows as rows
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillrl.tasks.contamination import BLOCKLIST, EVALUATED, Overlap, evaluated_in, ngrams, repository_key, split_of
from skillrl.tasks.readers.__main__ import main
from skillrl.tasks.source import read_tasks


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("psf/requests", "github:psf/requests"), ("Kennethreitz/Requests", "github:psf/requests"),
        ("https://github.com/PyCQA/pylint.git", "github:pylint-dev/pylint"), ("git@github.com:a/B", "github:a/b"),
        ("swesmith/pylint-dev__astroid.b114f6b5", "github:pylint-dev/astroid"), ("pypi:Flask", "github:pallets/flask"),
        ("pypi:python_slugify", "pypi:python-slugify"), ("github:acme/money", "github:acme/money"),
        ("www.github.com/a/b/", "github:a/b"),
    ],
)  # fmt: skip
def test_one_name_for_a_repository_its_forks_and_mirrors(name, key):
    assert repository_key(name) == key == repository_key(key)


def test_the_blocklist_has_the_published_sizes():
    sizes = {name: len(set(names.split())) for name, names in EVALUATED.items()}
    assert sizes == {
        "SWE-bench": 12, "SWE-bench (dev)": 6, "SWE-bench Multilingual": 41, "SWE-bench Pro": 11, "RefactorBench": 9,
        "CodeTaste": 86,
    }  # fmt: skip
    assert all(repository_key(name) == f"github:{name}" for name in BLOCKLIST)
    assert evaluated_in("swesmith/pallets__flask.bc098406") == "SWE-bench"
    assert evaluated_in("getmoto/moto") == "" and evaluated_in("a/b", {"github:a/b"}) == "another evaluation set"


@given(st.text(alphabet="abc/", min_size=3, max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_a_repository_has_one_split_and_stays_held_out_as_the_share_grows(name, one, other):
    low, high = sorted((one, other))
    assert split_of(name.upper(), low) == split_of(name, low)
    assert split_of(name, low) == "train" or split_of(name, high) == "heldout_repositories"
    assert split_of(name, 0.0) == "train" and split_of(name, 1.0) == "heldout_repositories"


def test_the_share_is_about_what_was_asked():
    held = sum(split_of(f"owner{i}/name", 0.2) != "train" for i in range(2000))
    assert 320 < held < 480  # 400 expected, standard deviation 18


WORDS = st.lists(st.sampled_from(["red", "green", "blue", "one", "two", "three"]), min_size=13, max_size=30)


@given(WORDS, WORDS, st.integers(0, 5))
def test_any_shared_run_is_found_wherever_it_stands(shared, other, offset):
    overlap = Overlap()
    overlap.add("a/b", " ".join(shared), [])
    text = " ".join([*other[:offset], *[w.upper() + "," for w in shared], *other[offset:]])
    assert overlap.reason("c/d", text, "").startswith("its statement shares 13 words")
    assert overlap.reason("c/d", " ".join(shared[:12]), "") == ""


def test_texts_shorter_than_a_run_are_not_compared():
    overlap = Overlap()
    overlap.add("a/b", "it crashes", ["p1"])
    assert overlap.reason("c/d", "it crashes", "p2") == ""
    assert overlap.reason("c/d", "else", "p1") == "its patch is in an evaluation set"
    assert overlap.reason("A/B.git", "else", "p2") == "its repository is in another evaluation set"
    assert len(ngrams("a b c", 2)) == 2 and ngrams("", 2) == set()


def test_what_an_evaluation_set_holds_is_dropped_from_a_training_reader(tmp_path):
    """Counts of each reason are in the summary."""
    long = "The shares of a hundred cents by four people sum up to a hundred and one cents in all."

    def write(name: str, *made: dict) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in made))
        return str(tmp_path / name)

    evaluation = write("eval.jsonl", rows.swebench_new() | {"problem_statement": long})
    assert main(["swebench", evaluation, f"--out={tmp_path / 'eval'}"]) == 0
    train = [
        rows.swe_rebench() | {"instance_id": "a"},  # the same repository
        rows.swe_rebench() | {"instance_id": "b", "repo": "b/b"},  # the same patch
        rows.swe_rebench() | {
            "instance_id": "c", "repo": "c/c", "problem_statement": f"Hello! {long.upper()}",
            "patch": rows.diff({"m.py": "a\n"}, {"m.py": "b\n"}, ["m.py"]),
        },
        rows.swe_rebench() | {"instance_id": "d", "repo": "sphinx-doc/sphinx"},
        rows.swe_rebench() | {
            "instance_id": "e", "repo": "e/e", "patch": rows.diff({"m.py": "a\n"}, {"m.py": "c\n"}, ["m.py"]),
        },
    ]  # fmt: skip
    source = write("train.jsonl", *train)
    assert main(["swe_rebench", source, f"--evaluation={tmp_path / 'eval'}", f"--out={tmp_path / 'train'}"]) == 0
    summary = json.loads((tmp_path / "train/set.json").read_text())["summary"]
    assert summary["dropped"] == {
        "its repository is in another evaluation set": 1,
        "its patch is in an evaluation set": 1,
        "its statement shares 13 words with an evaluation set": 1,
        "its repository is in SWE-bench": 1,
    }
    assert {t.repository for t in read_tasks(tmp_path / "train")} == {"github:e/e"}


def test_instances_of_a_repository_share_their_split(tmp_path):
    made = [
        rows.swe_rebench() | {"instance_id": f"i{n}", "repo": f"{spelling}/lib{n % 20}"}
        for n, spelling in enumerate(["owner", "OWNER"] * 40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    assert main(["swe_rebench", str(tmp_path / "rows.jsonl"), "--heldout_share=0.5", f"--out={tmp_path / 'set'}"]) == 0
    splits: dict[str, set[str]] = {}
    for task in read_tasks(tmp_path / "set"):
        splits.setdefault(task.repository, set()).add(task.split)
    assert all(len(found) == 1 for found in splits.values()) and len(splits) == 20
    assert {s for found in splits.values() for s in found} == {"train", "heldout_repositories"}
