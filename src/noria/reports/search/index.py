"""The local index: sources, passages, facts, tables and pictures in one SQLite file, searched by FTS5 with BM25."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from noria.core.errors import DataError, RunError
from noria.core.files import disk_errors, input_errors, open_input
from noria.reports.evidence.facts import field_facts
from noria.reports.evidence.records import Fact, Passage, Source, SourceKind, digest
from noria.reports.evidence.tables import TABLE_END, Table, cell_fact
from noria.reports.reading.documents import Document, parted
from noria.reports.search.protocol import Hit, ImageHit
from noria.reports.search.terms import MOST, indexed, query_terms

FORMAT = "noria-reports-index-1"
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
CREATE VIRTUAL TABLE words USING fts5(title, heading, body, content='', tokenize='porter unicode61');
"""
_INDEXES = """
CREATE INDEX facts_by_measure ON facts (measure, entity);
CREATE INDEX facts_by_entity ON facts (entity, measure);
CREATE INDEX passages_by_source ON passages (source, number);
"""
_FACT = "source, number, entity, measure, value, unit, period, raw, passage, estimate"


def build_index(path: Path, documents: Iterable[Document], *, retrieved: str) -> dict[str, int]:
    """Write an index of documents, whole or not at all.

    Args:
        path: file of the index; an earlier one is replaced.
        documents: documents in the order that gives them their ids.
        retrieved: day of the reading, `YYYY-MM-DD`.

    Returns:
        Numbers of sources, passages, facts, tables and pictures.
    """
    partial = path.with_name(f".{path.name}.partial")
    made = [folder for folder in path.parents if not folder.exists()]
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        try:
            with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as base:
                base.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + _SCHEMA)
                base.execute("BEGIN")
                writer = _Writer(base, retrieved)
                for document in documents:
                    writer.add(document)
                if not writer.counts["sources"]:
                    raise DataError(
                        "nothing to index", where=str(path), mend="give a corpus with readable files"
                    )
                about = {"format": FORMAT, "retrieved": retrieved, "counts": json.dumps(writer.counts)}
                base.executemany("INSERT INTO about VALUES (?, ?)", about.items())
                base.execute("INSERT INTO words(words, rank) VALUES ('rank', 'bm25(2.0, 3.0, 1.0)')")
                base.execute("INSERT INTO words(words) VALUES ('optimize')")
                base.execute("COMMIT")
                base.executescript(_INDEXES)
            partial.replace(path)
        except sqlite3.Error as error:
            raise RunError(f"cannot write the index: {error}", where=str(path)) from error
        finally:
            partial.unlink(missing_ok=True)
            for folder in [] if path.exists() else made:  # nothing was written: leave no folder behind
                with contextlib.suppress(OSError):
                    folder.rmdir()
    return writer.counts


class _Writer:
    def __init__(self, base: sqlite3.Connection, retrieved: str) -> None:
        self.base, self.retrieved = base, retrieved
        self.counts = dict.fromkeys(("sources", "passages", "facts", "tables", "pictures"), 0)

    def add(self, document: Document) -> None:
        """Give a document its id, and write what it holds."""
        number = self.counts["sources"] = self.counts["sources"] + 1
        text = "\n".join(piece.text for piece in document.pieces)
        if document.table is not None:
            text = document.table.csv() + TABLE_END + text
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
            digest(document.origin),
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
        words = (row, indexed(title), indexed(heading), indexed(text))
        self.base.execute("INSERT INTO words(rowid, title, heading, body) VALUES (?,?,?,?)", words)


