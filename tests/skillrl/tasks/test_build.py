"""The builder from a real package: fetching, choosing, wording, and a whole build in the sandbox."""

import asyncio
import gzip
import io
import json
import subprocess
import sys
import tarfile

import pytest
import shelf

from sandbox_service.backends.base import Ended
from sandbox_service.runner import Place, TestRun
from sandbox_service.tasks import read_task_set
from skillrl.tasks.build import probe
from skillrl.tasks.build.__main__ import main
from skillrl.tasks.build.baseline import Verdict, compare_runs, read_verdict
from skillrl.tasks.build.fetch import (
    BuildError,
    find_source_files,
    find_source_roots,
    find_test_roots,
    licence_of,
    parse_requirement,
    unpack,
)
from skillrl.tasks.build.issue_text import (
    Answer,
    Call,
    contract,
    docstring,
    find,
    first_sentence,
    instruction,
    issue,
    symptoms,
)
from skillrl.tasks.build.package import Builder, Options
from skillrl.tasks.build.packages import DIGESTS
from skillrl.tasks.build.plant import MAX_FAILING_SHARE, distance, reject, spread, together
from skillrl.tasks.mutate import sites
from skillrl.tasks.source import read_tasks
from skillrl.tasks.validate import proving_ground, validate
from skillrl.types import SKILLS

METADATA = b"Metadata-Version: 2.1\nName: shop\nVersion: 1.0\nLicense: MIT\n"


