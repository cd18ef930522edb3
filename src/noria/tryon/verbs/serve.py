"""`noria tryon serve`: garments tried on in the operator's clips, as jobs over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.files import output_path
from noria.core.progress import Progress
from noria.tryon.pipeline.settings import SamplingConfig
from noria.tryon.verbs.options import ModelChoice, silence_libraries
from noria.verbs.command import command as make_command
from noria.verbs.options import ListenOptions, OutputOption

if TYPE_CHECKING:
    from noria.tryon.video.clips import Clip


class ServeConfig(ModelChoice, SamplingConfig, ListenOptions, OutputOption):
    """Settings of `noria tryon serve`."""

    clips: Annotated[Path | None, Argument()] = Field(
        None, description="Manifest of the clips on offer, of people who agreed to it, as prepare reads it."
    )
    uploads: bool = Field(False, description="Take clips of callers, too: a video and its mask.")
    screen_url: str | None = Field(
        None, description="API of a model that must clear such a clip first: no minors, no nudity."
    )
    screen_model: Annotated[str | None, Option(metavar="NAME")] = Field(
        None, description="Name of that model; no answer is a refusal."
    )
    waiting: int = Field(16, ge=1, le=4096, description="Jobs that may wait; more are answered 503.")


@make_command(ServeConfig, extra="tryon", needs=("torch", "diffusers", "av"))
def command(config: ServeConfig) -> None:
    """Take garments, each with the token, and generate their videos one after the other."""
    if config.clips is None and not config.uploads:
        raise ConfigError("nothing to dress", where="CLIPS", mend="give a manifest of clips, or --uploads")
    if (config.screen_url is None) != (config.screen_model is None):
        raise ConfigError("half a model to ask", where="--screen-url, --screen-model", mend="give both")
    silence_libraries()

    from noria.core.service.hosting import serve_routes
    from noria.tryon.service.clips import Clips
    from noria.tryon.service.service import TryOnService
    from noria.tryon.verbs.options import open_model

    clips = Clips(config.clips, uploads=config.uploads)
    pipeline = open_model(config, Progress(quiet=True))
    folder = output_path(config.output) if config.output else Path("runs/tryon/serve")

    def screened(clip: Clip) -> None:
        from noria.core.chat import ChatServer
        from noria.tryon.integrations.judge import screen

        screen(clip, ChatServer(url=str(config.screen_url), model=str(config.screen_model)))

    try_ons = TryOnService(
        pipeline, clips, config.part(SamplingConfig), folder,
        screen=None if config.screen_url is None else screened, waiting=config.waiting,
    )  # fmt: skip
    serve_routes("tryon", try_ons.routes(), config, around=try_ons.jobs.running, folder=folder / "try-ons")
