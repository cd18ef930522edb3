"""Responses of a service: JSON, pages that run nothing foreign, and errors of the shape that OpenAI's clients read.

```
{"error": {"message": "...", "type": "invalid_request_error", "code": "too_large", "param": null}, "request_id": "..."}
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from noria.core.errors import needing
from noria.core.records import json_values

with needing("serve"):
    import msgspec
    from starlette.responses import Response


class HttpError(Exception):
    """An error response: its status, a `code` for programs and a `message` of one line for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = " ".join(message.split())
        self.param = param
        self.headers = dict(headers or {})

    def response(self, request_id: str) -> Response:
        """The response, with the body that all errors share."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "code": self.code, "param": self.param}
        return json_response(
            {"error": error, "request_id": request_id}, status=self.status, headers=self.headers
        )


_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_encode = msgspec.json.Encoder().encode
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{}; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response; bytes count as JSON already. NaN and the infinities become null: they are missing, not zero."""
    response = _Json(content if isinstance(content, bytes) else _as_json(content), status)
    if headers:
        response.headers.update(headers)
    return response


def _as_json(content: Any) -> bytes:
    try:
        return _encode(content)
    except UnicodeEncodeError:  # half a character: UTF-8 cannot hold it, an escape can
        return json.dumps(json_values(content)).encode()


def read_json(body: bytes) -> Any:
    """Read a body of JSON, strictly: UTF-8, no NaN, no halves of characters, no number beyond a double.

    Raises:
        HttpError: 400, it is none.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(400, "bad_json", f"the body is not JSON: {json_fault(error)}") from None


def json_fault(error: Exception) -> str:
    """What is wrong with JSON that `msgspec` did not take, without its own words about Python."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


class _Json(Response):
    """Starlette's response with fixed headers, which it would otherwise build and sort for each request."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), *_JSON]


_JSON = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))


def html_response(page: str, *, status: int = 200, inline_styles: bool = False) -> Response:
    """An HTML response that runs only the service's own scripts, fetches nothing from elsewhere and forbids frames.

    Args:
        page: text of the page, in HTML.
        status: HTTP status of the response.
        inline_styles: whether scripts and markup may set styles, which charts need.
    """
    return Response(
        page,
        status,
        {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": _POLICY.format(" 'unsafe-inline'" if inline_styles else ""),
            "cache-control": "no-store",
            "referrer-policy": "same-origin",  # with none, a form would be sent with the origin `null`
            "x-frame-options": "DENY",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
        },
    )
