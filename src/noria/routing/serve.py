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
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from noria.core.chat import (
    Answer,
    ChatClient,
    ChatModel,
    ChatRequest,
    Failure,
    FailureKind,
    Message,
    Outcome,
    Refusal,
    Text,
    Usage,
)
from noria.core.errors import DataError, needing
from noria.core.service.serving import HttpError, Limits, Request, Response, Service, json_response, route
from noria.routing.pool import Pool
from noria.routing.routers import Decision, Router
from noria.routing.table import Route

with needing("serve"):
    from prometheus_client import Counter, Gauge, Histogram
    from starlette.responses import StreamingResponse

__all__ = ["AUTO", "Health", "ServeLimits", "routing_service"]

AUTO = "auto"
"""The model whose requests are routed."""
STATUS: Mapping[FailureKind, tuple[int, str]] = {
    "timeout": (504, "backend_timeout"),
    "rate_limit": (429, "rate_limited"),
    "budget": (503, "budget_spent"),
    "request": (400, "bad_request"),
}
"""How a failure of the last backend is answered; any other is 502."""

log = logging.getLogger("noria.routing")


@dataclass(frozen=True)
class ServeLimits:
    """What a request may take.

    Attributes:
        body_bytes: of a request.
        seconds: of a whole answer, fallbacks with it.
        patience: seconds that one backend may take for its answer, or for the first word of a stream.
        in_flight: requests under way.
        fallbacks: backends tried after the first.
        failures: of a backend in a row, until it is left out for a while.
        rest: seconds that it is left out for; doubled each time it fails again, up to ten minutes.
    """

    body_bytes: int = 32 << 20
    seconds: float = 300.0
    patience: float = 120.0
    in_flight: int = 512
    fallbacks: int = 2
    failures: int = 3
    rest: float = 10.0


class Health:
    """Which backends are left out for now.

    Args:
        failures: in a row, until one is.
        rest: seconds, doubled each time.
        clock: seconds, rising.
    """

    def __init__(self, *, failures: int, rest: float, clock: Any = time.monotonic) -> None:
        self.failures, self.rest, self.clock = failures, rest, clock
        self._row: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def good(self, model: str) -> None:
        """It answered."""
        self._row.pop(model, None)
        self._until.pop(model, None)

    def bad(self, model: str) -> None:
        """It did not."""
        row = self._row[model] = self._row.get(model, 0) + 1
        if row >= self.failures:
            times = min(row - self.failures, 10)
            self._until[model] = self.clock() + min(600.0, self.rest * 2**times)

    def resting(self, model: str) -> bool:
        """Whether it is left out now."""
        return bool(self._until.get(model, 0.0) > self.clock())


