"""Several gateways behind one balancer: what is said of a trace finds the gateway that holds it.

A request about a trace that is not here goes on to the other gateways, with the caller's own token, and is never sent
on twice. An erasure is done by all of them, or says by whom it was not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from noria.core.errors import needing
from noria.core.service.responses import HttpError, read_json
from noria.core.service.serving import Request, Response

if TYPE_CHECKING:
    import aiohttp

HEADER = "x-noria-forwarded"
"""Header of a request that another gateway sent on."""
_SECONDS = 10.0
Handler = Callable[[Request], Awaitable[Response]]


class Peers:
    """The other gateways.

    Args:
        urls: addresses of the gateways, such as `http://10.0.0.2:8000`.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls = [url.rstrip("/") for url in urls]
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def finding(self, handler: Handler) -> Handler:
        """The handler of a request about a trace, which asks the others where the trace is not here."""

        async def find(request: Request) -> Response:
            try:
                return await handler(request)
            except HttpError as error:
                if error.code not in ("no_such_trace", "no_such_blob") or HEADER in request.headers:
                    raise
                answer = await self._first(request)
                if answer is None:
                    raise
                return answer

        return find if self.urls else handler

    async def _first(self, request: Request) -> Response | None:
        """The answer of the first gateway that has the trace; None where none has it.

        Raises:
            HttpError: 503, none of those that answered has it, and one did not answer.
        """
        down = ""
        for url in self.urls:
            try:
                status, body, kind = await self._send(url, request)
            except OSError as error:
                down = f"the gateway {url} cannot be reached: {error}"
                continue
            if status != 404:
                return Response(body, status, {"content-type": kind, "cache-control": "no-store"})
        if down:
            raise HttpError(503, "peer_down", down, headers={"retry-after": "5"})
        return None

    async def everywhere(self, request: Request) -> list[dict[str, Any]]:
        """The JSON answers of all others to a request; none where another gateway sent it.

        Raises:
            HttpError: 503, one of them did not do it.
        """
        if HEADER in request.headers:
            return []
        answers = []
        for url in self.urls:
            try:
                status, body, _ = await self._send(url, request)
            except OSError as error:
                raise HttpError(
                    503, "peer_down", f"done here, and not by {url}: {error}; send it again"
                ) from None
            if status >= 300:
                raise HttpError(503, "peer_failed", f"done here, and not by {url}: it answered {status}")
            answers.append(read_json(body))
        return answers

    async def _send(self, url: str, request: Request) -> tuple[int, bytes, str]:
        """Status, body and media type of a gateway's answer.

        Raises:
            OSError: it cannot be reached, or is too slow.
        """
        with needing("serve"):
            import aiohttp
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS))
        headers = {HEADER: "1"}
        for name in ("authorization", "content-type"):
            if name in request.headers:
                headers[name] = request.headers[name]
        target = url + quote(request.url.path)
        if request.url.query:
            target += f"?{request.url.query}"
        try:
            async with self._session.request(
                request.method, target, data=await request.body(), headers=headers, allow_redirects=False
            ) as answer:
                return (
                    answer.status,
                    await answer.read(),
                    answer.headers.get("content-type", "application/octet-stream"),
                )
        except (TimeoutError, aiohttp.ClientError) as error:
            raise OSError(str(error) or type(error).__name__) from error
