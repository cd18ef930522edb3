"""Chat completions on the wire: requests read and checked, answers, errors and events written."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from noria.core.chat import Answer, ChatRequest, Failure, FailureKind, Message, Refusal, Text, Usage
from noria.core.service.serving import HttpError, read_json
from noria.routing.pool.config import Strategy
from noria.routing.routers.router import Decision
from noria.routing.tables.table import Route

AUTO = "auto"
"""The model whose requests are routed."""
STATUS: Mapping[FailureKind, tuple[int, str, str]] = {
    "timeout": (504, "backend_timeout", "no backend answered in time"),
    "rate_limit": (429, "rate_limited", "the backends take no more requests for now"),
    "busy": (503, "busy", "no backend had a place in time"),
    "budget": (503, "budget_spent", "the budget of this service is spent"),
    "request": (400, "bad_request", "the backend does not take this request"),
}
"""Status, code and line by which a failure of the last backend is answered; any other is 502."""
SAMPLING = frozenset({"temperature", "top_p", "seed", "stop", "max_tokens"})
"""Settings that a model in this process follows, unless its attribute `takes` says otherwise."""
UNSERVED = (
    "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "logprobs", "top_logprobs",
    "prompt_logprobs", "modalities", "audio", "echo", "best_of",
)  # fmt: skip
"""Parameters of which an answer has parts that this service does not pass on."""
_READ = frozenset(
    {"messages", "model", "stream", "stream_options", "n", "temperature", "top_p", "seed", "max_tokens"}
    | {"max_completion_tokens", "stop", "response_format", *UNSERVED}
)


@dataclass
class CompletionRequest:
    """A request for a chat completion.

    Attributes:
        request: the request in the form that a chat model takes.
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


def read_request(body: bytes, routes: Mapping[str, Route]) -> CompletionRequest:
    """Read the body of a request.

    Raises:
        HttpError: 400, it is none of the protocol's; 404, there is no such model.
    """
    content = read_json(body)
    if not isinstance(content, dict):
        raise HttpError(400, "bad_json", "the body is not a JSON object")
    content = {name: value for name, value in content.items() if value is not None}
    model = content.get("model") or AUTO
    if not isinstance(model, str):
        raise HttpError(400, "bad_model", "model is a name", param="model")
    if model != AUTO and model not in routes:
        raise HttpError(404, "model_not_found", "there is no such model; see /v1/models", param="model")
    messages = content.get("messages")
    if not isinstance(messages, list) or not messages:
        raise HttpError(400, "no_messages", "messages is no list with something in it", param="messages")
    if content.get("n", 1) != 1:
        raise HttpError(400, "one_choice", "one choice is all there is", param="n")
    _refuse_unserved(content)
    typed = [_message(m) for m in messages]
    words = [m.text for m in typed if m.role == "user"]
    if not words:
        raise HttpError(400, "no_question", "no message of a user", param="messages")
    sampling = _sampling(content)
    passed = {name: value for name, value in content.items() if name not in _READ}
    request = ChatRequest(tuple(typed), **sampling, extra={"messages": messages} | passed)
    stream, usage = _streaming(content)
    is_text = all(
        isinstance(m["content"], str) or all(part["type"] == "text" for part in m["content"])
        for m in messages
        if m.get("content") is not None
    )
    nothing = (None, (), {"type": "text"})
    chosen = frozenset(passed) | {name for name, value in sampling.items() if value not in nothing}
    return CompletionRequest(request, model, stream, usage, words[-1], chosen, is_text)


def _refuse_unserved(content: Mapping[str, Any]) -> None:
    """Refuse by name what would be lost on the way back; a parameter that asks for nothing is let be."""
    for name in UNSERVED:
        if content.get(name) not in (None, False, 0, "none", [], {}, ["text"]):
            code = "no_tools" if name == "tools" else "unsupported_parameter"
            raise HttpError(400, code, f"{name} is not served here", param=name)


