"""Diffs of git and of difflib: applied both ways, refused when they do not fit, recognised when they move."""

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillrl.tasks.readers.diffs import (
    DiffError,
    apply_diff,
    changed_lines,
    is_doc_path,
    is_test_path,
    parse_diff,
    patch_id,
)

OLD, NEW = "a\nb\nc\nd\n", "a\nB\nc\nd\ne\n"


def unified(old: str, new: str, context: int = 3, path: str = "f.py") -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{path}", f"b/{path}", n=context
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


# Lines as git counts them: only "\n" ends one.
TEXTS = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "\n", "x\x0c\n", "y\r\n", "- z\n", "+++ q\n"]), max_size=12).map(
    "".join
)


@given(TEXTS, TEXTS, st.booleans(), st.booleans(), st.integers(0, 4))
def test_what_difflib_writes_is_applied_both_ways(old, new, old_cut, new_cut, context):
    old, new = old.removesuffix("\n") if old_cut else old, new.removesuffix("\n") if new_cut else new
    lines = difflib.unified_diff(split(old), split(new), "a/f", "b/f", n=context)
    text = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    diffs = parse_diff(text)
    expected = {"f": new} if old != new else {}
    assert apply_diff({"f": old.encode()}, diffs) == expected
    assert apply_diff({"f": new.encode()}, diffs, reverse=True) == ({"f": old} if old != new else {})


def split(text: str) -> list[str]:
    return [part + "\n" for part in text.split("\n")[:-1]] + [p for p in text.split("\n")[-1:] if p]


@given(TEXTS, TEXTS, TEXTS)
def test_text_before_the_change_moves_it(before, old, new):
    text = unified(f"start\n{old}end\n", f"start\n{new}end\n") if "\r" not in old + new + before else ""
    diffs = parse_diff(text)
    if len(diffs) == 1 and len(diffs[0].hunks) == 1 and "start" not in before and "\x0c" not in old + new:
        moved = apply_diff({"f.py": f"{before}start\n{old}end\n".encode()}, diffs)
        assert moved == {"f.py": f"{before}start\n{new}end\n"}


GIT = """\
diff --git a/pkg/new.py b/pkg/new.py
new file mode 100644
index 0000000..1111111
--- /dev/null
+++ b/pkg/new.py
@@ -0,0 +1,2 @@
+one
+two
diff --git a/pkg/gone.py b/pkg/gone.py
deleted file mode 100644
index 1111111..0000000
--- a/pkg/gone.py
+++ /dev/null
@@ -1 +0,0 @@
-old
diff --git a/pkg/from.py b/pkg/to.py
similarity index 80%
rename from pkg/from.py
rename to pkg/to.py
index 2222222..3333333 100644
--- a/pkg/from.py
+++ b/pkg/to.py
@@ -1,2 +1,2 @@ def f():
 a
-b
\\ No newline at end of file
+B
diff --git a/pkg/moved.py b/pkg/elsewhere.py
similarity index 100%
rename from pkg/moved.py
rename to pkg/elsewhere.py
"""


def test_what_git_writes():
    files = {"pkg/gone.py": b"old\n", "pkg/from.py": b"a\nb", "pkg/moved.py": b"same\n"}
    diffs = parse_diff(GIT)
    assert [d.path for d in diffs] == ["pkg/new.py", "pkg/gone.py", "pkg/to.py", "pkg/elsewhere.py"]
    assert diffs[2].hunks[0].section == "def f():"
    after = apply_diff(files, diffs)
    assert after == {
        "pkg/new.py": "one\ntwo\n", "pkg/gone.py": None, "pkg/from.py": None, "pkg/to.py": "a\nB\n",
        "pkg/moved.py": None, "pkg/elsewhere.py": "same\n",
    }  # fmt: skip
    changed = {p: t.encode() for p, t in after.items() if t is not None}
    back = apply_diff(changed, diffs, reverse=True)
    assert {p: t for p, t in back.items() if t is not None} == {p: d.decode() for p, d in files.items()}


def test_lines_of_a_diff_that_look_like_its_headers():
    old, new = "x\n-- y\n", "x\n++ y\n"
    diffs = parse_diff(unified(old, new))
    assert apply_diff({"f.py": old.encode()}, diffs) == {"f.py": new}


@pytest.mark.parametrize(
    ("text", "files", "message"),
    [
        (unified(OLD, NEW), {"f.py": b"x\ny\n"}, "hunk at line 1 does not fit"),
        (unified(OLD, NEW), {}, "f.py is not in the tree"),
        (unified(OLD, NEW), {"f.py": b"\xff"}, "not UTF-8"),
        (GIT, {"pkg/new.py": b""}, "pkg/new.py is in the tree already"),
        ("diff --git a/x b/x\nBinary files a/x and b/x differ\n", {"x": b""}, "x is binary"),
    ],
)
def test_diffs_that_do_not_fit(text, files, message):
    with pytest.raises(DiffError, match=message):
        apply_diff(files, parse_diff(text))


@pytest.mark.parametrize("text", ["hello", "--- a/f\n+++ b/f\n@@ -1,9 +1,9 @@\n a\n", "--- a/f\n+++ b/f\n@@ -x @@\n"])
def test_damaged_diffs(text):
    with pytest.raises(DiffError):
        parse_diff(text)


@given(st.text(alphabet="-+@ ab\n\\,0123", max_size=200))
def test_any_text_parses_or_is_refused(text):
    try:
        diffs = parse_diff(f"--- a/f\n+++ b/f\n{text}")
    except DiffError:
        return
    assert all(d.path for d in diffs)


def test_patch_ids_ignore_place_and_blanks():
    here = parse_diff(unified(OLD, NEW))
    assert patch_id(here) == patch_id(parse_diff(unified("z\n" * 9 + OLD, "z\n" * 9 + NEW)))
    assert patch_id(here) == patch_id(parse_diff(unified(OLD.replace("b", "  b"), NEW.replace("B", "\tB "))))
    assert patch_id(here) != patch_id(parse_diff(unified(OLD, NEW.replace("B", "X"))))
    assert sorted(changed_lines(here, "+")) == ["B", "e"] and changed_lines(here, "-") == ["b"]


@pytest.mark.parametrize(
    ("path", "test", "doc"),
    [
        ("pkg/core.py", False, False), ("tests/test_core.py", True, False), ("pkg/test_core.py", True, False),
        ("pkg/tests.py", True, False), ("src/a/b_test.go", True, False), ("src/test/java/ATest.java", True, False),
        ("src/a.spec.ts", True, False), ("spec/a_spec.rb", True, False), ("docs/api.py", False, True),
        ("CHANGES.rst", False, True), ("CHANGELOG", False, True), ("changelog.d/12.fixed", False, True),
        ("contest.py", False, False), ("pkg/latest.py", False, False), ("CMakeLists.txt", False, False),
        ("requirements.txt", False, False), ("pkg/attest/core.py", False, False),
    ],
)  # fmt: skip
def test_kinds_of_files(path, test, doc):
    assert (is_test_path(path), is_doc_path(path)) == (test, doc)
