"""Feeds of products: CSV, TSV, JSON lines, and the XML of Google's and other merchants' programmes."""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from noria.assistant.products.product import Product, product_of
from noria.core.errors import DataError, needing
from noria.core.files import open_input
from noria.core.records import json_records, lines

LARGEST = 512 << 20
"""Most bytes of a feed."""
LARGEST_ITEM = 16 << 20
"""Most bytes of an item of XML with what stands before it."""
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
    rows = _rows_of_text(path)
    header = next(rows, "")
    delimiter = max("\t,;|", key=header.count)
    table = csv.DictReader(itertools.chain([header], rows), delimiter=delimiter)
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


def _rows_of_text(path: Path) -> Iterator[str]:
    """Lines with their ends, of which a lone carriage return is one, too."""
    for _, line in lines(path, max_bytes=LARGEST):
        yield from io.StringIO(f"{line}\n", newline="")


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for where, row in json_records(path, max_bytes=LARGEST):
        yield where.rpartition(":")[2], row


class _XmlFile:
    """A file that is read within bounds.

    Args:
        file: the file.
        path: path of the file, for errors.

    Attributes:
        item: bytes read since the last item ended.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self._total = file, path, 0
        self.item = 0

    def read(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            DataError: the feed is too large, or an item of it.
        """
        content = self._file.read(size)
        self.item += len(content)
        self._total += len(content)
        if self._total > LARGEST:
            raise DataError(f"larger than {LARGEST:,} bytes", where=str(self._path), mend="split the file")
        if self.item > LARGEST_ITEM:
            raise DataError(f"more than {LARGEST_ITEM:,} bytes without an item", where=str(self._path))
        return content


def _xml(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Items of RSS 2.0, entries of Atom; a document type, and so an entity, is refused."""
    with needing("serve"):
        from defusedxml.common import DefusedXmlException
        from defusedxml.ElementTree import ParseError, iterparse

    found = 0
    above: list[Any] = []  # elements that are open
    with open_input(path) as opened:
        file = _XmlFile(opened, path)
        try:
            for event, element in iterparse(file, ("start", "end"), forbid_dtd=True):
                if event == "start":
                    above.append(element)
                    continue
                above.pop()
                if _tag(element.tag) in ("item", "entry"):
                    found += 1
                    file.item = 0
                    yield (
                        f"item {found}",
                        {_tag(one.tag): one.text or one.get("href") for one in reversed(element)},
                    )
                if not any(_tag(one.tag) in ("item", "entry") for one in above):
                    element.clear()
                    if above:
                        above[-1].remove(element)  # what stays there stays in memory
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
