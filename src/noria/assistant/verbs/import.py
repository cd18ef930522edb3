"""`noria assistant import`: traces out of the logs that one has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.assistant.privacy import PrivacyConfig
from noria.assistant.verbs.options import FolderOption
from noria.core.config import Argument
from noria.verbs.command import command as make_command


class ImportConfig(PrivacyConfig, FolderOption):
    """Settings of `noria assistant import`."""

    logs: Annotated[tuple[Path, ...], Argument("LOG...")] = Field(
        min_length=1,
        description="Logs: OTLP in JSON, what a console exporter printed, exports of Langfuse or Phoenix.",
    )
    caller: str = Field("imported", pattern=r"^[\w.-]{1,80}$", description="Caller that the traces bear.")


@make_command(ImportConfig, extra="serve")
def command(config: ImportConfig) -> int:
    """Take traces of other tools into a gateway's folder, redacted, while it does not run.

    Ids follow from those of the log: the same log again adds nothing. What is no span is listed.
    """
    from noria.assistant.folder import import_logs

    result = import_logs(
        config.folder,
        config.logs,
        caller=config.caller,
        keep_personal=config.keep_personal,
        find_personal=config.find_personal,
        keep_pictures_days=config.keep_pictures_days,
        seen=lambda count: click.echo(f"{count:,} traces", err=True),
    )
    counts = result.counts
    click.echo(f"traces     {result.new:,} new, {result.known:,} known; {counts.spans:,} spans")
    if result.redactions:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in result.redactions.most_common())
        click.echo(f"redacted   {kinds}")
    if result.pictures:
        click.echo(f"pictures   {result.pictures:,}")
    if counts.skipped_count:
        click.echo(f"skipped    {counts.skipped_count:,}; the first: {counts.skipped[0]}")
    return 0
