"""`noria reports serve`: reports as jobs over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from noria.core.config import Argument
from noria.core.files import output_path
from noria.verbs.command import command as make_command
from noria.verbs.options import ListenOptions, OutputOption


class ServeConfig(ListenOptions, OutputOption):
    """Settings of `noria reports serve`."""

    index: Annotated[Path, Argument()] = Field(description="File of the index (noria reports index).")
    seconds: float = Field(600.0, gt=0, le=86_400, description="Most seconds of a report.")


@make_command(ServeConfig, extra="serve")
def command(config: ServeConfig) -> None:
    """Take requests, each with the token, and write their reports one after the other."""
    from noria.reports.service.process import serve_reports

    folder = output_path(config.output) if config.output else Path("runs/reports/serve")
    serve_reports(
        config.index,
        folder,
        seconds=config.seconds,
        token_file=config.token_file,
        host=config.host,
        port=config.port,
    )
