"""`noria reports index`: folders and packaged corpora as one searchable file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import click
from pydantic import Field

from noria.core.config import Argument, Option
from noria.core.errors import ConfigError
from noria.core.files import output_path
from noria.core.progress import Progress, Task
from noria.reports.search.protocol import SourceRules
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, OutputOption, QuietOption
from noria.verbs.tables import counted

if TYPE_CHECKING:
    from noria.reports.reading.documents import Document


class IndexConfig(SourceRules, OutputOption, JsonOption, QuietOption):
    """Settings of `noria reports index`."""

    corpora: Annotated[tuple[str, ...], Argument("CORPUS")] = Field(
        (),
        description="Folders, files, https:// addresses, or factbook; npm's vega-datasets is known by its "
        "datapackage.json.",
    )
    query: Annotated[tuple[str, ...], Option(split=False)] = Field(
        (), description="Queries for the search services, whose results are fetched and read."
    )
    service: tuple[Literal["tavily", "brave", "serper", "searxng"], ...] = Field(
        (), description="Search services; the key is in TAVILY_API_KEY, BRAVE_API_KEY or SERPER_API_KEY."
    )
    searxng: Annotated[str | None, Option(metavar="URL", was=("--service-url",))] = Field(
        None, description="Address of a SearXNG instance that answers in JSON."
    )
    pages: int = Field(10, ge=1, le=200, description="Most pages that are fetched for the queries.")
    output: Annotated[str | None, Option("-o", metavar="FILE")] = Field(
        None, description="File of the index (default: runs/reports/corpus.index)."
    )
    retrieved: str = Field(
        "",
        pattern=r"^(\d{4}-\d\d-\d\d)?$",
        description="Date of reading of the sources: YYYY-MM-DD (default: today).",
    )


def _local(config: IndexConfig) -> list[str]:
    return [corpus for corpus in config.corpora if not corpus.startswith(("https://", "http://"))]


def _pages(config: IndexConfig, warnings: list[str]) -> Iterator[Document]:
    """Pages of the user's own addresses first, then those that the services give.

    Raises:
        ConfigError: queries without a service, or a service without queries.
    """
    own = [corpus for corpus in config.corpora if corpus.startswith(("https://", "http://"))]
    if bool(config.query) != bool(config.service or config.searxng):
        raise ConfigError(
            "queries need a service, and a service queries", where="--query, --service", mend="give both"
        )
    if not own and not config.query:
        return
    from noria.reports.search.web import gather, read_pages, web_services

    services = web_services(config.service, config.searxng)
    rules = config.part(SourceRules)
    hits = gather(services, config.query, rules, config.pages, warnings)
    yield from read_pages(own, warnings)
    dates = {hit.url: hit.date for hit in hits}
    for page in read_pages([url for url in dates if url not in own], warnings):
        page.date = page.date or dates.get(page.url, "")
        yield from _allowed([page], rules, warnings)


def _allowed(documents: Iterable[Document], rules: SourceRules, warnings: list[str]) -> Iterator[Document]:
    """Yield the documents that the rules of sources let pass; the others are named and left out."""
    for document in documents:
        if rules.allows(document.url, document.date):
            yield document
        else:
            warnings.append(f"{document.url}: refused by the rules of sources")


def _counted(documents: Iterator[Document], task: Task) -> Iterator[Document]:
    for document in documents:
        yield document
        task.advance(note=document.url[:60])


@make_command(IndexConfig, extra="reports")
def command(config: IndexConfig) -> None:
    """Read documents, tables and pictures; what is left out is named with its reason."""
    from noria.reports.search.index import build_index, corpus_documents

    path = output_path(config.output) if config.output else Path("runs/reports/corpus.index")
    warnings: list[str] = []
    local = _allowed(corpus_documents(_local(config), warnings), config.part(SourceRules), warnings)
    documents = itertools.chain(_pages(config, warnings), local)
    with Progress(quiet=config.quiet) as progress:
        task = progress.task("documents")
        counts = build_index(
            path,
            _counted(documents, task),
            retrieved=config.retrieved or datetime.now(UTC).date().isoformat(),
        )
        task.stop()
    for warning in warnings:
        click.echo(f"noria: warning: {warning}", err=True)
    if config.as_json:
        click.echo(json.dumps({"index": str(path), "counts": counts, "left_out": warnings}))
        return
    click.echo(counted(counts))
    click.echo(f"index  {path}")
