"""A router as an OpenAI-compatible service: live traffic goes where it says, and elsewhere when that fails.

    POST /v1/chat/completions   `model: auto` is routed; a route's label goes there straight; streams when asked to
    GET  /v1/models             what can be asked for
    POST /v1/route              the decision and its reasons, without asking anyone

A backend that fails before its first word is followed by the next in the router's ranking, and is left out for a while
when it fails again and again. What breaks later cannot be taken back: the stream ends with an error event, without
[DONE]. Routes, errors, limits, health and metrics are those of `noria.core.service.serving`.
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

from noria.core.chat import (
    Answer,
    ChatClient,
    ChatModel,
    Failure,
    Outcome,
    Refusal,
)
from noria.core.errors import DataError, needing
from noria.core.service.serving import Limits, Request, Response, Service, json_response, route
from noria.routing.pool.pool import Pool
from noria.routing.routers.router import Decision, Router
from noria.routing.service.config import ServeLimits
from noria.routing.service.health import Health
from noria.routing.service.wire import (
    AUTO,
    CompletionRequest,
    completion,
    decision_record,
    failure_error,
    headers_of,
    instructed,
    read_request,
    sse_event,
    usage_record,
)
from noria.routing.tables.table import Route

__all__ = ["routing_service"]

with needing("serve"):
    from prometheus_client import Counter, Gauge, Histogram
    from starlette.responses import StreamingResponse

log = logging.getLogger("noria.routing")


class _Front:
    """The endpoints and what they share."""

    def __init__(self, router: Router, pool: Pool, limits: ServeLimits, *, route_only: bool) -> None:
        self.router, self.pool, self.limits, self.route_only = router, pool, limits, route_only
        self.routes = {r.label: r for r in pool.routes}
        missing = [r.label for r in router.routes if r.label not in self.routes]
        if missing:
            log.warning("the pool lacks %s, which the router knows", ", ".join(missing))
        self.known = [r for r in router.routes if r.label in self.routes]
        if not self.known:
            raise DataError(
                "the pool has none of the router's routes",
                where="--pool",
                mend=f"the router knows {', '.join(r.label for r in router.routes)}",
            )
        self.health = Health(failures=limits.failures, rest=limits.rest)
        self.service: Service | None = None

    def measure(self, service: Service) -> None:
        """Add the metrics to the service's."""
        self.service = service
        own: dict[str, Any] = {"registry": service.registry}
        self.answered = Counter("noria_routing_answers", "Outcomes by route.", ["route", "outcome"], **own)
        self.fell = Counter(
            "noria_routing_fallbacks", "Backends left for the next one.", ["route", "kind"], **own
        )
        self.cost = Counter("noria_routing_cost", "What answers cost, where that is known.", ["route"], **own)
        self.tokens = Counter("noria_routing_tokens", "Tokens.", ["route", "side"], **own)
        self.deciding = Histogram(
            "noria_routing_decision_seconds",
            "Deciding alone.",
            buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1),
            **own,
        )
        resting = Gauge("noria_routing_resting", "1 while a backend is left out.", ["model"], **own)
        for model in self.pool.models:
            resting.labels(model).set_function(partial(self._resting, model))

    def _resting(self, model: str) -> float:
        return float(self.health.resting(model))

    # -- endpoints ----------------------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        names = [AUTO, *self.routes]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "noria"} for name in names]
        return json_response({"object": "list", "data": data})

    async def route(self, request: Request) -> Response:
        asked = read_request(await request.body(), self.routes)
        return json_response(decision_record(self._decide(asked)))

    async def chat(self, request: Request) -> Response:
        asked = read_request(await request.body(), self.routes)
        decision = self._decide(asked)
        if self.route_only:
            return json_response(decision_record(decision))
        ranking = decision.ranking[: 1 + self.limits.fallbacks]
        if asked.stream:
            return await self._stream(asked, ranking)
        failure: Failure | None = None
        for chosen in ranking:
            outcome = await self._ask(chosen, asked)
            self._count(chosen, outcome)
            if not isinstance(outcome, Failure):
                return json_response(completion(chosen, outcome), headers=headers_of(chosen, asked))
            failure = outcome
            asked.tried.append(chosen.label)
        raise failure_error(failure)

    def _decide(self, asked: CompletionRequest) -> Decision:
        began = time.perf_counter()
        if asked.model != AUTO:
            chosen = self.routes[asked.model]
            return Decision(chosen, (chosen,), (0.0,), "asked for by name")
        awake = [r for r in self.known if not self.health.resting(r.model)]
        decision = self.router.decide(asked.question, among=awake or self.known)
        self.deciding.observe(time.perf_counter() - began)
        return decision

    # -- whole answers ------------------------------------------------------------------------------------------------

    async def _ask(self, chosen: Route, asked: CompletionRequest) -> Outcome:
        strategy = self.pool.strategies[chosen.strategy]
        model = self.pool.models[chosen.model]
        try:
            async with asyncio.timeout(self.limits.patience):
                outcome = await model.ask(instructed(asked.request, strategy.instruction))
        except TimeoutError:
            outcome = Failure("timeout", "no answer in time")
        if isinstance(outcome, Answer):
            text = strategy.read(outcome.text)
            outcome = replace(outcome, text=text)
        return outcome

    def _count(self, chosen: Route, outcome: Outcome) -> None:
        label = chosen.label
        if isinstance(outcome, Failure):
            self.answered.labels(label, outcome.kind).inc()
            self.fell.labels(label, outcome.kind).inc()
            if outcome.kind not in ("request", "budget"):
                self.health.bad(chosen.model)
            log.warning("%s: %s", label, outcome.kind)
            return
        self.health.good(chosen.model)
        self.answered.labels(label, "refused" if isinstance(outcome, Refusal) else "ok").inc()
        if outcome.cost is not None:
            self.cost.labels(label).inc(outcome.cost)
        for side, count in (
            ("prompt", outcome.usage.prompt_tokens),
            ("completion", outcome.usage.completion_tokens),
        ):
            if count is not None:
                self.tokens.labels(label, side).inc(count)

    # -- streams ------------------------------------------------------------------------------------------------------

    async def _stream(self, asked: CompletionRequest, ranking: Sequence[Route]) -> Response:
        failure: Failure | None = None
        for chosen in ranking:
            coming = self._pieces(chosen, asked)
            try:
                async with asyncio.timeout(self.limits.patience):
                    first = await anext(coming)
            except TimeoutError:
                first = Failure("timeout", "no first word in time")
                self._count(chosen, first)
            if isinstance(first, Failure):
                await coming.aclose()
                failure = first
                asked.tried.append(chosen.label)
                continue
            body = self._closing(self._events(chosen, asked, first, coming), coming)
            return StreamingResponse(body, 200, headers_of(chosen, asked), "text/event-stream")
        raise failure_error(failure)

    async def _closing(
        self, events: AsyncIterator[bytes], coming: AsyncGenerator[str | Outcome]
    ) -> AsyncIterator[bytes]:
        """The events; the backend is let go also when the caller goes away in the middle."""
        async with aclosing(coming):
            async for event in events:
                yield event

    async def _pieces(self, chosen: Route, asked: CompletionRequest) -> AsyncGenerator[str | Outcome]:
        """Pieces of text, and then the outcome."""
        strategy = self.pool.strategies[chosen.strategy]
        model: ChatModel = self.pool.models[chosen.model]
        if not isinstance(model, ChatClient) or strategy.tool is not None:
            # What is filled in by a tool, or written in this process, comes in one piece.
            outcome = await self._ask(chosen, asked)
            self._count(chosen, outcome)
            if isinstance(outcome, Answer) and outcome.text:
                yield outcome.text
            yield outcome
            return
        request = instructed(asked.request, strategy.instruction)
        async with model.stream(request) as stream:
            async for piece in stream:
                yield piece
            self._count(chosen, stream.outcome)
            yield stream.outcome

    async def _events(
        self,
        chosen: Route,
        asked: CompletionRequest,
        first: str | Outcome,
        coming: AsyncIterator[str | Outcome],
    ) -> AsyncIterator[bytes]:
        made, number = int(time.time()), f"chatcmpl-{time.monotonic_ns():x}"

        def event(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return sse_event(
                {
                    "id": number,
                    "object": "chat.completion.chunk",
                    "created": made,
                    "model": chosen.label,
                    "choices": [choice],
                }
            )

        yield event({"role": "assistant", "content": ""})
        piece: str | Outcome | None = first
        while piece is not None:
            if isinstance(piece, str):
                yield event({"content": piece})
                piece = await anext(coming, None)
                continue
            if isinstance(piece, Failure):
                error = failure_error(piece)
                log.warning("%s: a stream broke off (%s)", chosen.label, piece.kind)
                yield sse_event(
                    {"error": {"message": error.message, "type": "server_error", "code": error.code}}
                )
                return
            if isinstance(piece, Refusal):
                yield event({"refusal": piece.text}, "stop")
            else:
                yield event({}, piece.finish or "stop")
            if asked.usage:
                yield sse_event(
                    {
                        "id": number,
                        "object": "chat.completion.chunk",
                        "created": made,
                        "model": chosen.label,
                        "choices": [],
                        "usage": usage_record(piece.usage),
                    }
                )
            yield b"data: [DONE]\n\n"
            return


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
        router: who decides.
        pool: who answers; opened in the event loop that the service runs in, and closed with it.
        token: what a caller from beyond this machine proves itself with.
        limits: of requests.
        route_only: answer chat requests with the decision instead of forwarding them.
        access_log: a line for each request, without a word of it.

    Raises:
        DataError: the pool has none of the router's routes.
    """
    limits = limits or ServeLimits()
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
    front.measure(service)
    return service
