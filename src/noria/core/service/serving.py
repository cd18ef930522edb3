"""HTTP services: routes behind one guard, responses, metrics.

The guard checks the Host header (against DNS rebinding), the bearer token and the rights of its caller, the size of a
body while it is read, the time of a request and the number under way. Every refusal is one JSON object
(`noria.core.service.responses`).

Every service has `/health`, `/ready` and `/metrics`. `noria.core.service.hosting` runs a service in a process.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections import Counter as Tally
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from noria.core.errors import needing
from noria.core.service.callers import Caller, Callers
from noria.core.service.exchange import Exchange
from noria.core.service.guard import Access, Guard, Limits
from noria.core.service.responses import HttpError, html_response, json_fault, json_response, read_json
from noria.core.service.routes import Endpoint, Request, asset, route

with needing("serve"):
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.gc_collector import GCCollector
    from prometheus_client.process_collector import ProcessCollector
    from starlette.responses import Response
    from starlette.routing import Route, Router
    from starlette.types import Receive, Scope, Send

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


class Service(Guard):
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
        self.registry = registry or CollectorRegistry()
        super().__init__(token, callers, limits or Limits(), hosts, self.registry)
        self.name = name
        self.access_log = access_log
        self.draining = False
        self.failure: Exception | None = None
        self._ready = ready
        self._around = around or _no_context
        self.connections: Tally[str] = Tally()
        self.under_way = 0
        self.request_ids = map(f"{secrets.token_hex(6)}-{{:x}}".format, itertools.count(1))
        own = [
            route("/health", self._health, access="open", counted=False),
            route("/ready", self._ask_ready, access="open", counted=False),
            route("/metrics", self._metrics, counted=False),
        ]
        self.router = Router([*routes, *own], redirect_slashes=False)
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
        Gauge("noria_http_in_flight", "Requests under way.", registry=self.registry).set_function(
            lambda: self.under_way
        )
        self.request_counts = _LabelledMetrics(lambda key: count.labels(*key))
        self.request_seconds = _LabelledMetrics(lambda key: seconds.labels(key))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hold the service's context while the server runs."""
        if scope["type"] == "http":
            await Exchange(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self._hold_context(receive, send)

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
