"""HTTP/1.1 of a service: uvicorn's protocol, with bounds on what a connection may send, keep waiting, and leave unread.

A request's handler has a clock and a limit on the body (`noria.core.service.serving`). What lies outside of handlers is
bounded here: heads, trailers and the framing of chunks, requests sent ahead, connections that ask nothing, and answers
that their clients do not read.
"""

# ruff: noqa: D102 - the methods without a docstring are those of asyncio and httptools

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING, Any, cast

from noria.core.errors import needing
from noria.core.service.serving import HttpError, Service

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

with needing("serve"):
    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES = 64 << 10
"""Most bytes of a request besides its body: head, trailers, and what frames one chunk."""
HEAD_SECONDS = 20.0
"""Longest wait for a head, and for the rest of a request that is answered already."""
UNREAD_SECONDS = 20.0
"""Longest time in which a client takes nothing of an answer that is ready."""
CONNECTIONS = 4096
"""Most connections of a service; one address may have a quarter of them."""
SENT_AHEAD = 64
"""Most requests that a connection may send before the first of them is answered."""


def raise_file_limit() -> None:
    """Let the process open as many files as its connections, and those to backends, may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 4 * CONNECTIONS:
        most = 4 * CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 4 * CONNECTIONS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _Together:
    """A transport that sends what is written in one turn of the loop at once: a head and its body are one packet."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)

    def flush(self) -> None:
        """Hand over what was written."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size() + sum(map(len, self._pieces))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, bounded. A connection that breaks a bound is refused, after the requests that it owes."""

    _fields = 0  # bytes of the parsed parts of a head, with its trailers
    _besides = 0  # bytes received since the last of a body, or the end of a message
    _arriving = False  # whether a message has begun and not ended
    _head_done = False
    _fault = (400, "bad_http", "this is no HTTP request")
    _running: RequestResponseCycle | None = None
    _timer: asyncio.TimerHandle | None = None
    _unread = 0  # bytes that the client had yet to take when it last took some
    _unread_since = 0.0

    # -- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, _Together(transport, self.loop))
        self.flow = FlowControl(self.transport)
        own = self._service.connections
        own[self._address] += 1
        if len(self.connections) > CONNECTIONS or own[self._address] > max(1, CONNECTIONS // 4):
            self._refuse(503, "busy", "too many connections")
        else:
            self._await_client()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        own = self._service.connections
        own[self._address] -= 1
        if not own[self._address]:
            del own[self._address]
        super().connection_lost(exc)
        if self._running is not None:  # uvicorn tells the last request only, which may wait behind this one
            self._running.disconnected = True
            self._running.message_event.set()
            for leave in list(self._running.scope["noria.leaving"]):  # type: ignore[typeddict-item]
                leave()

    @property
    def _service(self) -> Service:
        return cast(Service, self.config.loaded_app)

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        cycle.scope["noria.leaving"] = set()  # type: ignore[typeddict-unknown-key]
        super()._start_asgi_task(cycle, app)

    # -- what comes

    def data_received(self, data: bytes) -> None:
        self._besides += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._besides > HEAD_BYTES:
            self._refuse(431, "head_too_large", f"the head has more than {HEAD_BYTES:,} bytes")
        elif not self._owes:
            self._await_client()

    def on_message_begin(self) -> None:
        self._fields, self._head_done, self._arriving = 0, False, True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if not self._head_done:  # a trailer comes behind the body, and must not pass for part of the head
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= SENT_AHEAD:
            raise ValueError("too many requests were sent ahead")  # ends the parser
        super().on_headers_complete()
        self._head_done = True
        self._stop_timer()

    def on_body(self, body: bytes) -> None:
        self._besides = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._besides, self._arriving = 0, False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._arriving and not self._owes and not self.transport.is_closing():
            self._unset_keepalive_if_required()  # which would take the connection for idle
            self._await_client()

    def _count(self, size: int) -> None:
        self._fields += size
        if self._fields > HEAD_BYTES:
            self._fault = (431, "head_too_large", f"the head has more than {HEAD_BYTES:,} bytes")
            raise ValueError(self._fault[2])  # ends the parser before the request is handled

    @property
    def _owes(self) -> bool:
        """Whether a request waits for its answer; its handler has a clock of its own."""
        return self.cycle is not None and not self.cycle.response_complete

    def _await_client(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._refuse_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- what the client does not take

    def resume_writing(self) -> None:
        self._unread = 0
        super().resume_writing()

    def end_unread(self) -> None:
        """End the connection of a client that takes nothing; to be called again and again, also once it is closing."""
        size, now = self.transport.get_write_buffer_size(), self.loop.time()
        if not size or not self._unread or size < self._unread:
            self._unread, self._unread_since = size, now
        elif now - self._unread_since > UNREAD_SECONDS:
            self.transport.abort()

    # -- refusals

    def send_400_response(self, msg: str) -> None:
        self._refuse(*self._fault)

    def _refuse_late(self) -> None:
        self._timer = None
        self._refuse(408, "timeout", "no request came in time")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """End the connection, with an error where that can only be the answer to what broke a bound."""
        if self.transport.is_closing():
            return
        if self._owes and (self.pipeline or not self.cycle.more_body or self.cycle.response_started):
            self.cycle.keep_alive = (
                False  # what broke a bound came behind requests that have a right to an answer
            )
            self.flow.pause_reading()
            return
        if not self._arriving or not self._head_done or self._owes:
            body = bytes(HttpError(status, code, message).response("").body)
            head = (
                f"HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
