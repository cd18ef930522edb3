"""The catalogue: products of all feeds in one SQLite file, searched by words and by pictures while feeds update it.

Words are found by SQLite's own full-text index (FTS5, BM25), pictures by the product of their vectors. Both rankings
meet by reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009).
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noria.assistant.products.product import Product
from noria.core.errors import DataError, RunError

FORMAT = 1
"""Version of the tables."""
NAME = "products.sqlite"
"""Name of the file in a gateway's folder."""
FUSION = 60
"""Constant of the reciprocal rank fusion."""
_TABLES = """
CREATE TABLE products (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, feed TEXT NOT NULL, digest TEXT NOT NULL,
    listed INTEGER NOT NULL, changed REAL NOT NULL, price REAL, availability TEXT NOT NULL, category TEXT NOT NULL,
    title TEXT NOT NULL, words TEXT NOT NULL, content TEXT NOT NULL);
CREATE INDEX products_feed ON products (feed, listed);
CREATE VIRTUAL TABLE search USING fts5 (title, words, content='products', content_rowid='number',
    tokenize='porter unicode61 remove_diacritics 2');
CREATE TRIGGER products_added AFTER INSERT ON products BEGIN
    INSERT INTO search (rowid, title, words) VALUES (new.number, new.title, new.words); END;
CREATE TRIGGER products_removed AFTER DELETE ON products BEGIN
    INSERT INTO search (search, rowid, title, words) VALUES ('delete', old.number, old.title, old.words); END;
CREATE TRIGGER products_changed AFTER UPDATE OF title, words ON products BEGIN
    INSERT INTO search (search, rowid, title, words) VALUES ('delete', old.number, old.title, old.words);
    INSERT INTO search (rowid, title, words) VALUES (new.number, new.title, new.words); END;
CREATE TABLE pictures (
    id TEXT PRIMARY KEY, source TEXT NOT NULL, thumbnail BLOB, encoder TEXT NOT NULL, features BLOB) WITHOUT ROWID;
CREATE TABLE feeds (name TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Hit:
    """A product that a search found.

    Attributes:
        product: the product.
        score: score of the fusion; higher is better.
        words: rank among what fits the words, from 1; None where the words do not find it.
        picture: likeness to the picture, −1 to 1; None without a picture.
    """

    product: Product
    score: float
    words: int | None = None
    picture: float | None = None


@dataclass(frozen=True)
class Filters:
    """Conditions that a product must meet in a search.

    Attributes:
        most_price: highest price; a product without a price is left out.
        currency: currency of that price; any by default.
        category: text that the category begins with or holds.
        in_stock: whether it must be in stock; what does not say counts as in stock.
    """

    most_price: float | None = None
    currency: str | None = None
    category: str | None = None
    in_stock: bool = True

    def accepts(self, product: Product) -> bool:
        """Whether a product passes."""
        if self.in_stock and product.availability == "out_of_stock":
            return False
        if self.category and self.category.casefold() not in product.category.casefold():
            return False
        if self.most_price is None:
            return True
        right = self.currency is None or self.currency.upper() == product.currency
        return product.price is not None and right and product.price <= self.most_price


@dataclass(frozen=True)
class Changes:
    """Numbers of products that an update added, changed and removed."""

    added: int = 0
    changed: int = 0
    same: int = 0
    removed: int = 0


class Catalogue:
    """Products of a gateway, in its folder. Any thread may search; one process updates at a time.

    Args:
        path: file of the catalogue, made where there is none.

    Raises:
        RunError: the file is of another version, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        with self._errors():
            self._db = sqlite3.connect(self.path, timeout=30, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version={FORMAT}; COMMIT")
            elif version != FORMAT:
                raise RunError(
                    f"the catalogue has format {version}, not {FORMAT}",
                    where=str(self.path),
                    mend="delete it and import the feeds again",
                )
        self._matrix: tuple[object, list[str], np.ndarray] | None = None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RunError(f"the catalogue cannot be used: {error}", where=str(self.path)) from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    # -- what is there ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self._one("SELECT count(*) FROM products WHERE listed"))

    def product(self, number: str) -> Product | None:
        """The product of an id, also where no feed lists it any more; None where it never was there."""
        content = self._one("SELECT content FROM products WHERE id = ?", number)
        return None if content is None else Product(**json.loads(content))

    def listed(self, feed: str) -> int:
        """Number of products that a feed lists."""
        return int(self._one("SELECT count(*) FROM products WHERE feed = ? AND listed", feed))

    def state(self, feed: str) -> dict[str, Any]:
        """The state of a feed that its last update noted."""
        text = self._one("SELECT state FROM feeds WHERE name = ?", feed)
        return {} if text is None else dict(json.loads(text))

    def states(self) -> dict[str, dict[str, Any]]:
        """The states of all feeds that their last updates noted."""
        with self._lock, self._errors():
            return {name: json.loads(text) for name, text in self._db.execute("SELECT * FROM feeds")}

    def thumbnail(self, number: str) -> bytes | None:
        """The small picture of a product, a WebP file; None where there is none."""
        content = self._one("SELECT thumbnail FROM pictures WHERE id = ?", number)
        return None if content is None else bytes(content)

    def _one(self, query: str, *values: object) -> Any:
        with self._lock, self._errors():
            row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    # -- updates ------------------------------------------------------------------------------------------------------

    def update(
        self, feed: str, products: Sequence[Product], state: Mapping[str, Any], *, whole: bool = True
    ) -> Changes:
        """Take in the products of a feed, all at once: whoever searches sees the feed before or after.

        Args:
            feed: name of the feed.
            products: products of the feed.
            state: what is noted of the feed.
            whole: whether products of this feed that are not among them are listed no more.

        Raises:
            DataError: a product belongs to another feed.
        """
        now, added, changed = time.time(), 0, 0
        with self._transaction() as db:
            known = {
                number: (owner, digest, listed)
                for number, owner, digest, listed in db.execute(
                    "SELECT id, feed, digest, listed FROM products"
                )
            }
            for product in products:
                owner, digest, listed = known.get(product.id, (feed, None, 0))
                if owner != feed and listed:
                    raise DataError(
                        f"the id {product.id[:60]!r} belongs to the feed {owner!r}", where=f"feed {feed}"
                    )
                if digest == product.digest() and listed and owner == feed:
                    continue
                added, changed = added + (not listed), changed + bool(listed)
                db.execute(_UPSERT, _row(product, feed, now))
            removed = _unlist(db, feed, {one.id for one in products}, now) if whole else 0
            note = json.dumps({**state, "at": now, "products": len(products)})
            db.execute("INSERT OR REPLACE INTO feeds VALUES (?, ?)", (feed, note))
        return Changes(added, changed, len(products) - added - changed, removed)

    def pictures_due(self, encoder: str, feed: str) -> list[tuple[str, str]]:
        """Ids and sources of a feed's listed products whose picture is not read, or by another encoder."""
        query = """SELECT id, json_extract(content, '$.image') AS source FROM products
            WHERE feed = ? AND listed AND source != '' AND NOT EXISTS (
                SELECT 1 FROM pictures AS p WHERE p.id = products.id AND p.source = source AND p.encoder = ?)"""
        with self._lock, self._errors():
            return [(str(one), str(source)) for one, source in self._db.execute(query, (feed, encoder))]

    def put_pictures(self, encoder: str, pictures: Iterable[tuple[str, str, bytes, np.ndarray]]) -> None:
        """Keep pictures: the product's id, the source, the thumbnail and the features of each."""
        rows = [
            (number, source, thumbnail, encoder, features.astype(np.float16).tobytes())
            for number, source, thumbnail, features in pictures
        ]
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?)", rows)

    # -- search -------------------------------------------------------------------------------------------------------

    def search(
        self,
        words: str = "",
        picture: np.ndarray | None = None,
        *,
        encoder: str = "",
        filters: Filters | None = None,
        most: int = 12,
    ) -> list[Hit]:
        """The products that fit best.

        Args:
            words: words to find in titles, descriptions, brands and categories; any of them counts.
            picture: [features] vector of a picture to which products are alike.
            encoder: name of the encoder that made it.
            filters: what a product must be.
            most: most hits.
        """
        filters = filters or Filters()
        by_words = self._by_words(words, 20 * most)
        likeness = {} if picture is None else self._by_picture(picture, encoder)
        by_picture = sorted(likeness, key=lambda one: (-likeness[one], one))[: 20 * most]
        scores: dict[str, float] = {}
        for ranking in (by_words, by_picture):
            for rank, number in enumerate(ranking, 1):
                scores[number] = scores.get(number, 0.0) + 1 / (FUSION + rank)
        place = {number: rank for rank, number in enumerate(by_words, 1)}
        hits = []
        for number in sorted(scores, key=lambda one: (-scores[one], one)):
            product = self.product(number)
            if product is not None and filters.accepts(product):
                hits.append(Hit(product, scores[number], place.get(number), likeness.get(number)))
            if len(hits) == most:
                break
        return hits

    def _by_words(self, words: str, most: int) -> list[str]:
        terms = re.findall(r"\w+", words)[:40]
        if not terms:
            return []
        query = " OR ".join(f'"{term}"' for term in terms)
        sql = """SELECT id FROM search JOIN products ON number = search.rowid
            WHERE search MATCH ? AND listed ORDER BY bm25(search, 4.0, 1.0), id LIMIT ?"""
        with self._lock, self._errors():
            return [str(one) for (one,) in self._db.execute(sql, (query, most))]

    def _by_picture(self, picture: np.ndarray, encoder: str) -> dict[str, float]:
        numbers, matrix = self._features(encoder)
        if not numbers or matrix.shape[1] != len(picture):
            return {}
        return dict(zip(numbers, (matrix @ np.asarray(picture, np.float32)).tolist(), strict=True))

    def _features(self, encoder: str) -> tuple[list[str], np.ndarray]:
        """Ids of the listed products with a picture, and [ids, features] float32; kept until the file changes."""
        with self._lock, self._errors():
            key = (
                self._db.execute("PRAGMA data_version").fetchone(), self._db.total_changes, encoder,
            )  # fmt: skip
            if self._matrix is None or self._matrix[0] != key:
                sql = """SELECT p.id, features FROM pictures AS p JOIN products AS x ON x.id = p.id
                    WHERE listed AND encoder = ? ORDER BY p.id"""
                rows = self._db.execute(sql, (encoder,)).fetchall()
                content = b"".join(features for _, features in rows)
                matrix = (
                    np.frombuffer(content, np.float16).reshape(len(rows), -1) if rows else np.zeros((0, 0))
                )
                self._matrix = (key, [str(one) for one, _ in rows], matrix.astype(np.float32))
            return self._matrix[1], self._matrix[2]


_UPSERT = """
INSERT INTO products (id, feed, digest, listed, changed, price, availability, category, title, words, content)
VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
    feed = excluded.feed, digest = excluded.digest, listed = 1, changed = excluded.changed, price = excluded.price,
    availability = excluded.availability, category = excluded.category, title = excluded.title,
    words = excluded.words, content = excluded.content
"""


def _row(product: Product, feed: str, now: float) -> tuple[object, ...]:
    words = " ".join([product.description, product.brand, product.category, *product.attributes.values()])
    content = json.dumps(asdict(product), ensure_ascii=False)
    return (
        product.id, feed, product.digest(), now, product.price, product.availability, product.category,
        product.title, words, content,
    )  # fmt: skip


def _unlist(db: sqlite3.Connection, feed: str, present: Collection[str], now: float) -> int:
    """List no more what a feed does not hold; the product stays, for traces that name it."""
    gone = [
        (now, number)
        for (number,) in db.execute("SELECT id FROM products WHERE feed = ? AND listed", (feed,)).fetchall()
        if number not in present
    ]
    db.executemany("UPDATE products SET listed = 0, changed = ? WHERE id = ?", gone)
    return len(gone)
