"""A router as an OpenAI-compatible service: live traffic goes where it says, and elsewhere when that fails.

    POST /v1/chat/completions   `model: auto` is routed; a route's label goes there straight; streams when asked to
    GET  /v1/models             what can be asked for
    POST /v1/route              the decision and its reasons, without asking anyone

A backend that fails before its first word is followed at once by the next in the router's ranking, and is left out for
a while when it fails again and again, or asks for that. A caller who leaves ends the backend's work. What breaks later
cannot be taken back: the stream ends with an error event, without [DONE]. Routes, errors, limits, health and metrics
are those of `noria.core.service.serving`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from noria.core.chat import Answer, ChatClient, Failure, Outcome, Refusal
from noria.core.completions.answers import DONE, ChunkWriter, completion, failure_error, model_list
from noria.core.completions.requests import CompletionRequest
from noria.core.errors import DataError, needing
from noria.core.service.serving import HttpError, Limits, Request, Response, Service, json_response, route
from noria.routing.pool.pool import Pool
from noria.routing.routers.router import Decision, Router
from noria.routing.service.config import ServeLimits
from noria.routing.service.health import Health
from noria.routing.service.wire import (
    AUTO,
    SAMPLING,
    decision_record,
    headers_of,
    in_strategy,
    not_taken,
    read_request,
)
from noria.routing.tables.table import Route

with needing("serve"):
    from prometheus_client import Counter, Gauge, Histogram
    from starlette.responses import StreamingResponse
    from starlette.types import Receive, Scope, Send

log = logging.getLogger("noria.routing")


class _EventStream(StreamingResponse):
    """A stream of events that lets its backend go in any case, also where the caller left before the first event."""

    def __init__(
        self, events: AsyncIterator[bytes], pieces: AsyncGenerator[str | Outcome], headers: Mapping[str, str]
    ) -> None:
        super().__init__(events, 200, headers, "text/event-stream")
        self.pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.pieces):
            await super().__call__(scope, receive, send)


class _Metrics:
    """The service's own counters, beside those that every service has."""

    def __init__(self, service: Service, models: Sequence[str], health: Health) -> None:
        own: dict[str, Any] = {"registry": service.registry}
        self.answered = Counter("noria_routing_answers", "Outcomes by route.", ["route", "outcome"], **own)
        self.fell = Counter(
            "noria_routing_fallbacks", "Backends left for the next one.", ["route", "kind"], **own
        )
        self.cost = Counter("noria_routing_cost", "What answers cost, where that is known.", ["route"], **own)
        self.tokens = Counter("noria_routing_tokens", "Tokens of answers.", ["route", "side"], **own)
        self.deciding = Histogram(
            "noria_routing_decision_seconds",
            "Seconds of a decision.",
            buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1),
            **own,
        )
        resting = Gauge("noria_routing_resting", "1 while a backend is left out.", ["model"], **own)
        for model in models:
            resting.labels(model).set_function(partial(health.resting, model))

    def count(self, label: str, outcome: Outcome) -> None:
        """Count an outcome, with its cost and tokens."""
        if isinstance(outcome, Failure):
            self.answered.labels(label, outcome.kind).inc()
            self.fell.labels(label, outcome.kind).inc()
            return
        self.answered.labels(label, "refused" if isinstance(outcome, Refusal) else "ok").inc()
        if outcome.cost is not None:
            self.cost.labels(label).inc(outcome.cost)
        usage = outcome.usage
        for side, count in (("prompt", usage.prompt_tokens), ("completion", usage.completion_tokens)):
            if count is not None:
                self.tokens.labels(label, side).inc(count)


