"""Calls that come one by one, answered together: whoever waits while a batch is worked on is in the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Batches of calls, in one event loop.

    Args:
        run: answers a batch, in order. What it raises, every caller of the batch gets. It is cancelled when all of them
            have left.
        key: tells calls apart that cannot be in one batch.
        most: largest number of calls in a batch.
    """

    def __init__(
        self, run: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, key: Callable[[T], Hashable], most: int
    ) -> None:
        self.run, self.key, self.most = run, key, most
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, call: T) -> R:
        """Answer a call, in the next batch."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _run(self, calls: Sequence[T]) -> Sequence[R]:
        return await self.run(calls)

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # whoever is about to ask comes along
            self._waiting = [entry for entry in self._waiting if not entry[1].done()]  # the others have left
            if not self._waiting:
                return
            first = self.key(self._waiting[0][0])
            batch = [entry for entry in self._waiting if self.key(entry[0]) == first][: self.most]
            chosen = {id(entry) for entry in batch}
            self._waiting = [entry for entry in self._waiting if id(entry) not in chosen]
            futures = [future for _, future in batch]
            running = _until_left(asyncio.create_task(self._run([call for call, _ in batch])), futures)
            try:
                answers = await running
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():  # its caller may have given up
                        future.set_result(answer)
            except asyncio.CancelledError:
                if not all(future.done() for future in futures):
                    raise
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)


def _until_left(running: asyncio.Task[Any], futures: Sequence[asyncio.Future[Any]]) -> asyncio.Task[Any]:
    """The task, which is cancelled once nobody waits for any of the futures."""

    def left(_: object) -> None:
        if all(future.cancelled() for future in futures):
            running.cancel()

    for future in futures:
        future.add_done_callback(left)
    return running
