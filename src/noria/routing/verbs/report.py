"""`noria routing report`: the page of a training, written again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Config
from noria.verbs.command import command as make_command

__all__ = ["ReportConfig", "command"]


class ReportConfig(Config):
    """Settings of `noria routing report`."""

    run: Annotated[Path, Argument()] = Field(description="Run folder of a training.")


@make_command(ReportConfig, extra="routing")
def command(config: ReportConfig) -> None:
    """Write the page of a training: learning curves, the signal by component, gradient shares by data set."""
    from noria.routing.routers.page import write_run_page

    click.echo(f"report  {write_run_page(config.run)}")