@dataclass
class _Asked:
    """A request as it came."""

    request: ChatRequest
    model: str
    stream: bool
    usage: bool
    question: str
    tried: list[str] = field(default_factory=list)


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
        asked = _read(await request.body(), self.routes)
        return json_response(_told(self._decide(asked)))

    async def chat(self, request: Request) -> Response:
        asked = _read(await request.body(), self.routes)
        decision = self._decide(asked)
        if self.route_only:
            return json_response(_told(decision))
        ranking = decision.ranking[: 1 + self.limits.fallbacks]
        if asked.stream:
            return await self._stream(asked, ranking)
        failure: Failure | None = None
        for chosen in ranking:
            outcome = await self._ask(chosen, asked)
            self._count(chosen, outcome)
            if not isinstance(outcome, Failure):
                return json_response(_completion(chosen, outcome), headers=_headers(chosen, asked))
            failure = outcome
            asked.tried.append(chosen.label)
        raise _error(failure)

    def _decide(self, asked: _Asked) -> Decision:
        began = time.perf_counter()
        if asked.model != AUTO:
            chosen = self.routes[asked.model]
            return Decision(chosen, (chosen,), (0.0,), "asked for by name")
        awake = [r for r in self.known if not self.health.resting(r.model)]
        decision = self.router.decide(asked.question, among=awake or self.known)
        self.deciding.observe(time.perf_counter() - began)
        return decision

    # -- whole answers ------------------------------------------------------------------------------------------------

    async def _ask(self, chosen: Route, asked: _Asked) -> Outcome:
        strategy = self.pool.strategies[chosen.strategy]
        model = self.pool.models[chosen.model]
        try:
            async with asyncio.timeout(self.limits.patience):
                outcome = await model.ask(_instructed(asked.request, strategy.instruction))
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

    async def _stream(self, asked: _Asked, ranking: Sequence[Route]) -> Response:
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
            return StreamingResponse(body, 200, _headers(chosen, asked), "text/event-stream")
        raise _error(failure)

    async def _closing(
        self, events: AsyncIterator[bytes], coming: AsyncGenerator[str | Outcome]
    ) -> AsyncIterator[bytes]:
        """The events; the backend is let go also when the caller goes away in the middle."""
        async with aclosing(coming):
            async for event in events:
                yield event

    async def _pieces(self, chosen: Route, asked: _Asked) -> AsyncGenerator[str | Outcome]:
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
        request = _instructed(asked.request, strategy.instruction)
        async with model.stream(request) as stream:
            async for piece in stream:
                yield piece
            self._count(chosen, stream.outcome)
            yield stream.outcome

    async def _events(
        self, chosen: Route, asked: _Asked, first: str | Outcome, coming: AsyncIterator[str | Outcome]
    ) -> AsyncIterator[bytes]:
        made, number = int(time.time()), f"chatcmpl-{time.monotonic_ns():x}"

        def event(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return _event(
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
                error = _error(piece)
                log.warning("%s: a stream broke off (%s)", chosen.label, piece.kind)
                yield _event(
                    {"error": {"message": error.message, "type": "server_error", "code": error.code}}
                )
                return
            if isinstance(piece, Refusal):
                yield event({"refusal": piece.text}, "stop")
            else:
                yield event({}, piece.finish or "stop")
            if asked.usage:
                yield _event(
                    {
                        "id": number,
                        "object": "chat.completion.chunk",
                        "created": made,
                        "model": chosen.label,
                        "choices": [],
                        "usage": _usage(piece.usage),
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


# -- the protocol -----------------------------------------------------------------------------------------------------


def _read(body: bytes, routes: Mapping[str, Route]) -> _Asked:
    """A request's body.

    Raises:
        HttpError: 400, it is none of the protocol's; 404, there is no such model.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise HttpError(400, "bad_json", "the body is not JSON") from None
    if not isinstance(asked, dict):
        raise HttpError(400, "bad_json", "the body is not a JSON object")
    model = asked.get("model") or AUTO
    if model != AUTO and model not in routes:
        raise HttpError(404, "model_not_found", "there is no such model; see /v1/models", param="model")
    messages = asked.get("messages")
    if not isinstance(messages, list) or not messages:
        raise HttpError(400, "no_messages", "messages is no list with something in it", param="messages")
    if asked.get("n") not in (None, 1):
        raise HttpError(400, "one_choice", "one choice is all there is", param="n")
    if asked.get("tools"):
        raise HttpError(400, "no_tools", "tools are not routed", param="tools")
    read = [_message(m) for m in messages]
    options = asked.get("stream_options")
    words = [m.text for m in read if m.role == "user"]
    if not words:
        raise HttpError(400, "no_question", "no message of a user", param="messages")
    request = ChatRequest(tuple(read), **_sampling(asked), extra={"messages": messages})
    return _Asked(
        request,
        str(model),
        bool(asked.get("stream")),
        isinstance(options, dict) and bool(options.get("include_usage")),
        words[-1],
    )


def _sampling(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a request says of the sampling, each field what it must be; the pool's servers may call it otherwise."""
    found: dict[str, Any] = {}
    for name, low, high in (("temperature", 0, 100), ("top_p", 0, 1)):
        value = asked.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise HttpError(400, "bad_sampling", f"{name} is a number from {low} to {high}", param=name)
            found[name] = value
    for name, own in (
        ("seed", "seed"),
        ("max_tokens", "max_tokens"),
        ("max_completion_tokens", "max_tokens"),
    ):
        value = asked.get(name)
        if value is not None:
            if type(value) is not int or (own == "max_tokens" and value < 1) or abs(value) >= 2**63:
                raise HttpError(400, "bad_sampling", f"{name} is no such whole number", param=name)
            found[own] = value
    stop = asked.get("stop")
    stop = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stop, list) or not all(isinstance(s, str) and s for s in stop):
        raise HttpError(400, "bad_sampling", "stop is a text or a list of texts", param="stop")
    form = asked.get("response_format")
    if not isinstance(form, dict | None):
        raise HttpError(400, "bad_sampling", "response_format is an object", param="response_format")
    return found | {"stop": tuple(stop), "response_format": form}


def _message(given: Any) -> Message:
    role: Any = given.get("role") if isinstance(given, dict) else None
    role = "system" if role == "developer" else role
    content = given.get("content") if isinstance(given, dict) else None
    if role not in ("system", "user", "assistant") or not isinstance(content, str | list | None):
        raise HttpError(400, "bad_message", "a message has a role and content", param="messages")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content):
            raise HttpError(400, "bad_message", "a part of a message has a type", param="messages")
        if not all(isinstance(part.get("text"), str) for part in content if part["type"] == "text"):
            raise HttpError(400, "bad_message", "a part of text has text", param="messages")
        words = [part["text"] for part in content if part["type"] == "text"]
        return Message(role, tuple(Text(word) for word in words))
    return Message(role, (Text(content or ""),))


def _instructed(request: ChatRequest, instruction: str) -> ChatRequest:
    """The request with the strategy's instruction around the words of its last message of a user."""
    if instruction == "{question}":
        return request
    raw = [dict(message) for message in request.extra["messages"]]
    last = max(n for n, message in enumerate(raw) if message.get("role") == "user")
    before, _, after = instruction.partition("{question}")
    content = raw[last].get("content")
    if isinstance(content, str):
        raw[last]["content"] = f"{before}{content}{after}"
    elif isinstance(content, list):
        raw[last]["content"] = [
            *([{"type": "text", "text": before}] if before.strip() else []),
            *content,
            *([{"type": "text", "text": after}] if after.strip() else []),
        ]
    typed = list(request.messages)
    typed[last] = Message("user", (Text(f"{before}{typed[last].text}{after}"),))
    return replace(request, messages=tuple(typed), extra=dict(request.extra) | {"messages": raw})


def _completion(chosen: Route, outcome: Answer | Refusal) -> dict[str, Any]:
    refused = isinstance(outcome, Refusal)
    message = {
        "role": "assistant",
        "content": None if refused else outcome.text,
        "refusal": outcome.text if refused else None,
    }
    finish = "stop" if isinstance(outcome, Refusal) else outcome.finish or "stop"
    return {
        "id": f"chatcmpl-{time.monotonic_ns():x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": chosen.label,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": _usage(outcome.usage),
    }


def _usage(usage: Usage) -> dict[str, int] | None:
    """None where tokens were not counted."""
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _told(decision: Decision) -> dict[str, Any]:
    return {
        "route": decision.route.label,
        "model": decision.route.model,
        "strategy": decision.route.strategy,
        "reason": decision.reason,
        "ranking": [
            {"route": route.label, "utility": utility}
            for route, utility in zip(decision.ranking, decision.utility, strict=True)
        ],
    }


def _headers(chosen: Route, asked: _Asked) -> dict[str, str]:
    names = {"x-noria-route": chosen.label, "x-noria-tried": ", ".join(asked.tried)}
    return {name: value.encode("ascii", "replace").decode() for name, value in names.items() if value}


def _error(failure: Failure | None) -> HttpError:
    if failure is None:
        return HttpError(503, "no_backend", "no backend can be asked")
    status, code = STATUS.get(failure.kind, (502, f"backend_{failure.kind}"))
    headers = {"retry-after": "1"} if status in (429, 503) else {}
    return HttpError(status, code, f"no backend answered: {failure.message}", headers=headers)


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"
