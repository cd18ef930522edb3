"""`noria editing serve`: planner and editor as one OpenAI-compatible editor."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError
from noria.editing.verbs.options import (
    EditorOptions,
    JudgeOptions,
    PlannerOptions,
    check_planner,
    opened_judges,
    opened_planner,
    opened_renderer,
    running_planner,
)
from noria.verbs.command import command as make_command
from noria.verbs.options import ListenOptions, VersionsOption

if TYPE_CHECKING:
    from noria.editing.use.session import ThinkThenEdit


class ServeConfig(PlannerOptions, EditorOptions, JudgeOptions, VersionsOption, ListenOptions):
    """Settings of `noria editing serve`."""

    name: Annotated[str, Option("--as", metavar="NAME")] = Field(
        "think-then-edit", min_length=1, description="Name of the model that the service answers to."
    )
    edits: int = Field(8, ge=1, le=256, description="Edits under way at once; more are answered 429.")
    seconds: float = Field(600.0, gt=0, le=86_400, description="Most seconds of an edit.")


@make_command(ServeConfig, extra="serve")
def command(config: ServeConfig) -> None:
    """Serve /v1/images/edits: each picture is planned first, and the plan comes back with it."""
    from noria.core.service.hosting import serve_routes
    from noria.core.service.serving import Limits
    from noria.core.versions.served import ServedVersions
    from noria.editing.service.service import BODY, EditService

    check_planner(config)
    if (config.editor_url is None) == (config.pipeline is None):
        raise ConfigError("no editor, or two", where="--editor-url", mend="give it, or --pipeline")

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[ThinkThenEdit]:
        from noria.editing.use.session import ThinkThenEdit

        async with (
            opened_planner(config) as planner,
            opened_renderer(config) as renderer,
            opened_judges(config) as judges,
        ):
            thinking = config.thinking and not config.direct
            yield ThinkThenEdit(planner, renderer, judges=judges, need_thinking=thinking)

    versions = None
    if config.versions is not None:
        versions = ServedVersions(config.versions, "planner", functools.partial(running_planner, config))
    edits = EditService(
        opened, config.name, in_flight=config.edits, seconds=config.seconds, versions=versions
    )
    limits = Limits(body_bytes=BODY, seconds=config.seconds)
    serve_routes("editing", edits.routes(), config, limits=limits, around=edits.around)
