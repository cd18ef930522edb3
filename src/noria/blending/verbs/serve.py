"""`noria blending serve`: ranks over HTTP, and learns from what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from noria.blending.service.config import ServeConfig
from noria.blending.verbs.options import FolderOption
from noria.core.config import Argument
from noria.core.errors import ConfigError
from noria.verbs.command import command as make_command


class ServeVerbConfig(ServeConfig):
    """Settings of `noria blending serve`."""

    snapshot: Annotated[Path | None, Argument()] = Field(
        None, description="Snapshot to serve, watched for a new one."
    )
    state: FolderOption = Field(None, description="Folder of the log and of what serves.")


@make_command(ServeVerbConfig, extra="serve")
def command(config: ServeVerbConfig) -> None:
    """Serve SNAPSHOT, a file that `noria blending fit` writes, and every later one that takes its place.

    Without --state nothing is logged or kept. With it, the service resumes from there when it is started again.
    """
    if config.snapshot is None and config.state is None:
        raise ConfigError(
            "nothing to serve", where="snapshot", mend="give a snapshot, or --state of an earlier run"
        )
    given = sorted(config.model_fields_set & {"nearline", "keep_log_gib"})
    if config.state is None and given:
        raise ConfigError("without a log there is nothing for it", where=given[0], mend="give --state")
    from noria.blending.service.process import serve_feed

    serve_feed(config.snapshot, config.state, config)
