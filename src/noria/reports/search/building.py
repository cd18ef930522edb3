"""The making of an index: documents become sources, passages, facts, tables and pictures in one SQLite file."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from noria.core.errors import DataError, RunError
from noria.core.files import disk_errors
from noria.reports.evidence.facts import field_facts
from noria.reports.evidence.records import SourceKind, digest
from noria.reports.evidence.tables import COLUMNS, TABLE_END, description
from noria.reports.reading.documents import Document, Piece, parted
from noria.reports.search import postings
from noria.reports.search.terms import indexed

FORMAT = "noria-reports-index-2"
_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE sources (id INTEGER PRIMARY KEY, kind TEXT, url TEXT, title TEXT, publisher TEXT, date TEXT,
    retrieved TEXT, licence TEXT, sha256 TEXT, origin_sha256 TEXT, text BLOB);
CREATE TABLE passages (rowid INTEGER PRIMARY KEY, source INTEGER, number INTEGER, start INTEGER, "end" INTEGER,
    heading TEXT);
CREATE TABLE facts (source INTEGER, number INTEGER, entity TEXT, measure TEXT, value TEXT, unit TEXT, period TEXT,
    raw TEXT, passage TEXT, estimate INTEGER, PRIMARY KEY (source, number)) WITHOUT ROWID;
CREATE TABLE tables (source INTEGER PRIMARY KEY, columns TEXT, cells BLOB);
CREATE TABLE pictures (source INTEGER PRIMARY KEY, caption TEXT, data BLOB);
"""
_INDEXES = """
CREATE INDEX facts_by_measure ON facts (measure, entity);
CREATE INDEX facts_by_entity ON facts (entity, measure);
CREATE INDEX passages_by_source ON passages (source, number);
"""


def build_index(
    path: Path,
    documents: Iterable[Document],
    *,
    retrieved: str,
    base: Path | None = None,
    allow_empty: bool = False,
) -> dict[str, int]:
    """Write an index of documents, whole or not at all.

    Args:
        path: file of the index; an earlier one is replaced.
        documents: documents in the order that gives them their ids.
        retrieved: day of the reading, `YYYY-MM-DD`.
        base: index whose sources come first and keep their ids; None for an index of the documents alone.
        allow_empty: whether an index without sources may be written, for a plan before its search.

    Returns:
        Numbers of sources, passages, facts, tables and pictures.
    """
    partial = path.with_name(f".{path.name}.partial")
    made = [folder for folder in path.parents if not folder.exists()]
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        try:
            if base is not None:
                shutil.copyfile(base, partial)
            counts = _fill(partial, documents, retrieved)
            if not counts["sources"] and not allow_empty:
                raise DataError("nothing to index", where=str(path), mend="give a corpus with readable files")
            partial.replace(path)
        except sqlite3.Error as error:
            raise RunError(f"cannot write the index: {error}", where=str(path)) from error
        finally:
            partial.unlink(missing_ok=True)
            for folder in [] if path.exists() else made:  # nothing was written: leave no folder behind
                with contextlib.suppress(OSError):
                    folder.rmdir()
    return counts


def _fill(partial: Path, documents: Iterable[Document], retrieved: str) -> dict[str, int]:
    """Write documents into a new file, or behind the sources of a copied index."""
    with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as base:
        base.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
        copied = base.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone()
        if not copied:
            base.executescript(_SCHEMA + postings.SCHEMA)
        writer = _Writer(base, retrieved)
        first = writer.counts["passages"] + 1
        postings.begin(base)
        base.execute("BEGIN")
        for document in documents:
            writer.add(document)
        about = {"format": FORMAT, "retrieved": retrieved, "counts": json.dumps(writer.counts)}
        base.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())
        base.execute("COMMIT")
        if writer.counts["passages"] >= first:
            postings.finish(base, first, writer.counts["passages"])
        if not copied:
            base.executescript(_INDEXES)
    return writer.counts


