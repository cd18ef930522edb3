"""`noria reports index`: folders and packaged corpora as one searchable file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.files import output_path
from noria.reports.search.protocol import SourceRules
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption

if TYPE_CHECKING:
    from noria.reports.reading.documents import Document


class IndexConfig(SourceRules, OutputOption, JsonOption):
    """Settings of `noria reports index`."""

    corpora: Annotated[tuple[str, ...], Argument("CORPUS")] = Field(
        (),
        description="Folders, files, https:// addresses, or factbook; npm's vega-datasets is known by its "
        "datapackage.json.",
    )
    query: Annotated[tuple[str, ...], Option(split=False)] = Field(
        (), description="Queries whose results are fetched."
    )
    service: tuple[str, ...] = Field((), description="Search services: tavily, brave, serper, searxng.")
    service_url: str | None = Field(None, description="Address of a SearXNG instance.")
    pages: int = Field(10, ge=1, le=200, description="Most pages that are fetched for the queries.")
    output: Annotated[str | None, Option("-o", metavar="FILE")] = Field(
        None, description="File of the index (default: runs/reports/corpus.index)."
    )
    retrieved: str = Field(
        "", pattern=r"^(\d{4}-\d\d-\d\d)?$", description="Day that sources count as read on (default: today)."
    )


def _local(config: IndexConfig) -> list[str]:
    return [corpus for corpus in config.corpora if not corpus.startswith(("https://", "http://"))]


def _pages(config: IndexConfig, warnings: list[str]) -> Iterator[Document]:
    """Pages of the user's own addresses first, then those that the services give.

    Raises:
        ConfigError: queries without a service, or a service without queries.
    """
    own = [corpus for corpus in config.corpora if corpus.startswith(("https://", "http://"))]
    if bool(config.query) != bool(config.service):
        raise ConfigError(
            "queries need a service, and a service queries", where="--query, --service", mend="give both"
        )
    if not own and not config.query:
        return
    from noria.reports.search.web import WebSearch, gather, read_pages

    services = [WebSearch(name, config.service_url if name == "searxng" else None) for name in config.service]
    hits = gather(services, config.query, config.part(SourceRules), config.pages, warnings)
    yield from read_pages([*own, *(hit.url for hit in hits)], warnings)


@make_command(IndexConfig, extra="reports")
def command(config: IndexConfig) -> None:
    """Read documents, tables and pictures; what is left out is named with its reason."""
    from noria.reports.search.index import build_index, corpus_documents

    path = output_path(config.output) if config.output else Path("runs/reports/corpus.index")
    warnings: list[str] = []
    counts = build_index(
        path,
        itertools.chain(_pages(config, warnings), corpus_documents(_local(config), warnings)),
        retrieved=config.retrieved or datetime.now(UTC).date().isoformat(),
    )
    for warning in warnings:
        click.echo(f"noria: warning: {warning}", err=True)
    if config.as_json:
        click.echo(json.dumps({"index": str(path), "counts": counts, "left_out": warnings}))
        return
    click.echo(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    click.echo(f"index  {path}")
