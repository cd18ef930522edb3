"""`noria assistant products`: feeds of products into the catalogue, and a look at what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from pydantic import Field

from noria.assistant.products.config import UpdateConfig
from noria.assistant.verbs.options import FolderOption
from noria.core.config import Argument, Option
from noria.verbs.command import command as make_command


class ProductsConfig(FolderOption, UpdateConfig):
    """Settings of `noria assistant products`."""

    feeds: Annotated[tuple[Path, ...], Argument("FEED...")] = Field(
        (), description="Feeds: csv, tsv, jsonl, or the XML of Google Merchant. None shows what is there."
    )
    query: Annotated[str, Option("-q")] = Field("", description="Words to search the catalogue for.")
    number: Annotated[int, Option("-n")] = Field(
        8, ge=1, le=1000, description="Most products that are listed."
    )


@make_command(ProductsConfig, extra="serve")
def command(config: ProductsConfig) -> int:
    """Take feeds of products into a gateway's folder, also while it serves, or search what is there.

    A feed has the name of its file. Given again, it updates its products: what it holds no more is listed no more, and
    unchanged products are not touched. Pictures are read beside the feed.
    """
    from noria.assistant.products.catalogue import NAME, Catalogue, Filters
    from noria.assistant.products.updating import checked_feed, update_feed
    from noria.core.errors import DataError
    from noria.core.files import disk_errors

    path = config.folder / NAME
    contents = [checked_feed(feed) for feed in config.feeds]
    if contents:
        with disk_errors(config.folder):
            config.folder.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        raise DataError("there is no catalogue", where=str(config.folder), mend="give a feed, or --folder")
    catalogue = Catalogue(path)
    try:
        for content in contents:
            name = content.path.stem
            update = update_feed(
                catalogue, name, content, config.part(UpdateConfig),
                seen=lambda count: click.echo(f"{count:,} pictures", err=True),
            )  # fmt: skip
            change = update.changes
            click.echo(
                f"{name:10} {change.added:,} added, {change.changed:,} changed, {change.same:,} as they were, "
                f"{change.removed:,} removed; {update.pictures:,} pictures read"
            )
            for what, count, first in (
                ("rows are no product", update.reading.bad, update.reading.problems),
                ("pictures could not be read", update.missing_count, update.missing),
            ):
                if count:
                    click.echo(f"           {count:,} {what}; the first: {first[0]}")
        if config.query:
            hits = catalogue.search(config.query, filters=Filters(in_stock=False), most=config.number)
            for hit in hits:
                one = hit.product
                price = "" if one.price is None else f"{one.price:.2f} {one.currency}"
                click.echo(f"{one.id:20.20} {price:>14}  {one.title}{_stock(one.availability)}")
            if not hits:
                click.echo("no product fits")
        click.echo(f"catalogue  {len(catalogue):,} products listed, {path}")
    finally:
        catalogue.close()
    return 0


def _stock(availability: str) -> str:
    return "" if availability in ("in_stock", "unknown") else f" ({availability.replace('_', ' ')})"
