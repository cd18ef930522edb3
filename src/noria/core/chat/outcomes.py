"""Outcomes of a request: an answer, a refusal, or a failure with its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from noria.core.chat.messages import Part, ToolCall

FailureKind = Literal[
    "timeout",
    "connection",
    "cut",
    "rate_limit",
    "server",
    "garbage",
    "too_large",
    "auth",
    "not_found",
    "request",
    "quota",
    "budget",
    "busy",
]
"""
timeout      no answer in the time of an attempt
connection   no server answers there, or the connection broke before an answer began
cut          the answer broke off
rate_limit   429
server       5xx
garbage      a reply that does not follow the protocol
too_large    a reply longer than the limit
auth         401, 403
not_found    404: no such model or path
request      another 4xx: the server refuses the request
quota        the account has no money left
budget       the request could exceed our own limit of costs; nothing was sent
busy         our own limits on requests left no place in time; nothing was sent
"""


@dataclass(frozen=True)
class Usage:
    """Tokens as the server counts them; None where it does not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Answer:
    """Outcome of a request that the model answered.

    Attributes:
        text: text of the answer.
        finish: why the answer ended: "stop", "length", …; None where the server does not say.
        usage: counts of tokens.
        cost: cost in the currency of the server's prices; None where a price or a count is missing. 0 from the cache.
        seconds: time from the first attempt to the end, waits included.
        attempts: number of requests sent; 0 from the cache.
        cached: whether the answer is from the cache.
        model: the server's name of the model; None where it does not say.
        reasoning: the model's reasoning, where the server returns that separately.
        tool_calls: calls of tools that the model asks for.
        parts: images and other content beside the text, where the model makes such.
        shown: what tools of this service show beside the text, as JSON objects: cards, an edit, a report, a video.
    """

    text: str
    finish: str | None = None
    usage: Usage = Usage()
    cost: float | None = None
    seconds: float = 0.0
    attempts: int = 1
    cached: bool = False
    model: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    parts: tuple[Part, ...] = ()
    shown: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Refusal:
    """The model, or a filter before it, declined with `text`; the other fields are those of an `Answer`."""

    text: str
    usage: Usage = Usage()
    cost: float | None = None
    seconds: float = 0.0
    attempts: int = 1
    cached: bool = False
    model: str | None = None


@dataclass(frozen=True)
class Failure:
    """A request without an answer.

    Attributes:
        kind: kind of the last attempt's fault.
        message: description, without keys.
        status: HTTP status, where there was one.
        seconds: time of all attempts, waits included.
        attempts: number of requests sent; 0 when the budget forbade it.
        partial: text that had been streamed when the answer broke off.
        wait: seconds that the server asks to wait before another request; None where it does not say.
    """

    kind: FailureKind
    message: str
    status: int | None = None
    seconds: float = 0.0
    attempts: int = 1
    partial: str = ""
    wait: float | None = None


Outcome: TypeAlias = Answer | Refusal | Failure
