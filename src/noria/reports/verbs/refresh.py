"""`noria reports refresh`: a finished report again from newer sources, with the numbers that changed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.runs.outputs import run_folder
from noria.reports.jobs.options import ReportOptions
from noria.reports.verbs.writing import changes_table, prepare_fonts, print_report, shown_progress
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption


class RefreshConfig(ReportOptions, OutputOption, JsonOption, QuietOption):
    """Settings of `noria reports refresh`."""

    report: Annotated[Path, Argument()] = Field(
        description="Folder of the finished report; it is not changed."
    )
    index: Annotated[Path | None, Option("-i", metavar="FILE")] = Field(
        None, description="File of the newer corpus (noria reports index)."
    )


@make_command(RefreshConfig, extra="reports")
def command(config: RefreshConfig) -> int:
    """Write a report again by its plan from newer sources, and list each number that changed (changes.json)."""
    from noria.core.fetching import offline
    from noria.reports.finished.refreshing import finished
    from noria.reports.jobs.making import refresh_report

    text, _ = finished(config.report)
    folder = run_folder("reports", config.output, f"{config.report.resolve().name}-refreshed")
    if folder.resolve() == config.report.resolve():
        raise ConfigError("the report itself", where="--output", mend="give another folder")
    search = config.search()
    prepare_fonts(config, text)
    with (
        offline() if config.offline else contextlib.nullcontext(),
        shown_progress(quiet=config.quiet) as watch,
    ):
        bundle, findings, rows = refresh_report(
            config, config.index, config.report, folder, search, watch=watch
        )
    if not config.as_json:
        click.echo(changes_table(rows))
    return print_report(bundle, folder, findings, as_json=config.as_json, changes=rows)
