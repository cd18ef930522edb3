"""Changes that wait for the disk: one thread takes them in groups, so that many callers share a sync."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from noria.core.errors import RunError

MAX_FRAME = 64 << 20
"""Most bytes of a frame or a blob."""
MAX_WAITING = 256 << 20
"""Most bytes that may wait for the disk."""
PAUSE = 0.05
"""Seconds after which changes that nobody waits for are taken."""
W = TypeVar("W")


class JournalFull(RunError):
    """The disk, or the queue before it, takes no more. Nothing of the frame is acknowledged."""


@dataclass
class Waiting(Generic[W]):
    """A change that waits for the disk, its size in bytes, and who waits for it."""

    work: W
    size: int = 0
    future: asyncio.Future[Any] | None = None


class WriteQueue(Generic[W]):
    """What waits for one thread, within a bound of bytes.

    Args:
        where: name of what is written, for messages.

    Attributes:
        broken: why nothing more is taken; None while it is.
        bytes: bytes that wait.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self.broken: RunError | None = None
        self.bytes = 0
        self._queue: list[Waiting[W]] = []
        self._awaited = 0
        self._closing = False
        self._more = threading.Condition()

    async def append(self, work: W, size: int = 0) -> Any:
        """Put a change in, and wait for its result.

        Raises:
            JournalFull: the disk or the queue takes no more.
            RunError: the disk fails.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.post(work, size, future)
        return await future

    def post(self, work: W, size: int = 0, future: asyncio.Future[Any] | None = None) -> None:
        """Put a change in. A later one that is acknowledged means that this one is written, too.

        Raises:
            JournalFull: the queue takes no more.
            RunError: the disk has failed, or the queue is closed.
        """
        if size > MAX_FRAME:
            raise JournalFull(f"a frame of {size:,} bytes", where=self._where)
        with self._more:
            if self.broken is not None:
                raise self.broken
            if self._closing:
                raise RunError("the journal is closed", where=self._where)
            if self.bytes + size > MAX_WAITING:
                raise JournalFull("the disk is too slow for what is to be written", where=self._where)
            self._queue.append(Waiting(work, size, future))
            self.bytes += size
            self._awaited += future is not None
            if future is not None or len(self._queue) == 1:
                self._more.notify()

    def take(self, seconds: float | None = None) -> tuple[list[Waiting[W]], bool]:
        """Wait for changes, and take all of them; none after `seconds`. And whether the queue is closed."""
        with self._more:
            if self._more.wait_for(lambda: self._closing or self._queue, seconds):
                self._more.wait_for(lambda: self._closing or self._awaited, PAUSE)
            batch, self._queue = self._queue, []
            self.bytes = self._awaited = 0
            return batch, self._closing

    def close(self) -> None:
        """Take no more; what waits is taken once more."""
        with self._more:
            self._closing = True
            self._more.notify()


def tell(batch: Sequence[Waiting[W]], results: Sequence[Any], error: RunError | None) -> None:
    """Wake whoever waits, with one call into each loop.

    Args:
        batch: changes that were taken.
        results: result of each.
        error: why none of them was written; None where all were.
    """
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for number, one in enumerate(batch):
        if one.future is not None:
            waiting = loops.setdefault(one.future.get_loop(), [])
            waiting.append((one.future, None if error else results[number]))

    def wake(waiting: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
        for future, result in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    for loop, waiting in loops.items():
        with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits any more
            loop.call_soon_threadsafe(wake, waiting)
