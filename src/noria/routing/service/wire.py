"""Requests that are routed, and decisions as JSON; the protocol itself is `noria.core.completions`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from noria.core.chat import ChatRequest, Message, Text
from noria.core.chat.wire import ROLES
from noria.core.completions.answers import header_text
from noria.core.completions.requests import read_completion, text_of
from noria.core.service.serving import HttpError
from noria.routing.pool.config import Strategy
from noria.routing.routers.router import Decision
from noria.routing.tables.table import Route

AUTO = "auto"
"""The model whose requests are routed."""
SAMPLING = frozenset({"temperature", "top_p", "seed", "stop", "max_tokens"})
"""Settings that a model in this process follows, unless its attribute `takes` says otherwise."""


@dataclass
class RoutedRequest:
    """A request for a chat completion.

    Attributes:
        request: the request in the form that a chat model takes; its messages pass as they came.
        model: `auto`, or a route's label.
        stream: whether the answer is streamed.
        usage: whether a stream ends with the count of its tokens.
        question: the last message of the user.
        chosen: names of the parameters that the caller has set, besides messages and model.
        is_text: whether the messages are text alone.
        tried: routes that failed before the one that answers.
    """

    request: ChatRequest
    model: str
    stream: bool
    usage: bool
    question: str
    chosen: frozenset[str]
    is_text: bool
    tried: list[str] = field(default_factory=list)


def read_request(body: bytes, routes: Mapping[str, Route]) -> RoutedRequest:
    """Read the body of a request.

    Raises:
        HttpError: 400, it is none of the protocol's; 404, there is no such model.
    """
    query = read_completion(body, features=())
    model = query.model or AUTO
    if model != AUTO and model not in routes:
        raise HttpError(404, "model_not_found", "there is no such model; see /v1/models", param="model")
    typed = tuple(Message(ROLES[m["role"]], (Text(text_of(m.get("content"))),)) for m in query.messages)
    request = ChatRequest(typed, **query.sampling, extra={"messages": query.messages} | query.passed)
    return RoutedRequest(
        request, model, query.stream, query.include_usage, query.question, query.chosen, query.is_text
    )


def in_strategy(request: ChatRequest, strategy: Strategy) -> ChatRequest:
    """The request as the route was recorded: with the strategy's instruction, and its sampling where none is asked for.

    The texts that end an answer are those of both.
    """
    request = replace(
        request,
        temperature=strategy.temperature if request.temperature is None else request.temperature,
        max_tokens=strategy.max_tokens if request.max_tokens is None else request.max_tokens,
        stop=tuple(dict.fromkeys((*request.stop, *strategy.stop))),
    )
    return _instructed(request, strategy.instruction)


def not_taken(query: RoutedRequest, takes: Collection[str] | None, refuses: Collection[str]) -> list[str]:
    """Names of what a caller has set and a model would not follow.

    Args:
        query: the request.
        takes: the settings that the model follows, where it only takes text; None for a server, which gets all.
        refuses: the settings that the model's server refuses.
    """
    left = query.chosen & set(refuses) if takes is None else query.chosen - set(takes)
    return sorted(left) + ([] if takes is None or query.is_text else ["messages that are not text"])


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


def decision_record(decision: Decision) -> dict[str, Any]:
    """Write a decision as JSON values: route, reason and ranking."""
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


def headers_of(chosen: Route, query: RoutedRequest) -> dict[str, str]:
    """Name the route that answered and those that failed before it, as headers."""
    names = {"x-noria-route": chosen.label, "x-noria-tried": ", ".join(query.tried)}
    return {name: header_text(value) for name, value in names.items() if value}