class _Writer:
    def __init__(self, base: sqlite3.Connection, retrieved: str) -> None:
        self.base, self.retrieved = base, retrieved
        self._origin = (b"", digest(b""))
        self.counts = dict.fromkeys(("sources", "passages", "facts", "tables", "pictures"), 0)
        kept = base.execute("SELECT value FROM about WHERE name = 'counts'").fetchone()
        self.counts |= json.loads(kept[0]) if kept else {}

    def add(self, document: Document) -> None:
        """Give a document its id, and write what it holds."""
        number = self.counts["sources"] = self.counts["sources"] + 1
        if document.table is not None and not document.pieces:
            document = replace(document, pieces=[Piece(description(document.table), COLUMNS)])
        text = "\n".join(piece.text for piece in document.pieces)
        if document.table is not None:
            text = document.table.csv() + TABLE_END + text
        if document.origin is not self._origin[0]:  # the tables of a page are of the same bytes
            self._origin = (document.origin, digest(document.origin))
        kind: SourceKind = "table" if document.table is not None else "image" if document.pictures else "text"
        row = (
            number,
            kind,
            document.url,
            document.title,
            document.publisher,
            document.date,
            self.retrieved,
            document.licence,
            digest(text),
            self._origin[1],
            zlib.compress(text.encode(), 6),
        )
        self.base.execute("INSERT INTO sources VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)
        self._pieces(number, document)
        if document.table is not None:
            self.counts["tables"] += 1
            cells = zlib.compress(json.dumps(document.table.rows, ensure_ascii=False).encode(), 6)
            self.base.execute(
                "INSERT INTO tables VALUES (?,?,?)", (number, json.dumps(document.table.columns), cells)
            )
        for picture in document.pictures[:1]:
            self.counts["pictures"] += 1
            self.base.execute("INSERT INTO pictures VALUES (?,?,?)", (number, picture.caption, picture.data))
            self._passage(number, 0, (0, 0), document.title, picture.caption, picture.caption)

    def _pieces(self, source: int, document: Document) -> None:
        passages = facts = 0
        offset = 0 if document.table is None else len(document.table.csv()) + len(TABLE_END)
        for piece in document.pieces:
            for start, end in parted(piece.text):
                name = f"S{source}#p{passages}"
                text = piece.text[start:end]
                self._passage(
                    source, passages, (offset + start, offset + end), document.title, piece.heading, text
                )
                passages += 1
                if piece.entity and start == 0:
                    found = list(
                        field_facts(
                            piece.entity, piece.measure, text, source=f"S{source}", passage=name, first=facts
                        )
                    )
                    self.base.executemany(
                        "INSERT INTO facts VALUES (?,?,?,?,?,?,?,?,?,?)",
                        [
                            (
                                source,
                                facts + n,
                                f.entity,
                                f.measure,
                                str(f.value),
                                f.unit,
                                f.period,
                                f.raw,
                                f.passage,
                                f.estimate,
                            )
                            for n, f in enumerate(found)
                        ],
                    )
                    facts += len(found)
            offset += len(piece.text) + 1
        self.counts["facts"] += facts

    def _passage(
        self, source: int, number: int, span: tuple[int, int], title: str, heading: str, text: str
    ) -> None:
        self.counts["passages"] += 1
        row = self.counts["passages"]
        self.base.execute("INSERT INTO passages VALUES (?,?,?,?,?,?)", (row, source, number, *span, heading))
        postings.collect(self.base, row, indexed(title), indexed(heading), indexed(text))


def corpus_documents(corpora: Sequence[str], warnings: list[str]) -> Iterator[Document]:
    """Yield the documents of several corpora; what is left out is added to `warnings`."""
    from noria.reports.reading.folders import read_corpus

    for corpus in corpora:
        for document, warning in read_corpus(corpus):
            if document is None:
                warnings.append(warning)
            else:
                yield document
