"""Feeds of products: CSV, TSV, JSON lines, and the XML of Google's and other merchants' programmes."""

from __future__ import annotations

import csv
import datetime
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noria.assistant.products.product import Product, product_of
from noria.core.errors import DataError, needing
from noria.core.files import decode_text, open_input, read_bytes
from noria.core.records import json_record

LARGEST = 512 << 20
"""Most bytes of a feed."""
MOST_PROBLEMS = 20
"""Problems that are kept; all of them are counted."""
_ALIASES = {
    "image": "image_link", "image_url": "image_link", "picture": "image_link", "url": "link", "name": "title",
    "sku": "id", "category": "product_type", "stock": "availability",
}  # fmt: skip


@dataclass
class FeedReading:
    """Products and problems read from a feed so far.

    Attributes:
        rows: rows of the feed.
        bad: rows that are no product.
        problems: faults of the first entries that could not be read.
    """

    rows: int = 0
    bad: int = 0
    problems: list[str] = field(default_factory=list)

    def refuse(self, error: DataError) -> None:
        """Note a row that is no product."""
        self.bad += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(str(error))


def read_feed(
    path: Path, reading: FeedReading | None = None, *, now: datetime.datetime | None = None
) -> Iterator[Product]:
    """The products of a feed, in its order.

    A row that is no product is noted in `reading` and left out; of two rows with one id the second one is.

    Args:
        path: file ending in csv, tsv, txt, jsonl or xml.
        reading: gets what was read.
        now: time that decides which sales hold; the present by default.

    Raises:
        DataError: the file is no feed, damaged, or too large.
    """
    reading = reading if reading is not None else FeedReading()
    now = now or datetime.datetime.now(datetime.UTC)
    seen: set[str] = set()
    for place, row in _rows(Path(path)):
        reading.rows += 1
        where = f"{path}:{place}"
        try:
            product = product_of(_named(row), where, now=now)
            if product.id in seen:
                raise DataError(f"the id {product.id[:60]!r} is there twice", where=where)
        except DataError as error:
            reading.refuse(error)
            continue
        seen.add(product.id)
        yield product


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    kinds = {".csv": _delimited, ".tsv": _delimited, ".txt": _delimited, ".jsonl": _json_lines, ".xml": _xml}
    reader = kinds.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"a feed of kind {path.suffix or 'none'!r} is not known",
            where=str(path),
            mend="give csv, tsv, jsonl or xml",
        )
    return reader(path)


def _named(row: Mapping[str, Any]) -> dict[str, str]:
    """Values by the specification's names: `Image Link` and `g:image_link` are `image_link`."""
    named: dict[str, str] = {}
    for name, value in row.items():
        key = re.sub(r"[\s-]+", "_", str(name).strip().lower()).removeprefix("g:")
        if value is not None and not isinstance(value, dict | list):
            named.setdefault(_ALIASES.get(key, key), str(value))
    return named


def _delimited(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = decode_text(read_bytes(path, limit=LARGEST), str(path))
    header = text.partition("\n")[0]
    delimiter = max("\t,;|", key=header.count)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        names = {
            re.sub(r"[\s-]+", "_", name.strip().lower()).removeprefix("g:") for name in table.fieldnames or []
        }
        if not {_ALIASES.get(name, name) for name in names} >= {"id", "title"}:
            raise DataError("the first line names no columns id and title", where=str(path))
        for row in table:
            if None in row or None in row.values():
                row = {name: value for name, value in row.items() if isinstance(name, str)}
            yield str(table.line_num), row
    except csv.Error as error:
        raise DataError(f"no table: {error}", where=f"{path}:{table.line_num}") from None


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with open_input(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield str(number), json_record(line, f"{path}:{number}")


def _xml(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Items of RSS 2.0, entries of Atom; a document type, and so an entity, is refused."""
    with needing("serve"):
        from defusedxml.common import DefusedXmlException
        from defusedxml.ElementTree import ParseError, iterparse

    found = 0
    with open_input(path) as file:
        try:
            for _, element in iterparse(file, forbid_dtd=True):
                if _tag(element.tag) in ("item", "entry"):
                    found += 1
                    yield (
                        f"item {found}",
                        {_tag(one.tag): one.text or one.get("href") for one in reversed(element)},
                    )
                    element.clear()
        except ParseError as error:
            raise DataError(f"no XML: {error}", where=str(path)) from None
        except DefusedXmlException as error:
            raise DataError(
                f"XML with a document type is refused ({type(error).__name__})", where=str(path)
            ) from None
    if not found:
        raise DataError("no item and no entry in it", where=str(path), mend="give a feed of products")


def _tag(name: str) -> str:
    return name.rpartition("}")[2].lower()
