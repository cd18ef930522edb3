"""The byte path to a chat server: requests and replies pass as they are, under the same rules as those of `ChatClient`.

A gateway that parsed every request into messages and back would spend most of its time on that. Here a body goes out as
it is given, a reply comes back as it arrived, and only what decides about another attempt is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from noria.core.chat.budget import Budget
from noria.core.chat.faults import BusyError, Fault, one_line, status_fault
from noria.core.chat.outcomes import Failure, Refusal
from noria.core.chat.sending import Sender
from noria.core.chat.settings import ChatServer, proxy_of
from noria.core.errors import needing

if TYPE_CHECKING:
    import aiohttp


@dataclass(frozen=True)
class Forwarded:
    """A reply of status 200.

    Attributes:
        body: the reply's bytes.
        seconds: time from the first attempt to the end, waits included.
        attempts: number of requests sent.
    """

    body: bytes
    seconds: float
    attempts: int


class Forwarder(Sender):
    """Client of one model on one server that passes bytes. Use it as an asynchronous context, from one event loop.

    The budget is settled by whoever reads the replies: call `reserve` before and `settle` after.

    Args:
        server: settings of the server.
        budget: limit on costs, if any; it needs prices.

    Raises:
        ConfigError: the key's variable is not set, or a budget without prices.
    """

    def __init__(self, server: ChatServer, *, budget: Budget | None = None) -> None:
        super().__init__(server, budget=budget)
        self._session: aiohttp.ClientSession | None = None
        self._proxy = proxy_of(server.url)

    async def __aenter__(self) -> Forwarder:
        with needing("serve"):
            import aiohttp
        server = self.server
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(10.0, server.timeout)),
            auto_decompress=False,
            raise_for_status=False,
            read_bufsize=1 << 18,
            headers={
                "authorization": f"Bearer {self._key}",
                "content-type": "application/json",
                "accept-encoding": "identity",
            },
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def forward(
        self, body: bytes, *, path: str = "/chat/completions", within: float | None = None
    ) -> Forwarded | Refusal | Failure:
        """Send a body, and return the reply.

        Args:
            body: JSON of the request, for this server's model.
            path: path below the server's address.
            within: longest wait for a place and a turn, as in `ChatClient.ask`.
        """
        began = time.monotonic()
        try:
            async with self.place(within):
                for attempt in range(1, self.server.attempts + 1):
                    await self.turn(within)
                    try:
                        async with asyncio.timeout(self.server.timeout), self._post(path, body) as response:
                            content = await self._content(response)
                        return Forwarded(content, time.monotonic() - began, attempt)
                    except _FaultError as error:
                        fault = error.fault
                    except Exception as error:
                        fault = _fault_of(error)
                    wait = self.wait(fault, attempt)
                    if wait is None:
                        return self.failed(fault, attempt, time.monotonic() - began)
                    await asyncio.sleep(wait)
        except BusyError as error:
            return Failure("busy", str(error), attempts=0)
        raise AssertionError("the last attempt ends it")

    def stream(
        self, body: bytes, *, path: str = "/chat/completions", within: float | None = None
    ) -> ForwardedStream:
        """Send a body whose answer is streamed; the arguments are those of `forward`."""
        return ForwardedStream(self, body, path, within)

    @contextlib.asynccontextmanager
    async def _post(self, path: str, body: bytes) -> AsyncGenerator[aiohttp.ClientResponse]:
        """The response to an attempt, once its status is 200.

        Raises:
            _FaultError: it is an error, a redirect or compressed.
        """
        assert self._session is not None, "use it as an asynchronous context"
        async with self._session.post(
            self.server.url + path, data=body, allow_redirects=False, proxy=self._proxy
        ) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _FaultError(
                    Fault("too_large", "a compressed reply, which was not requested", passing=False)
                )
            if response.status != 200:
                raise _FaultError(await self._refused(response))
            yield response

    async def _refused(self, response: aiohttp.ClientResponse) -> Fault:
        text = (await response.content.read(1 << 16)).decode("utf-8", "replace")
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        error = body.get("error", body) if isinstance(body, Mapping) else None
        words = error.get("message") if isinstance(error, Mapping) else None
        return status_fault(
            response.status, error, response.headers, one_line(str(words or text or "an error without words"))
        )

    async def _content(self, response: aiohttp.ClientResponse) -> bytes:
        largest, pieces, size = self.server.largest_reply, [], 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > largest:
                raise _FaultError(_too_large(largest))
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class ForwardedStream:
    """Events of a streamed answer: iterate over the bytes of each event's `data`, without `[DONE]`.

    A fault before the first event is retried as in `forward`; a later one ends the stream. Use it as an asynchronous
    context, so that a stream that is left early is closed.

    Attributes:
        failure: why the stream has no answer or broke off; None where it ended well.
    """

    def __init__(self, forwarder: Forwarder, body: bytes, path: str, within: float | None) -> None:
        self.failure: Failure | Refusal | None = None
        self._coming = self._run(forwarder, body, path, within)

    async def __aenter__(self) -> ForwardedStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._coming.aclose()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._coming

    async def _run(
        self, forwarder: Forwarder, body: bytes, path: str, within: float | None
    ) -> AsyncGenerator[bytes]:
        began, server = time.monotonic(), forwarder.server
        try:
            async with forwarder.place(within):
                for attempt in range(1, server.attempts + 1):
                    arrived = False
                    await forwarder.turn(within)
                    try:
                        async with contextlib.aclosing(_events(forwarder, body, path)) as events:
                            async for event in events:
                                arrived = True
                                yield event
                        return
                    except _FaultError as error:
                        fault = error.fault
                    except Exception as error:
                        fault = _fault_of(error, began=arrived)
                    wait = None if arrived else forwarder.wait(fault, attempt)
                    if wait is None:
                        self.failure = forwarder.failed(fault, attempt, time.monotonic() - began)
                        return
                    await asyncio.sleep(wait)
        except BusyError as error:
            self.failure = Failure("busy", str(error), attempts=0)


async def _events(forwarder: Forwarder, body: bytes, path: str) -> AsyncGenerator[bytes]:
    """The events of one attempt; the timeout of an attempt holds for each wait.

    Raises:
        _FaultError: an error, more bytes than allowed, or an end before `[DONE]`.
    """
    timeout, left = forwarder.server.timeout, forwarder.server.largest_reply
    async with contextlib.AsyncExitStack() as stack:
        async with asyncio.timeout(timeout):
            response = await stack.enter_async_context(forwarder._post(path, body))
        if response.content_type == "application/json":  # a server that does not stream answers whole
            async with asyncio.timeout(timeout):
                yield _as_event(await forwarder._content(response))
            return
        rest = b""
        while True:
            async with asyncio.timeout(timeout):
                piece = await response.content.readany()
            if not piece:
                raise _FaultError(Fault("cut", "the stream ended before the answer"))
            left -= len(piece)
            if left < 0:
                raise _FaultError(_too_large(forwarder.server.largest_reply))
            rest = (rest + piece).replace(b"\r\n", b"\n")
            *whole, rest = rest.split(b"\n\n")
            for event in whole:
                data = b"\n".join(
                    line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")
                )
                if data == b"[DONE]":
                    return
                if data:
                    yield data


def _as_event(reply: bytes) -> bytes:
    """A whole reply as the one event of a stream; what is no reply stays as it is."""
    try:
        content = json.loads(reply)
        for choice in content["choices"]:
            choice["delta"] = delta = choice.pop("message")
            for number, call in enumerate(delta.get("tool_calls") or []):
                call.setdefault("index", number)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return reply
    return json.dumps(content).encode()


class _FaultError(Exception):
    """A fault that is sorted already."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def _too_large(largest: int) -> Fault:
    return Fault("too_large", f"the reply is longer than {largest:,} bytes", passing=False)


def _fault_of(error: Exception, *, began: bool = False) -> Fault:
    """Sort an exception of the connection; any other is raised again."""
    import aiohttp

    if isinstance(error, TimeoutError):
        return Fault("timeout", "no answer in time")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Fault("cut", one_line(str(error)) or "the reply broke off")
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
        return Fault("garbage", one_line(str(error)) or "the reply is no HTTP")
    if isinstance(error, aiohttp.ClientError | OSError):
        return Fault("cut" if began else "connection", one_line(str(error)) or "no server answers there")
    raise error
