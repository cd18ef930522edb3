"""The ranking of the index against SQLite's own, on passages of drawn words."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from noria.reports.reading.documents import Document, Piece
from noria.reports.search.index import Index, build_index
from noria.reports.search.postings import TOKENIZER
from noria.reports.search.terms import indexed, query_terms

WORDS = [
    "coal",
    "coals",
    "rivers",
    "river",
    "energy",
    "trading",
    "trade",
    "Müller",
    "国内生产",
    "rate",
    "rates",
    "ships",
    "wind",
    "solar",
    "gas",
    "oil",
    "42",
    "x7",
]


def _documents(seed: int, count: int) -> list[Document]:
    rng = np.random.default_rng(seed)

    def words(most: int) -> str:
        return " ".join(rng.choice(WORDS, int(rng.integers(1, most))))

    return [
        Document(
            f"d/{seed}-{n}.md", words(4), pieces=[Piece(words(40), words(5)) for _ in range(5)], origin=b""
        )
        for n in range(count)
    ]


def _fts5(documents: list[Document], query: str, k: int) -> list[tuple[int, float]]:
    base = sqlite3.connect(":memory:")
    base.execute(f"CREATE VIRTUAL TABLE w USING fts5(title, heading, body, tokenize='{TOKENIZER}')")
    rows = [(indexed(d.title), indexed(p.heading), indexed(p.text)) for d in documents for p in d.pieces]
    base.executemany("INSERT INTO w VALUES (?,?,?)", rows)
    terms = " OR ".join(f'"{term}"' for term in query_terms(query))
    found = base.execute(
        "SELECT rowid, -bm25(w, 2.0, 3.0, 1.0) AS s FROM w WHERE w MATCH ? ORDER BY s DESC, rowid LIMIT ?",
        (terms, k),
    )
    return [(row, score) for row, score in found]


@pytest.mark.parametrize(
    "query", ["coal", "river trade", "Müller 国内", "wind solar x7 42", "nothing", "ships nothing"]
)
def test_ranks_and_scores_are_those_of_fts5(tmp_path: Path, query: str) -> None:
    first, second = _documents(1, 30), _documents(2, 10)
    build_index(tmp_path / "a", first, retrieved="")
    build_index(tmp_path / "b", second, retrieved="", base=tmp_path / "a")
    for path, documents in ((tmp_path / "a", first), (tmp_path / "b", [*first, *second])):
        with Index(path) as index:
            for _ in range(2):  # the second search starts from clean scores
                hits = index.search(query, 12)
        theirs = _fts5(documents, query, 12)
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in theirs])
        ours = [
            5 * (int(hit.id[1:].partition("#")[0]) - 1) + int(hit.id.partition("#p")[2]) + 1 for hit in hits
        ]
        assert len(set(ours)) == len(ours)
        clear = [
            n
            for n in range(len(theirs))
            if [round(s, 6) for _, s in theirs].count(round(theirs[n][1], 6)) == 1
        ]
        assert [ours[n] for n in clear] == [theirs[n][0] for n in clear]
