"""`noria tryon serve`: garments tried on in the operator's clips, as jobs over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from noria.core.config import Argument
from noria.core.errors import ConfigError
from noria.core.files import output_path
from noria.core.progress import Progress
from noria.tryon.pipeline.settings import SamplingConfig
from noria.tryon.verbs.options import ModelChoice, ScreenOptions, silence_libraries
from noria.verbs.command import command as make_command
from noria.verbs.options import ListenOptions, OutputOption


class ServeConfig(ModelChoice, SamplingConfig, ScreenOptions, ListenOptions, OutputOption):
    """Settings of `noria tryon serve`."""

    clips: Annotated[Path | None, Argument()] = Field(
        None, description="Manifest of the clips on offer, of people who agreed to it, as prepare reads it."
    )
    uploads: bool = Field(False, description="Take clips of callers, too: a video and its mask.")
    waiting: int = Field(16, ge=1, le=4096, description="Jobs that may wait; more are answered 503.")


@make_command(ServeConfig, extra="tryon", needs=("torch", "diffusers", "av"))
def command(config: ServeConfig) -> None:
    """Take garments, each with the token, and generate their videos one after the other."""
    if config.clips is None and not config.uploads:
        raise ConfigError("nothing to dress", where="CLIPS", mend="give a manifest of clips, or --uploads")
    silence_libraries()

    from noria.core.service.hosting import serve_routes
    from noria.tryon.service.clips import Clips
    from noria.tryon.service.service import TryOnService
    from noria.tryon.verbs.options import open_model

    screen = config.screener()
    clips = Clips(config.clips, uploads=config.uploads)
    pipeline = open_model(config, Progress(quiet=True))
    folder = output_path(config.output) if config.output else Path("runs/tryon/serve")

    try_ons = TryOnService(
        pipeline, clips, config.part(SamplingConfig), folder,
        screen=screen, screened=config.screen_digest(), waiting=config.waiting,
    )  # fmt: skip
    serve_routes("tryon", try_ons.routes(), config, around=try_ons.jobs.running, folder=folder / "try-ons")
