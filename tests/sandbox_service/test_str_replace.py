"""The str_replace tool: its texts, its limits, and that it never leaves the workspace."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_support import PlainWorkspace

from sandbox_service import str_replace
from sandbox_service.str_replace import Command, Edit, EditError, EditResult, apply_edit, numbered, replace_once


@pytest.fixture
def workspace(tmp_path):
    base = tmp_path / "base"
    (base / "pkg").mkdir(parents=True)
    (base / "pkg" / "a.py").write_text("one\ntwo\nthree\ntwo\n")
    (base / "data.bin").write_bytes(b"\0\1\2")
    (base / "README").write_text("text\n")
    return PlainWorkspace(tmp_path / "workspace", base)


def apply(workspace, command, path, new="", old="") -> EditResult:
    return asyncio.run(apply_edit(workspace, Edit(command, path, new, old)))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.py", "a.py"),
        ("./pkg//a.py", "pkg/a.py"),
        ("/workspace/pkg/a.py", "pkg/a.py"),
        ("pkg/../a.py", "a.py"),
        ("/workspace", "."),
        (".", "."),
    ],
)
def test_paths_inside(path, expected):
    assert str_replace.relative_path(path) == expected


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "pkg/../../x", "/workspace/../etc", "/workspacex/a", "", "a\0b"]
)
def test_paths_outside_are_refused(workspace, path):
    for command in Command:
        result = apply(workspace, command, path, "new", "old")
        assert not result.ok
        assert "outside /workspace" in result.output or "path " in result.output


def test_view_numbers_lines(workspace):
    assert apply(workspace, Command.VIEW, "pkg/a.py") == EditResult(True, "1\tone\n2\ttwo\n3\tthree\n4\ttwo")


def test_view_lists_a_folder(workspace):
    assert apply(workspace, Command.VIEW, ".") == EditResult(True, "README\ndata.bin\npkg/")


def test_view_refuses_binary_and_missing(workspace):
    assert apply(workspace, Command.VIEW, "data.bin") == EditResult(False, "data.bin is a binary file of 3 bytes")
    assert apply(workspace, Command.VIEW, "nope.py") == EditResult(False, "no such file: nope.py")


def test_view_is_cut():
    assert numbered("") == "(empty file)"
    assert numbered("x\n" * 2003).endswith("\n2000\tx\n[3 more lines]")
    assert len(numbered("y" * 10**6)) == str_replace.VIEW_MAX_CHARS // 2
    assert len(numbered(("y" * 1000 + "\n") * 1000)) < str_replace.VIEW_MAX_CHARS + 100


def test_create_makes_parents_and_overwrites(workspace):
    assert apply(workspace, Command.CREATE, "new/deep/b.py", "x = 1\n") == EditResult(True, "created new/deep/b.py")
    assert apply(workspace, Command.CREATE, "new/deep/b.py", "x = 2\n") == EditResult(True, "overwritten new/deep/b.py")
    assert (workspace.folder / "new/deep/b.py").read_text() == "x = 2\n"


@pytest.mark.parametrize("path", [".", "pkg/", "pkg"])
def test_create_refuses_a_folder(workspace, path):
    result = apply(workspace, Command.CREATE, path, "x")
    assert not result.ok
    assert "folder" in result.output


def test_create_below_a_file_is_refused(workspace):
    result = apply(workspace, Command.CREATE, "README/x.py", "x")
    assert result == EditResult(False, "README/x.py: not a directory")


def test_replace_needs_exactly_one_match(workspace):
    assert apply(workspace, Command.REPLACE, "pkg/a.py", "2", "two").output == "2 matches in pkg/a.py, must be unique"
    assert apply(workspace, Command.REPLACE, "pkg/a.py", "2", "four").output == "no match in pkg/a.py"
    assert apply(workspace, Command.REPLACE, "pkg/a.py", "2", "").output == "old text is empty"
    assert (workspace.folder / "pkg/a.py").read_text() == "one\ntwo\nthree\ntwo\n"
    assert apply(workspace, Command.REPLACE, "pkg/a.py", "3\n4", "three\ntwo") == EditResult(True, "edited pkg/a.py:3")
    assert (workspace.folder / "pkg/a.py").read_text() == "one\ntwo\n3\n4\n"


def test_overlapping_matches_are_ambiguous():
    with pytest.raises(EditError, match="2 matches"):
        replace_once("f", b"aaa", b"aa", b"b")


@given(st.binary(max_size=30), st.binary(min_size=1, max_size=4), st.binary(max_size=4))
def test_replace_changes_only_the_match(data, old, new):
    positions = [i for i in range(len(data)) if data.startswith(old, i)]
    if len(positions) != 1 or old == new:
        with pytest.raises(EditError):
            replace_once("f", data, old, new)
        return
    changed, line = replace_once("f", data, old, new)
    at = positions[0]
    assert changed == data[:at] + new + data[at + len(old) :]
    assert line == data[:at].count(b"\n") + 1
