"""`noria distill report`: write a run's report again, from the files in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Config
from noria.distill.verbs.pages import write_run_page
from noria.verbs.command import command as make_command

__all__ = ["ReportConfig", "command"]


class ReportConfig(Config):
    """Settings of `noria distill report`."""

    source: Annotated[Path, Argument()] = Field(description="Folder of the run.")


@make_command(ReportConfig)
def command(config: ReportConfig) -> None:
    """Write a run's report again, from the files in its folder."""
    click.echo(f"report  {write_run_page(config.source)}")
