"""HTTP services: routes behind one guard, responses, metrics.

The guard checks the Host header (against DNS rebinding), the bearer token and the rights of its caller, the size of a
body while it is read, the time of a request and the number under way. Every refusal is one JSON object
(`noria.core.service.responses`).

Every service has `/health`, `/ready` and `/metrics`. `noria.core.service.hosting` runs a service in a process.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import ipaddress
import itertools
import logging
import re
import secrets
import time
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from noria.core.errors import ConfigError, DataError, needing
from noria.core.service.callers import Caller, Callers
from noria.core.service.responses import HttpError, html_response, json_fault, json_response, read_json

with needing("serve"):
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.gc_collector import GCCollector
    from prometheus_client.process_collector import ProcessCollector
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request as StarletteRequest
    from starlette.responses import Response
    from starlette.routing import Route, Router
    from starlette.types import Message, Receive, Scope, Send

__all__ = [
    "Access",
    "Caller",
    "Callers",
    "Endpoint",
    "HttpError",
    "Limits",
    "Request",
    "Response",
    "Route",
    "Service",
    "asset",
    "html_response",
    "json_fault",
    "json_response",
    "read_json",
    "route",
]

T = TypeVar("T")

Access = Literal["open", "read", "write", "chat", "feedback"]
"""Who may call a route.

open        anyone
read        anyone on this machine; from elsewhere, who has the service's token or a caller's with the right `operate`
write       who has the service's token or a caller's with the right `operate`
chat        where the service has callers, one with the right `chat`, within the caller's rate; else as `read`
feedback    likewise with the right `feedback`
"""

LOCAL = Caller("local", frozenset({"chat", "feedback"}))
"""Whoever calls from this machine without a token."""
OPERATOR = Caller("operator", frozenset({"chat", "feedback", "operate"}))
"""Whoever has the service's own token."""

log = logging.getLogger("noria.serving")


@dataclass(frozen=True)
class Limits:
    """Limits of each request, and of their number.

    Attributes:
        body_bytes: most bytes of a body, as it arrives; more is 413.
        seconds: longest time from the first byte of the body to the last of the response; more is 408 while the body
            is still arriving, else 504. It stops a handler where it awaits, not one that computes.
        in_flight: most requests under way at once; one more is 503 with Retry-After. Bodies of one client address that
            are still arriving get three quarters of these places at most, and those that take longer than 2 s a
            quarter: the oldest end with 408 for the next one.
    """

    body_bytes: int = 8 << 20
    seconds: float = 30.0
    in_flight: int = 256


# -- static files ------------------------------------------------------------------------------------------------------


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


# -- routes -----------------------------------------------------------------------------------------------------------


class Request(StarletteRequest):
    """Starlette's request, with a faster way to read the body, and work that ends when the client leaves."""

    @property
    def caller(self) -> Caller:
        """Who sent it: a caller of the service, `operator` with the service's own token, or `local` without any."""
        exchange: _Exchange = self.scope["noria.exchange"]
        return exchange.caller

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
        exchange: _Exchange = scope["noria.exchange"]
        service = exchange.service
        exchange.path = self.path
        if self.access != "open":
            service._authorise(exchange, self.access)
        limits = service.limits
        exchange.expect(limits.body_bytes if self.body_bytes is None else self.body_bytes)
        service.end_slow_bodies(exchange.address)
        if self.counted:
            if service._under_way >= limits.in_flight:
                raise service._refusal(
                    503, "busy", f"{limits.in_flight} requests are under way", headers={"retry-after": "1"}
                )
            service._under_way += 1
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
            raise service._refusal(408 if arriving else 504, "timeout", message) from None
        finally:
            service.stop_awaiting_body(exchange)
            if self.counted:
                service._under_way -= 1


# -- the service ------------------------------------------------------------------------------------------------------


