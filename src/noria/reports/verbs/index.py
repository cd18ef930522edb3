"""`noria reports index`: folders and packaged corpora as one searchable file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.files import output_path
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption


class IndexConfig(OutputOption, JsonOption):
    """Settings of `noria reports index`."""

    corpora: Annotated[list[str], Argument("CORPUS")] = Field(
        description="Folders, files, or factbook; npm's vega-datasets is recognised by its datapackage.json."
    )
    output: Annotated[str | None, Option("-o", metavar="FILE")] = Field(
        None, description="File of the index (default: runs/reports/corpus.index)."
    )
    retrieved: str = Field(
        "", pattern=r"^(\d{4}-\d\d-\d\d)?$", description="Day that sources count as read on (default: today)."
    )


@make_command(IndexConfig, extra="reports")
def command(config: IndexConfig) -> None:
    """Read documents, tables and pictures; what is left out is named with its reason."""
    from noria.reports.search.index import build_index, corpus_documents

    path = output_path(config.output) if config.output else Path("runs/reports/corpus.index")
    warnings: list[str] = []
    counts = build_index(
        path,
        corpus_documents(config.corpora, warnings),
        retrieved=config.retrieved or datetime.now(UTC).date().isoformat(),
    )
    for warning in warnings:
        click.echo(f"noria: warning: {warning}", err=True)
    if config.as_json:
        click.echo(json.dumps({"index": str(path), "counts": counts, "left_out": warnings}))
        return
    click.echo(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    click.echo(f"index  {path}")
