"""HTTP client of chat servers: a connection for each request in flight, no redirects, replies of bounded size."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Callable

import httpx2

from noria.core.chat.faults import TooLargeError
from noria.core.chat.settings import proxy_of


def http_client(url: str, *, timeout: float, largest: int) -> httpx2.AsyncClient:
    """Make the HTTP client that the `openai` package uses.

    A redirect is an error, since it would take the request, and the key, to another server. Compressed replies are
    refused, since a few bytes can expand to gigabytes.

    Args:
        url: address of the server; HTTP_PROXY, HTTPS_PROXY or ALL_PROXY may name a proxy for it.
        timeout: seconds for connecting and between two reads.
        largest: most bytes of a reply.
    """
    limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1)
    trusted, proxy = _certificates(), proxy_of(url)
    return httpx2.AsyncClient(
        timeout=timeout,
        transport=_Spread(
            lambda: httpx2.AsyncHTTPTransport(verify=trusted, limits=limits, proxy=proxy), largest
        ),
        follow_redirects=False,
        headers={"Accept-Encoding": "identity"},
    )


@functools.cache
def _certificates() -> ssl.SSLContext:
    """The trusted certificates, read once: reading them takes longer than a request."""
    return httpx2.create_ssl_context()


class _Spread(httpx2.AsyncBaseTransport):
    """A pool for each connection, since a pool scans all its connections at the start and the end of every request.

    With 256 connections in one pool that takes longer than the rest of a request. The pool that was freed last is used
    first, so that there are never more pools than requests have been under way at once.
    """

    def __init__(self, make: Callable[[], httpx2.AsyncBaseTransport], largest: int) -> None:
        self.make, self.largest = make, largest
        self.pools: list[httpx2.AsyncBaseTransport] = []
        self.free: list[httpx2.AsyncBaseTransport] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if not self.free:
            self.pools.append(self.make())
            self.free.append(self.pools[-1])
        pool = self.free.pop()
        try:
            response = await pool.handle_async_request(request)
        except BaseException:
            self.free.append(pool)
            raise
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Reply(response.stream, self.largest, lambda: self.free.append(pool))
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.stream.aclose()
            raise TooLargeError("a compressed reply, which was not requested and may be of any length")
        return response

    async def aclose(self) -> None:
        for pool in self.pools:
            await pool.aclose()


class _Reply(httpx2.AsyncByteStream):
    """The bytes of a reply up to the largest number allowed; closing it frees its pool."""

    def __init__(self, stream: httpx2.AsyncByteStream, largest: int, leave: Callable[[], None]) -> None:
        self.stream, self.largest, self.leave, self.open = stream, largest, leave, True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self.largest
        async for part in self.stream:
            left -= len(part)
            if left < 0:
                raise TooLargeError(f"the reply is longer than {self.largest:,} bytes")
            yield part

    async def aclose(self) -> None:
        try:
            await self.stream.aclose()
        finally:
            if self.open:
                self.open = False
                self.leave()