def _streaming(content: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the answer is streamed, and whether the stream ends with the count of its tokens."""
    stream, options = content.get("stream", False), content.get("stream_options", {})
    if not isinstance(stream, bool):
        raise HttpError(400, "bad_stream", "stream is true or false", param="stream")
    if not isinstance(options, dict) or not isinstance(options.get("include_usage", False), bool):
        raise HttpError(400, "bad_stream", "stream_options is {include_usage}", param="stream_options")
    for name, value in options.items():
        if value and name != "include_usage":
            where = f"stream_options.{name}"
            raise HttpError(400, "unsupported_parameter", f"{where} is not served here", param=where)
    return stream, options.get("include_usage", False)


def _sampling(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the sampling, each checked; the pool's servers may call them otherwise."""

    def check(right: bool, name: str, what: str) -> None:
        if not right:
            raise HttpError(400, "bad_sampling", f"{name} is {what}", param=name)

    settings: dict[str, Any] = {}
    for name, high in (("temperature", 100), ("top_p", 1)):
        value = content.get(name)
        if value is not None:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            check(is_number and 0 <= value <= high, name, f"a number from 0 to {high}")
            settings[name] = value
    if "max_tokens" in content and "max_completion_tokens" in content:
        check(content["max_tokens"] == content["max_completion_tokens"], "max_tokens", "given twice")
    for name, least in (("seed", -(2**63) + 1), ("max_tokens", 1), ("max_completion_tokens", 1)):
        value = content.get(name)
        if value is not None:
            check(type(value) is int and least <= value < 2**63, name, "no such whole number")
            settings["seed" if name == "seed" else "max_tokens"] = value
    stop = content.get("stop")
    stop = [stop] if isinstance(stop, str) else stop or []
    is_texts = isinstance(stop, list) and all(isinstance(text, str) and text for text in stop)
    check(is_texts, "stop", "a text or a list of texts")
    form = content.get("response_format")
    check(isinstance(form, dict | None), "response_format", "an object")
    return settings | {"stop": tuple(stop), "response_format": form}


def _message(raw: Any) -> Message:
    def check(right: bool, what: str) -> None:
        if not right:
            raise HttpError(400, "bad_message", what, param="messages")

    fields = raw if isinstance(raw, dict) else {}
    role: Any = "system" if fields.get("role") == "developer" else fields.get("role")
    content = fields.get("content")
    is_message = role in ("system", "user", "assistant") and isinstance(content, str | list | None)
    check(is_message, "a message has a role and content")
    if not isinstance(content, list):
        return Message(role, (Text(content or ""),))
    is_typed = all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content)
    check(is_typed, "a part of a message has a type")
    words = [part.get("text") for part in content if part["type"] == "text"]
    check(all(isinstance(word, str) for word in words), "a part of text has text")
    return Message(role, tuple(Text(str(word)) for word in words))


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


def not_taken(query: CompletionRequest, takes: Collection[str] | None, refuses: Collection[str]) -> list[str]:
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


def completion(chosen: Route, outcome: Answer | Refusal) -> dict[str, Any]:
    """Write the chat completion that answers a whole request."""
    refused = isinstance(outcome, Refusal)
    text = (
        {"content": None, "refusal": outcome.text} if refused else {"content": outcome.text, "refusal": None}
    )
    choice = {"index": 0, "message": {"role": "assistant", **text}, "logprobs": None}
    return {
        **_head(chosen, "chat.completion"),
        "choices": [choice | {"finish_reason": _finish(outcome)}],
        "usage": usage_record(outcome.usage),
    }


class ChunkWriter:
    """Writes a streamed answer as server-sent events."""

    def __init__(self, chosen: Route) -> None:
        self.head = _head(chosen, "chat.completion.chunk")

    def chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        """A piece of the answer."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _event(self.head | {"choices": [choice]})

    def last(self, outcome: Answer | Refusal) -> bytes:
        """The end of the answer."""
        delta = {"refusal": outcome.text} if isinstance(outcome, Refusal) else {}
        return self.chunk(delta, _finish(outcome))

    def usage(self, usage: Usage) -> bytes:
        """The count of tokens."""
        return _event(self.head | {"choices": [], "usage": usage_record(usage)})

    def error(self, failure: Failure) -> bytes:
        """A failure in the middle of the answer."""
        error = failure_error(failure)
        return _event({"error": {"message": error.message, "type": "server_error", "code": error.code}})


def _head(chosen: Route, kind: str) -> dict[str, Any]:
    number = f"chatcmpl-{time.monotonic_ns():x}"
    return {"id": number, "object": kind, "created": int(time.time()), "model": chosen.label}


def _finish(outcome: Answer | Refusal) -> str:
    return "stop" if isinstance(outcome, Refusal) else outcome.finish or "stop"


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def usage_record(usage: Usage) -> dict[str, int] | None:
    """Count of tokens; None where they were not counted."""
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


def headers_of(chosen: Route, query: CompletionRequest) -> dict[str, str]:
    """Name the route that answered and those that failed before it, as headers."""
    names = {"x-noria-route": chosen.label, "x-noria-tried": ", ".join(query.tried)}
    return {
        name: "".join(c if " " <= c <= "~" else "?" for c in value) for name, value in names.items() if value
    }


def failure_error(failure: Failure | None) -> HttpError:
    """Turn the last backend's failure into an answer, in our own words: the backend's are for the log."""
    if failure is None:
        return HttpError(503, "no_backend", "no backend can be asked")
    other = (502, f"backend_{failure.kind}", "no backend gave an answer; the service's log says why")
    redirected = failure.status is not None and failure.status < 400
    status, code, line = other if redirected else STATUS.get(failure.kind, other)
    wait = max(1, math.ceil(min(failure.wait or 1.0, 3600.0)))
    return HttpError(status, code, line, headers={"retry-after": str(wait)} if status in (429, 503) else {})
