"""The HTTP client underneath: a connection for each request in flight, no redirects, replies of bounded size."""

from __future__ import annotations

import functools
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import httpx2

from noria.core.chat.faults import TooLargeError

__all__ = ["http_client"]


def http_client(url: str, *, timeout: float, largest: int) -> httpx2.AsyncClient:
    """For the `openai` package. A redirect is an error: it would take the request, and the key, somewhere else.

    Replies come as they are: a few compressed bytes can be made of gigabytes.

    Args:
        url: address of the server; HTTP_PROXY, HTTPS_PROXY or ALL_PROXY may name a proxy for it.
        timeout: seconds for connecting and between two reads.
        largest: bytes of a reply.
    """
    limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1)
    trusted, proxy = _trusted(), _proxy(url)
    return httpx2.AsyncClient(
        timeout=timeout,
        transport=_Spread(
            lambda: httpx2.AsyncHTTPTransport(verify=trusted, limits=limits, proxy=proxy), largest
        ),
        follow_redirects=False,
        headers={"Accept-Encoding": "identity"},
    )


def _proxy(url: str) -> str | None:
    """The environment's HTTP proxy for an address; none for this machine, nor for what NO_PROXY names."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("localhost", "127.0.0.1", "::1") or urllib.request.proxy_bypass(host):
        return None
    known = urllib.request.getproxies()
    found = known.get(parts.scheme) or known.get("all") or ""
    found = found if "://" in found or not found else f"http://{found}"
    return found if urlsplit(found).scheme in ("http", "https") else None


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted; reading them takes longer than a request."""
    return httpx2.create_ssl_context()


class _Spread(httpx2.AsyncBaseTransport):
    """A pool for each connection: a pool looks at every connection it has, for every request, and again at its end.

    With 256 connections in one pool that takes longer than all the rest of a request. The pool that was left last is
    taken first, so there are never more than requests have been under way at once.
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
            raise TooLargeError("a compressed reply, which was not asked for and may be of any length")
        return response

    async def aclose(self) -> None:
        for pool in self.pools:
            await pool.aclose()


class _Reply(httpx2.AsyncByteStream):
    """A reply's bytes up to the largest number that is let in; its pool is free again when it is closed."""

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
