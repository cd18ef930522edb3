"""Answers on the wire: chat completions whole and as events, counts of tokens, and failures of a backend as errors."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from noria.core.chat.outcomes import Answer, Failure, FailureKind, Refusal, Usage
from noria.core.service.responses import HttpError

STATUS: Mapping[FailureKind, tuple[int, str, str]] = {
    "timeout": (504, "backend_timeout", "no backend answered in time"),
    "rate_limit": (429, "rate_limited", "the backends take no more requests for now"),
    "busy": (503, "busy", "no backend had a place in time"),
    "budget": (503, "budget_spent", "the budget that this request is under is spent"),
    "request": (400, "bad_request", "the backend does not take this request"),
}
"""Status, code and line by which a failure of the last backend is answered; any other is 502."""
DONE = b"data: [DONE]\n\n"
"""The event that ends a stream."""


def completion(model: str, outcome: Answer | Refusal, *, number: str | None = None) -> dict[str, Any]:
    """Write the chat completion that answers a whole request.

    Args:
        model: name of the model that answered.
        outcome: answer of the model.
        number: id of the completion; a new one by default.
    """
    message: dict[str, Any] = {"role": "assistant"}
    if isinstance(outcome, Refusal):
        message |= {"content": None, "refusal": outcome.text}
    else:
        empty = not outcome.text and (outcome.tool_calls or outcome.parts)
        message |= {"content": None if empty else outcome.text, "refusal": None} | _beside(outcome)
        if outcome.reasoning is not None:
            message["reasoning_content"] = outcome.reasoning
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(outcome)}
    return {
        **_head(model, "chat.completion", number),
        "choices": [choice],
        "usage": usage_record(outcome.usage),
    }


class ChunkWriter:
    """Writes a streamed answer as server-sent events.

    Args:
        model: name of the model that answers.
        number: id of the completion; a new one by default.
    """

    def __init__(self, model: str, number: str | None = None) -> None:
        self.head = _head(model, "chat.completion.chunk", number)

    def chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        """A piece of the answer."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return event(self.head | {"choices": [choice]})

    def working(self, fields: Mapping[str, Any]) -> bytes:
        """A chunk without words that says what is under way, in a field `noria` that clients of the protocol leave."""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return event(self.head | {"choices": [choice], "noria": dict(fields)})

    def last(self, outcome: Answer | Refusal) -> bytes:
        """The end of the answer, with its calls of tools and its images."""
        if isinstance(outcome, Refusal):
            return self.chunk({"refusal": outcome.text}, finish_reason(outcome))
        delta = _beside(outcome)
        if outcome.tool_calls:
            delta["tool_calls"] = [{"index": n} | call for n, call in enumerate(delta["tool_calls"])]
        return self.chunk(delta, finish_reason(outcome))

    def usage(self, usage: Usage) -> bytes:
        """The count of tokens."""
        return event(self.head | {"choices": [], "usage": usage_record(usage)})

    def error(self, failure: Failure) -> bytes:
        """A failure in the middle of the answer."""
        error = failure_error(failure)
        return event({"error": {"message": error.message, "type": "server_error", "code": error.code}})


def _beside(outcome: Answer) -> dict[str, Any]:
    """Fields of a message for what an answer has beside its text."""
    fields: dict[str, Any] = {}
    if outcome.tool_calls:
        fields["tool_calls"] = [call.wire() for call in outcome.tool_calls]
    if outcome.parts:
        fields["images"] = [piece for part in outcome.parts for piece in part.wire()]
    if outcome.shown:
        fields["shown"] = [dict(one) for one in outcome.shown]
    return fields


def _head(model: str, kind: str, number: str | None) -> dict[str, Any]:
    number = number or f"chatcmpl-{time.monotonic_ns():x}"
    return {"id": number, "object": kind, "created": int(time.time()), "model": model}


def model_list(names: Iterable[str]) -> dict[str, Any]:
    """Write the answer of `/v1/models`: the models that a service answers to."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "noria"} for name in names]
    return {"object": "list", "data": data}


def finish_reason(outcome: Answer | Refusal) -> str:
    """Why an answer ended, in the protocol's words."""
    if isinstance(outcome, Refusal):
        return "stop"
    return outcome.finish or ("tool_calls" if outcome.tool_calls else "stop")


def event(content: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
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


def failure_error(failure: Failure | None) -> HttpError:
    """Turn the last backend's failure into an answer, in our own words: the backend's are for the log."""
    if failure is None:
        return HttpError(503, "no_backend", "no backend can be asked")
    other = (502, f"backend_{failure.kind}", "no backend gave an answer; the service's log says why")
    redirected = failure.status is not None and failure.status < 400
    status, code, line = other if redirected else STATUS.get(failure.kind, other)
    wait = max(1, math.ceil(min(failure.wait or 1.0, 3600.0)))
    return HttpError(status, code, line, headers={"retry-after": str(wait)} if status in (429, 503) else {})


def header_text(value: str) -> str:
    """A text that a header can hold."""
    return "".join(c if " " <= c <= "~" else "?" for c in value)
