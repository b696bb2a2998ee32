"""What a kill leaves on disk, and what the next service makes of it."""

import fcntl
import os
import subprocess
import sys
import tempfile
import time

import pytest

from sandbox_service import journal, scratch
from sandbox_service.journal import Entry, Journal, take_dead


def entry(name):
    return Entry(name, "run", "task", 1.5)


def abandon(folder, name, opened, closed=()):
    """A journal whose service died."""
    made = Journal(folder, name)
    for session in opened:
        made.opening(entry(session))
    for session in closed:
        made.closed(session)
    made._file.close()


def test_what_a_dead_service_left_open_is_found_once(tmp_path):
    abandon(tmp_path, "a", ["1", "2", "3"], ["2"])
    abandon(tmp_path, "b", ["4"])
    assert take_dead(tmp_path) == [entry("1"), entry("3"), entry("4")]
    assert take_dead(tmp_path) == [] == list(tmp_path.iterdir())


def test_a_living_service_keeps_its_journal(tmp_path):
    living = Journal(tmp_path, "a")
    living.opening(entry("1"))
    assert take_dead(tmp_path) == []
    living.closed("1")
    living.closed("1")
    living.close()
    living.close()
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_the_crash_cut_is_no_session(tmp_path):
    abandon(tmp_path, "a", ["1"])
    path = tmp_path / "a.jsonl"
    whole = path.read_text()
    for cut in range(1, len(whole)):
        path.write_text(whole + whole[:-cut])
        assert take_dead(tmp_path) == [entry("1")]
        path.write_text("")


def test_a_long_life_does_not_grow_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_SLACK_LINES", 100)
    living = Journal(tmp_path, "a")
    living.opening(entry("first"))
    for number in range(1000):
        living.opening(entry(str(number)))
        living.closed(str(number))
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) < 120
    assert take_dead(tmp_path) == [], "the new file is locked like the old one"
    living._file.close()
    assert take_dead(tmp_path) == [entry("first")]


def test_kill_9_gives_the_lock_up(tmp_path):
    code = "import sys, time; from sandbox_service.journal import *; from pathlib import Path\n"
    code += "j = Journal(Path(sys.argv[1]), 'x'); j.opening(Entry('s', 'run', 'task', 1.5)); print(flush=True)\n"
    code += "time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    child.stdout.readline()
    assert take_dead(tmp_path) == []
    child.kill()
    child.communicate()
    assert take_dead(tmp_path) == [entry("s")]


def test_scratch_folders_of_the_dead_are_removed_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine, dead, young = scratch.make("mine"), scratch.make("dead"), tmp_path / f"{scratch.PREFIX}new"
    os.close(scratch._held.pop(dead))
    held = tmp_path / f"{scratch.PREFIX}other"
    held.mkdir()
    fd = os.open(held, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    time.sleep(0.05)
    young.mkdir()
    assert scratch.remove_dead(young_s=3600) == []
    assert scratch.remove_dead(young_s=0.0) in ([dead, young], [young, dead])
    os.close(fd)
    assert mine.is_dir() and held.is_dir()
    scratch.remove(mine)
    scratch.remove(mine)
    assert not mine.exists()


@pytest.mark.parametrize("name", ["plain", "link"])
def test_a_link_is_never_followed(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    target = tmp_path / "target"
    target.mkdir()
    place = tmp_path / f"{scratch.PREFIX}{name}"
    place.symlink_to(target) if name == "link" else place.mkdir()
    scratch.remove_dead(young_s=0.0)
    assert target.is_dir() and place.exists() == (name == "link")
