"""Work on many items at once, in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from noria.core.errors import ungrouped

T = TypeVar("T")


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, at_once: int) -> None:
    """Do the work on every item, on so many at once; the first error ends all of them."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    with ungrouped():
        async with asyncio.TaskGroup() as group:
            for _ in range(max(1, at_once)):
                group.create_task(worker())
