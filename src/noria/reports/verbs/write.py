"""`noria reports write`: a request becomes a report of text, charts and pictures."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated

import click
import msgspec
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.files import read_text
from noria.core.runs.outputs import run_folder
from noria.reports.jobs.options import ReportOptions
from noria.reports.verbs.writing import prepare_fonts, print_report, shown_progress
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption


class WriteConfig(ReportOptions, OutputOption, JsonOption, QuietOption):
    """Settings of `noria reports write`."""

    request: Annotated[str, Argument()] = Field(description="The request in words, or @FILE.")
    index: Annotated[Path | None, Option("-i", metavar="FILE")] = Field(
        None, description="File of a local corpus (noria reports index)."
    )
    plan_only: bool = Field(
        False,
        description="Write plan.json by rules, print what the report will cost, and stop; nothing is spent. The plan "
        "can be edited, and the same command without this option keeps it.",
    )


@make_command(WriteConfig, extra="reports")
def command(config: WriteConfig) -> int:
    """Write a report; the same command resumes one that was killed, and keeps a plan that was edited."""
    from noria.core.fetching import offline
    from noria.reports.agents.estimate import in_words
    from noria.reports.evidence.records import digest
    from noria.reports.jobs.making import open_job, plan_report

    text = (
        read_text(Path(config.request[1:]), limit=200_000)
        if config.request.startswith("@")
        else config.request
    )
    folder = run_folder("reports", config.output, digest(text)[:12])
    search = config.search()
    prepare_fonts(config, text)
    with offline() if config.offline else contextlib.nullcontext():
        if not config.plan_only:
            with (
                shown_progress(quiet=config.quiet) as watch,
                open_job(config, config.index, folder, text, search, watch=watch) as (job, findings),
            ):
                bundle = job.write(text)
            return print_report(bundle, folder, findings, as_json=config.as_json)
        plan, cost = plan_report(config, config.index, folder, text, search)
    if config.as_json:
        shown = {"plan": msgspec.to_builtins(plan), "estimate": msgspec.to_builtins(cost)}
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2))
    else:
        click.echo(f"plan      {folder / 'plan.json'}\nestimate  {in_words(cost)}")
    return 0
