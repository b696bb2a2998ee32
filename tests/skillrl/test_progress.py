"""What is seen of long work where there is no terminal, and where there is one."""

import io
import os
import pty
import subprocess
import sys

import pytest

from skillrl.progress import Lines, show_rate

WORK = """
import time
from skillrl.progress import progress
with progress() as bars:
    bar = bars.add_task("training", total=4, completed=1)
    for score in (1, 2, 3):
        time.sleep(0.1)
        bars.update(bar, advance=1, description=f"training, score {score}")
print("done")
"""


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_lines_are_half_a_minute_apart_and_one_is_the_last():
    """Ten steps of 12 s, the first two done before: lines after 36 and 72 s, and at the end."""
    clock, out = Clock(), io.StringIO()
    with Lines(out, clock) as lines:
        work = lines.add_task("training", total=10, completed=2)
        for step in range(2, 10):
            clock.now_s += 12
            lines.update(work, advance=1, description=f"training, step {step}")
    assert out.getvalue().splitlines() == [
        "training, step 4: 5/10, 12.0 s each, 60 s left",
        "training, step 7: 8/10, 12.0 s each, 24 s left",
        "training, step 9: 10/10, 12.0 s each",
    ]


def test_several_works_share_the_pace():
    clock, out = Clock(), io.StringIO()
    with Lines(out, clock) as lines:
        one, other = lines.add_task("one", total=None), lines.add_task("other", total=600)
        lines.advance(one)
        clock.now_s += 30
        lines.update(other, completed=300)
        lines.update(one, completed=60, total=90)
    assert out.getvalue().splitlines() == ["other: 300/600, 10.0/s, 30 s left", "one: 60/90, 2.0/s, 15 s left"]


def test_after_a_failure_the_error_is_the_last_word():
    out = io.StringIO()
    with pytest.raises(ValueError), Lines(out, Clock()) as lines:
        lines.advance(lines.add_task("training", total=10))
        raise ValueError("an error")
    assert out.getvalue() == ""


def test_rates():
    assert [show_rate(x) for x in (None, 0.0, 0.25, 1.0, 12.34)] == ["-", "-", "4.0 s each", "1.0/s", "12.3/s"]


def test_a_pipe_gets_lines_and_standard_output_stays_clean():
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
    assert done.stderr.startswith("training, score 3: 4/4, ") and done.stderr.count("\n") == 1


def test_a_terminal_gets_a_bar_with_rate_and_time_left():
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen([sys.executable, "-c", WORK], stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        while chunk := _read(ours):
            seen += chunk
    os.close(ours)
    assert process.returncode == 0
    assert b"training, score 3" in seen and b"4/4" in seen
    assert b"/s" in seen or b"s each" in seen
    assert b"0:00:00" in seen


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""