class _Front:
    """The endpoints and what they share."""

    metrics: _Metrics

    def __init__(self, router: Router, pool: Pool, limits: ServeLimits, *, route_only: bool) -> None:
        self.router, self.pool, self.limits, self.route_only = router, pool, limits, route_only
        self.routes = {r.label: r for r in pool.routes}
        missing = [r.label for r in router.routes if r.label not in self.routes]
        if 0 < len(missing) < len(router.routes):
            log.warning("the pool lacks %s, which the router knows", ", ".join(missing))
        self.known = [r for r in router.routes if r.label in self.routes]
        if not self.known:
            raise DataError(
                "the pool has none of the router's routes",
                where="--pool",
                mend=f"the router knows {', '.join(r.label for r in router.routes)}",
            )
        self.health = Health(failures=limits.failures, rest=limits.rest)

    # -- endpoints ----------------------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        return json_response(model_list([AUTO, *self.routes]))

    async def route(self, request: Request) -> Response:
        query = read_request(await request.body(), self.routes)
        return json_response(decision_record(self._decide(query)))

    async def chat(self, request: Request) -> Response:
        query = read_request(await request.body(), self.routes)
        decision = self._decide(query)
        if self.route_only:
            return json_response(decision_record(decision))
        ranking = decision.ranking[: 1 + self.limits.fallbacks]
        answer = self._stream if query.stream else self._whole
        return await request.unless_left(answer(query, ranking))

    def _able(self, query: CompletionRequest, routes: Sequence[Route]) -> list[Route]:
        """The routes that follow all that a caller has set.

        Raises:
            HttpError: 400, none does.
        """
        lacks: dict[Route, list[str]] = {}
        for chosen in routes:
            model = self.pool.models[chosen.model]
            if isinstance(model, ChatClient):
                lacks[chosen] = not_taken(query, None, model.server.refuses)
            else:
                lacks[chosen] = not_taken(query, getattr(model, "takes", SAMPLING), ())
        able = [chosen for chosen in routes if not lacks[chosen]]
        if not able:
            names = lacks[routes[0]]
            raise HttpError(
                400,
                "unsupported_parameter",
                f"no backend takes {', '.join(names)}",
                param=names[0] if names[0] in query.chosen else "messages",
            )
        return able

    async def _whole(self, query: CompletionRequest, ranking: Sequence[Route]) -> Response:
        failure: Failure | None = None
        tried: list[str] = []
        for chosen in ranking:
            outcome = await self._ask(chosen, query, self._within(chosen, ranking))
            self._count(chosen, outcome)
            if not isinstance(outcome, Failure):
                return json_response(completion(chosen.label, outcome), headers=headers_of(chosen, tried))
            failure = outcome
            tried.append(chosen.label)
        raise failure_error(failure)

    def _decide(self, query: CompletionRequest) -> Decision:
        began = time.perf_counter()
        if (query.model or AUTO) != AUTO:
            (chosen,) = self._able(query, [self.routes[query.model]])
            return Decision(chosen, (chosen,), (0.0,), "asked for by name")
        able = self._able(query, self.known)
        awake = [r for r in able if not self.health.resting(r.model)]
        decision = self.router.decide(query.question, among=awake or able)
        self.metrics.deciding.observe(time.perf_counter() - began)
        return decision

    def _count(self, chosen: Route, outcome: Outcome) -> None:
        self.metrics.count(chosen.label, outcome)
        if not isinstance(outcome, Failure):
            self.health.good(chosen.model)
            return
        # These are no fault of the backend; and in this process, a model that takes long has many to answer.
        own = not isinstance(self.pool.models[chosen.model], ChatClient)
        if outcome.kind not in ("request", "budget", "busy") and not (own and outcome.kind == "timeout"):
            self.health.bad(chosen.model, wait=outcome.wait or 0.0)
        log.warning("%s: %s: %s", chosen.label, outcome.kind, outcome.message)

    # -- whole answers ------------------------------------------------------------------------------------------------

    def _within(self, chosen: Route, ranking: Sequence[Route]) -> float:
        """Seconds that a request may wait for a place at a backend."""
        return self.limits.patience if chosen == ranking[-1] else self.limits.queue

    async def _ask(self, chosen: Route, query: CompletionRequest, within: float) -> Outcome:
        strategy = self.pool.strategies[chosen.strategy]
        model, request = self.pool.models[chosen.model], in_strategy(query, strategy)
        if isinstance(
            model, ChatClient
        ):  # its clock runs while the server works, and not while a place is awaited
            outcome = await model.ask(request, within=within)
        else:
            try:
                async with asyncio.timeout(self.limits.patience):
                    outcome = await model.ask(request)
            except TimeoutError:
                outcome = Failure("timeout", "no answer in time")
        if isinstance(outcome, Answer):
            outcome = replace(outcome, text=strategy.read(outcome.text))
        return outcome

    # -- streams ------------------------------------------------------------------------------------------------------

    async def _stream(self, query: CompletionRequest, ranking: Sequence[Route]) -> Response:
        failure: Failure | None = None
        tried: list[str] = []
        for chosen in ranking:
            pieces = self._pieces(chosen, query, self._within(chosen, ranking))
            first = await anext(pieces)
            if isinstance(first, Failure):
                await pieces.aclose()
                failure = first
                tried.append(chosen.label)
                continue
            events = self._events(chosen, query, first, pieces)
            return _EventStream(events, pieces, headers_of(chosen, tried))
        raise failure_error(failure)

    async def _pieces(
        self, chosen: Route, query: CompletionRequest, within: float
    ) -> AsyncGenerator[str | Outcome]:
        """Pieces of text, and then the outcome. The server's clock runs anew with every event, also of reasoning."""
        strategy, model = self.pool.strategies[chosen.strategy], self.pool.models[chosen.model]
        if not isinstance(model, ChatClient) or strategy.tool is not None:
            # What is filled in by a tool, or written in this process, comes in one piece.
            outcome = await self._ask(chosen, query, within)
            self._count(chosen, outcome)
            if isinstance(outcome, Answer) and outcome.text:
                yield outcome.text
            yield outcome
            return
        async with model.stream(in_strategy(query, strategy), within=within) as stream:
            async for piece in stream:
                yield piece
            self._count(chosen, stream.outcome)
            yield stream.outcome

    async def _events(
        self,
        chosen: Route,
        query: CompletionRequest,
        first: str | Outcome,
        pieces: AsyncGenerator[str | Outcome],
    ) -> AsyncIterator[bytes]:
        writer = ChunkWriter(chosen.label)
        yield writer.chunk({"role": "assistant", "content": ""})
        piece: str | Outcome | None = first
        while isinstance(piece, str):
            yield writer.chunk({"content": piece})
            piece = await anext(pieces, None)
        if isinstance(piece, Failure):
            log.warning("%s: a stream broke off (%s)", chosen.label, piece.kind)
            yield writer.error(piece)
        elif piece is not None:
            yield writer.last(piece)
            if query.include_usage:
                yield writer.usage(piece.usage)
            yield DONE


