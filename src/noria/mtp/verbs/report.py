"""`noria mtp report`: a run's page, drawn again from the files in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Config
from noria.mtp.verbs.train import write_run_page
from noria.verbs.command import command as make_command


class ReportConfig(Config):
    """Settings of `noria mtp report`."""

    source: Annotated[Path, Argument()] = Field(description="Run folder of a training.")


@make_command(ReportConfig, extra="mtp")
def command(config: ReportConfig) -> None:
    """Write a run's report again, from the files in its folder."""
    click.echo(f"report  {write_run_page(config.source)}")
