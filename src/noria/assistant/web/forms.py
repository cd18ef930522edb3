"""Forms: read within bounds, with the token that says that this page made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from noria.assistant.web.room import Refused, Room
from noria.assistant.web.visitors.sessions import Visitor
from noria.core.service.serving import Request, Response

_FIELDS = 40
_SPARE = 1 << 17
"""Bytes of a form beside its picture."""


@dataclass(frozen=True)
class Form:
    """The fields of a form, and its picture if it has one."""

    fields: Mapping[str, str]
    picture: bytes = b""

    def get(self, name: str) -> str:
        """A field; empty where the form has none."""
        return self.fields.get(name, "")


async def read_form(request: Request, room: Room, visitor: Visitor) -> Form:
    """Read a form of this visitor.

    Raises:
        Refused: it is none, or was not made for this visitor.
    """
    fields, picture = {}, b""
    try:
        async with request.form(max_files=4, max_fields=_FIELDS, max_part_size=_SPARE) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    picture = picture or await value.read()
                elif value or name not in fields:
                    # a form may name a charset that has halves of characters, which nothing can write
                    fields[name] = value.encode("utf-8", "replace").decode()
    except (MultiPartException, HTTPException, UnicodeDecodeError, ValueError):
        raise Refused("stale") from None
    if not room.sessions.right_token(visitor, fields.get("token")):
        raise Refused("stale", status=403)
    return Form(fields, picture)


def body_limit(room: Room) -> int:
    """Most bytes of the body of a form with a picture."""
    return room.config.page.picture_bytes + _SPARE


def see_other(where: str) -> Response:
    """Lead a browser to a page with GET."""
    return Response(None, 303, {"location": where, "cache-control": "no-store"})
