"""Asking a backend while somebody watches: each piece of the text is heard as it arrives."""

from __future__ import annotations

import time
from dataclasses import replace

import msgspec

from noria.assistant.parts.loop import Heard
from noria.assistant.service.answering.asking import GARBAGE
from noria.core.chat.faults import CutError
from noria.core.chat.forwarding import Forwarder
from noria.core.chat.outcomes import Failure, Outcome
from noria.core.chat.replies import StreamedReply


async def ask_aloud(forwarder: Forwarder, body: bytes, within: float, heard: Heard) -> Outcome:
    """The outcome of a streamed request.

    Args:
        forwarder: client of the backend.
        body: JSON of a request with `stream`.
        within: seconds that it may wait for a place.
        heard: hears `text` with each piece of the answer.
    """
    began, reply = time.monotonic(), StreamedReply()
    outcome: Outcome
    async with forwarder.stream(body, within=within) as events:
        try:
            async for data in events:
                piece = reply.add(msgspec.json.decode(data))
                if piece:
                    heard("text", {"text": piece})
            outcome = events.failure or reply.outcome(forwarder.server.prices)
        except GARBAGE:
            outcome = Failure("garbage", "the stream does not follow the protocol")
        except CutError as error:
            outcome = Failure("cut", str(error))
    if isinstance(outcome, Failure):
        return replace(outcome, partial=outcome.partial or "".join(reply.text))
    return replace(outcome, seconds=time.monotonic() - began)
