"""Postings of the index: for each word the passages that have it, scored by BM25 at once for all of them.

SQLite's FTS5 cuts and stems the words while an index is made; its ranking reads the length of each matching passage by
itself, which took 8 ms a query on 70,000 passages. Here the postings of a word are one array, and a query is a few
additions of arrays. The score is FTS5's (`bm25` with k₁ = 1.2 and b = .75), which the tests compare.
"""

from __future__ import annotations

import itertools
import math
import sqlite3
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOKENIZER = "porter unicode61"
POSTING = np.dtype([("row", "<u4"), ("title", "u1"), ("heading", "u1"), ("body", "<u2")])
"""A passage that has a word, and how often in its title, its heading and its body."""
WEIGHTS = (2.0, 3.0, 1.0)
"""Weights of title, heading and body."""
K1, B = 1.2, 0.75
SCHEMA = """
CREATE TABLE postings (term TEXT PRIMARY KEY, rows BLOB) WITHOUT ROWID;
CREATE TABLE sizes (first INTEGER PRIMARY KEY, words BLOB);
"""
_COLLECT = f"""
CREATE VIRTUAL TABLE temp.words USING fts5(title, heading, body, content='', tokenize='{TOKENIZER}');
CREATE VIRTUAL TABLE temp.terms USING fts5vocab('temp', 'words', 'instance');
"""
_TERMS = """
SELECT term, doc, sum(col = 'title'), sum(col = 'heading'), sum(col = 'body') FROM temp.terms GROUP BY term, doc
"""


def begin(base: sqlite3.Connection) -> None:
    """Begin to collect the words of passages."""
    base.executescript(_COLLECT)


def collect(base: sqlite3.Connection, row: int, title: str, heading: str, body: str) -> None:
    """Take the words of a passage; rows ascend."""
    base.execute(
        "INSERT INTO temp.words(rowid, title, heading, body) VALUES (?,?,?,?)", (row, title, heading, body)
    )


def finish(base: sqlite3.Connection, first: int, last: int) -> None:
    """Write the postings of the passages from row `first` to `last`, behind those that are there."""
    sizes = np.zeros(last - first + 1, "<u4")
    for term, group in itertools.groupby(base.execute(_TERMS), key=lambda entry: entry[0]):
        counts = np.array([entry[1:] for entry in group], dtype=np.int64)
        sizes[counts[:, 0] - first] += counts[:, 1:].sum(axis=1).astype("<u4")
        rows = np.empty(len(counts), POSTING)
        for column, (name, most) in enumerate(
            zip(POSTING.names or (), (2**32 - 1, 255, 255, 65_535), strict=True)
        ):
            rows[name] = np.minimum(counts[:, column], most)
        kept = base.execute("SELECT rows FROM postings WHERE term = ?", (term,)).fetchone()
        held = (kept[0] if kept else b"") + rows.tobytes()
        base.execute("INSERT OR REPLACE INTO postings VALUES (?,?)", (term, held))
    base.execute("INSERT INTO sizes VALUES (?,?)", (first, sizes.tobytes()))
    base.executescript("DROP TABLE temp.terms; DROP TABLE temp.words;")


class Postings:
    """The postings of an index opened for reading.

    Args:
        base: connection to the index.
    """

    def __init__(self, base: sqlite3.Connection) -> None:
        self.base = base
        parts = [
            np.frombuffer(row[0], "<u4") for row in base.execute("SELECT words FROM sizes ORDER BY first")
        ]
        sizes = np.concatenate(parts) if parts else np.zeros(0, "<u4")
        self.count = len(sizes)
        # Rows count from 1. A passage of the mean length has the norm K1.
        mean = float(sizes.mean()) if self.count else 1.0
        self.norms = np.concatenate([[K1], K1 * (1 - B + B * sizes / max(mean, 1.0))])
        self.scores = np.zeros(self.count + 1)
        self._words = sqlite3.connect(":memory:")
        begin(self._words)

    def close(self) -> None:
        """Close what cuts the words of queries."""
        self._words.close()

    def search(
        self, words: Sequence[str], k: int, shown: NDArray[np.bool_] | None = None
    ) -> list[tuple[int, float]]:
        """Rows of the best passages for words, with their BM25; best first, ties by row.

        Args:
            words: words of a query; each counts once.
            k: number of passages.
            shown: which rows may be given, by row; None for all.
        """
        found = [rows for term in self._stemmed(words) if (rows := self._rows(term)) is not None]
        for rows in found:
            hits = rows["title"] * WEIGHTS[0] + rows["heading"] * WEIGHTS[1] + rows["body"] * WEIGHTS[2]
            rarity = math.log((self.count - len(rows) + 0.5) / (len(rows) + 0.5))
            weight = max(rarity, 1e-6) * (
                K1 + 1
            )  # as FTS5 has it: a word in half of the passages weighs nothing
            self.scores[rows["row"]] += weight * hits / (hits + self.norms[rows["row"]])
        if not found:
            return []
        candidates = np.unique(np.concatenate([rows["row"] for rows in found]))
        scores = self.scores[candidates].copy()
        self.scores[candidates] = 0.0
        if shown is not None:
            kept = shown[candidates]
            candidates, scores = candidates[kept], scores[kept]
        if len(scores) > k:
            least = np.partition(scores, len(scores) - k)[len(scores) - k]
            candidates, scores = candidates[scores >= least], scores[scores >= least]
        order = np.lexsort((candidates, -scores))[:k]
        return [(int(candidates[n]), float(scores[n])) for n in order]

    def _stemmed(self, words: Sequence[str]) -> list[str]:
        """Terms of words, each once, as FTS5 cuts and stems them."""
        self._words.execute("INSERT INTO words(words) VALUES ('delete-all')")
        collect(self._words, 1, " ".join(words), "", "")
        return [row[0] for row in self._words.execute("SELECT DISTINCT term FROM terms ORDER BY offset")]

    def _rows(self, term: str) -> NDArray[np.void] | None:
        kept = self.base.execute("SELECT rows FROM postings WHERE term = ?", (term,)).fetchone()
        return None if kept is None else np.frombuffer(kept[0], POSTING)
