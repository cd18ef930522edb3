"""`noria editing serve`: planner and editor as one OpenAI-compatible editor."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from noria.core.config import Option
from noria.core.errors import ConfigError
from noria.editing.verbs.options import (
    EditorOptions,
    JudgeOptions,
    PlannerOptions,
    opened_judges,
    opened_planner,
    opened_renderer,
)
from noria.verbs.command import command as make_command
from noria.verbs.options import ListenOptions

if TYPE_CHECKING:
    from noria.editing.use.session import ThinkThenEdit


class ServeConfig(PlannerOptions, EditorOptions, JudgeOptions, ListenOptions):
    """Settings of `noria editing serve`."""

    name: Annotated[str, Option("--as", metavar="NAME")] = Field(
        "think-then-edit", min_length=1, description="Name of the model that the service answers to."
    )
    edits: int = Field(8, ge=1, le=256, description="Edits under way at once; more are answered 429.")
    seconds: float = Field(600.0, gt=0, le=86_400, description="Most seconds of an edit.")


@make_command(ServeConfig, extra="serve")
def command(config: ServeConfig) -> None:
    """Serve /v1/images/edits: each picture is planned first, and the plan comes back with it."""
    from noria.editing.service.process import serve_edits

    if not config.direct and not config.url:
        raise ConfigError("no planner", where="--url", mend="give --url and --model of a server, or --direct")
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

    serve_edits(
        opened,
        config.name,
        in_flight=config.edits,
        seconds=config.seconds,
        token_file=config.token_file,
        host=config.host,
        port=config.port,
    )
