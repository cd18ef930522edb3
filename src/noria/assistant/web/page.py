"""The page for people: its routes at /chat, and the same at /chat/embed for the pages of a shop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from importlib.resources import files

from starlette.routing import Match
from starlette.types import Scope

from noria.assistant.config import AssistantConfig
from noria.assistant.service.service import GatewayState, Pages
from noria.assistant.web.colours import shades
from noria.assistant.web.forms import body_limit, see_other
from noria.assistant.web.reading import Reading
from noria.assistant.web.room import NotHere, Refused, Room
from noria.assistant.web.saying import Saying
from noria.assistant.web.talking import Talking
from noria.assistant.web.texts import read_texts
from noria.assistant.web.visitors.sessions import Visitor
from noria.assistant.web.yours import Yours
from noria.core.errors import NoriaError, RunError
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Request, Response, Route, asset, route

log = logging.getLogger("noria.serving")
BASES = ("/chat", "/chat/embed")
"""Paths of the pages: by themselves, and inside of another page."""
Handler = Callable[[Request, Visitor], Awaitable[Response]]


def open_page(config: AssistantConfig) -> Callable[[GatewayState], Pages]:
    """Open the page of a gateway with all that it depends on.

    Raises:
        ConfigError: a text of the configuration is none.
    """
    read_texts(config.page.texts)
    return lambda state: Page(Room(state, config))


class Page:
    """The page of a gateway.

    Args:
        room: what all pages share.
    """

    def __init__(self, room: Room) -> None:
        self.room = room
        self.talking, self.reading = Talking(room), Reading(room)
        self.saying, self.yours = Saying(room), Yours(room)

    def routes(self) -> list[Route]:
        """The routes of the pages, their forms, and the files that they load."""
        style = _colours(self.room.config.page.accent) + _file("chat.css")
        made = [
            asset("/chat/assets/chat.css", style, "text/css; charset=utf-8", access="open"),
            asset("/chat/assets/chat.js", _file("chat.js"), "text/javascript; charset=utf-8", access="open"),
            asset("/chat/assets/icon.svg", self._icon(), "image/svg+xml", access="open"),
            route("/chat/embed.js", self._snippet, access="open"),
        ]
        for base in BASES[::-1]:  # the longer one first
            made += self._below(base)
        if self.room.config.page.hosts:
            made.append(_AtHosts(route("/", self._home, access="open"), self.room.config.page.hosts))
        return made

    def _below(self, base: str) -> list[Route]:
        room, seconds = self.room, self.room.config.seconds + 60.0

        def get(path: str, handler: Handler, **limits: float) -> Route:
            return route(base + path, self._handled(handler, base), access="open", **limits)  # type: ignore[arg-type]

        def post(
            path: str, handler: Handler, body_bytes: int = 1 << 17, seconds: float | None = None
        ) -> Route:
            handled = self._handled(handler, base)
            return route(
                base + path, handled, methods=("POST",), access="open", body_bytes=body_bytes, seconds=seconds
            )

        return [
            get("", self.reading.empty),
            get("/c/{conversation}", self.reading.one),
            post("/send", self.talking.send, body_limit(room)),
            get("/turns/{turn}", self.talking.events, seconds=seconds * (1 + room.config.page.queue)),
            post("/turns/{turn}/stop", self.talking.stop),
            post("/feedback", self.saying.say),
            get("/conversations", self.reading.all),
            post("/c/{conversation}/rename", self.reading.rename),
            post("/c/{conversation}/delete", self.reading.delete),
            get("/files/{trace}/{digest}", self.reading.file),
            get("/account", self.yours.account),
            post("/account", self.yours.act),
            get("/data", self.yours.data),
            get("/data/export", self.yours.export, seconds=300.0),
            post("/data/delete", self.yours.delete, seconds=300.0),
        ]

    async def close(self) -> None:
        """Give what is under way some time to end."""
        await self.room.desk.close()

    def _handled(self, handler: Handler, base: str) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that knows its visitor, and says in a page what it does not do."""
        room = self.room

        async def visited(request: Request) -> Response:
            visitor = await asyncio.to_thread(room.sessions.visitor, request, base)
            if not room.is_open(request):
                return _said(room, request, visitor, "off", 404)
            try:
                return await handler(request, visitor)
            except NotHere:
                return _said(room, request, visitor, "lost", 404)
            except Refused as refused:
                return _said(room, request, visitor, refused.key, refused.status, **refused.places)
            except HttpError as error:
                if error.status != 413:
                    raise
                most = f"{room.config.page.picture_bytes / 2**20:.3g}"
                return _said(room, request, visitor, "request_large", 413, most=most)

        async def answer(request: Request) -> Response:
            try:
                return await visited(request)
            except NoriaError as error:
                log.warning("the page cannot answer: %s", error)
                status = 503 if isinstance(error, RunError) else 400
                if request.headers.get("x-part") == "1":
                    return json_response({"said": room.text("unable")}, status=status)
                return room.unable(base, status=status)

        return answer

    async def _home(self, request: Request) -> Response:
        return see_other("/chat")

    async def _snippet(self, request: Request) -> Response:
        """The script by which a shop's page embeds the chat; other origins may load it."""
        headers = {
            "content-type": "text/javascript; charset=utf-8",
            "cache-control": "public, max-age=3600",
            "cross-origin-resource-policy": "cross-origin",
        }
        return Response(_file("embed.js").replace("ACCENT", self.room.config.page.accent), 200, headers)

    def _icon(self) -> str:
        return _file("icon.svg").replace("ACCENT", self.room.config.page.accent)


class _AtHosts(Route):
    """A route for those who come by a public name; for others the next one of its path stands."""

    def __init__(self, inner: Route, hosts: Collection[str]) -> None:
        super().__init__(inner.path, inner.endpoint, methods=["GET"])
        self.hosts = frozenset(hosts)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as a route does, where the Host header is one of the names."""
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower().rpartition(":")
        name = host[0] if host[0] and host[2].isdecimal() else host[2]
        return super().matches(scope) if name in self.hosts else (Match.NONE, {})


def _said(
    room: Room, request: Request, visitor: Visitor, key: str, status: int, **places: object
) -> Response:
    """One thing that is said, to a script or as a page."""
    if request.headers.get("x-part") == "1":
        return json_response({"said": room.text(key, **places)}, status=status)
    return room.told(visitor, key, status=status, **places)


def _colours(accent: str) -> str:
    light, dark = (
        " ".join(f"--{name}: {value};" for name, value in colours.items())
        for colours in shades(accent).values()
    )
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _file(name: str) -> str:
    return (files("noria.assistant.web") / "templates" / name).read_text(encoding="utf-8")
