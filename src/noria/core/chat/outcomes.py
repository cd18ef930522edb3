"""What came of a request: an answer, a refusal, or a failure with its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Answer", "Failure", "FailureKind", "Outcome", "Refusal", "Usage"]

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
]
"""
timeout      no answer in the time of an attempt
connection   nobody answers there, or the connection broke before an answer began
cut          the answer broke off
rate_limit   429
server       5xx
garbage      a reply that is none of the protocol's
too_large    a reply longer than is let in
auth         401, 403
not_found    404: no such model or path
request      another 4xx: the server does not take the request
quota        the account has nothing left
budget       our own limit of costs would be passed; nothing was sent
"""


@dataclass(frozen=True)
class Usage:
    """Tokens as the server counts them; None where it does not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Answer:
    """The model answered.

    Attributes:
        text: what it wrote.
        finish: why it ended: "stop", "length", …; None where the server does not say.
        usage: tokens.
        cost: in the currency of the server's prices; None where a price or a count is missing. 0 from the cache.
        seconds: from the first attempt's start to the end, waits included.
        attempts: requests sent; 0 from the cache.
        cached: whether it was kept from an earlier request.
        model: the server's name of the model; None where it does not say.
        reasoning: what it thought, where the server gives that apart.
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


@dataclass(frozen=True)
class Refusal:
    """The model, or the filter before it, declined. `text` is how; the other fields are those of an `Answer`."""

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
        kind: what went wrong with the last attempt.
        message: in words, without keys.
        status: HTTP's, where there was one.
        seconds: in all.
        attempts: requests sent; 0 when the budget forbade it.
        partial: what had been streamed when it broke off.
    """

    kind: FailureKind
    message: str
    status: int | None = None
    seconds: float = 0.0
    attempts: int = 1
    partial: str = ""


Outcome: TypeAlias = Answer | Refusal | Failure