class Index:
    """An index opened for reading; a context manager. It answers searches and hands out evidence by id."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(
                "there is no index", where=str(path), mend="make one: noria reports index CORPUS -o FILE"
            )
        with open_input(path) as file, input_errors(path):
            head = file.read(15)
        if head != b"SQLite format 3":
            raise DataError(
                "not an index", where=str(path), mend="make one: noria reports index CORPUS -o FILE"
            )
        self.path = path
        self.base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            about = dict(self.base.execute("SELECT name, value FROM about"))
        except sqlite3.Error as error:
            raise DataError(f"not an index: {error}", where=str(path), mend="make it again") from None
        if about.get("format") != FORMAT:
            raise DataError("an index of another version", where=str(path), mend="make it again")
        self.counts: dict[str, int] = json.loads(about["counts"])
        self._texts: dict[int, str] = {}
        self._tables: dict[int, Table] = {}

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.base.close()

    # -- search -------------------------------------------------------------------------------------------------------

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """Best passages for a query by BM25; titles and headings count more. Best first, ties by place."""
        terms = query_terms(query)[:MOST]
        if not terms:
            return []
        rows = self._rows(
            "SELECT w.rowid, w.score, p.source, p.number, p.heading, s.title, s.url, s.date FROM (SELECT rowid,"
            " rank AS score FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?) AS w"
            " JOIN passages p ON p.rowid = w.rowid JOIN sources s ON s.id = p.source ORDER BY w.score, w.rowid",
            (" OR ".join(f'"{term}"' for term in terms), k),
        )
        return [
            Hit(f"S{source}#p{number}", url, title, -score, heading=heading, date=date)
            for _, score, source, number, heading, title, url, date in rows
        ]

    def images(self, query: str, k: int = 5) -> list[ImageHit]:
        """Pictures whose captions share most words with a query."""
        wanted = set(query_terms(query))
        scored = []
        for source, caption, url in self._rows(
            "SELECT i.source, i.caption, s.url FROM pictures i JOIN sources s ON s.id = i.source", ()
        ):
            shared = wanted & set(query_terms(caption))
            if shared:
                scored.append((-len(shared) / len(wanted), source, caption, url))
        return [
            ImageHit(f"S{source}", url, caption, -score) for score, source, caption, url in sorted(scored)[:k]
        ]

    # -- evidence by id -----------------------------------------------------------------------------------------------

    def source(self, id: str) -> Source:
        """A source by its id.

        Raises:
            DataError: the index has none of that id.
        """
        fields = "kind, url, title, publisher, date, retrieved, licence, sha256, origin_sha256"
        rows = self._rows(f"SELECT {fields} FROM sources WHERE id = ?", (_number(id),))
        if not rows:
            raise DataError(f"no source {id}", where=str(self.path))
        return Source(id.partition("#")[0], *rows[0])

    def text(self, id: str) -> str:
        """Archived text of a source."""
        number = _number(id)
        if number not in self._texts:
            rows = self._rows("SELECT text FROM sources WHERE id = ?", (number,))
            if len(self._texts) > 64:
                self._texts.clear()
            self._texts[number] = zlib.decompress(rows[0][0]).decode() if rows else ""
        return self._texts[number]

    def passage(self, id: str) -> Passage | None:
        """A passage by its id; None where there is none."""
        source, _, number = id.partition("#p")
        if not number.isdigit():
            return None
        rows = self._rows(
            'SELECT start, "end", heading FROM passages WHERE source = ? AND number = ?',
            (_number(id), int(number)),
        )
        if not rows:
            return None
        start, end, heading = rows[0]
        return Passage(id, source, start, end, self.text(source)[start:end], heading)

    def table(self, id: str) -> Table | None:
        """Table of a source; None where it has none."""
        number = _number(id)
        if number not in self._tables:
            rows = self._rows("SELECT columns, cells FROM tables WHERE source = ?", (number,))
            if not rows:
                return None
            columns, cells = rows[0]
            loaded = msgspec.json.decode(zlib.decompress(cells), type=tuple[tuple[str, ...], ...])
            self._tables[number] = Table(tuple(json.loads(columns)), loaded)
        return self._tables[number]

    def picture(self, id: str) -> bytes | None:
        """Bytes of a picture; None where the source is none."""
        rows = self._rows("SELECT data FROM pictures WHERE source = ?", (_number(id),))
        return bytes(rows[0][0]) if rows else None

    def fact(self, id: str) -> Fact | None:
        """A fact, or the fact of a cell, by its id; None where there is none."""
        source, _, place = id.partition("#")
        if place.startswith("r") and "c" in place:
            row, _, column = place[1:].partition("c")
            table = self.table(source)
            return cell_fact(source, table, int(row), int(column)) if table is not None else None
        if not place.startswith("f") or not place[1:].isdigit():
            return None
        found = self._facts("source = ? AND number = ?", (_number(id), int(place[1:])))
        return found[0] if found else None

    def facts(self, *, entity: str | None = None, measure: str | None = None) -> list[Fact]:
        """Facts of an entity, of a measure, or of both, by source and number."""
        given = [
            (name, value) for name, value in (("entity", entity), ("measure", measure)) if value is not None
        ]
        where = " AND ".join(f"{name} = ?" for name, _ in given) or "1"
        return self._facts(where, [value for _, value in given])

    def entities(self) -> list[str]:
        """Names that facts are about, in order."""
        return [row[0] for row in self._rows("SELECT DISTINCT entity FROM facts ORDER BY entity", ())]

    def measures(self) -> dict[str, int]:
        """Measures with the number of entities that each is known for."""
        return dict(
            self._rows(
                "SELECT measure, count(DISTINCT entity) FROM facts GROUP BY measure ORDER BY measure", ()
            )
        )

    def table_sources(self) -> list[str]:
        """Ids of the sources that are tables."""
        return [f"S{row[0]}" for row in self._rows("SELECT source FROM tables ORDER BY source", ())]

    def _facts(self, where: str, values: Sequence[Any]) -> list[Fact]:
        rows = self._rows(f"SELECT {_FACT} FROM facts WHERE {where} ORDER BY source, number", values)
        return [
            Fact(f"S{s}#f{n}", entity, measure, Decimal(value), unit, period, raw, passage, bool(estimate))
            for s, n, entity, measure, value, unit, period, raw, passage, estimate in rows
        ]

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        try:
            return self.base.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise DataError(f"a damaged index: {error}", where=str(self.path), mend="make it again") from None


def _number(id: str) -> int:
    digits = id.partition("#")[0][1:]
    return int(digits) if digits.isdigit() else -1


def corpus_documents(corpora: Sequence[str], warnings: list[str]) -> Iterator[Document]:
    """Yield the documents of several corpora; what is left out is added to `warnings`."""
    from noria.reports.reading.folders import read_corpus

    for corpus in corpora:
        for document, warning in read_corpus(corpus):
            if document is None:
                warnings.append(warning)
            else:
                yield document
