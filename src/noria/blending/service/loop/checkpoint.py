"""The loop's memory as one file: tallies, books and today's sums, up to a place in the log, behind their CRC-32."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noria.blending.accounting.cells import Books
from noria.blending.alignment.tallies import Tallies
from noria.blending.service.journal.journal import Position
from noria.blending.service.loop.learning import Learner
from noria.blending.service.loop.sums import ShownSums
from noria.core.errors import DataError, needing
from noria.core.files import write_atomic

with needing("serve"):
    import msgspec


class Learnt(msgspec.Struct):
    """State of a learner: its attributes of the same names."""

    tick: float
    now: float
    tallies: Tallies
    books: Books
    counts: dict[str, int]
    day: int
    today: dict[tuple[int, bool, int], ShownSums]
    window: dict[tuple[int, bool, int], ShownSums]
    hours: dict[int, int]

    def restore(self, learner: Learner) -> None:
        """Give a fresh learner this state, but for the time up to which its lists are closed."""
        learner.counts.update(self.counts)
        for name in ("tallies", "books", "day", "today", "window", "hours"):
            setattr(learner, name, getattr(self, name))


class Checkpoint(msgspec.Struct):
    """Content of the file.

    Attributes:
        position: place in the log up to which everything counts.
        oldest: place of the oldest list that was open.
        learnt: state of the learner.
        history: lines of the charts.
        ticks: number of ticks.
    """

    position: Position
    oldest: Position
    learnt: Learnt
    history: list[dict[str, Any]]
    ticks: int

    @classmethod
    def of(
        cls, learner: Learner, position: Position, history: list[dict[str, Any]], ticks: int
    ) -> Checkpoint:
        """The state of a learner that has read the log up to `position`."""
        learnt = Learnt(*(getattr(learner, name) for name in Learnt.__struct_fields__))
        return cls(position, learner.oldest or position, learnt, history, ticks)

    def save(self, path: Path) -> None:
        """Write the file.

        Raises:
            RunError: the disk refuses; the last checkpoint stays.
        """
        body = msgspec.msgpack.encode(self, enc_hook=np.ndarray.tobytes)
        write_atomic(path, zlib.crc32(body).to_bytes(4, "little") + body)

    @classmethod
    def load(cls, path: Path) -> Checkpoint | None:
        """Read the file; None if there is none.

        Raises:
            DataError: it is damaged.
        """
        try:
            data = path.read_bytes()
            if int.from_bytes(data[:4], "little") != zlib.crc32(data[4:]):
                raise DataError("damaged (its checksum is another)", where=str(path))
            return _decode(data[4:])
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise DataError(f"damaged ({error})", where=str(path)) from None


def _whole_numbers(kind: Any, data: bytes) -> NDArray[np.int64]:
    return np.frombuffer(data, np.int64).copy()


_decode = msgspec.msgpack.Decoder(Checkpoint, dec_hook=_whole_numbers).decode
