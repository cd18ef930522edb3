"""Endpoints of `noria distill serve`.

POST   /v1/images/generations   OpenAI's; each picture has the seed that draws it again beside it, as `noria`
GET    /v1/models               the one model that it serves

A request whose model is the content hash of a student among the versions is drawn by that one, and its answer names it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from noria.core.completions.answers import model_list
from noria.core.completions.images import ImageRequest, images_answer, read_generation, refuse_fields
from noria.core.completions.versions import named_version, version_field
from noria.core.errors import DataError, NoriaError, caller_line
from noria.core.service.batching import Batching
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Request, Response, Route, Service, route
from noria.core.versions.served import ServedVersions
from noria.distill.service.drawing import Painter, Wish, check_prompt, draw_all

log = logging.getLogger("noria.serving")


@dataclass(frozen=True)
class Drawing:
    """A painter, and the pictures that wait for it.

    Attributes:
        painter: what draws.
        batch_size: pictures that are drawn together.
        waiting: most pictures that may wait.
    """

    painter: Painter
    batch_size: int = 4
    waiting: int = 64
    batching: Batching[Wish, bytes] = field(init=False)
    size: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        work = functools.partial(draw_all, self.painter)
        object.__setattr__(self, "batching", Batching(work, size=self.batch_size, waiting=self.waiting))
        object.__setattr__(self, "size", self.painter.size)


class PictureService:
    """A model that draws, behind OpenAI's route.

    Args:
        painter: what draws.
        model: name that the service answers to; a request may leave it out.
        batch_size: pictures that are drawn together.
        waiting: most pictures that may wait; more are answered 429.
        seconds: longest time of a request.
        versions: students that a request may name by their content hash; none by default.
    """

    def __init__(
        self,
        painter: Painter,
        model: str,
        *,
        batch_size: int = 4,
        waiting: int = 64,
        seconds: float = 600.0,
        versions: ServedVersions[Drawing] | None = None,
    ) -> None:
        self.drawing = Drawing(painter, batch_size, waiting)
        self.model, self.seconds, self.versions = model, seconds, versions

    @contextlib.asynccontextmanager
    async def around(self, service: Service) -> AsyncIterator[None]:
        """Draw what comes while the service runs."""
        async with self.drawing.batching.running(service):
            try:
                yield
            finally:
                if self.versions is not None:
                    await self.versions.close()

    def routes(self) -> list[Route]:
        """The routes of the service."""
        return [
            route(
                "/v1/images/generations",
                self._draw,
                methods=("POST",),
                body_bytes=1 << 18,
                seconds=self.seconds,
            ),
            route("/v1/models", self._models),
        ]

    async def _models(self, request: Request) -> Response:
        return json_response(model_list([self.model]))

    async def _draw(self, request: Request) -> Response:
        asked = await read_generation(request)
        refuse_fields(asked)
        async with named_version(asked.model, self.model, self.versions) as version:
            return await self._drawn(request, asked, version or self.drawing)

    async def _drawn(self, request: Request, asked: ImageRequest, drawing: Drawing) -> Response:
        if asked.size not in (None, drawing.size):
            width, height = drawing.size
            raise HttpError(400, "bad_size", f"this model draws {width}x{height} pixels", param="size")
        if drawing.batching.full(asked.n):
            raise HttpError(
                429, "busy", "too many pictures are waiting; try again", headers={"retry-after": "2"}
            )
        seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
        try:
            check_prompt(asked.prompt)
            wishes = [Wish(asked.prompt, seed, number) for number in range(asked.n)]
            files = await request.unless_left(drawing.batching.ask(wishes))
        except DataError as error:
            raise HttpError(400, "bad_prompt", error.what, param="prompt") from None
        except NoriaError as error:
            log.warning("a picture was not drawn: %s", error)
            raise HttpError(502, "not_drawn", caller_line(error)) from None
        version = version_field(asked.model, self.model)
        each = [
            {"noria": {**version, "seed": seed, "number": number, "steps": drawing.painter.grid.steps}}
            for number in range(asked.n)
        ]
        return json_response(images_answer(files, each=each, more={"output_format": "png"}))
