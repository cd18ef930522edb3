"""Sending a message: what is asked of the gateway, the queue, and the answer as it comes about."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
from starlette.responses import StreamingResponse

from noria.assistant.web.desk import Pending, QueueFull
from noria.assistant.web.forms import Form, read_form, see_other
from noria.assistant.web.pictures import taken
from noria.assistant.web.room import CALLER, CROWD, LOOKED_AT, NotHere, Refused, Room, reason
from noria.assistant.web.views import TurnView
from noria.assistant.web.visitors import history
from noria.assistant.web.visitors.history import Turn
from noria.assistant.web.visitors.sessions import Visitor
from noria.core.chat.messages import Image
from noria.core.chat.outcomes import Failure
from noria.core.completions.requests import CompletionRequest, read_completion
from noria.core.errors import DataError
from noria.core.experiments.assignment import position
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Request, Response

LONGEST = 16_000
"""Most characters of a message."""
PICTURES = 4
"""Most pictures of earlier messages that go along."""
PATIENCE = 1.5
"""Seconds that a page without a script waits for the answer before it shows how far it is."""
PULSE = 10.0
"""Seconds after which a stream says that it is alive."""
WATCHERS = 8
"""Most streams of one message."""


class Talking:
    """Endpoints that take messages and stream answers.

    Args:
        room: what all pages share.
    """

    def __init__(self, room: Room) -> None:
        self.room = room

    async def send(self, request: Request, visitor: Visitor) -> Response:
        """Take a message; a script gets where to watch it, a browser without one the page of the conversation."""
        form = await read_form(request, self.room, visitor)
        scripted = request.headers.get("x-part") == "1"
        try:
            most = self.room.config.page.messages_per_minute
            self.room.check_rate(f"send from {self.room.address(request)}", CROWD * most)
            pending = await self._pending(form, visitor)
            pending.address = self.room.address(request)
            self._check_alone(pending)  # once more: another one may have come while the picture was read
            self.room.check_rate(f"send {visitor.name}", most)
            self.room.desk.submit(pending, lambda one: self._answer(one, visitor))
        except QueueFull:
            raise Refused("busy", status=503) from None
        except _Sent as sent:
            pending = sent.pending
        where = f"{visitor.base}/c/{pending.conversation}"
        if scripted:
            said = {
                "conversation": pending.conversation,
                "address": where,
                "events": f"{visitor.base}/turns/{pending.id}",
            }
            return self.room.sessions.remember(json_response(said, status=202), visitor)
        version, clock = -1, asyncio.get_running_loop().time
        until = clock() + PATIENCE
        while pending.is_open and clock() < until:
            version = pending.version
            await pending.changed(version, until - clock())
        return self.room.sessions.remember(see_other(where + "#end"), visitor)

    async def _pending(self, form: Form, visitor: Visitor) -> Pending:
        """The message of a form.

        Raises:
            Refused: it is none that is answered.
            _Sent: it was sent before.
        """
        room, user = self.room, self.room.key(visitor.name)
        name = form.get("conversation") or history.new_name()
        sent = form.get("turn")
        if not history.is_name(name) or not history.is_name(sent):
            raise Refused("stale")
        earlier = room.desk.find(sent, user)
        if earlier is not None and not form.get("again"):
            raise _Sent(earlier)
        one = room.history.read(user, name)
        if one is not None and any(turn.sent == sent for turn in one.turns):
            raise _Sent(Pending(sent, user, name, "", state="done"))
        self._check_alone(Pending(sent, user, name, ""))
        if one is not None and len(one.turns) >= history.MOST_TURNS:
            raise Refused("full", status=409)
        text = (form.get("suggestion") or form.get("message")).replace("\r\n", "\n").strip()
        if len(text) > LONGEST:
            raise Refused("long", most=f"{LONGEST:,}")
        picture, fresh = None, False
        if form.picture:
            picture, fresh = await self._taken(form.picture), True
        elif earlier is not None:
            picture, fresh, text = earlier.picture, earlier.fresh, text or earlier.text
        elif form.get("about"):
            picture = await self._about(form.get("about"), visitor)
            if picture is None:
                raise Refused("gone", status=410)
        if not text and not fresh:
            raise Refused("empty")
        return Pending(sent, user, name, text, picture, fresh)

    def _check_alone(self, pending: Pending) -> None:
        """Check that no other message of the user is being answered.

        Raises:
            Refused: one is. _Sent: it is this one.
        """
        other = self.room.desk.open_of(pending.user)
        if other is not None and other.id == pending.id:
            raise _Sent(other)
        if other is not None:
            raise Refused("one_at_a_time", status=409)

    async def _taken(self, content: bytes) -> bytes:
        most = self.room.config.page.picture_bytes
        if len(content) > most:
            raise Refused("too_large", status=413, most=f"{most / 2**20:.3g}")
        try:
            return await asyncio.to_thread(taken, content, most_bytes=most)
        except DataError as error:
            raise Refused("picture_no", why=error.what) from None

    async def _about(self, place: str, visitor: Visitor) -> bytes | None:
        """The earlier picture that a message is about: `TRACE/DIGEST`."""
        trace, _, digest = place.partition("/")
        return await asyncio.to_thread(self.file, visitor, trace, digest)

    def file(self, visitor: Visitor, trace: str, digest: str) -> bytes | None:
        """A file of a trace of the visitor's.

        Raises:
            NotHere: the trace is another's, or names no such file.
        """
        from noria.assistant.web.views import file_names

        if digest not in file_names(self.room.view(visitor, trace).trace):
            raise NotHere
        return self.room.state.store.blob(digest)

    # -- the answer ---------------------------------------------------------------------------------------------------

    async def _answer(self, pending: Pending, visitor: Visitor) -> None:
        """Ask the gateway; what came of it is a trace, and a turn of the conversation."""
        room = self.room
        begun: dict[int, str] = {}

        def heard(answer: int) -> Callable[[str, Any], None]:
            def hear(what: str, fields: Any) -> None:
                if what == "began":
                    begun[answer] = fields["trace"]
                pending.hear(what, fields, answer)

            return hear

        try:
            turns = await asyncio.to_thread(self._turns, pending, visitor)
            outside = any(one.outside for turn in turns for one in turn.answers)
            query = await asyncio.to_thread(self._query, pending, visitor, turns)
            other = self._other_route(pending)
            if other is None:
                await room.state.gateway.converse(query, CALLER, heard(0), outside=outside)
            else:
                await self._both(pending, query, other, heard, outside)
        except HttpError as error:  # there is no trace of it
            pending.fault = reason(error.code)
            begun.clear()
        finally:
            if 0 in begun:
                title = room.state.gateway.recorder.redactor.redact(pending.text)[0]
                turn = Turn(begun[0], begun.get(1), None, pending.id)
                room.history.add(pending.user, pending.conversation, turn, title_of(title))

    async def _both(
        self, pending: Pending, query: CompletionRequest, other: str, heard: Any, outside: bool
    ) -> None:
        """Ask what serves and another route at once; where the second one fails there is nothing to choose."""
        pending.words = ["", ""]
        first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        hear = heard(0)

        def note(what: str, fields: Any) -> None:
            if what == "began" and not first.done():
                first.set_result(fields["trace"])
            hear(what, fields)

        async def second() -> None:
            asked = read_completion(msgspec.json.encode({**query.content, "model": other}))
            await self.room.state.gateway.converse(
                asked, CALLER, heard(1), beside=await first, outside=outside
            )

        task = asyncio.create_task(second())
        try:
            outcome, _ = await self.room.state.gateway.converse(query, CALLER, note, outside=outside)
            if isinstance(outcome, Failure):
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        finally:
            task.cancel()

    def _other_route(self, pending: Pending) -> str | None:
        compare = self.room.config.page.compare
        if compare is None or position("page compare", pending.id) >= compare.share:
            return None
        return compare.route

    def _turns(self, pending: Pending, visitor: Visitor) -> list[TurnView]:
        """The last turns of the conversation of a message."""
        one = self.room.history.read(pending.user, pending.conversation)
        return self.room.turns(visitor, one) if one is not None else []

    def _query(self, pending: Pending, visitor: Visitor, turns: Sequence[TurnView]) -> CompletionRequest:
        content = {
            "model": "noria",
            "messages": messages(turns, pending.text, pending.picture, self.room.state.store.blob),
            "user": visitor.name,
            "metadata": {"conversation": pending.conversation},
        }
        return read_completion(msgspec.json.encode(content))

    # -- watching -----------------------------------------------------------------------------------------------------

    async def events(self, request: Request, visitor: Visitor) -> Response:
        """Progress of an answer as events, each with all of it; the last one says that it is there."""
        pending = self.room.desk.find(request.path_params["turn"], self.room.key(visitor.name))
        if pending is None:
            raise NotHere
        if pending.watchers >= WATCHERS:  # each holds a place of the gateway's
            raise Refused("too_often", status=429, seconds=round(PULSE))
        return StreamingResponse(
            self._events(request, pending, visitor), 200, {"cache-control": "no-store", "x-accel-buffering": "no"},
            "text/event-stream",
        )  # fmt: skip

    async def _events(self, request: Request, pending: Pending, visitor: Visitor) -> AsyncIterator[bytes]:
        pending.watchers += 1
        try:
            async for piece in self._progress(request, pending, visitor):
                yield piece
        finally:
            pending.watchers -= 1

    async def _progress(self, request: Request, pending: Pending, visitor: Visitor) -> AsyncIterator[bytes]:
        while pending.is_open:
            version = pending.version
            html = self.room.part_of_pending(visitor, pending)
            yield event("progress", {"html": html, "words": pending.words[0], "steps": len(pending.steps)})
            await asyncio.sleep(0.08 + len(html) / 200_000)  # a long answer is drawn less often
            while not await pending.changed(version, PULSE) and not request.app.draining:
                yield b": alive\n\n"
            if request.app.draining and pending.state == "waiting":
                return
        yield event("end", {"address": f"{visitor.base}/c/{pending.conversation}", "state": pending.state})

    async def stop(self, request: Request, visitor: Visitor) -> Response:
        """Stop an answer."""
        await read_form(request, self.room, visitor)
        pending = self.room.desk.find(request.path_params["turn"], self.room.key(visitor.name))
        if pending is None:
            raise NotHere
        await self.room.stop(pending)
        return see_other(f"{visitor.base}/c/{pending.conversation}#end")


class _Sent(Exception):
    """The message was sent before."""

    def __init__(self, pending: Pending) -> None:
        super().__init__("sent before")
        self.pending = pending


def event(name: str, fields: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(fields)}\n\n".encode()


def title_of(text: str) -> str:
    """Title of a conversation that begins with a text."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59].rsplit(" ", 1)[0] + "…"


