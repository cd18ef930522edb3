"""Answers as events: a backend's own stream, a whole answer in their form, and the response that carries them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from noria.assistant.service.answering.asking import GARBAGE, composed, timed
from noria.assistant.service.recording import Recording
from noria.core.chat.faults import CutError
from noria.core.chat.forwarding import Forwarder
from noria.core.chat.outcomes import Answer, Failure, Outcome, Refusal
from noria.core.chat.replies import StreamedReply
from noria.core.completions.answers import DONE, ChunkWriter
from noria.core.errors import needing
from noria.core.service.responses import HttpError

with needing("serve"):
    import msgspec
    from starlette.responses import StreamingResponse
    from starlette.types import Receive, Scope, Send

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class AnswerStream:
    """The stream of a backend's answer, event by event.

    Args:
        recording: the request.
        forwarder: connection to its backend.
        within: longest time in seconds.

    Attributes:
        outcome: what came of it; None until the events have ended.
        sent: whether an event was given.
    """

    def __init__(self, recording: Recording, forwarder: Forwarder, within: float) -> None:
        self._recording, self._forwarder, self._within = recording, forwarder, within
        self._reply = StreamedReply()
        self.outcome: Outcome | None = None
        self.sent = False

    async def events(self) -> AsyncGenerator[bytes]:
        """The backend's events under the id of the trace, without the one that ends a stream; close it in any case."""
        began, reply, forwarder = time.monotonic(), self._reply, self._forwarder
        body = composed(self._recording.query, self._recording.route, forwarder, stream=True)
        async with forwarder.stream(body, within=self._within) as events:
            try:
                async for data in events:
                    event = self._event(data)
                    if event is not None:
                        self.sent = True
                        yield event
                self.outcome = events.failure or reply.outcome(forwarder.server.prices)
            except GARBAGE:
                self.outcome = Failure("garbage", "the stream does not follow the protocol")
            except CutError as error:
                self.outcome = Failure("cut", str(error), partial="".join(reply.text))
        if isinstance(self.outcome, Failure) and reply.text and not self.outcome.partial:
            self.outcome = replace(self.outcome, partial="".join(reply.text))
        if isinstance(self.outcome, Answer | Refusal):
            self.outcome = timed(self.outcome, time.monotonic() - began, 1)

    def _event(self, data: bytes | str) -> bytes | None:
        """An event for the caller; None for the count of tokens where the caller has not asked for it."""
        event = _decode(data)
        if self._reply.add(event):
            self._recording.first_word()
        if not event.get("choices") and not self._recording.query.include_usage:
            return None
        event["id"] = self._recording.id
        return b"data: " + _encode(event) + b"\n\n"


def error_event(fault: HttpError) -> bytes:
    """The event that ends a stream which failed after its first event."""
    shape = {"message": fault.message, "type": "server_error", "code": fault.code}
    return b"data: " + _encode({"error": shape}) + b"\n\n"


Answered = Callable[[Recording], Awaitable[tuple[Outcome, Any]]]
"""Answers a recording as a whole, and keeps its trace."""


async def tool_events(recording: Recording, answered: Answered) -> AsyncGenerator[bytes | HttpError]:
    """Events of an answer with tools: which tool works and how far it is, then the answer as it is kept.

    Nothing is given before a tool is called, so that an answer which fails before that is an error of its own, which
    is given instead of an event. What is under way ends where nobody reads any more.

    Args:
        recording: the request.
        answered: answers it.
    """
    writer = ChunkWriter(recording.query.model or "noria", recording.id)
    changed, news = asyncio.Event(), list[bytes]()
    last: tuple[str, int] | None = None

    def hear(what: str, fields: Mapping[str, Any]) -> None:
        nonlocal last
        said = _of_tools(what, fields)
        step = None if what != "working" else (fields["name"], round(100 * fields["share"]))
        if said and (step is None or step != last):
            news.extend(writer.working({"tool": one}) for one in said)
            last = step
            changed.set()

    recording.watched = hear
    answer = asyncio.ensure_future(answered(recording))
    answer.add_done_callback(lambda _: changed.set())
    sent = False
    try:
        while not answer.done() or news:
            await changed.wait()
            changed.clear()
            pieces, news[:] = list(news), []
            for piece in pieces:
                sent = True
                yield piece
        try:
            outcome = answer.result()[0]
            fault = recording.error(outcome) if isinstance(outcome, Failure) else None
        except HttpError as refused:
            fault = refused
        if fault is None:
            assert isinstance(outcome, Answer | Refusal)
            yield whole_as_events(recording, outcome)
        else:
            yield error_event(fault) if sent else fault
    finally:
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)


def _of_tools(what: str, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is told of the tools when something is heard: which was called, how far it is, and how it ended."""
    if what == "calls":
        return [{"name": name, "state": "called"} for name, _ in fields["calls"]]
    if what == "working":
        return [{"name": fields["name"], "state": "working", "share": fields["share"]}]
    if what == "called":
        return [{"name": fields["name"], "state": "failed" if fields["error"] else "done"}]
    return []


def whole_as_events(recording: Recording, outcome: Answer | Refusal) -> bytes:
    """All events of an answer that is there as a whole."""
    writer = ChunkWriter(recording.query.model or "noria", recording.id)
    text = outcome.text if isinstance(outcome, Answer) else ""
    events = [writer.chunk({"role": "assistant", "content": text}), writer.last(outcome)]
    if recording.query.include_usage:
        events.append(writer.usage(outcome.usage))
    return b"".join([*events, DONE])


class EventResponse(StreamingResponse):
    """A stream of events that lets its backend go in any case, also where the caller left before the first event.

    Args:
        first: the first event, which is there already; None where there is none.
        pieces: the events after it.
        headers: headers of the response.
    """

    def __init__(
        self, first: bytes | None, pieces: AsyncGenerator[bytes | HttpError], headers: Mapping[str, str]
    ) -> None:
        super().__init__(self._events(first, pieces), 200, headers, "text/event-stream")
        self.pieces = pieces

    @staticmethod
    async def _events(first: bytes | None, pieces: AsyncIterator[bytes | HttpError]) -> AsyncIterator[bytes]:
        if first is not None:
            yield first
        async for piece in pieces:
            assert isinstance(piece, bytes)
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, and close what they come from in any case."""
        async with aclosing(self.pieces):
            await super().__call__(scope, receive, send)
