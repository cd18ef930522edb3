"""Work on many items at once, a bounded number under way, with its progress."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from noria.core.errors import ungrouped
from noria.core.progress import Progress

T = TypeVar("T")


async def work_through(
    items: Sequence[T],
    work: Callable[[T], Awaitable[None]],
    *,
    in_flight: int,
    progress: Progress | None = None,
    label: str = "",
    done: int = 0,
) -> None:
    """Do the work on every item, in their order of beginning; the first error ends it.

    Args:
        items: items that are left.
        work: does one of them.
        in_flight: items under way at once.
        progress: shows the finished items, if given.
        label: name of the work in the progress.
        done: items that were finished before.
    """
    waiting = iter(items)
    bar = progress.task(label, done + len(items), start=done) if progress else None

    async def worker() -> None:
        for item in waiting:
            await work(item)
            if bar:
                bar.advance()

    with ungrouped():
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(worker())
    if bar:
        bar.done()
