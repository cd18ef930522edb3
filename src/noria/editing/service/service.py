"""Endpoints of `noria editing serve`.

POST   /v1/images/edits   OpenAI's, as a form or JSON; each picture has its plan as `revised_prompt`, and `noria` beside
GET    /v1/models         the one model that it serves

A request whose model is the content hash of a planner among the versions is planned by that one; its answer names it.

Fields beyond OpenAI's: `tries` and `samples` (plan, edit, check, again), `plan` (a plan of the caller's, in the place
of the planner's), `show_thinking`. What cannot be honoured is refused by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from noria.core.completions.answers import model_list
from noria.core.completions.images import ImageRequest, images_answer, read_edit, refuse_fields
from noria.core.completions.versions import named_version, version_field
from noria.core.errors import DataError, NoriaError, caller_line
from noria.core.judging.items import Checklist
from noria.core.picture_files import open_picture, png
from noria.core.service.responses import HttpError, json_response
from noria.core.service.serving import Request, Response, Route, Service, route
from noria.core.versions.served import ServedVersions
from noria.editing.checklists.items import items_of
from noria.editing.data.pictures import Scene, open_mask
from noria.editing.plans import LONGEST_PLAN, Plan
from noria.editing.types import Planner
from noria.editing.use.session import EditResult, ThinkThenEdit

BODY = 64 << 20
"""Most bytes of a request."""
MOST_TRIES = 8
_EXTRA = {"tries", "samples", "plan", "show_thinking", "checklist"}
_NO_PICTURE: Mapping[str, str] = {
    "refused": "the editor declined the request",
    "timeout": "the editor made no picture in time",
    "unreachable": "the editor does not answer; the service's log says why",
    "broken": "the editor made no picture; the service's log says why",
    "size": "the editor's picture has another shape than the source",
    "unsupported": "the editor takes no mask, or no more than one picture",
}
"""Lines by which failures of the editor are answered; what it said itself is for the log."""
log = logging.getLogger("noria.serving")


@dataclass(frozen=True)
class Wish:
    """The checked fields of a request beyond those of OpenAI."""

    tries: int = 1
    samples: int = 1
    plan: str = ""
    show_thinking: bool = False
    checklist: Checklist | None = None


class EditService:
    """A planner and an editor behind OpenAI's route.

    Args:
        opened: opens planner, editor and judges on the service's own event loop.
        model: name that the service answers to; a request may leave it out.
        in_flight: requests under way at once; more are answered 429.
        seconds: longest time of a request.
        versions: planners that a request may name by their content hash; none by default.
    """

    def __init__(
        self,
        opened: Callable[[], AbstractAsyncContextManager[ThinkThenEdit]],
        model: str,
        *,
        in_flight: int = 8,
        seconds: float = 600.0,
        versions: ServedVersions[Planner] | None = None,
    ) -> None:
        self.opened, self.model, self.in_flight, self.seconds = opened, model, in_flight, seconds
        self.versions = versions
        self._edit: ThinkThenEdit | None = None
        self._under_way = 0

    @property
    def edit(self) -> ThinkThenEdit:
        """Planner, editor and judges, while the service runs."""
        assert self._edit is not None
        return self._edit

    @contextlib.asynccontextmanager
    async def around(self, service: Service) -> AsyncIterator[None]:
        """Hold planner, editor and judges open while the service runs."""
        async with self.opened() as self._edit:
            try:
                yield
            finally:
                if self.versions is not None:
                    await self.versions.close()

    def routes(self) -> list[Route]:
        """The routes of the service."""
        return [
            route("/v1/images/edits", self._edits, methods=("POST",), body_bytes=BODY, seconds=self.seconds),
            route("/v1/models", self._models),
        ]

    async def _models(self, request: Request) -> Response:
        return json_response(model_list([self.model]))

    async def _edits(self, request: Request) -> Response:
        asked = await read_edit(request)
        wish = read_wish(asked, judged=self.edit.judges is not None)
        if self._under_way >= self.in_flight:
            raise HttpError(429, "busy", f"{self.in_flight} edits are under way; try again")
        self._under_way += 1
        try:
            scene = await asyncio.to_thread(_scene, asked)
            if asked.size not in (None, scene.source.size):
                raise HttpError(400, "bad_size", "an edit has the size of its picture", param="size")
            async with named_version(asked.model, self.model, self.versions) as planner:
                edit = self._with(planner)
                results = await asyncio.gather(
                    *(self._one(edit, asked, wish, scene, n) for n in range(asked.n))
                )
        except DataError as error:
            raise HttpError(400, "bad_request", error.what, param=error.where) from None
        except NoriaError as error:
            log.warning("the planner failed: %s", error)
            raise HttpError(502, "planner_failed", f"no plan: {caller_line(error)}") from None
        finally:
            self._under_way -= 1
        return self._answer(results, wish, asked.model)

    def _with(self, planner: Planner | None) -> ThinkThenEdit:
        """Editor and judges of the service behind a version of its planner."""
        own = self.edit
        if planner is None:
            return own
        return ThinkThenEdit(planner, own.renderer, judges=own.judges, need_thinking=own.need_thinking)

    async def _one(
        self, edit: ThinkThenEdit, asked: ImageRequest, wish: Wish, scene: Scene, number: int
    ) -> EditResult:
        seed = (asked.seed or 0) + number
        if wish.plan:
            items = wish.checklist or Checklist(())
            return await edit.render(scene, asked.prompt, Plan(wish.plan), items, seed)
        results = await edit.edit(
            scene, asked.prompt, checklist=wish.checklist, tries=wish.tries, samples=wish.samples, seed=seed
        )
        return results[0]

    def _answer(self, results: list[EditResult], wish: Wish, model: str) -> Response:
        failed = [one for one in results if one.image is None]
        if failed:
            rendering = failed[0].rendering
            kind = "no_plan" if rendering is None else str(rendering.failure)
            status = {"refused": 400, "timeout": 504, "unsupported": 400}.get(kind, 502)
            code = "content_filter" if kind == "refused" else kind
            log.warning("no picture: %s", failed[0].why)
            raise HttpError(status, code, _NO_PICTURE.get(kind, failed[0].why))
        version = version_field(model, self.model)
        each = [
            {"revised_prompt": one.plan.text, "noria": {**version, **_shown(one, wish)}} for one in results
        ]
        files = [png(one.image) for one in results if one.image is not None]
        return json_response(images_answer(files, each=each, more={"output_format": "png"}))


def read_wish(asked: ImageRequest, *, judged: bool) -> Wish:
    """Read the fields beyond OpenAI's.

    Args:
        asked: the request.
        judged: whether there is a judge.

    Raises:
        HttpError: 400, a field that is not known here, malformed, or needs a judge that is not there.
    """
    from noria.editing.checklists.items import checklist_from_json

    refuse_fields(asked, honoured=_EXTRA)
    extra = asked.extra
    tries, samples = (_whole(extra, name) for name in ("tries", "samples"))
    plan, show = extra.get("plan", ""), extra.get("show_thinking", False)
    if not isinstance(plan, str) or len(plan) > LONGEST_PLAN:
        raise HttpError(
            400, "bad_plan", f"plan is a text of at most {LONGEST_PLAN:,} characters", param="plan"
        )
    if plan and (
        unused := next((name for name in ("tries", "samples") if extra.get(name, 1) not in (1, "1")), None)
    ):
        raise HttpError(
            400,
            "unsupported_field",
            f"{unused} is of the planner's plans: a given plan is rendered once",
            param=unused,
        )
    if show not in (True, False, "true", "false"):
        raise HttpError(400, "bad_show_thinking", "show_thinking is true or false", param="show_thinking")
    checklist, given = None, extra.get("checklist")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise HttpError(400, "bad_checklist", "checklist is JSON", param="checklist") from None
    if given is not None:
        try:
            checklist = checklist_from_json(given)
        except DataError as error:
            raise HttpError(400, "bad_checklist", str(error), param="checklist") from None
    if (tries > 1 or samples > 1 or checklist is not None) and (not judged or checklist is None):
        raise HttpError(
            400, "no_judge", "tries, samples and checklist need a judge and a checklist", param="checklist"
        )
    return Wish(tries, samples, plan, show in (True, "true"), checklist)


def _whole(extra: Mapping[str, Any], name: str) -> int:
    value = extra.get(name, 1)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if type(value) is not int or not 1 <= value <= MOST_TRIES:
        raise HttpError(400, f"bad_{name}", f"{name} is a whole number from 1 to {MOST_TRIES}", param=name)
    return value


def _scene(asked: ImageRequest) -> Scene:
    images = tuple(open_picture(one.data) for one in asked.images)
    mask = None if asked.mask is None else open_mask(asked.mask.data, images[0].size)
    return Scene(images, mask)


def _shown(result: EditResult, wish: Wish) -> dict[str, Any]:
    """What a caller sees of a result beside its picture."""
    shown: dict[str, Any] = {"seed": result.seed}
    if wish.show_thinking:
        shown["thinking"] = result.plan.thinking
    if result.rendering is not None and result.rendering.registered:
        shown["registered"] = result.rendering.registered
    if result.verdicts:
        names = {item.id for item in items_of(result.checklist, canaries=False)}
        shown["verdicts"] = {one.item: one.value for one in result.verdicts if one.item in names}
        shown["r_cog"], shown["r_vis"] = result.cognitive.value, result.visual.value
    return shown
