"""One request to a service and its response: the body is bounded while it is read, the outcome is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from typing import TYPE_CHECKING

from noria.core.errors import ConfigError, ConflictError, DataError, RunError, needing
from noria.core.service.guard import LOCAL
from noria.core.service.responses import HttpError

if TYPE_CHECKING:
    from noria.core.service.serving import Service

with needing("serve"):
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.types import Message, Receive, Scope, Send

log = logging.getLogger("noria.serving")


class Exchange:
    """One request and its response: bounds the body while it is read, and records the outcome.

    Attributes:
        address: address of the client.
        path: path of the matching route, for the metrics.
        body_limit: most bytes that the body may have.
        bytes_read, bytes_sent: bytes of both bodies so far.
        status: status of the response; 0 before it has begun.
        body_complete: whether the whole body was read.
        caller: who sent it, where the route asks for that.
    """

    __slots__ = (
        "address", "began", "body_complete", "body_limit", "bytes_read", "bytes_sent", "caller", "headers", "id",
        "method", "path", "receive_", "scope", "send_", "service", "status",
    )  # fmt: skip

    def __init__(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self.service, self.scope, self.receive_, self.send_ = service, scope, receive, send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.method: str = scope["method"]
        client = scope.get("client")
        self.address: str = client[0] if client else "-"
        request_id = self.headers.get(b"x-request-id", b"")
        self.id = request_id.decode() if _REQUEST_ID.fullmatch(request_id) else next(service.request_ids)
        self.path = "unmatched"
        self.body_limit = self.bytes_read = self.bytes_sent = self.status = 0
        self.body_complete = False
        self.caller = LOCAL
        self.began = time.perf_counter()

    async def run(self) -> None:
        """Answer the request; an error of any kind is answered by one JSON object."""
        service, scope = self.service, self.scope
        scope["app"] = service  # with an app, Starlette raises its 404 and 405 instead of answering them
        scope["noria.exchange"] = self
        try:
            if len(self.headers) < len(scope["headers"]):
                service.check_single(scope["headers"])
            service.check_host(self.headers)
            await service.router(scope, self.receive, self.send)
        except HttpError as error:
            await self.fail(error)
        except HTTPException as error:
            code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
            await self.fail(HttpError(error.status_code, code, error.detail, headers=error.headers))
        except (DataError, ConfigError) as error:
            await self.fail(HttpError(400, "bad_request", str(error)))
        except ConflictError as error:
            await self.fail(HttpError(409, "stale", str(error)))
        except RunError as error:
            log.error("request %s failed: %s", self.id, error)
            await self.fail(
                HttpError(503, "unavailable", "this cannot be done now; the service's log says why")
            )
        except ClientDisconnect:
            self.status = 499
        except asyncio.CancelledError:
            await self.fail(HttpError(503, "stopping", "the service is stopping"))
            raise
        except Exception:
            log.exception("request %s failed", self.id)
            await self.fail(HttpError(500, "internal", "the service failed; its log says why"))
        finally:
            self.record()

    async def receive(self) -> Message:
        """The next message of the request; ASGI's `receive`.

        Raises:
            HttpError: 413, the body is too large.
        """
        message = await self.receive_()
        if message["type"] == "http.request":
            self.bytes_read += len(message.get("body", b""))
            self.body_complete = not message.get("more_body", False)
            if self.body_complete:
                self.service.stop_awaiting_body(self)
            if self.bytes_read > self.body_limit:
                raise self.too_large()
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the response with the id of the request; ASGI's `send`."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-content-type-options", b"nosniff"),
                (b"x-request-id", self.id.encode()),
            ]
        else:
            self.bytes_sent += len(message.get("body", b""))
        await self.send_(message)

    @property
    def forwarded(self) -> bool:
        """Whether a proxy says that it forwards: it calls from this machine for somebody who may not be on it."""
        return any(name in self.headers for name in _FORWARDED)

    @property
    def has_body(self) -> bool:
        """Whether the head announces a body."""
        return b"transfer-encoding" in self.headers or self.headers.get(b"content-length", b"0") != b"0"

    def expect(self, body_limit: int) -> None:
        """Set the limit of the body. A body that declares more is refused before it is read."""
        self.body_limit = body_limit
        length = self.headers.get(b"content-length")
        if length is not None and int(length) > body_limit:
            raise self.too_large()

    def too_large(self) -> HttpError:
        """The refusal of a body above its limit."""
        return self.service.refusal(413, "too_large", f"the body has more than {self.body_limit:,} bytes")

    async def fail(self, error: HttpError) -> None:
        """Answer with an error. A response that has begun is cut off instead, so that it does not look complete."""
        if self.status:
            log.warning("request %s was cut off: %s", self.id, error.message)
            return
        if self.has_body and not self.body_complete:
            await self.discard_body()
            if not self.body_complete:
                error.headers["connection"] = "close"
        await error.response(self.id)(self.scope, self.receive, self.send)

    async def discard_body(self) -> None:
        """Read some more of the body: a client whose connection is closed while it sends never reads the response."""
        if b"expect" in self.headers and not self.bytes_read:
            return  # the client waits for `100 Continue` before it sends
        left = _LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while left > 0 and not self.body_complete:
                    message = await self.receive_()
                    if message["type"] != "http.request":
                        return
                    left -= len(message.get("body", b""))
                    self.body_complete = not message.get("more_body", False)

    def record(self) -> None:
        """Count the request in the metrics, and log its line."""
        seconds = time.perf_counter() - self.began
        service = self.service
        service.request_counts[self.path, self.status].inc()
        service.request_seconds[self.path].observe(seconds)
        if service.access_log:
            path = self.scope.get("raw_path", b"")[:200].decode("ascii", "replace")
            log.info(
                "%s %s %s %d %.1f ms %d B in %d B out %s",
                self.address,
                self.method,
                path,
                self.status,
                1e3 * seconds,
                self.bytes_read,
                self.bytes_sent,
                self.id,
            )


_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")
_LINGER_BYTES = 64 << 20
_LINGER_SECONDS = 1.0
