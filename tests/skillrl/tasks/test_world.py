import ast
import builtins
import keyword
import re
import subprocess
import sys
import time
from itertools import combinations

import pytest

from sandbox_service.tasks import TaskSetWriter, apply_overlay, pack_tree
from skillrl.tasks.derive import changed_lines
from skillrl.tasks.world import LEVELS, SPLITS, WORDS, __main__, apps, body_families, expressions, generate, words
from skillrl.tasks.world.prove import Failure, Suite

# Instances a split, by level.
SAMPLE = {0: 6, 1: 4, 2: 2, 3: 1}


def _sample(counts=None):
    counts = counts or SAMPLE
    return [generate(11, i, level, split) for level in counts for split in SPLITS for i in range(counts[level])]


@pytest.fixture(scope="module")
def sample():
    return _sample()


def _pytest_outcomes(files, folder):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--rootdir=.", "tests"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": ".", "PYTHONDONTWRITEBYTECODE": "1"}
    )
    return {m[2]: m[1] == "PASSED" for m in re.finditer(r"^(PASSED|FAILED|ERROR) (\S+)", done.stdout, re.M)}


def test_words_are_distinct_and_collide_with_nothing():
    names = [w for group in WORDS.values() for w in group]
    assert len(names) == len(set(names))
    taken = {*keyword.kwlist, *keyword.softkwlist, *dir(builtins), *sys.stdlib_module_names}
    assert not taken & {w for group in ("first", "second", "places") for w in WORDS[group]}
    assert len(WORDS["first"]) == len(WORDS["second"]) == 64


def test_splits_share_no_names():
    for one, two in combinations(SPLITS, 2):
        assert not set(words.FUNCTION_NAMES[one]) & set(words.FUNCTION_NAMES[two])
        assert not any(set(words.MODULES[one][p]) & set(words.MODULES[two][p]) for p in words.PLACES)


def test_generated_names_belong_to_their_split(sample):
    for g in sample:
        for path, data in g.files.items():
            if path.startswith("tests/"):
                continue
            package, _, rest = path.partition("/")
            module = rest.removesuffix(".py")
            assert module == "__init__" or words.pool(f"{package}/{module}") == g.split
            for node in ast.parse(data).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name).lower()
                    assert name in words.FUNCTION_NAMES[g.split]


def test_heldout_families_share_no_template():
    train = {e.code for f in expressions.TRAIN_FAMILIES for e in f.expressions + f.callers}
    held = {e.code for f in expressions.HELDOUT_FAMILIES for e in f.expressions + f.callers}
    assert not train & held
    assert not {b.code for f in body_families.TRAIN_FAMILIES for b in f.bodies} & {
        b.code for f in body_families.HELDOUT_FAMILIES for b in f.bodies
    }
    assert not {f for family in body_families.TRAIN_FAMILIES for f in family.facades} & {
        f for family in body_families.HELDOUT_FAMILIES for f in family.facades
    }
    assert not {text for a in apps.TRAIN_APPS for text in a.modules.values()} & {
        text for a in apps.HELDOUT_APPS for text in a.modules.values()
    }
    assert len(expressions.TRAIN_FAMILIES) >= 6
    assert len(expressions.HELDOUT_FAMILIES) >= 2
    assert all(len(f.expressions) >= 8 for f in expressions.FAMILIES.values())


def test_words_and_code_are_one_to_one_within_a_family():
    for family in expressions.FAMILIES.values():
        assert len({e.words for e in family.expressions}) == len({e.code for e in family.expressions})
        tables = [expressions.outputs(family.signature, e.code) for e in family.expressions]
        assert all(one != two for one, two in combinations(tables, 2)), family.name


def test_heldout_repositories_have_other_bugs(sample):
    def planted(split):
        pairs = set()
        for i in range(40):
            g = generate(5, i, 0, split)
            edit = g.solution.edits[0]
            pairs.add((re.sub(r"\b[a-z]\b", "_", edit.old), re.sub(r"\b[a-z]\b", "_", edit.new)))
        return pairs

    assert not planted("train") & planted("heldout_repositories")


