"""Reading of tables: CSV, TSV, JSON arrays, JSON lines, Parquet."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noria.core.errors import DataError, require
from noria.core.files import decoding
from noria.core.records import json_value
from noria.reports.evidence.tables import LARGEST, Table, check_size, read_csv
from noria.reports.reading.documents import Document, Piece, paragraphs
from noria.reports.reading.markup import decode_page

LARGEST_UNPACKED = 400_000_000
"""Most bytes that a packed file may unpack to."""
BATCH = 64
"""Rows of a Parquet file that are unpacked at once."""


def read_delimited(raw: bytes, url: str) -> list[Document]:
    """Read CSV or TSV."""
    table = read_csv(decode_page(raw), url, delimiter="\t" if url.endswith(".tsv") else None)
    return [Document(url, Path(url).stem.replace("_", " "), table=table, origin=raw)]


def read_json_data(raw: bytes, url: str) -> list[Document]:
    """Read JSON: an array of flat objects is a table; other JSON is text, a line for each value with its path."""
    if url.endswith((".jsonl", ".ndjson")):
        numbered = enumerate(raw.split(b"\n"), 1)
        value: Any = [json_value(line, f"{url}:{number}") for number, line in numbered if line.strip()]
    else:
        value = json_value(raw, url)
    title = Path(url).stem.replace("_", " ")
    table = table_of(value, url)
    if table is not None:
        return [Document(url, title, table=table, origin=raw)]
    lines = list(itertools.islice(_flat(value), 20_000))
    return [Document(url, title, pieces=[Piece(text, path) for path, text in lines], origin=raw)]


def table_of(value: Any, where: str) -> Table | None:
    """The table that an array of flat objects, or of arrays under a head, is; None where it is none."""
    if isinstance(value, Mapping):
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        value = lists[0] if len(lists) == 1 else value
    if not isinstance(value, list) or len(value) < 2 or len(value) > LARGEST:
        return None
    if all(isinstance(row, Mapping) for row in value):
        names = list(dict.fromkeys(name for row in value[:1000] for name in row))
        if not names or any(isinstance(row.get(n), Mapping | list) for row in value[:50] for n in names):
            return None
        check_size(len(value), len(names), where)
        return Table.of(names, [[row.get(name) for name in names] for row in value], where)
    return None


def _flat(value: Any, path: str = "") -> Any:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{path} > {name}" if path else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(inner, path)
    elif isinstance(value, str):
        yield from ((path, text) for text in paragraphs(value))
    elif value is not None:
        yield path, f"{path.rpartition(' > ')[2]} {value}"


def read_parquet(raw: bytes, url: str) -> list[Document]:
    """Read a Parquet file.

    Raises:
        DataError: it is damaged, or has too many rows.
        MissingExtra: pyarrow is not installed.
    """
    parquet = require("pyarrow.parquet", "parquet")
    with decoding(Path(url), "a Parquet file"), parquet.ParquetFile(io.BytesIO(raw)) as file:
        check_size(file.metadata.num_rows, file.metadata.num_columns, url)
        rows: list[Any] = []
        size = 0
        for batch in file.iter_batches(BATCH):  # a packed column may unpack to any size
            size += batch.nbytes
            if size > LARGEST_UNPACKED:
                raise DataError(f"it unpacks to more than {LARGEST_UNPACKED:,} bytes", where=url)
            rows += zip(*(column.to_pylist() for column in batch.columns), strict=True)
        made = Table.of(file.schema_arrow.names, rows, url)
    return [Document(url, Path(url).stem.replace("_", " "), table=made, origin=raw)]
