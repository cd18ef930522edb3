"""Several gateways behind one balancer: what is said of a trace finds the gateway that holds it.

A request about a trace that is not here goes on to the other gateways, with the caller's own token, and is never sent
on twice. An erasure is done by all of them, or says by whom it was not.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
    """Client of the other gateways that share the work.

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
                status, body, kind = await self._pass_on(url, request)
            except OSError as error:
                down = f"the gateway {url} cannot be reached: {error}"
                continue
            if status != 404:
                return Response(body, status, {"content-type": kind, "cache-control": "no-store"})
        if down:
            raise HttpError(503, "peer_down", down, headers={"retry-after": "5"})
        return None

    async def everywhere(
        self, path: str, content: Mapping[str, Any], authorization: str
    ) -> list[dict[str, Any]]:
        """The JSON answers of all others to a request.

        Args:
            path: path of the request, which is sent by POST.
            content: JSON values of its body.
            authorization: header with the token of who sends it.

        Raises:
            HttpError: 503, one of them did not do it.
        """
        answers = []
        headers = {"authorization": authorization, "content-type": "application/json"}
        for url in self.urls:
            try:
                status, body, _ = await self._send("POST", url + path, headers, json.dumps(content).encode())
            except OSError as error:
                raise HttpError(
                    503, "peer_down", f"done here, and not by {url}: {error}; send it again"
                ) from None
            if status >= 300:
                raise HttpError(503, "peer_failed", f"done here, and not by {url}: it answered {status}")
            answers.append(read_json(body))
        return answers

    async def _pass_on(self, url: str, request: Request) -> tuple[int, bytes, str]:
        """Status, body and media type of a gateway's answer to a request that came here."""
        names = ("authorization", "content-type")
        headers = {name: request.headers[name] for name in names if name in request.headers}
        target = url + quote(request.url.path) + (f"?{request.url.query}" if request.url.query else "")
        return await self._send(request.method, target, headers, await request.body())

    async def _send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes, str]:
        """Status, body and media type of a gateway's answer.

        Raises:
            OSError: it cannot be reached, or is too slow.
        """
        with needing("serve"):
            import aiohttp
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS))
        try:
            async with self._session.request(
                method, target, data=body, headers={HEADER: "1", **headers}, allow_redirects=False
            ) as answer:
                return (
                    answer.status,
                    await answer.read(),
                    answer.headers.get("content-type", "application/octet-stream"),
                )
        except (TimeoutError, aiohttp.ClientError) as error:
            raise OSError(str(error) or type(error).__name__) from error