@pytest.mark.parametrize("level", LEVELS)
def test_same_seed_same_bytes(level, tmp_path):
    for name in ("a", "b"):
        __main__.main([f"--out={tmp_path / name}", "--seed=4", "--instances=2", f"--level={level}"])
    one, two = (
        {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    )
    assert one == two
    assert generate(4, 0, level, "train") == generate(4, 0, level, "train")
    assert generate(4, 0, level, "train").files != generate(5, 0, level, "train").files


def test_an_existing_set_and_an_unknown_level_are_refused(tmp_path, capsys):
    (tmp_path / "set.json").write_text("{}")
    for arguments in ([f"--out={tmp_path}"], [f"--out={tmp_path / 'new'}", "--level=9"]):
        with pytest.raises(SystemExit):
            __main__.main(arguments)
    assert "already holds a task set" in (told := capsys.readouterr().err)
    assert "unknown '9'" in told
    with pytest.raises(ValueError, match="unknown split"):
        generate(0, 0, 0, "test")


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_pytest_agrees_with_the_proof(level, tmp_path):
    g = generate(7, 0, level, SPLITS[level % 3])
    gold = _pytest_outcomes(g.files, tmp_path / "gold")
    assert all(gold.values())
    assert gold.keys() == {*g.instance.fail_to_pass, *g.instance.pass_to_pass}
    buggy = _pytest_outcomes(apply_overlay(g.files, g.instance.bug), tmp_path / "bug")
    assert {t for t, ok in buggy.items() if not ok} == set(g.instance.fail_to_pass)
    assert buggy.keys() == gold.keys()


def test_solutions_solve(sample):
    for g in sample:
        buggy = apply_overlay(g.files, g.instance.bug)
        fixed = dict(buggy)
        for edit in g.solution.edits:
            text = fixed[edit.path].decode()
            assert text.count(edit.old) == 1
            fixed[edit.path] = text.replace(edit.old, edit.new).encode()
        assert fixed == dict(g.files)
        reproduction = {"tests/test_reproduction.py": g.solution.reproduction}
        assert not Suite(buggy, reproduction).results()["tests/test_reproduction.py::test_reproduction"]
        assert all(Suite(g.files, reproduction).results().values())
        submission = {"tests/test_submission.py": g.solution.unit_tests}
        assert all(Suite(g.files, submission).results().values())
        for mutant in g.instance.mutants:
            results = Suite(g.files, mutant, submission).results()
            assert not all(ok for t, ok in results.items() if t.startswith("tests/test_submission.py"))


def test_candidates_have_proven_labels(sample):
    for g in sample:
        for candidate in g.instance.candidates:
            tree = apply_overlay(g.files, g.instance.bug, candidate.overlay)
            assert all(Suite(tree).results().values()) == candidate.correct
    firsts = [generate(2, i, 0, "train").instance.candidates[0].correct for i in range(60)]
    assert 15 < sum(firsts) < 45


def test_what_the_agent_sees_holds_no_answer(sample):
    for g in sample:
        writer = TaskSetWriter("x")
        g.add_to(writer)
        gold = changed_lines(apply_overlay(g.files, g.instance.bug), {p: g.files[p].decode() for p in g.instance.bug})
        for public, hidden in zip(writer.public, writer.tasks, strict=True):
            texts = {k: v for k, v in public["inputs"].items() if k != "diff"}
            assert not any(line in text for line in gold for text in texts.values())
            issue = texts.get("issue", "")
            assert "/" not in issue and ".py" not in issue
            seen = apply_overlay(g.files, hidden.visible)
            tests = Suite(seen).results()
            assert not set(tests) & set(g.instance.fail_to_pass)
            if hidden.skill == "unit_tests":
                symbol = g.instance.target_symbol.rsplit(".")[-1].encode()
                assert not any(
                    re.search(rb"\b" + symbol + rb"\(", d) for p, d in seen.items() if p.startswith("tests/")
                )
            elif hidden.skill != "review" and g.level == 0:
                assert not any(line.encode() in data for line in gold for data in seen.values())


def test_level_0_is_small():
    for g in _sample({0: 20}):
        for path, data in g.files.items():
            if not path.startswith("tests/"):
                assert data.count(b"\n") <= 12
                assert all(line.strip() for line in ast.unparse(ast.parse(data)).splitlines() if line)
        calls = g.solution.issue_calls
        assert len(calls) == 2
        assert all(f"{c.source} " in g.texts.issue and c.value in g.texts.issue for c in calls)
        assert g.texts.instruction.startswith(f"In {g.instance.target_path}, {g.instance.target_symbol} must return ")
        writer = TaskSetWriter("x")
        g.add_to(writer)
        assert all(t["inputs"]["diff"].count("\n") <= 12 for t in writer.public if t["skill"] == "review")
        assert any(
            "import" in d.decode() for p, d in g.files.items() if not p.startswith("tests/") and "__init__" not in p
        )


def test_careful_calls_beat_careless_ones():
    def survives(g, arguments):
        name = g.instance.target_symbol
        gold = Suite(g.files, limited=False)
        package = g.instance.target_path.split("/")[0]
        value = gold.evaluate([f"from {package} import {name}"], f"{name}(*{arguments!r})")
        lines = [f"from {package} import {name}", f"assert {name}(*{arguments!r}) == {value!r}"]
        return [Suite(g.files, m, limited=False).failure(lines) is None for m in g.instance.mutants]

    sample = [generate(1, i, 0, "train") for i in range(150)]
    careful = careless = 0
    for g in sample:
        good, bad = expressions.PROBES[expressions.FAMILIES[g.family].signature]
        careful += not any(all(pair) for pair in zip(*(survives(g, a) for a in good), strict=True))
        careless += any(survives(g, bad))
    assert careful / len(sample) >= 0.85
    assert careless / len(sample) >= 0.7


def test_level_0_streams_fast():
    generate(0, 0, 0, "train")
    start = time.process_time()
    for index in range(60):
        generate(9, index, 0, "train")
    # Measured 340/s on two busy cores; half of the required 100/s leaves room for a slow machine.
    assert 60 / (time.process_time() - start) > 50


def test_trees_differ_between_instances(sample):
    assert len({pack_tree(g.files) for g in sample}) == len(sample)
    assert len({g.instance.instance_id for g in sample}) == len(sample)


def test_higher_levels_widen(sample):
    by_level = {level: [g for g in sample if g.level == level] for level in LEVELS}
    for g in by_level[1]:
        assert len({p for p in g.files if not p.startswith("tests/")}) == 5
        # The issue names a public function, the bug is in another module.
        assert g.instance.target_symbol not in g.texts.issue
    for g in by_level[2] + by_level[3]:
        source = b"".join(d for p, d in g.files.items() if not p.startswith("tests/"))
        assert b"class " in source
        names = {n.name for n in ast.parse(source).body if hasattr(n, "name")}
        assert not any(re.search(rf"\b{name}\b", g.texts.issue) for name in names)
    for g in by_level[3]:
        sources = [d for p, d in g.files.items() if not p.startswith("tests/")]
        assert len(sources) >= 9
        assert sum(d.count(b"\n") for d in sources) >= 300


@pytest.mark.slow
def test_some_bugs_of_level_2_are_in_two_files():
    bugs = [generate(1, i, 2, "train").instance.bug for i in range(12)]
    assert {len(bug) for bug in bugs} == {1, 2}


def test_a_runaway_loop_ends():
    files = {"pkg/__init__.py": b"def spin():\n    while True:\n        pass\n"}
    test = {"tests/test_spin.py": "from pkg import spin\n\n\ndef test_spin():\n    spin()\n"}
    assert Suite(files, test).results() == {"tests/test_spin.py::test_spin": False}


def test_only_assertions_and_exceptions_of_the_source_are_right_failures():
    files = {"pkg/__init__.py": b"def get(items, key):\n    return items[key]\n"}
    body = "from pkg import get\n\n\ndef test_{}():\n    {}\n"
    checks = {
        "wrong": ("assert get([1], 0) == 2", Failure("AssertionError", True)),
        "raises": ("get([1], 5)", Failure("IndexError", True)),
        "own": ("[][get([1], 0)]", Failure("IndexError", False)),
        "fine": ("assert get([1], 0) == 1", None),
    }
    tests = {f"tests/test_{name}.py": body.format(name, line) for name, (line, _) in checks.items()}
    outcomes = Suite(files, tests).outcomes()
    assert outcomes == {f"tests/test_{n}.py::test_{n}": expected for n, (_, expected) in checks.items()}


def test_the_prover_keeps_generated_modules_to_itself():
    g = generate(0, 0, 0, "train")
    package = g.instance.target_path.split("/")[0]
    Suite(g.files).results()
    assert package not in sys.modules
