"""Faults of a server by kind, from the exceptions of the `openai` client."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from noria.core.chat.outcomes import FailureKind

PASSING = {408, 409, 425, 429}
"""Statuses below 500 after which another attempt may succeed."""


class GarbageError(Exception):
    """A reply that does not follow the protocol."""


class CutError(Exception):
    """A reply that broke off."""


class BusyError(Exception):
    """Our own limits on requests left no place in time."""


class TooLargeError(Exception):
    """A reply longer than the limit."""


@dataclass(frozen=True)
class Fault:
    """The fault of one attempt.

    Attributes:
        kind: kind of the failure.
        message: description, which may repeat a key.
        status: HTTP status, if there was one.
        passing: whether another attempt may succeed.
        wait: seconds that the server asks to wait before another attempt.
        filtered: whether a content filter declined the request.
    """

    kind: FailureKind
    message: str
    status: int | None = None
    passing: bool = True
    wait: float | None = None
    filtered: bool = False


def fault_of(error: BaseException, *, began: bool = False) -> Fault | None:
    """Sort an exception into a fault; None if neither server nor connection caused it.

    Args:
        error: exception that was raised.
        began: whether the answer had begun.
    """
    import httpx2
    import openai

    for inner in (error, error.__cause__):  # the client wraps an exception of the transport
        if isinstance(inner, TooLargeError):
            return Fault("too_large", str(inner), passing=False)
    if isinstance(error, GarbageError):
        return Fault("garbage", str(error))
    if isinstance(error, CutError):
        return Fault("cut", str(error))
    if isinstance(error, openai.APIStatusError):
        return _by_status(error)
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException | asyncio.TimeoutError):
        return Fault("timeout", "no answer in time")
    broken = (httpx2.RemoteProtocolError, httpx2.ReadError)
    if isinstance(error, broken) or isinstance(error.__cause__, broken):
        words = _words(error.__cause__ if error.__cause__ is not None else error)
        incomplete = began or "incomplete" in words
        return Fault("cut" if incomplete else "connection", words or "the connection broke")
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        return Fault("connection", _words(error.__cause__ or error) or "no server answers there")
    if isinstance(error, openai.APIError):  # an error that came as an event of a stream
        return Fault("server", _words(error))
    if isinstance(error, openai.OpenAIError | ValueError | RecursionError):
        return Fault("garbage", _words(error))
    return None


def _by_status(error: Any) -> Fault:
    return status_fault(int(error.status_code), error.body, error.response.headers, _words(error))


def status_fault(status: int, body: Any, headers: Mapping[str, str], words: str) -> Fault:
    """Sort a reply that is an error.

    Args:
        status: HTTP status.
        body: the error's JSON values, without the `error` around them; anything where it is no JSON.
        headers: headers of the reply; their names may be of any case.
        words: description of the error.
    """
    body = body if isinstance(body, Mapping) else {}
    code = str(body.get("code") or body.get("type") or "")
    if status == 402 or "insufficient_quota" in code:
        return Fault("quota", words, status, passing=False)
    if code == "content_filter":
        return Fault("request", words, status, passing=False, filtered=True)
    wait = retry_after(headers)
    if status == 429:
        return Fault("rate_limit", words, status, wait=wait)
    if status >= 500:
        return Fault("server", words, status, wait=wait)
    if status in (401, 403):
        return Fault("auth", words, status, passing=False)
    if status == 404:
        return Fault("not_found", words, status, passing=False)
    return Fault("request", words, status, passing=status in PASSING, wait=wait)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` (seconds or a date) or `retry-after-ms` asks for; None for neither."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, ""))
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds * scale)
    try:
        when = parsedate_to_datetime(headers.get("retry-after", ""))
        served = parsedate_to_datetime(headers.get("date", ""))
        return max(
            0.0, (when - served).total_seconds()
        )  # both by the server's clock, which may differ from ours
    except (ValueError, TypeError, OverflowError):
        return None


def _words(error: BaseException) -> str:
    return one_line(str(getattr(error, "message", "") or error) or type(error).__name__)


def one_line(text: str) -> str:
    """A server's words as one short line of characters that can be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())[:300]