class Service:
    """Routes behind the guard, as an ASGI application.

    Args:
        name: name of the service, for people.
        routes: routes made by `route` and `asset`.
        token: secret of its callers, in `Authorization: Bearer TOKEN`. For reading, a browser may send it as the
            password of its dialogue, with any user name. Without a token no route that changes state can be called.
        callers: callers with tokens, rights and rates of their own, if any.
        limits: limits of requests to routes that have none of their own.
        hosts: host names by which the service may be called, beside `localhost` and numeric addresses.
        ready: returns why the service is not ready, or None when it is.
        around: makes a context of the service that is held while it runs.
        registry: registry of the metrics; a new one by default.
        access_log: whether to log one line for each request, without query, headers or body.

    Attributes:
        private: whether reading needs the token, too. `noria.core.service.hosting` sets it beyond loopback.
        draining: whether the service is about to stop.
        failure: exception that the context `around` raised.
        connections: number of open connections of each client address.
    """

    def __init__(
        self,
        name: str,
        routes: Sequence[Route],
        *,
        token: str | None = None,
        callers: Callers | None = None,
        limits: Limits | None = None,
        hosts: Collection[str] = (),
        ready: Callable[[], str | None] | None = None,
        around: Callable[[Service], AbstractAsyncContextManager[Any]] | None = None,
        registry: CollectorRegistry | None = None,
        access_log: bool = True,
    ) -> None:
        self.name = name
        self.limits = limits or Limits()
        self.access_log = access_log
        self.registry = registry or CollectorRegistry()
        self.private = False
        self.draining = False
        self.failure: Exception | None = None
        self.token = token
        self.callers = callers
        self._digest = None if token is None else _digest(token.encode())
        self._hosts = {host.lower() for host in hosts}
        self._known_hosts: set[bytes] = set()
        self._ready = ready
        self._around = around or _no_context
        self.connections: Tally[str] = Tally()
        self._arriving: dict[str, dict[_Exchange, asyncio.Timeout]] = {}
        self._under_way = 0
        self._ids = map(f"{secrets.token_hex(6)}-{{:x}}".format, itertools.count(1))
        own = [
            route("/health", self._health, access="open", counted=False),
            route("/ready", self._ask_ready, access="open", counted=False),
            route("/metrics", self._metrics, counted=False),
        ]
        self._router = Router([*routes, *own], redirect_slashes=False)
        if registry is None:
            ProcessCollector(registry=self.registry)
            GCCollector(registry=self.registry)
        self._make_metrics()

    def _make_metrics(self) -> None:
        count = Counter(
            "noria_http_requests", "Answered requests.", ["route", "status"], registry=self.registry
        )
        seconds = Histogram(
            "noria_http_seconds",
            "From the head of a request to the end of its answer.",
            ["route"],
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self._refused = Counter(
            "noria_http_refused", "Requests that the guard refused.", ["reason"], registry=self.registry
        )
        Gauge("noria_http_in_flight", "Requests under way.", registry=self.registry).set_function(
            lambda: self._under_way
        )
        self._count = _LabelledMetrics(lambda key: count.labels(*key))
        self._seconds = _LabelledMetrics(lambda key: seconds.labels(key))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hold the service's context while the server runs."""
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self._hold_context(receive, send)

    def identify(self, request: Request) -> Caller | None:
        """Who sent a request, for an open route that asks for rights itself; None where it needs a token."""
        exchange: _Exchange = request.scope["noria.exchange"]
        caller = self._caller(exchange)
        if caller is None and not self.private and self.callers is None:
            return LOCAL
        return caller

    def caller_with(self, token: bytes) -> Caller | None:
        """The caller who has this token: for a form that carries one, since browsers send a password by themselves."""
        if self._digest is not None and hmac.compare_digest(_digest(token), self._digest):
            return OPERATOR
        return self.callers.of(token) if self.callers is not None else None

    def is_trusted(self, request: Request) -> bool:
        """Whether a request has the token, for an open route that does more for such callers."""
        exchange: _Exchange = request.scope["noria.exchange"]
        return self._has_token(exchange)

    async def _hold_context(self, receive: Receive, send: Send) -> None:
        await receive()
        stage = "startup"
        try:
            async with self._around(self):
                await send({"type": "lifespan.startup.complete"})
                stage = "shutdown"
                await receive()
        except Exception as error:
            self.failure = error
            await send({"type": f"lifespan.{stage}.failed", "message": ""})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    # -- routes that every service has

    async def _health(self, request: Request) -> Response:
        return json_response(b'{"status":"ok"}')

    async def _ask_ready(self, request: Request) -> Response:
        reason = "the service is stopping" if self.draining else self._ready and self._ready()
        if reason:
            raise HttpError(503, "not_ready", reason, headers={"retry-after": "1"})
        return json_response(b'{"status":"ready"}')

    async def _metrics(self, request: Request) -> Response:
        encoder, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(self.registry), 200, {"content-type": media_type})

    # -- the guard

    def _refusal(self, status: int, code: str, message: str, **more: Any) -> HttpError:
        self._refused.labels(code).inc()
        return HttpError(status, code, message, **more)

    def _check_single(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Refuse a header that decides something and is there twice: we and a proxy might believe different ones.

        Raises:
            HttpError: 400.
        """
        names = Tally(name for name, _ in headers)
        for name in _SINGLE:
            if names[name] > 1:
                raise self._refusal(400, "header_twice", f"the header {name.decode()} is there twice")

    def _check_host(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse foreign names. A page whose own host name resolves to this machine (DNS rebinding) sends such a name.

        Raises:
            HttpError: 421 for a foreign name, 403 for a page of another origin.
        """
        host = headers.get(b"host", b"")
        if host not in self._known_hosts:
            name = _host_name(host)
            if not (name in self._hosts or name == "localhost" or _is_address(name)):
                raise self._refusal(
                    421, "unknown_host", "this service is not called by that name; allow it when starting it"
                )
            if len(self._known_hosts) < 64:  # callers choose these names: the set must not grow without end
                self._known_hosts.add(host)
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != host:
            raise self._refusal(403, "foreign_origin", "pages of other origins may not call this service")

    def await_body(self, exchange: _Exchange, clock: asyncio.Timeout) -> None:
        """Note that a body is arriving, and the clock that ends the request.

        Raises:
            HttpError: 503, too many of that address are.
        """
        arriving = self._arriving.setdefault(exchange.address, {})
        if len(arriving) >= max(1, self.limits.in_flight * 3 // 4):
            raise self._refusal(
                503, "busy", f"{len(arriving)} bodies are arriving", headers={"retry-after": "1"}
            )
        arriving[exchange] = clock

    def stop_awaiting_body(self, exchange: _Exchange) -> None:
        """Note that a body is there, or that nobody waits for it any more."""
        arriving = self._arriving.get(exchange.address, {})
        arriving.pop(exchange, None)
        if not arriving:
            self._arriving.pop(exchange.address, None)

    def end_slow_bodies(self, address: str) -> None:
        """End the oldest requests whose bodies are slow to arrive, where they have the places of a whole address."""
        arriving = self._arriving.get(address, {})
        while len(arriving) >= max(1, self.limits.in_flight // 4):
            oldest = next(iter(arriving))
            if time.perf_counter() - oldest.began < _SLOW_SECONDS:
                return
            with contextlib.suppress(RuntimeError):  # it is ending by itself
                arriving.pop(oldest).reschedule(0.0)

    def _authorise(self, exchange: _Exchange, access: Access) -> None:
        """Find the caller, and check that it has the right that a route needs, and its rate.

        Raises:
            HttpError: 401 without the right token, 403 where there is none or it lacks the right, 429 above the rate.
        """
        if access in ("chat", "feedback") and self.callers is not None:
            caller = self._caller(exchange)
            if caller is None:
                raise self._refusal(
                    401,
                    "wrong_token",
                    "this needs a caller's token as `Authorization: Bearer TOKEN`",
                    headers={"www-authenticate": 'Bearer realm="noria"'},
                )
            if access not in caller.rights:
                raise self._refusal(403, "no_right", f"{caller.name} has no right to {access}")
            wait = caller.wait()
            if wait:
                raise self._refusal(
                    429,
                    "rate_limited",
                    f"{caller.name} may send {caller.requests_per_minute} requests a minute",
                    headers={"retry-after": str(wait)},
                )
            exchange.caller = caller
            return
        write = access == "write"
        caller = self._caller(exchange) if b"authorization" in exchange.headers else None
        if not (write or self.private):
            exchange.caller = caller or LOCAL
            return
        if caller is None and self._digest is None:
            raise self._refusal(
                403, "no_token_set", "the service was started without a token, so nothing can be changed"
            )
        if caller is None:
            ways = 'Bearer realm="noria"' if write else 'Basic realm="noria", Bearer realm="noria"'
            raise self._refusal(
                401,
                "wrong_token",
                "this needs the service's token as `Authorization: Bearer TOKEN`",
                headers={"www-authenticate": ways},
            )
        if "operate" not in caller.rights:
            raise self._refusal(403, "no_right", f"{caller.name} has no right to operate the service")
        exchange.caller = caller

    def _caller(self, exchange: _Exchange) -> Caller | None:
        """The caller whose token a request has."""
        if self._has_token(exchange):
            return OPERATOR
        if self.callers is None:
            return None
        kind, _, token = exchange.headers.get(b"authorization", b"").strip().partition(b" ")
        if kind.lower() == b"bearer":
            return self.callers.of(token.strip())
        if kind.lower() == b"basic" and exchange.method in ("GET", "HEAD"):
            return self.callers.of(_password(token))
        return None

    def _has_token(self, exchange: _Exchange) -> bool:
        kind, _, credentials = exchange.headers.get(b"authorization", b"").strip().partition(b" ")
        if self._digest is None:
            return False
        if kind.lower() == b"bearer":
            return hmac.compare_digest(_digest(credentials.strip()), self._digest)
        if kind.lower() == b"basic" and exchange.method in ("GET", "HEAD"):
            # A browser sends these by itself, also for a page of another origin: good enough to read, not to write.
            return hmac.compare_digest(_digest(_password(credentials)), self._digest)
        return False


class _Exchange:
    """One request and its response: bounds the body while it is read, and records the outcome.

    Attributes:
        address: address of the client.
        path: path of the matching route, for the metrics.
        body_limit: most bytes that the body may have.
        bytes_read, bytes_sent: bytes of both bodies so far.
        status: status of the response; 0 before it has begun.
        body_complete: whether the whole body was read.
        caller: who sent it, where the route asks for that.
    """

    __slots__ = (
        "address", "began", "body_complete", "body_limit", "bytes_read", "bytes_sent", "caller", "headers", "id",
        "method", "path", "receive_", "scope", "send_", "service", "status",
    )  # fmt: skip

    def __init__(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self.service, self.scope, self.receive_, self.send_ = service, scope, receive, send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.method: str = scope["method"]
        client = scope.get("client")
        self.address: str = client[0] if client else "-"
        request_id = self.headers.get(b"x-request-id", b"")
        self.id = request_id.decode() if _REQUEST_ID.fullmatch(request_id) else next(service._ids)
        self.path = "unmatched"
        self.body_limit = self.bytes_read = self.bytes_sent = self.status = 0
        self.body_complete = False
        self.caller = LOCAL
        self.began = time.perf_counter()

    async def run(self) -> None:
        service, scope = self.service, self.scope
        scope["app"] = service  # with an app, Starlette raises its 404 and 405 instead of answering them
        scope["noria.exchange"] = self
        try:
            if len(self.headers) < len(scope["headers"]):
                service._check_single(scope["headers"])
            service._check_host(self.headers)
            await service._router(scope, self.receive, self.send)
        except HttpError as error:
            await self.fail(error)
        except HTTPException as error:
            code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
            await self.fail(HttpError(error.status_code, code, error.detail, headers=error.headers))
        except (DataError, ConfigError) as error:
            await self.fail(HttpError(400, "bad_request", str(error)))
        except ClientDisconnect:
            self.status = 499
        except asyncio.CancelledError:
            await self.fail(HttpError(503, "stopping", "the service is stopping"))
            raise
        except Exception:
            log.exception("request %s failed", self.id)
            await self.fail(HttpError(500, "internal", "the service failed; its log says why"))
        finally:
            self.record()

    async def receive(self) -> Message:
        message = await self.receive_()
        if message["type"] == "http.request":
            self.bytes_read += len(message.get("body", b""))
            self.body_complete = not message.get("more_body", False)
            if self.body_complete:
                self.service.stop_awaiting_body(self)
            if self.bytes_read > self.body_limit:
                raise self.too_large()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-content-type-options", b"nosniff"),
                (b"x-request-id", self.id.encode()),
            ]
        else:
            self.bytes_sent += len(message.get("body", b""))
        await self.send_(message)

    @property
    def has_body(self) -> bool:
        return b"transfer-encoding" in self.headers or self.headers.get(b"content-length", b"0") != b"0"

    def expect(self, body_limit: int) -> None:
        """Set the limit of the body. A body that declares more is refused before it is read."""
        self.body_limit = body_limit
        length = self.headers.get(b"content-length")
        if length is not None and int(length) > body_limit:
            raise self.too_large()

    def too_large(self) -> HttpError:
        return self.service._refusal(413, "too_large", f"the body has more than {self.body_limit:,} bytes")

    async def fail(self, error: HttpError) -> None:
        """Answer with an error. A response that has begun is cut off instead, so that it does not look complete."""
        if self.status:
            log.warning("request %s was cut off: %s", self.id, error.message)
            return
        if self.has_body and not self.body_complete:
            await self.discard_body()
            if not self.body_complete:
                error.headers["connection"] = "close"
        await error.response(self.id)(self.scope, self.receive, self.send)

    async def discard_body(self) -> None:
        """Read some more of the body: a client whose connection is closed while it sends never reads the response."""
        if b"expect" in self.headers and not self.bytes_read:
            return  # the client waits for `100 Continue` before it sends
        left = _LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while left > 0 and not self.body_complete:
                    message = await self.receive_()
                    if message["type"] != "http.request":
                        return
                    left -= len(message.get("body", b""))
                    self.body_complete = not message.get("more_body", False)

    def record(self) -> None:
        """Count the request in the metrics, and log its line."""
        seconds = time.perf_counter() - self.began
        service = self.service
        service._count[self.path, self.status].inc()
        service._seconds[self.path].observe(seconds)
        if service.access_log:
            path = self.scope.get("raw_path", b"")[:200].decode("ascii", "replace")
            log.info(
                "%s %s %s %d %.1f ms %d B in %d B out %s",
                self.address,
                self.method,
                path,
                self.status,
                1e3 * seconds,
                self.bytes_read,
                self.bytes_sent,
                self.id,
            )


_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_SINGLE = (b"host", b"origin", b"authorization", b"content-length", b"content-type", b"transfer-encoding")
_SLOW_SECONDS = 2.0
_LINGER_BYTES = 64 << 20
_LINGER_SECONDS = 1.0


class _LabelledMetrics(dict[Any, Any]):
    """Metrics by label, each made once, which is faster than `labels()`. There are few: routes and statuses."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, key: Any) -> Any:
        metric = self[key] = self.make(key)
        return metric


def _no_context(service: Service) -> AbstractAsyncContextManager[None]:
    return contextlib.nullcontext()


def _digest(text: bytes) -> bytes:
    """Digest of fixed length, so that the time of a comparison does not depend on what a caller sends."""
    return hashlib.sha256(text).digest()


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{0,5})?")


def _host_name(host: bytes) -> str:
    """Name in a Host header, without the port; empty where it is none."""
    match = _HOST.fullmatch(host.decode("latin-1").lower())
    return "" if match is None else match[1] or match[2]


def _is_address(name: str) -> bool:
    """Whether a host is a numeric address, which DNS cannot point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
