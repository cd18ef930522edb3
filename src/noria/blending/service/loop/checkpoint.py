"""The loop's memory as one file: tallies, books and today's sums, up to a place in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from noria.blending.accounting.cells import BookKey, Books
from noria.blending.alignment.tallies import Cell, Histogram, Tallies
from noria.blending.service.journal.journal import Position
from noria.blending.service.loop.learning import Learner
from noria.blending.service.loop.sums import ShownSums
from noria.core.errors import DataError, needing
from noria.core.files import write_atomic

with needing("serve"):
    import msgspec

__all__ = ["Checkpoint"]


class Checkpoint(msgspec.Struct):
    """Content of the file.

    Attributes:
        tick: seconds of the clock that exposures are filed by.
        position: place in the log up to which everything counts.
        oldest: place of the oldest list that was open.
        now: time up to which lists had been closed.
        tallies, books, dropped, counts, day, today, window, hours: state of the learner.
        history: lines of the charts.
        ticks: number of ticks.
    """

    tick: float
    position: tuple[int, int]
    oldest: tuple[int, int]
    now: float
    tallies: list[list[Any]]
    books: list[tuple[list[Any], list[Any]]]
    dropped: tuple[dict[str, int], dict[str, int]]
    counts: dict[str, int]
    day: int
    today: list[tuple[tuple[int, bool, int], int, float]]
    window: list[tuple[tuple[int, bool, int], int, float]]
    hours: dict[int, int]
    history: list[dict[str, Any]]
    ticks: int

    @classmethod
    def of(
        cls, learner: Learner, position: Position, history: list[dict[str, Any]], ticks: int
    ) -> Checkpoint:
        """The state of a learner that has read the log up to `position`."""
        return cls(
            tick=learner.tick,
            position=position,
            oldest=learner.oldest or position,
            now=learner.now,
            tallies=[
                [*cell, *(getattr(one, name).tobytes() for name in ("code", "n", "a", "m"))]
                for cell, one in learner.tallies.cells.items()
            ],
            books=[(list(key), sums) for key, sums in learner.books.cells.items()],
            dropped=(learner.tallies.dropped, learner.books.dropped),
            counts=dict(learner.counts),
            day=learner.day,
            today=[(key, *shown) for key, shown in learner.today.items()],
            window=[(key, *shown) for key, shown in learner.window.items()],
            hours=learner.hours,
            history=history,
            ticks=ticks,
        )

    def save(self, path: Path) -> None:
        """Write the file.

        Raises:
            RunError: the disk refuses; the last checkpoint stays.
        """
        write_atomic(path, msgspec.msgpack.encode(self))

    @classmethod
    def load(cls, path: Path) -> Checkpoint | None:
        """Read the file; None if there is none.

        Raises:
            DataError: it is damaged.
        """
        try:
            return _decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise DataError(f"damaged ({error})", where=str(path)) from None

    def restore(self, learner: Learner) -> None:
        """Give a fresh learner this state.

        Raises:
            DataError: the content is no learner's state.
        """
        try:
            learner.tallies = Tallies(
                {
                    Cell(*cell[:6]): Histogram(*(np.frombuffer(part, np.int64).copy() for part in cell[6:]))
                    for cell in self.tallies
                },
                self.dropped[0],
            )
            learner.books = Books({BookKey(*key): sums for key, sums in self.books}, self.dropped[1])
        except (TypeError, ValueError) as error:
            raise DataError(f"damaged ({error})") from None
        learner.counts.update(self.counts)
        learner.day = self.day
        learner.today = {key: ShownSums(exposures, value) for key, exposures, value in self.today}
        learner.window = {key: ShownSums(exposures, value) for key, exposures, value in self.window}
        learner.hours = self.hours


_decode = msgspec.msgpack.Decoder(Checkpoint).decode