def routing_service(
    router: Router,
    pool: Pool,
    *,
    token: str | None = None,
    limits: ServeLimits | None = None,
    route_only: bool = False,
    access_log: bool = True,
) -> Service:
    """The service of a router and its pool.

    Args:
        router: decides who answers.
        pool: answers; opened in the event loop that the service runs in, and closed with it.
        token: proves a caller from beyond this machine.
        limits: what a request may take.
        route_only: answer chat requests with the decision instead of forwarding them.
        access_log: write a line for each request, without a word of it.

    Raises:
        DataError: the pool has none of the router's routes.
    """
    limits = limits or ServeLimits()
    pool = pool.live(attempts=limits.attempts, patience=limits.patience)
    front = _Front(router, pool, limits, route_only=route_only)

    @asynccontextmanager
    async def around(service: Service) -> AsyncIterator[None]:
        async with pool:
            # What a router loads for its first decision would keep everyone waiting.
            await asyncio.to_thread(router.decide, "hello")
            yield

    service = Service(
        "routing",
        [
            route("/v1/chat/completions", front.chat, methods=("POST",)),
            route("/v1/route", front.route, methods=("POST",)),
            route("/v1/models", front.models),
        ],
        token=token,
        limits=Limits(limits.body_bytes, limits.seconds, limits.in_flight),
        around=around,
        access_log=access_log,
    )
    front.metrics = _Metrics(service, list(pool.models), front.health)
    return service
