"""Runs a turn in processes that are killed at one point each, and resumes it until it ends.

A point is any call by which the turn writes: a file or a folder renamed or synced, a statement of SQLite, a request
sent. The modules are loaded once, and each process is a fork.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noria.core.learning.plan import open_turn
from noria.core.pages import report
from noria.core.runs import run
from noria.core.storage.control import SQLiteControl
from tests.core.learning_world import Model, log, models, turn


class Points:
    """Counts the points of a process, and kills it at one."""

    def __init__(self, deadly: int | None) -> None:
        self.deadly, self.passed = deadly, 0

    def __call__(self) -> None:
        self.passed += 1
        if self.passed == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)


class Connection(sqlite3.Connection):
    points: Points

    def execute(self, *values: Any) -> Any:
        writes = not str(values[0]).lstrip().startswith("SELECT")
        if writes:
            self.points()
        result = super().execute(*values)
        if writes:
            self.points()
        return result


class Counted(Model):
    """A model whose requests are points, and are counted in a file that survives."""

    def __init__(self, quality: float, points: Points, path: Path) -> None:
        super().__init__(quality)
        self.points, self.path = points, path

    async def ask(self, request: Any) -> Any:
        with self.path.open("a") as file:
            file.write(".")
        outcome = await super().ask(request)
        self.points()
        return outcome


def work(home: Path, deadly: int | None) -> int:
    """Run the turn in this process, and return the number of points."""
    points = Points(deadly)
    Connection.points = points

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*values: Any, **named: Any) -> Any:
            points()
            return function(*values, **named)

        return counted

    os.replace, os.rename, os.fsync = before(os.replace), before(os.rename), before(os.fsync)
    real = sqlite3.connect
    sqlite3.connect = lambda *values, **named: real(*values, factory=Connection, **named)  # type: ignore[assignment]
    served = {n: Counted(m.quality, points, home / "asked") for n, m in models().items()}
    home.mkdir(exist_ok=True)
    one = turn(home, served=served, views=log(160), replayed=20)  # type: ignore[arg-type]
    receipt = asyncio.run(one.run())
    assert receipt["outcome"] == "handed over", receipt
    return points.passed


def forked(home: Path, deadly: int | None) -> tuple[bool, int]:
    """Whether a process of its own came to the end, and the points that it passed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            passed = work(home, deadly)
            os.write(writing, str(passed).encode())
            os._exit(0)
        except BaseException as error:
            import traceback

            traceback.print_exception(error)
            os._exit(1)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    passed = os.read(reading, 20)
    os.close(reading)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False, 0
    assert os.WEXITSTATUS(status) == 0, f"it failed, killed at {deadly}"
    return True, int(passed)


def turns_open(home: Path) -> bool:
    """Whether the first turn did not end: the same command after its end would begin another one."""
    control = SQLiteControl(home / "control.sqlite")
    try:
        return open_turn(control) is not None or not control.read_all("turn")
    finally:
        control.close()


def main(folder: Path, kills: int) -> None:
    folder.mkdir(exist_ok=True)
    for module in ("pandas", "pyarrow.parquet", "scipy.special"):
        importlib.import_module(module)
    report._vega()  # what every process would load again
    report.environment().get_template("page.html")
    run.package_versions = functools.cache(run.package_versions)
    run.package_versions()
    ended, points = forked(folder / "whole", None)
    assert ended
    asked = len((folder / "whole" / "asked").read_text())
    killed = again = 0
    chosen = sorted({round(1 + k * (points - 1) / (kills - 1)) for k in range(kills)})
    for point in chosen:
        home = folder / f"killed-{point}"
        ended, _ = forked(home, point)
        killed += not ended
        if not (home / "control.sqlite").exists() or turns_open(home):
            forked(home, None)
        again += len((home / "asked").read_text()) - asked
    print(json.dumps({"points": points, "killed": killed, "asked": asked, "asked_again": again}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
