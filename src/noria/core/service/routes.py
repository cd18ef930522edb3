"""Routes of a service: requests, endpoints behind the guard, static files."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from noria.core.errors import needing
from noria.core.service.callers import Caller
from noria.core.service.guard import Access

if TYPE_CHECKING:
    from noria.core.service.exchange import Exchange

with needing("serve"):
    from starlette.requests import ClientDisconnect, Request as StarletteRequest
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class Request(StarletteRequest):
    """Starlette's request, with a faster way to read the body, and work that ends when the client leaves."""

    @property
    def caller(self) -> Caller:
        """Who sent it: a caller of the service, `operator` with the service's own token, or `local` without any."""
        exchange: Exchange = self.scope["noria.exchange"]
        return exchange.caller

    @property
    def is_local(self) -> bool:
        """Whether whoever is on this machine sent it, as far as headers tell, and may read without a token."""
        exchange: Exchange = self.scope["noria.exchange"]
        return not (exchange.service.guards_reading or exchange.forwarded)

    async def body(self) -> bytes:
        """Read the whole body.

        Raises:
            HttpError: 413, the body is too large.
            ClientDisconnect: the client closed the connection.
        """
        if not hasattr(self, "_body"):
            chunks = []
            more = True
            while more:
                message = await self._receive()
                if message["type"] != "http.request":
                    raise ClientDisconnect
                chunks.append(message.get("body", b""))
                more = message.get("more_body", False)
            self._body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._stream_consumed = True
        return self._body

    async def unless_left(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work, and cancel it when the client closes the connection. The body must have been read.

        Raises:
            ClientDisconnect: the client closed the connection.
        """
        watched: set[Callable[[], object]] | None = self.scope.get("noria.leaving")
        if watched is not None:  # the connection calls when its client leaves: no task has to wait for that
            return await self._unless_called(work, watched)
        working, leaving = asyncio.create_task(work), asyncio.create_task(self._left())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientDisconnect
            return working.result()
        finally:
            leaving.cancel()
            if working.cancel():
                await asyncio.gather(working, return_exceptions=True)

    @staticmethod
    async def _unless_called(work: Coroutine[Any, Any, T], watched: set[Callable[[], object]]) -> T:
        """Do work in this task, which is cancelled when the connection says that its client has left."""
        task, left = asyncio.current_task(), False
        assert task is not None

        def leave() -> None:
            nonlocal left
            left = True
            task.cancel()

        watched.add(leave)
        try:
            return await work
        except asyncio.CancelledError:
            if left and not task.uncancel():
                raise ClientDisconnect from None
            raise
        finally:
            watched.discard(leave)

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


Endpoint = Callable[[Request], Awaitable[Response]]


def route(
    path: str,
    endpoint: Endpoint,
    *,
    methods: Sequence[str] = ("GET",),
    access: Access = "read",
    body_bytes: int | None = None,
    seconds: float | None = None,
    counted: bool = True,
) -> Route:
    """A route of a service, with its access and its own limits.

    Args:
        path: path in Starlette's form: `/plans/{plan}`.
        endpoint: makes the response to a request. It may raise `HttpError`; a `DataError` or `ConfigError` is answered
            with 400 and its line.
        methods: HTTP methods of the route.
        access: who may call it; what changes state is "write".
        body_bytes: most bytes of a body; the service's limit by default.
        seconds: longest time of a request, or of a whole stream; the service's limit by default.
        counted: whether requests count as in flight. Those of a monitor do not, so that it can see a busy service.
    """
    return Route(path, _Guarded(path, endpoint, access, body_bytes, seconds, counted), methods=list(methods))


@dataclass(frozen=True)
class _Guarded:
    """An endpoint behind its rules, as an ASGI application."""

    path: str
    endpoint: Endpoint
    access: Access
    body_bytes: int | None
    seconds: float | None
    counted: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["noria.exchange"]
        service = exchange.service
        exchange.path = self.path
        if self.access != "open":
            await service.authorise(exchange, self.access)
        limits = service.limits
        exchange.expect(limits.body_bytes if self.body_bytes is None else self.body_bytes)
        service.end_slow_bodies(exchange.address)
        if self.counted:
            if service.under_way >= limits.in_flight:
                raise service.refusal(
                    503, "busy", f"{limits.in_flight} requests are under way", headers={"retry-after": "1"}
                )
            service.under_way += 1
        try:
            async with asyncio.timeout(limits.seconds if self.seconds is None else self.seconds) as clock:
                if self.counted and exchange.has_body:
                    service.await_body(exchange, clock)
                response = await self.endpoint(Request(scope, exchange.receive))
                await response(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if not clock.expired():
                raise
            arriving = exchange.has_body and not exchange.body_complete
            message = "the body was too slow to arrive" if arriving else "it took too long"
            raise service.refusal(408 if arriving else 504, "timeout", message) from None
        finally:
            service.stop_awaiting_body(exchange)
            if self.counted:
                service.under_way -= 1


def asset(path: str, content: bytes | str, media_type: str, *, access: Access = "read") -> Route:
    """A route to a static file such as a script or a style sheet, which browsers cache and revalidate by its tag."""
    body = content.encode() if isinstance(content, str) else content
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {
        "content-type": media_type,
        "etag": tag,
        "cache-control": "no-cache",
        "cross-origin-resource-policy": "same-origin",
    }

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(None, 304, {"etag": tag, "cache-control": "no-cache"})
        return Response(body, 200, headers)

    return route(path, answer, access=access)
