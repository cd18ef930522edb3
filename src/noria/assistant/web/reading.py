"""Pages of conversations, the list of them, their titles, and the files that they show."""

from __future__ import annotations

import asyncio
from typing import Any

from noria.assistant.web.desk import Pending
from noria.assistant.web.forms import read_form, see_other
from noria.assistant.web.room import LOOKED_AT, NotHere, Room
from noria.assistant.web.talking import title_of
from noria.assistant.web.views import TurnView, file_names, last_picture, media_of
from noria.assistant.web.visitors import history
from noria.assistant.web.visitors.history import Conversation
from noria.assistant.web.visitors.sessions import Visitor
from noria.core.service.serving import Request, Response

_KINDS = (
    (b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"),
    (b"\x1aE\xdf\xa3", "video/webm"),
)  # fmt: skip
_HOSTILE = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; media-src data:"
)
"""Policy of a tool's page: it runs no script, sends no form, fetches nothing, and has no origin."""


class Reading:
    """Endpoints that show, list, rename, delete and export conversations.

    Args:
        room: what all pages share.
    """

    def __init__(self, room: Room) -> None:
        self.room = room

    async def empty(self, request: Request, visitor: Visitor) -> Response:
        """A new conversation."""
        return await asyncio.to_thread(self._page, visitor, Conversation(history.new_name()), request)

    async def one(self, request: Request, visitor: Visitor) -> Response:
        """A conversation, with what is being answered."""
        user, name = self.room.key(visitor.name), request.path_params["conversation"]
        found = self.room.history.read(user, name)
        if found is None:
            pending = self.room.desk.open_of(user) or self.room.desk.ended_of(user, name)
            if pending is None or pending.conversation != name:
                raise NotHere
            found = Conversation(name)
        return await asyncio.to_thread(self._page, visitor, found, request)

    def _page(self, visitor: Visitor, one: Conversation, request: Request) -> Response:
        room, user = self.room, self.room.key(visitor.name)
        everything = request.query_params.get("all") == "1"
        turns = room.turns(visitor, one, most=None if everything else LOOKED_AT)
        pending = self._pending(user, one)
        subject = None if request.query_params.get("about") == "none" else last_picture(turns)
        wished = request.query_params.get("about", "").partition("/")
        if wished[2] and any(wished[2] in _digests(turn) for turn in turns):
            subject = wished[0], wished[2]
        progress = room.part_of_pending(visitor, pending) if pending is not None and pending.is_open else None
        return room.page(
            "chat.html", visitor, one=one, turns=turns, pending=pending, progress=progress, subject=subject,
            earlier=0 if everything else max(0, len(one.turns) - LOOKED_AT), sending=history.new_name(),
        )  # fmt: skip

    def _pending(self, user: str, one: Conversation) -> Pending | None:
        """What is being answered here, or ended without a trace after the last turn."""
        pending = self.room.desk.open_of(user)
        if pending is not None:
            return pending if pending.conversation == one.id else None
        ended = self.room.desk.ended_of(user, one.id)
        return None if ended is None or any(t.sent == ended.id for t in one.turns) else ended

    async def all(self, request: Request, visitor: Visitor) -> Response:
        """All conversations of the visitor."""
        found = await asyncio.to_thread(self.room.history.list, self.room.key(visitor.name))
        return self.room.page("conversations.html", visitor, found=found)

    async def rename(self, request: Request, visitor: Visitor) -> Response:
        """Give a conversation another title."""
        form = await read_form(request, self.room, visitor)
        title = self.room.state.gateway.recorder.redactor.redact(form.get("title"))[0]
        self.room.history.rename(self.room.key(visitor.name), self._name(request, visitor), title_of(title))
        return see_other(f"{visitor.base}/conversations")

    async def delete(self, request: Request, visitor: Visitor) -> Response:
        """Delete a conversation: its traces, what was said of them, and its pictures."""
        await read_form(request, self.room, visitor)
        user, name = self.room.key(visitor.name), self._name(request, visitor)
        pending = self.room.desk.open_of(user)
        if pending is not None and pending.conversation == name:
            await self.room.stop(pending)
        one = self.room.history.read(user, name)
        traces = [trace for turn in one.turns for trace in turn.traces] if one is not None else []
        records = await self.room.state.store.remove(traces)
        self.room.history.remove(user, name)
        found = await asyncio.to_thread(self.room.history.list, user)
        said = self.room.text("deleted", records=records)
        return self.room.page("conversations.html", visitor, found=found, said=said)

    def _name(self, request: Request, visitor: Visitor) -> str:
        name: str = request.path_params["conversation"]
        if self.room.history.read(self.room.key(visitor.name), name) is None:
            raise NotHere
        return name

    async def file(self, request: Request, visitor: Visitor) -> Response:
        """A file of a trace of the visitor's: a picture, a video, or the page of a report without any power."""
        trace = self.room.view(visitor, request.path_params["trace"]).trace
        digest = request.path_params["digest"]
        if digest not in file_names(trace):
            raise NotHere
        content = await asyncio.to_thread(self.room.state.store.blob, digest)
        if content is None:
            return _response(_gone(self.room.text("gone")), "image/svg+xml", status=404)
        kind = media_type(content, media_of(trace, digest))
        headers = {} if kind != "application/octet-stream" else {"content-disposition": "attachment"}
        if kind.startswith("video/"):
            return _ranged(request, content, kind)
        return _response(content, kind, headers=headers)


def media_type(content: bytes, named: str) -> str:
    """Media type of a file: by its first bytes where a browser may draw it, HTML where its trace says so."""
    for start, kind in _KINDS:
        if content.startswith(start):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    if content[4:8] == b"ftyp":
        return "video/mp4"
    return "text/html; charset=utf-8" if named == "text/html" else "application/octet-stream"


def _response(
    content: bytes, kind: str, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(
        content,
        status,
        {
            "content-type": kind,
            "content-security-policy": _HOSTILE + "; frame-ancestors 'self'",
            "cache-control": "private, max-age=3600" if status == 200 else "no-store",
            "cross-origin-resource-policy": "same-origin",
            "referrer-policy": "no-referrer",
            **(headers or {}),
        },
    )


def _ranged(request: Request, content: bytes, kind: str) -> Response:
    """A video, or the piece of it that a browser asks for: without pieces nobody can seek, and Safari plays nothing."""
    unit, _, wish = request.headers.get("range", "").partition("=")
    first, _, last = wish.partition("-")
    if len(wish) > 40:  # more digits than any file has bytes
        unit = ""
    start = int(first) if unit and first.isdecimal() else 0
    end = min(int(last), len(content) - 1) if unit and last.isdecimal() else len(content) - 1
    if unit != "bytes" or not first.isdecimal() or "," in wish or not start <= end:
        return _response(content, kind, headers={"accept-ranges": "bytes"})
    headers = {"accept-ranges": "bytes", "content-range": f"bytes {start}-{end}/{len(content)}"}
    return _response(content[start : end + 1], kind, status=206, headers=headers)


def _digests(turn: TurnView) -> set[str]:
    found: set[Any] = {*turn.pictures, turn.about}
    for answer in turn.answers:
        found |= {*answer.pictures, *(d for one in answer.shown for d in one.fields["digests"])}
    return found


def _gone(words: str) -> bytes:
    from markupsafe import escape

    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="320" height="200" viewBox="0 0 320 200">'
        '<rect width="320" height="200" fill="#8884"/><text x="160" y="104" text-anchor="middle" '
        f'font-family="sans-serif" font-size="14" fill="#777">{escape(words)}</text></svg>'
    ).encode()
