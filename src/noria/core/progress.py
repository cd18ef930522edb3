"""Progress of long jobs: live bars on a terminal, a plain line every few seconds elsewhere.

Everything goes to stderr, so that stdout holds the command's results alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_EVERY = 5.0  # seconds between two plain lines of one task


class Progress:
    """A context in which tasks report their progress.

    Args:
        stream: stream to write to; stderr by default.
        quiet: whether to write nothing.
        clock: monotonic clock, in seconds.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.quiet = quiet
        self.clock = clock
        self._bars: Bars | None = None

    def __enter__(self) -> Progress:
        if not self.quiet and self.stream.isatty():
            self._bars = _make_bars(self.stream)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def task(self, name: str, total: int | None = None, *, start: int = 0) -> Task:
        """Start a task of `total` steps (None where that is unknown), `start` of them done before."""
        return Task(self, name, total, start)

    def say(self, text: str) -> None:
        """Write one line: above the bars on a terminal, behind the time elsewhere."""
        if self.quiet:
            return
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(f"{time.strftime('%H:%M:%S')}  {text}", file=self.stream, flush=True)


class Task:
    """One piece of work. Call `advance()` or `at(step)` as it goes, then `done()`."""

    def __init__(self, progress: Progress, name: str, total: int | None, start: int = 0) -> None:
        self.progress = progress
        self.name = name
        self.total = total
        self.start = self.step = start
        self.note = ""
        self._started = self._spoke = progress.clock()
        self._bar: Any = None
        if progress._bars is not None:
            self._bar = progress._bars.add_task(name, total=total, completed=start, note="")

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count `steps` more; `note` is the newest figure, such as a loss."""
        self.at(self.step + steps, note)

    def at(self, step: int, note: str | None = None) -> None:
        """Set the number of finished steps to `step`."""
        self.step = step
        self.note = self.note if note is None else note
        if self._bar is not None and self.progress._bars is not None:
            self.progress._bars.update(self._bar, completed=step, note=self.note)
            return
        now = self.progress.clock()
        if now - self._spoke >= _EVERY:
            self._spoke = now
            self.progress.say(self._line(now))

    def stop(self) -> None:
        """Remove the bar and write no line: the task was given up."""
        bars = self.progress._bars
        if self._bar is not None and bars is not None:
            bars.remove_task(self._bar)
            self._bar = None

    def done(self, note: str | None = None) -> None:
        """Replace the bar by one line: the task is finished."""
        self.note = self.note if note is None else note
        self.stop()
        seconds = self.progress.clock() - self._started
        self.progress.say(
            f"{self.name}: done in {duration(seconds)}" + (f"  {self.note}" if self.note else "")
        )

    def _line(self, now: float) -> str:
        count = f"{self.step}" if self.total is None else f"{self.step}/{self.total}"
        line = f"{self.name}: {count}"
        if self.total and self.start < self.step <= self.total:
            left = (now - self._started) * (self.total - self.step) / (self.step - self.start)
            line += f"  {duration(left)} left"
        return line + (f"  {self.note}" if self.note else "")


def duration(seconds: float) -> str:
    """Format a duration: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`, `9 d 05 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400:,} d {whole % 86_400 // 3600:02d} h"


def _make_bars(stream: TextIO) -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False, style="dim"),
        console=Console(file=stream),
    )
