"""The HTTP client underneath: as many connections as requests in flight, no redirects, replies of bounded size."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Sequence

import httpx2

from noria.core.chat.faults import TooLargeError

__all__ = ["http_client"]

TOGETHER = 16
"""Connections of one pool."""


def http_client(*, connections: int, timeout: float, largest: int) -> httpx2.AsyncClient:
    """For the `openai` package. A redirect is an error: it would take the request, and the key, somewhere else.

    Args:
        connections: kept open at most.
        timeout: seconds for connecting and between two reads.
        largest: bytes of a reply.
    """
    pools = -(-connections // TOGETHER)
    limits = httpx2.Limits(max_connections=TOGETHER, max_keepalive_connections=TOGETHER)
    trusted = _trusted()
    transport = _Spread([httpx2.AsyncHTTPTransport(verify=trusted, limits=limits) for _ in range(pools)])

    async def bound(response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream, largest)

    return httpx2.AsyncClient(
        timeout=timeout, transport=transport, follow_redirects=False, event_hooks={"response": [bound]}
    )


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted; reading them takes longer than a request."""
    return httpx2.create_ssl_context()


class _Spread(httpx2.AsyncBaseTransport):
    """Several small pools of connections: a pool looks at each of its connections for every request.

    With 256 connections in one pool that takes longer than all the rest of a request.
    """

    def __init__(self, pools: Sequence[httpx2.AsyncBaseTransport]) -> None:
        self.pools, self.busy = list(pools), [0] * len(pools)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        place = min(range(len(self.pools)), key=self.busy.__getitem__)
        self.busy[place] += 1
        try:
            response = await self.pools[place].handle_async_request(request)
        except BaseException:
            self.busy[place] -= 1
            raise
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Leaving(response.stream, self.busy, place)
        return response

    async def aclose(self) -> None:
        for pool in self.pools:
            await pool.aclose()


class _Leaving(httpx2.AsyncByteStream):
    """A reply that gives its place back when it is closed."""

    def __init__(self, stream: httpx2.AsyncByteStream, busy: list[int], place: int) -> None:
        self.stream, self.busy, self.place, self.open = stream, busy, place, True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self.stream:
            yield part

    async def aclose(self) -> None:
        if self.open:
            self.open = False
            self.busy[self.place] -= 1
        await self.stream.aclose()


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, largest: int) -> None:
        self.stream, self.largest = stream, largest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self.largest
        async for part in self.stream:
            left -= len(part)
            if left < 0:
                raise TooLargeError(f"the reply is longer than {self.largest:,} bytes")
            yield part

    async def aclose(self) -> None:
        await self.stream.aclose()
