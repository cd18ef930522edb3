"""Work that is cheaper together: what callers wait for is done in batches, on a thread beside the event loop.

Whatever waits when a batch is begun goes into it, up to its size; nothing waits for a batch to fill. What nobody waits
for any more is left out.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from noria.core.errors import NoriaError, ServedError

Wish = TypeVar("Wish")
Made = TypeVar("Made")
log = logging.getLogger("noria.serving")


@dataclass
class _Waiting(Generic[Wish, Made]):
    wish: Wish
    done: asyncio.Future[Made]


class Batching(Generic[Wish, Made]):
    """Does what waits, in batches; used from one event loop.

    Args:
        work: does a batch: a result for each wish, in their order. It runs on a thread, one batch at a time.
        size: most wishes of a batch.
        waiting: most wishes that may wait.

    Attributes:
        batches: number of batches that were done.
    """

    def __init__(self, work: Callable[[Sequence[Wish]], Sequence[Made]], *, size: int, waiting: int) -> None:
        self._work, self._size, self._most = work, size, waiting
        self.batches = 0
        self._waiting: collections.deque[_Waiting[Wish, Made]] = collections.deque()
        self._come = asyncio.Event()

    def full(self, number: int = 1) -> bool:
        """Whether so many wishes more may not wait."""
        return len(self._waiting) + number > self._most

    async def ask(self, wishes: Sequence[Wish]) -> list[Made]:
        """The results of some wishes, which may be done in several batches.

        Raises:
            NoriaError: one of them cannot be done.
        """
        loop = asyncio.get_running_loop()
        mine: list[_Waiting[Wish, Made]] = [_Waiting(wish, loop.create_future()) for wish in wishes]
        self._waiting.extend(mine)
        self._come.set()
        try:
            return list(await asyncio.gather(*(one.done for one in mine)))
        finally:
            for one in mine:  # for who has left nothing is done
                one.done.cancel()

    @contextlib.asynccontextmanager
    async def running(self, service: object = None) -> AsyncIterator[None]:
        """Do what comes while the context lasts, as a service's `around`."""
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def run(self) -> None:
        """Do what comes, until the task is cancelled."""
        while True:
            await self._come.wait()
            batch: list[_Waiting[Wish, Made]] = []
            while self._waiting and len(batch) < self._size:
                one = self._waiting.popleft()
                if not one.done.cancelled():
                    batch.append(one)
            if not self._waiting:
                self._come.clear()
            if batch:
                await self._do(batch)

    async def _do(self, batch: Sequence[_Waiting[Wish, Made]]) -> None:
        """Do a batch; one that fails is done wish by wish, so that one spoils no other."""
        self.batches += 1
        try:
            made = await asyncio.to_thread(self._work, [one.wish for one in batch])
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._do([one])
            elif not batch[0].done.done():
                if not isinstance(error, NoriaError):
                    log.error("a batch of one failed", exc_info=error)
                    error = ServedError("it could not be done; the log says why")
                batch[0].done.set_exception(error)
            return
        for one, result in zip(batch, made, strict=True):
            if not one.done.done():
                one.done.set_result(result)
