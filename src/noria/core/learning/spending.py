"""What a turn pays for: each piece of work once, with its result kept, within a budget of money and time.

The most that a piece may cost is on the disk before it begins, and its result and true cost are written in one step. A
process killed between both leaves the reservation standing: the money may be gone, so it counts, and the piece is paid
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from noria.core.errors import ConfigError, RunError

T = TypeVar("T")
_TABLES = """
CREATE TABLE IF NOT EXISTS work (
    key TEXT PRIMARY KEY, reserved REAL NOT NULL, lost REAL NOT NULL DEFAULT 0, charged REAL, known INTEGER,
    value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clock (seconds REAL NOT NULL);
INSERT INTO clock SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM clock);
"""
_RESERVE = (
    "INSERT INTO work (key, reserved) VALUES (?, ?)"
    " ON CONFLICT (key) DO UPDATE SET lost = lost + reserved, reserved = excluded.reserved"
)
_SETTLE = (
    "INSERT INTO work (key, reserved, charged, known, value) VALUES (?, 0, ?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET reserved = 0, charged = excluded.charged, known = excluded.known,"
    " value = excluded.value"
)


class TurnStopped(Exception):
    """A turn must stop: its budget or its time is spent, or somebody stopped it."""


class Spending:
    """The budget of a turn and the results that it paid for, in a file; of one event loop.

    Args:
        path: path of the file; made if need be.
        money: most that all work may cost, in the currency of the prices; any by default.
        seconds: longest time of all processes of the turn together; any by default.
        stopped: gives the reason why the turn must stop, before each piece of work; empty while it may continue.
        clock: seconds of a clock that never goes back.

    Raises:
        RunError: the disk refuses, or the file is damaged.
    """

    def __init__(
        self,
        path: Path,
        *,
        money: float | None = None,
        seconds: float | None = None,
        stopped: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path, self.money, self.seconds = Path(path), money, seconds
        self._stopped, self._clock = stopped, clock
        self._making: dict[str, asyncio.Future[Any]] = {}
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, isolation_level=None, timeout=10)
            self._database.execute(
                "PRAGMA journal_mode = WAL"
            )  # one sync a commit, where a journal needs three
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_TABLES)
        self._earlier = float(self._one("SELECT seconds FROM clock"))
        self._began = clock()

    def close(self) -> None:
        """Note the time and let the file go."""
        with self._errors():
            self._database.execute("UPDATE clock SET seconds = ?", (self.elapsed,))
            self._database.close()

    @property
    def elapsed(self) -> float:
        """Seconds of all processes of the turn, up to what a killed one had noted."""
        return self._earlier + self._clock() - self._began

    @property
    def committed(self) -> float:
        """Money that is spent, may be spent by work under way, or may have been lost in a kill."""
        return float(self._one("SELECT coalesce(sum(lost + reserved + coalesce(charged, 0)), 0) FROM work"))

    @property
    def cost(self) -> float:
        """Money that the finished work cost; the same however often the turn was killed."""
        with self._errors():
            rows = self._database.execute("SELECT charged FROM work WHERE value IS NOT NULL").fetchall()
        return math.fsum(row[0] for row in rows)

    @property
    def unknown(self) -> int:
        """Number of finished pieces whose cost is not known; they count at the most that they may have cost."""
        return int(self._one("SELECT count(*) FROM work WHERE value IS NOT NULL AND NOT known"))

    def check(self) -> None:
        """Raise where the turn must stop: no budget, no time, or a stop by an operator.

        Raises:
            TurnStopped: its time is spent, or somebody stopped it.
        """
        why = self._stopped()
        if why:
            raise TurnStopped(why)
        if self.seconds is not None and self.elapsed >= self.seconds:
            raise TurnStopped(f"its time of {self.seconds:g} s is spent")

    async def once(
        self, key: str, most: float | None, make: Callable[[], Awaitable[tuple[Any, float | None]]]
    ) -> Any:
        """The result of a piece of work: the one that is there, or a new one within the budget.

        Args:
            key: key under which a piece of work is recognised as done before.
            most: most that it may cost; None where that is not known.
            make: does the work, and returns its result as JSON values and its cost, None where that is not known.

        Raises:
            TurnStopped: it could exceed the budget, or the turn may not go on.
            ConfigError: there is a budget, and nobody knows what the work may cost.
        """
        if key in self._making:
            return await asyncio.shield(self._making[key])
        with self._errors():
            row = self._database.execute("SELECT value FROM work WHERE key = ?", (key,)).fetchone()
        if row is not None and row[0] is not None:
            return json.loads(row[0])
        future = asyncio.ensure_future(self._make(key, most, make))
        self._making[key] = future
        try:
            return await future
        finally:
            self._making.pop(key, None)

    async def _make(
        self, key: str, most: float | None, make: Callable[[], Awaitable[tuple[Any, float | None]]]
    ) -> Any:
        self.check()
        if most is None and self.money is not None:
            raise ConfigError("a budget needs prices", where="money", mend="give the prices of every backend")
        reserved = most or 0.0
        if self.money is not None and self.committed + reserved > self.money + 1e-12:
            raise TurnStopped(f"its budget of {self.money:g} is spent")
        if reserved:
            with self._errors():
                self._database.execute("PRAGMA synchronous = FULL")
                self._database.execute(_RESERVE, (key, reserved))
        value, cost = await make()
        known = cost is not None and 0 <= cost < math.inf
        text = json.dumps(value, ensure_ascii=True, allow_nan=False)
        charged = cost if known else reserved
        with self._errors():
            # A power cut may take what cost nothing: it is done again. A kill takes neither.
            self._database.execute(f"PRAGMA synchronous = {'FULL' if charged or reserved else 'NORMAL'}")
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute(_SETTLE, (key, charged, known, text))
            self._database.execute("UPDATE clock SET seconds = ?", (self.elapsed,))
            self._database.execute("COMMIT")
        return json.loads(text)

    def _one(self, query: str) -> Any:
        with self._errors():
            return self._database.execute(query).fetchone()[0]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RunError(f"the turn's spending cannot be noted: {error}", where=str(self.path)) from error


async def all_of(makers: Iterable[Callable[[], Awaitable[T]]], *, at_once: int = 8) -> list[T]:
    """The results of many pieces of work, in order; the first error ends what is under way and is raised."""
    places = asyncio.Semaphore(at_once)

    async def one(make: Callable[[], Awaitable[T]]) -> T:
        async with places:
            return await make()

    tasks = [asyncio.ensure_future(one(make)) for make in makers]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
