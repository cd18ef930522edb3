"""Requests that are routed, and decisions as JSON; the protocol itself is `noria.core.completions`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from noria.core.chat import ChatRequest, Message, Text
from noria.core.chat.wire import ROLES
from noria.core.completions.answers import header_text
from noria.core.completions.requests import CompletionRequest, read_completion, text_of
from noria.core.service.serving import HttpError
from noria.routing.pool.config import Strategy
from noria.routing.routers.router import Decision
from noria.routing.tables.table import Route

AUTO = "auto"
"""The model whose requests are routed."""
SAMPLING = frozenset({"temperature", "top_p", "seed", "stop", "max_tokens"})
"""Settings that a model in this process follows, unless its attribute `takes` says otherwise."""


def read_request(body: bytes, routes: Mapping[str, Route]) -> CompletionRequest:
    """Read the body of a request for `auto`, or for a route by its label.

    Raises:
        HttpError: 400, it is none of the protocol's; 404, there is no such model.
    """
    query = read_completion(body, features=())
    if (query.model or AUTO) != AUTO and query.model not in routes:
        raise HttpError(404, "model_not_found", "there is no such model; see /v1/models", param="model")
    return query


def in_strategy(query: CompletionRequest, strategy: Strategy) -> ChatRequest:
    """The request as the route was recorded: with the strategy's instruction, and its sampling where none is asked for.

    The instruction stands around the words of the last message of a user; the messages pass as they came. The texts
    that end an answer are those of both.
    """
    sampling = dict(query.sampling)
    sampling["stop"] = tuple(dict.fromkeys((*sampling["stop"], *strategy.stop)))
    for name in ("temperature", "max_tokens"):
        sampling.setdefault(name, getattr(strategy, name))
    raw = [dict(message) for message in query.messages]
    typed = [Message(ROLES[m["role"]], (Text(text_of(m.get("content"))),)) for m in raw]
    if strategy.instruction != "{question}":
        last = max(n for n, message in enumerate(raw) if message["role"] == "user")
        before, _, after = strategy.instruction.partition("{question}")
        content = raw[last].get("content")
        if isinstance(content, str):
            raw[last]["content"] = f"{before}{content}{after}"
        elif isinstance(content, list):
            raw[last]["content"] = [
                *([{"type": "text", "text": before}] if before.strip() else []),
                *content,
                *([{"type": "text", "text": after}] if after.strip() else []),
            ]
        typed[last] = Message("user", (Text(f"{before}{typed[last].text}{after}"),))
    return ChatRequest(tuple(typed), **sampling, extra={"messages": raw} | query.passed)


def not_taken(query: CompletionRequest, takes: Collection[str] | None, refuses: Collection[str]) -> list[str]:
    """Names of what a caller has set and a model would not follow.

    Args:
        query: the request.
        takes: the settings that the model follows, where it only takes text; None for a server, which gets all.
        refuses: the settings that the model's server refuses.
    """
    left = query.chosen & set(refuses) if takes is None else query.chosen - set(takes)
    return sorted(left) + ([] if takes is None or query.is_text else ["messages that are not text"])


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


def headers_of(chosen: Route, tried: Sequence[str]) -> dict[str, str]:
    """Name the route that answered and those that failed before it, as headers."""
    names = {"x-noria-route": chosen.label, "x-noria-tried": ", ".join(tried)}
    return {name: header_text(value) for name, value in names.items() if value}