def archive(files, links=()):
    """A source distribution as bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return gzip.compress(buffer.getvalue(), mtime=0)


def shop(**files):
    return archive({"shop-1.0/PKG-INFO": METADATA, **{f"shop-1.0/{name}": data for name, data in files.items()}})


def test_unpack_keeps_sources_and_counts_what_it_strips():
    data = shop(
        **{
            "shop/__init__.py": b"x = 1\n",
            "tests/test_shop.py": b"",
            "CHANGES.rst": b"fixed x",
            "changelog": b"",
            "history.py": b"",
            "shop.egg-info/SOURCES.txt": b"",
            "shop/__pycache__/a.pyc": b"",
            ".git/HEAD": b"",
            ".coveragerc": b"",
            "build/lib/shop/__init__.py": b"x = 1\n",
        }
    )
    sdist = unpack("shop", "1.0", data)
    assert sorted(sdist.files) == ["shop/__init__.py", "tests/test_shop.py"]
    assert sdist.licence == "MIT" and sdist.requirement == "shop==1.0" and len(sdist.sha256) == 64
    assert sdist.stripped == {
        "package metadata": 2,
        "version control and caches": 3,
        "build results": 1,
        "changelogs": 3,
    }


@pytest.mark.parametrize("name", ["/etc/cron.d/x", "shop-1.0/../../x", "shop-1.0/a\\..\\b"])
def test_unsafe_paths_are_refused(name):
    with pytest.raises(BuildError, match="unsafe path"):
        unpack("shop", "1.0", archive({name: b""}))


def test_links_are_left_out():
    data = archive({"shop-1.0/PKG-INFO": METADATA}, links=["shop-1.0/secrets.py"])
    assert dict(unpack("shop", "1.0", data).files) == {}


def test_large_archives_are_refused():
    with pytest.raises(BuildError, match="too large"):
        unpack("shop", "1.0", shop(big=b"0" * (5 << 20)))


def test_another_archive_than_the_one_named_is_refused():
    with pytest.raises(BuildError, match="expected 0000"):
        unpack("shop", "1.0", shop(), sha256="0000")


def test_damaged_archives_are_refused():
    with pytest.raises(BuildError, match="fetch it again"):
        unpack("shop", "1.0", b"no archive")


@pytest.mark.parametrize(
    ("lines", "licence"),
    [
        ("License: MIT", "MIT"),
        ("License: BSD", "BSD-3-Clause"),
        ("License-Expression: Apache-2.0\nLicense: nonsense", "Apache-2.0"),
        ("Classifier: License :: OSI Approved :: MIT License", "MIT"),
        ("License: see file\nClassifier: License :: OSI Approved :: Apache Software License", "Apache-2.0"),
        ("License: GPL-3.0", "GPL-3.0"),
        ("Name: shop", ""),
    ],
)
def test_licences(lines, licence):
    assert licence_of(lines + "\n\nA description.\nLicense: MIT\n") == licence


def test_unknown_licences_need_consent():
    data = archive({"shop-1.0/PKG-INFO": b"License: Odd Licence\n"})
    with pytest.raises(BuildError, match="--allow_licence='Odd Licence'"):
        unpack("shop", "1.0", data)
    assert unpack("shop", "1.0", data, allow_licence="Odd Licence").licence == "Odd Licence"


@pytest.mark.parametrize("text", ["inflection", "inflection>=1", "../x==1", "a==1 --index-url=x", "pytest==9.0", ""])
def test_only_exact_versions_of_safe_packages(text):
    with pytest.raises(BuildError):
        parse_requirement(text)


def test_names_are_normalised():
    assert parse_requirement("Python_Slugify==9.2.0") == ("python-slugify", "9.2.0")


def test_the_known_digests():
    assert len(DIGESTS) == 10
    assert all(len(d) == 64 and parse_requirement(r)[0] == r.partition("==")[0] for r, d in DIGESTS.items())


LAYOUTS = {
    "flat, tests beside": ({"shop.py", "test_shop.py", "setup.py", "docs/conf.py"}, ".", {"test_shop.py"}, {"shop.py"}),
    "src": (
        {"src/shop/__init__.py", "src/shop/a.py", "src/shop/_version.py", "tests/test_a.py", "tests/conftest.py"},
        "src",
        {"tests"},
        {"src/shop/__init__.py", "src/shop/a.py"},
    ),
    "tests inside the package": (
        {"shop/__init__.py", "shop/a.py", "shop/tests/__init__.py", "shop/tests/test_a.py", "bench/run.py"},
        ".",
        {"shop/tests"},
        {"shop/__init__.py", "shop/a.py"},
    ),
    "a folder named test without tests": (
        {"shop/__init__.py", "shop/testing/__init__.py", "shop/testing/helpers.py", "tests/test_a.py"},
        ".",
        {"tests"},
        {"shop/__init__.py", "shop/testing/__init__.py", "shop/testing/helpers.py"},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    paths, root, tests, sources = LAYOUTS[layout]
    files = dict.fromkeys(paths, b"x = 1\n")
    assert find_source_roots(files) == (root,)
    assert set(find_test_roots(files)) == tests
    assert set(find_source_files(files, find_test_roots(files))) == sources


def test_sources_that_do_not_parse_are_left_out():
    assert find_source_files({"a.py": b"x = (\n", "b.py": b"\xff", "c.py": b""}, ()) == ["c.py"]


def test_only_tests_that_always_pass_are_relied_on():
    first = {"t::a": "passed", "t::b": "passed", "t::c": "failed", "t::d": "passed", "t::e[<x at 0x7f>]": "passed"}
    second = {**first, "t::b": "failed"}
    third = {k: v for k, v in first.items() if k != "t::d"}
    stable, dropped = compare_runs([first, second, third])
    assert stable == {"t::a"}
    assert dropped == {"flaky": 2, "always failed": 1, "id differs between runs": 1}


def run(results, ended=Ended.EXITED, reported=True, kind="AssertionError", path="test_a.py"):
    bad = [i for i, status in results.items() if status != "passed"]
    places = {i: Place("call", path, 3) for i in bad}
    return TestRun(ended, reported, 1, 0.1, results=results, failures=dict.fromkeys(bad, kind), places=places)


STABLE = frozenset({"t::a", "t::b"})
NONE, ONE = frozenset(), frozenset({"t::b"})
ONE_FAILS = {"t::a": "passed", "t::b": "failed"}
COLLECTION_ERROR = Verdict(NONE, rejected="collection error")


@pytest.mark.parametrize(
    ("test_run", "verdict"),
    [
        (run(ONE_FAILS), Verdict(ONE, ONE)),
        (run(ONE_FAILS, kind="TypeError", path="shop.py"), Verdict(ONE, ONE)),
        (run(ONE_FAILS, kind="TypeError"), Verdict(ONE, NONE)),
        (run({"t::a": "passed", "t::b": "passed", "t::z": "failed"}), Verdict(NONE)),
        (run({"t::a": "passed"}), COLLECTION_ERROR),
        (run({"t::a": "passed", "t::b": "error"}), COLLECTION_ERROR),
        (run({"t::a": "passed", "t::b": "passed", "u": "error"}), COLLECTION_ERROR),
        (run({}, ended=Ended.TIMEOUT, reported=False), Verdict(NONE, rejected="timeout")),
        (run({}, reported=False), Verdict(NONE, rejected="no report")),
    ],
)
def test_verdicts(test_run, verdict):
    assert read_verdict(test_run, STABLE, lambda path: path == "shop.py") == verdict


def test_usable_bugs():
    stable = frozenset(range(10))
    assert MAX_FAILING_SHARE == 0.3
    assert reject(Verdict(frozenset(range(3)), frozenset({1})), stable) == ""
    assert reject(Verdict(frozenset(range(4)), frozenset({1})), stable) == "too many tests fail"
    assert reject(Verdict(frozenset({1})), stable) == "fails for another reason than the behaviour"
    assert reject(Verdict(NONE), stable) == "survived"
    assert reject(Verdict(stable, stable), stable) == "nothing passes"
    assert reject(Verdict(NONE, rejected="timeout"), stable) == "timeout"


SOURCE = '''
def price(n, *, each: int = 2) -> int:
    """Total price of n things.

    >>> price(3)
    6
    """
    if n < 1:
        return 0
    return n * each


class Till:
    def add(self, amount):
        self.total += amount
        return self.total
'''


def test_two_mutations_at_once():
    first, second = (next(s for s in sites(SOURCE) if s.operator == o) for o in ("cmp_flip", "arith_flip"))
    both = together(SOURCE, second, first)
    assert both == together(SOURCE, first, second) == SOURCE.replace("n < 1", "n <= 1").replace("n * each", "n + each")
    assert distance(first, second) == distance(second, first) == 2
    with pytest.raises(ValueError, match="overlap"):
        together(SOURCE, first, first)


def test_spread_takes_all_sites_of_one_function():
    chosen = spread(SOURCE, "price", 0)
    assert set(chosen) == {s for s in sites(SOURCE) if s.symbol == "price"}
    assert len({s.operator for s in chosen[:4]}) == 4


def test_symptoms_are_observed_differences_shortest_first():
    calls = [Call("shop.core", "price", (n,), ()) for n in ("1000", "3", "4", "5", "6")]
    correct = [Answer("returned", t) for t in ("2000", "6", "8", "<X at 0x7f>", "12")]
    buggy = [Answer("returned", "5"), Answer("raised", "TypeError: bad"), *correct[2:4], Answer("returned", "a\nb")]
    assert [s.call.expression for s in symptoms(calls, correct, buggy)] == ["price(3)", "price(1000)"]


def test_an_issue_gives_call_result_and_expectation_and_prefers_another_function():
    calls = [
        Call("shop.core", "price", ("3",), (("each", "2"),)),
        Call("shop.core", "bill_of_the_day", ("[3]",), ()),
    ]
    correct = [Answer("returned", "6", True), Answer("returned", "'6.00'", True)]
    buggy = [Answer("returned", "5", True), Answer("raised", "KeyError: 3", True)]
    text = issue("shop", "price", symptoms(calls, correct, buggy), ["t::a"], 0)
    assert "bill_of_the_day([3]) fails with KeyError: 3" in text and "'6.00'" in text
    assert "from shop import bill_of_the_day" in text
    assert "core" not in text and "price" not in text
    direct = issue("shop", "price", symptoms(calls[:1], correct[:1], buggy[:1]), ["t::a"], 0)
    assert "price(3, each=2) gives 5" in direct and "6" in direct


def test_an_issue_without_a_call_names_the_broken_behaviour():
    text = issue("shop", "add", [], ["tests/test_a.py::TestTill::test_addKeeps_order[1]", "t.py::test_add_twice"], 0)
    assert "- add keeps order" in text and "- add twice" in text and "test_" not in text


def test_instruction_and_contract():
    text = instruction("shop/core.py", "price", "line 8", "the comparison asks for less", SOURCE)
    assert text == (
        "Correct `price` in shop/core.py, line 8: the comparison asks for less. "
        "What the function is for: Total price of n things."
    )
    assert contract(SOURCE, "price", []).startswith("price(n, *, each: int=2) -> int\n\nTotal price of n things.")
    observed = [(Call("shop", "add", ("1",), ()), Answer("returned", "1"))]
    assert contract(SOURCE, "Till.add", observed) == "Till.add(self, amount)\n\n    add(1) gives 1"


def test_finding_functions():
    guarded = (
        "try:\n    import x\nexcept ImportError:\n    def f():\n        'Here.'\nclass A:\n    def f(self): pass\n"
    )
    assert docstring(guarded, "f") == "Here." and find(guarded, "A.f").args.args[0].arg == "self"
    with pytest.raises(KeyError):
        find(guarded, "A.g")
    assert first_sentence("Give it. Take it.\n\nMore.") == "Give it." and first_sentence("") == ""


def test_the_probe_records_calls_and_makes_them_again(tmp_path):
    """The script itself, on a package of our own, in a process of its own."""
    (tmp_path / "shop.py").write_text(
        "def price(n, *rest, each=2):\n    return _p(n) * each + sum(rest)\n\n\ndef _p(n):\n    return n\n\n\n"
        "def odd(x):\n    return x\n\n\ndef slow():\n    while True:\n        pass\n"
    )
    (tmp_path / "test_shop.py").write_text(
        "import shop\n\n\ndef test_a():\n    assert shop.price(3) == 6\n    shop.price(1, 2, each=3)\n\n\n"
        "def test_b():\n    shop.price(3)\n    shop.odd(object())\n"
    )

    def probed(**spec):
        spec_file, out = tmp_path / "spec.json", tmp_path / "out.json"
        spec_file.write_text(json.dumps({"root": str(tmp_path), "source_roots": ["."], **spec}))
        subprocess.run([sys.executable, probe.__file__, spec_file, out], check=True, capture_output=True, cwd=tmp_path)
        return json.loads(out.read_text())

    assert probed(mode="record", tests=["test_shop.py"]) == [
        ["shop", "price", ["3"], {"each": "2"}, ["test_shop.py::test_a", "test_shop.py::test_b"]],
        ["shop", "price", ["1", "2"], {"each": "3"}, ["test_shop.py::test_a"]],
    ]
    calls = [["shop", "price", ["3"], {}], ["shop", "price", ["'a'"], {"each": "[]"}], ["shop", "slow", [], {}]]
    answers = probed(mode="evaluate", calls=calls)
    assert answers[0] == ["returned", "6", True]
    assert answers[1][0] == "raised" and answers[1][1].startswith("TypeError: ")
    assert answers[2] == ["raised", "no result after 2 seconds", True]


def test_bad_arguments_give_one_clear_line(tmp_path, capsys):
    assert main(["--pypi=inflection", f"--out={tmp_path}"]) == 2
    assert "inflection==0.5.1" in capsys.readouterr().err
    (tmp_path / "set.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["--pypi=inflection==0.5.1", f"--out={tmp_path}"])
    assert "already holds a task set" in capsys.readouterr().err


def shop_sdist():
    """The shelf of the grading tests as a package of two modules."""
    files = {f"shelf-1.0/{name}": text.encode() for name, text in shelf.FILES.items()}
    return archive({"shelf-1.0/PKG-INFO": METADATA, **files})


@pytest.mark.slow
def test_a_whole_build_is_proven_and_seeded(tmp_path):
    sdist = unpack("shelf", "1.0", shop_sdist())

    async def build(name):
        async with proving_ground() as ground:
            builder = Builder(sdist, ground, Options(instances=2, seed=3))
            return await builder.build(tmp_path / name), builder.summary

    (digest, summary), (again, _) = asyncio.run(build("a")), asyncio.run(build("b"))
    assert digest == again == read_task_set(tmp_path / "a").digest
    assert summary.instances == 2 and summary.mutations["kept"] == 2 and summary.mutants >= 6
    assert {"localization", "editing", "reproduction", "bug_fixing"} <= summary.tasks.keys()
    head = json.loads((tmp_path / "a" / "set.json").read_text())
    assert head["summary"]["package"]["sha256"] == sdist.sha256 and head["tasks"] == len(read_tasks(tmp_path / "a"))
    for instance in read_task_set(tmp_path / "a").instances.values():
        assert set(instance.fail_to_pass).isdisjoint(instance.pass_to_pass) and instance.pass_to_pass
        assert len({json.dumps(m, sort_keys=True) for m in instance.mutants}) == len(instance.mutants)
    report = asyncio.run(validate(tmp_path / "a", repeats=1))
    assert report.failures == {} and report.skills["unit_tests"].tasks >= 1


@pytest.mark.slow
def test_a_real_package(tmp_path, capsys):
    """Fetched by name, version and digest; needs the package registry."""
    status = main(["--pypi=inflection==0.5.1", f"--out={tmp_path / 'set'}", "--instances=1", "--jobs=2"])
    captured = capsys.readouterr()
    if status == 2 and "pip cannot fetch" in captured.err:
        pytest.skip(f"no package registry here: {captured.err.strip().splitlines()[-1][:200]}")
    assert status == 0
    made = json.loads(captured.out.splitlines()[-1])
    assert made["package"]["licence"] == "MIT" and made["baseline"]["tests"] == 455
    assert made["tasks"] == dict.fromkeys(sorted((*SKILLS, "bug_fixing")), 1) | {"review": 2}
    report = asyncio.run(validate(tmp_path / "set", repeats=1))
    assert report.failures == {} and sum(s.tasks for s in report.skills.values()) == 7
