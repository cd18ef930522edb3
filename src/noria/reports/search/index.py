"""The local index, opened for reading: searched with BM25, evidence by id, sources that rules refuse hidden."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from noria.core.errors import DataError
from noria.core.files import decoding, input_errors, open_input
from noria.reports.evidence.records import Fact, Passage, Source
from noria.reports.evidence.tables import Table, cell_fact
from noria.reports.search.building import FORMAT, build_index, corpus_documents
from noria.reports.search.postings import Postings
from noria.reports.search.protocol import Hit, ImageHit, SourceRules, fuse
from noria.reports.search.terms import MOST, query_terms

LARGEST_CONTENT = 1 << 29
"""Most bytes of the text, or of the table, of one source."""
_FACT = "source, number, entity, measure, value, unit, period, raw, passage, estimate"
_PASSAGE = """
SELECT p.source, p.number, p.heading, s.title, s.url, s.date FROM passages p JOIN sources s ON s.id = p.source
    WHERE p.rowid = ?
"""
_HIDDEN = """
CREATE TEMP TABLE refused (id INTEGER PRIMARY KEY);
CREATE TEMP VIEW sources AS SELECT * FROM main.sources WHERE id NOT IN (SELECT id FROM refused);
"""
_HIDING = "CREATE TEMP VIEW {0} AS SELECT * FROM main.{0} WHERE source NOT IN (SELECT id FROM refused);"


class Index:
    """An index opened for reading; a context manager. It answers searches and hands out evidence by id.

    Args:
        path: file of the index.
        rules: which sources may be used; those that they refuse are hidden from every search and list.

    Raises:
        DataError: there is no index, or it is damaged or of another version.
    """

    def __init__(self, path: Path, rules: SourceRules | None = None) -> None:
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
        with decoding(path, "an index", mend="make it again"):
            self.counts: dict[str, int] = json.loads(about["counts"])
        self.rules = rules or SourceRules()
        self.refused = self._hide()
        self._postings: Postings | None = None
        self._texts: dict[int, str] = {}
        self._tables: dict[int, Table] = {}

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        if self._postings is not None:
            self._postings.close()
        self.base.close()

    def _hide(self) -> int:
        """Hide what the rules refuse behind views of the same names; returns the number of hidden sources."""
        refused = [
            (id,)
            for id, url, date in self._rows("SELECT id, url, date FROM sources", ())
            if not self.rules.allows(url, date)
        ]
        if refused:
            names = ("passages", "facts", "tables", "pictures")
            self.base.executescript(_HIDDEN + "".join(_HIDING.format(name) for name in names))
            self.base.executemany("INSERT INTO temp.refused VALUES (?)", refused)
            self.base.commit()
        return len(refused)

    # -- search -------------------------------------------------------------------------------------------------------

    def search(self, query: str, k: int = 10, *, tables: bool = False) -> list[Hit]:
        """Best passages for a query by BM25; titles and headings count more. Best first, ties by place.

        With `tables`, passages that describe tables alone.
        """
        ordered = bool(self.rules.prefer) or self.rules.per_domain < k
        found = self._best(query_terms(query)[:MOST], 10 * k if ordered else k, tables)
        rows = [(row, -score, *self._rows(_PASSAGE, (row,))[0]) for row, score in found]
        hits = [
            Hit(f"S{source}#p{number}", url, title, -score, heading=heading, date=date)
            for _, score, source, number, heading, title, url, date in rows
        ]
        return fuse([hits], self.rules, k) if ordered else hits

    def _best(self, words: Sequence[str], k: int, tables: bool) -> list[tuple[int, float]]:
        """Rows of the best passages and their scores."""
        try:
            if self._postings is None:
                self._postings = Postings(self.base)
            shown = self._shown(tables) if tables or self.refused else None
            return self._postings.search(words, k, shown)
        except (sqlite3.Error, ValueError, IndexError) as error:
            raise DataError(f"a damaged index: {error}", where=str(self.path), mend="make it again") from None

    def _shown(self, tables: bool) -> NDArray[np.bool_]:
        """Which rows may be given, by row: those that rules do not hide, or of them those of tables."""
        shown = np.zeros(self.counts["passages"] + 1, bool)
        where = " WHERE source IN (SELECT source FROM tables)" if tables else ""
        shown[[row for (row,) in self._rows(f"SELECT rowid FROM passages{where}", ())]] = True
        return shown

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
            self._texts[number] = self._unpacked(rows[0][0]).decode() if rows else ""
        return self._texts[number]

    def passage(self, id: str) -> Passage | None:
        """A passage by its id; None where there is none."""
        source, _, number = id.partition("#p")
        rows = self._rows(
            'SELECT start, "end", heading FROM passages WHERE source = ? AND number = ?',
            (_number(id), _whole(number)),
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
            with decoding(self.path, "an index", mend="make it again"):
                loaded = msgspec.json.decode(self._unpacked(cells), type=tuple[tuple[str, ...], ...])
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
            return cell_fact(source, table, _whole(row), _whole(column)) if table is not None else None
        if not place.startswith("f"):
            return None
        found = self._facts("source = ? AND number = ?", (_number(id), _whole(place[1:])))
        return found[0] if found else None

    def by_url(self, url: str) -> str | None:
        """Id of the source of an address; None where there is none."""
        rows = self._rows("SELECT id FROM sources WHERE url = ? ORDER BY id LIMIT 1", (url,))
        return f"S{rows[0][0]}" if rows else None

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
        with decoding(self.path, "an index", mend="make it again"):
            return [
                Fact(
                    f"S{s}#f{n}", entity, measure, Decimal(value), unit, period, raw, passage, bool(estimate)
                )
                for s, n, entity, measure, value, unit, period, raw, passage, estimate in rows
            ]

    def _unpacked(self, packed: bytes) -> bytes:
        """Content that was compressed.

        Raises:
            DataError: it is damaged, or unpacks to more than any source has.
        """
        with decoding(self.path, "an index", mend="make it again"):
            stream = zlib.decompressobj()
            content = stream.decompress(packed, LARGEST_CONTENT)
            if not stream.eof:
                raise DataError(
                    f"a damaged index: a source is cut, or has more than {LARGEST_CONTENT:,} bytes",
                    mend="make it again",
                )
            return content

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        try:
            return self.base.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise DataError(f"a damaged index: {error}", where=str(self.path), mend="make it again") from None


def _number(id: str) -> int:
    return _whole(id.partition("#")[0][1:])


def _whole(digits: str) -> int:
    """A number of an id; -1, which no id has, where it is none."""
    return int(digits) if digits.isdecimal() and len(digits) < 18 else -1


__all__ = ["Index", "build_index", "corpus_documents"]
