import io
import os
import pty
import re
import subprocess
import sys

import pytest

from noria.core.progress import Progress, duration


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_without_a_terminal_a_task_speaks_every_few_seconds_with_the_time_left():
    clock, stream = Clock(), io.StringIO()
    with Progress(stream, clock=clock) as progress:
        task = progress.task("teacher", total=80)
        for _ in range(80):
            clock.now += 0.25
            task.advance(note="loss 0.5")
        task.done("loss 0.1")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5  # at 5, 10, 15 and 20 s, and the end: not one for each of the eighty steps
    assert re.fullmatch(r"\d\d:\d\d:\d\d  teacher: 20/80  15 s left  loss 0\.5", lines[0])
    assert lines[-1].endswith("teacher: done in 20 s  loss 0.1")


def test_work_of_unknown_length_promises_no_end():
    clock, stream = Clock(), io.StringIO()
    task = Progress(stream, clock=clock).task("scan")
    clock.now = 6.0
    task.at(12)
    assert stream.getvalue().rstrip().endswith("scan: 12")


def test_quiet_says_nothing():
    stream = io.StringIO()
    with Progress(stream, quiet=True) as progress:
        progress.task("work", 1).done()
        progress.say("hello")
    assert stream.getvalue() == ""


def test_on_a_terminal_bars_are_drawn_and_the_last_lines_stay():
    code = (
        "import time\nfrom noria.core.progress import Progress\n"
        "with Progress() as p:\n"
        "    t = p.task('teacher [x]', total=2)\n"
        "    t.advance(); time.sleep(.2); t.advance(note='loss 1'); t.done()\n"
    )
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=theirs,
        stdout=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:
            break
        if not block:
            break
        seen += block
    os.close(ours)
    assert child.communicate()[0] == b""  # stdout stays the command's answer
    assert child.returncode == 0
    text = seen.decode()
    assert "━" in text
    assert "teacher [x]: done in" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (9.96, "10 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_read_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text