def messages(
    turns: Sequence[TurnView], text: str, picture: bytes | None, blob: Callable[[str], bytes | None]
) -> list[dict[str, Any]]:
    """Messages of a request: the conversation so far, and what is said now.

    Args:
        turns: the conversation.
        text: what the user says.
        picture: picture that the message is about; without one no earlier picture is sent either.
        blob: content of a picture by its digest; None where it is gone.
    """
    made: list[dict[str, Any]] = []
    left = PICTURES if picture is not None else 0
    for turn in reversed(turns[-LOOKED_AT:]):
        answer = next((one for one in turn.answers if one.trace == turn.chosen), None) or turn.answers[0]
        if answer.status not in ("ok", "refused"):
            continue
        kept = (
            []
            if not left
            else [c for d in turn.pictures if (c := blob(d)) is not None and c != picture][:left]
        )
        left -= len(kept)
        made.append({"role": "assistant", "content": answer.text or "[a picture]"})
        made.append(_user(turn.text or "[a picture]", kept))
    return [*reversed(made), _user(text, [] if picture is None else [picture])]


def _user(text: str, pictures: Sequence[bytes]) -> dict[str, Any]:
    if not pictures:
        return {"role": "user", "content": text}
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for one in pictures:
        url = f"data:{Image(one).media_type};base64,{base64.b64encode(one).decode('ascii')}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"role": "user", "content": parts}
