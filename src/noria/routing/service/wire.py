"""Chat completions on the wire: requests read and checked, answers, errors and events written."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from noria.core.chat import (
    Answer,
    ChatRequest,
    Failure,
    FailureKind,
    Message,
    Refusal,
    Text,
    Usage,
)
from noria.core.service.serving import HttpError
from noria.routing.routers.router import Decision
from noria.routing.tables.table import Route

__all__ = [
    "AUTO",
    "CompletionRequest",
    "completion",
    "decision_record",
    "failure_error",
    "headers_of",
    "instructed",
    "read_request",
    "sse_event",
    "usage_record",
]

AUTO = "auto"
"""The model whose requests are routed."""
STATUS: Mapping[FailureKind, tuple[int, str]] = {
    "timeout": (504, "backend_timeout"),
    "rate_limit": (429, "rate_limited"),
    "budget": (503, "budget_spent"),
    "request": (400, "bad_request"),
}
"""How a failure of the last backend is answered; any other is 502."""


@dataclass
class CompletionRequest:
    """A request as it came."""

    request: ChatRequest
    model: str
    stream: bool
    usage: bool
    question: str
    tried: list[str] = field(default_factory=list)


def read_request(body: bytes, routes: Mapping[str, Route]) -> CompletionRequest:
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
    return CompletionRequest(
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


def instructed(request: ChatRequest, instruction: str) -> ChatRequest:
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


def completion(chosen: Route, outcome: Answer | Refusal) -> dict[str, Any]:
    """Write the chat completion that answers a whole request."""
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
        "usage": usage_record(outcome.usage),
    }


def usage_record(usage: Usage) -> dict[str, int] | None:
    """None where tokens were not counted."""
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


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


def headers_of(chosen: Route, asked: CompletionRequest) -> dict[str, str]:
    """Name the route that answered and those that failed before it, as headers."""
    names = {"x-noria-route": chosen.label, "x-noria-tried": ", ".join(asked.tried)}
    return {name: value.encode("ascii", "replace").decode() for name, value in names.items() if value}


def failure_error(failure: Failure | None) -> HttpError:
    """Turn the last backend's failure into the status and code of an answer."""
    if failure is None:
        return HttpError(503, "no_backend", "no backend can be asked")
    status, code = STATUS.get(failure.kind, (502, f"backend_{failure.kind}"))
    headers = {"retry-after": "1"} if status in (429, 503) else {}
    return HttpError(status, code, f"no backend answered: {failure.message}", headers=headers)


def sse_event(content: Mapping[str, Any]) -> bytes:
    """Write one server-sent event."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"
