"""`noria blending log`: a service's log as Parquet tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument
from noria.core.files import output_path
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption

__all__ = ["LogConfig", "command"]


class LogConfig(OutputOption):
    """Settings of `noria blending log`."""

    state: Annotated[Path, Argument()] = Field(description="Folder of a service.")
    overwrite: bool = Field(False, description="Replace an earlier export.")


@make_command(LogConfig, extra="serve")
def command(config: LogConfig) -> None:
    """Write exposures, outcomes and sampled candidates of the service in STATE, for fit, attribute and replay."""
    from noria.blending.service.journal.exporting import export_log

    folder = output_path(config.output or "runs/blending/log")
    export = export_log(config.state, folder, overwrite=config.overwrite)
    for name, rows in export.rows.items():
        click.echo(f"{name:<11} {export.folder / f'{name}.parquet'}   {rows:,} rows")
    for reason, number in sorted(export.left.items()):
        click.echo(f"left out    {number:,} {reason}")
