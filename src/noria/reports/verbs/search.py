"""`noria reports search`: passages of an index for a query."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import click
import msgspec
from pydantic import Field

from noria.core.config import Argument, Option
from noria.reports.search.protocol import SourceRules
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption
from noria.verbs.tables import table


class SearchConfig(SourceRules, JsonOption):
    """Settings of `noria reports search`."""

    index: Annotated[Path, Argument()] = Field(description="File of the index.")
    query: Annotated[str, Argument()] = Field(description="Query in words.")
    number: Annotated[int, Option("-n")] = Field(10, ge=1, le=1000, description="Number of passages.")


@make_command(SearchConfig, extra="reports")
def command(config: SearchConfig) -> None:
    """Print the best passages with their ids, which `write` cites."""
    from noria.reports.search.index import Index
    from noria.reports.search.protocol import fuse

    with Index(config.index) as index:
        hits = fuse([index.search(config.query, 4 * config.number)], config.part(SourceRules), config.number)
        texts = [passage.text if (passage := index.passage(hit.id)) else "" for hit in hits]
    if config.as_json:
        entries = [msgspec.to_builtins(hit) | {"text": text} for hit, text in zip(hits, texts, strict=True)]
        click.echo(json.dumps(entries, ensure_ascii=False, indent=2))
        return
    rows = [
        [hit.id, hit.title[:40], hit.heading[-48:], " ".join(text.split())[:70]]
        for hit, text in zip(hits, texts, strict=True)
    ]
    click.echo(table([["id", "title", "heading", "text"], *rows], names=4))
