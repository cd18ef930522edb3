"""The HTTP client underneath: as many connections as requests in flight, no redirects, replies of bounded size."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from noria.core.chat.faults import TooLargeError

__all__ = ["http_client"]


def http_client(*, connections: int, timeout: float, largest: int) -> httpx2.AsyncClient:
    """For the `openai` package. A redirect is an error: it would take the request, and the key, somewhere else.

    Args:
        connections: kept open at most.
        timeout: seconds for connecting and between two reads.
        largest: bytes of a reply.
    """
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)

    async def bound(response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream, largest)

    return httpx2.AsyncClient(
        timeout=timeout, limits=limits, follow_redirects=False, event_hooks={"response": [bound]}
    )


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
