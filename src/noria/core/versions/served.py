"""Versions that a server answers by: artefacts of one kind, asked for by content hash and opened when first asked for.

A name that is a content hash never means another thing later, so that a caller knows just what answered it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from noria.core.errors import DataError
from noria.core.versions.artefacts import ArtefactStore

T = TypeVar("T")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_version(name: str) -> bool:
    """Whether a name of a model is the content hash of an artefact."""
    return _DIGEST.fullmatch(name) is not None


@dataclass
class _Opened(Generic[T]):
    value: T
    stack: AsyncExitStack
    users: int = field(default=0)


class ServedVersions(Generic[T]):
    """Artefacts of a kind, open while they are used; used from one event loop.

    Args:
        folder: folder of the versions, as of :class:`ArtefactStore`.
        kind: kind of the artefacts.
        opened: opens what answers from the files of an artefact, which were compared with their digests.
        most: versions that stay open; of more, those that nobody uses are closed, the longest unused first.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        opened: Callable[[Path], AbstractAsyncContextManager[T]],
        *,
        most: int = 2,
    ) -> None:
        self.store, self.kind, self.most = ArtefactStore(folder), kind, most
        self._open = opened
        self._opened: OrderedDict[str, _Opened[T]] = OrderedDict()
        self._opening = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def using(self, digest: str) -> AsyncIterator[T]:
        """What answers by a version, held open while the context lasts.

        Raises:
            DataError: there is no such artefact of this kind, or it is damaged.
            NoriaError: it cannot be opened here.
        """
        async with self._opening:
            if digest not in self._opened:
                await self._make_room()
                self._opened[digest] = await self._made(digest)
            one = self._opened[digest]
            self._opened.move_to_end(digest)
            one.users += 1
        try:
            yield one.value
        finally:
            one.users -= 1

    async def close(self) -> None:
        """Close all of them; nobody uses one any more."""
        while self._opened:
            await self._opened.popitem()[1].stack.aclose()

    async def _made(self, digest: str) -> _Opened[T]:
        artefact = await asyncio.to_thread(self.store.artefact, digest)
        if artefact.kind != self.kind:
            raise DataError(f"a version of the kind {artefact.kind}, not {self.kind}", where=digest[:12])
        await asyncio.to_thread(self.store.verify, artefact)
        async with AsyncExitStack() as stack:
            value = await stack.enter_async_context(self._open(self.store.path(artefact)))
            return _Opened(value, stack.pop_all())
        raise AssertionError("the stack suppresses nothing")

    async def _make_room(self) -> None:
        idle = [name for name, one in self._opened.items() if not one.users]
        for name in idle[: max(0, len(self._opened) - self.most + 1)]:
            await self._opened.pop(name).stack.aclose()
