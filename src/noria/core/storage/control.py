"""Control state that several processes share: documents with versions, and leases.

A document is what a service acts on (a pointer to a bundle, an experiment, a switch). It changes only on the version
that its writer has seen, every version is kept with who wrote it and when, and a lease lets one process do what must
not be done twice. :class:`SQLiteControl` is for one machine; `noria.core.storage.postgres` holds the same for several.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from noria.core.errors import ConflictError, RunError

MAX_VALUE = 1 << 20
"""Most bytes of a document's JSON."""

FORMAT = 1
"""Version of the tables, in SQLite's `user_version`; a file without a number is brought to it when it is opened."""


@dataclass(frozen=True)
class Document:
    """One version of a document.

    Attributes:
        kind: sort of document, such as `pointer` or `experiment`.
        key: name within its kind.
        version: number from 1.
        value: JSON values; None where this version removed the document.
        by: who wrote it.
        at: second since 1970 at which it was written.
    """

    kind: str
    key: str
    version: int
    value: dict[str, Any] | None
    by: str
    at: float


@dataclass(frozen=True)
class Lease:
    """The right to do what one process may do at a time.

    Attributes:
        name: what is done.
        holder: who holds it.
        token: number that grows with every holder; what the holder writes elsewhere carries it, so that a holder whose
            lease ran out can be told from the present one.
        until: second since 1970 at which it ends.
    """

    name: str
    holder: str
    token: int
    until: float


class StaleVersion(ConflictError):
    """A document changed after its writer read it. Nothing was written."""


class Control(Protocol):
    """Documents and leases. Each method is one transaction that is on the disk when it returns."""

    def read(self, kind: str, key: str) -> Document | None:
        """The present version of a document, also one that removed it; None where there never was one."""

    def read_all(self, kind: str) -> list[Document]:
        """The present version of every document of a kind that was not removed, by key."""

    def history(self, kind: str, key: str) -> list[Document]:
        """Every version of a document, oldest first."""

    def write(
        self, kind: str, key: str, value: Mapping[str, Any] | None, *, based_on: int, by: str
    ) -> Document:
        """Write the next version.

        Args:
            kind: sort of document.
            key: name within its kind.
            value: JSON values; None removes the document.
            based_on: version that the writer has seen; 0 where there was none.
            by: who writes it.

        Raises:
            StaleVersion: the present version is another one.
            RunError: the value is no JSON or too large, or the store refuses.
        """

    def acquire(self, name: str, holder: str, *, seconds: float) -> Lease | None:
        """Take or renew a lease; None while another holder has it."""

    def release(self, lease: Lease) -> None:
        """Give a lease back; nothing happens where it is another's by now."""


def encode_value(value: Mapping[str, Any] | None, where: str) -> str | None:
    """JSON text of a document's value.

    Raises:
        RunError: the value is no JSON, or too large.
    """
    if value is None:
        return None
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError) as error:
        raise RunError(f"the value is no JSON: {error}", where=where) from error
    if size > MAX_VALUE:
        raise RunError(f"the value has {size:,} bytes, {MAX_VALUE:,} are allowed", where=where)
    return text


TABLES = """
CREATE TABLE IF NOT EXISTS documents (
    kind TEXT NOT NULL, key TEXT NOT NULL, version BIGINT NOT NULL, value TEXT, author TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL, PRIMARY KEY (kind, key, version));
CREATE TABLE IF NOT EXISTS leases (
    name TEXT PRIMARY KEY, holder TEXT NOT NULL, token BIGINT NOT NULL, until DOUBLE PRECISION NOT NULL);
"""
_COLUMNS = "SELECT kind, key, version, value, author, at FROM documents AS d WHERE kind = ?"
_PRESENT = " AND version = (SELECT max(version) FROM documents WHERE kind = d.kind AND key = d.key)"
# One statement, so that two writers at once meet at the primary key and one of them writes nothing.
_WRITE = (
    "INSERT INTO documents (kind, key, version, value, author, at) SELECT ?, ?, ?, ?, ?, ?"
    " WHERE (SELECT coalesce(max(version), 0) FROM documents WHERE kind = ? AND key = ?) = ?"
    " ON CONFLICT DO NOTHING RETURNING version"
)
_THIN = (
    "DELETE FROM documents WHERE kind = ? AND key = ? AND version > 1"
    " AND version <= (SELECT max(version) FROM documents WHERE kind = ? AND key = ?) - ?"
    " AND (CAST(? AS TEXT) IS NULL OR author = ?) RETURNING version"
)
_ACQUIRE = (
    "INSERT INTO leases (name, holder, token, until) VALUES (?, ?, 1, ?) ON CONFLICT (name) DO UPDATE SET"
    " token = leases.token + CASE WHEN leases.holder = excluded.holder THEN 0 ELSE 1 END,"
    " holder = excluded.holder, until = excluded.until"
    " WHERE leases.holder = excluded.holder OR leases.until <= ? RETURNING token"
)
_RELEASE = "UPDATE leases SET until = 0 WHERE name = ? AND holder = ? AND token = ? RETURNING name"


class SQLControl:
    """Control state in SQL that SQLite and PostgreSQL share. Every method is one statement, and so one transaction."""

    def execute(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement with `?` for its values, commit, and return its rows.

        Raises:
            RunError: the store refuses.
        """
        raise NotImplementedError

    def now(self) -> float:
        """Second since 1970, by the one clock of the store."""
        raise NotImplementedError

    def close(self) -> None:
        """Let the store go."""
        raise NotImplementedError

    def read(self, kind: str, key: str) -> Document | None:
        """Do what :meth:`Control.read` says."""
        rows = self.execute(_COLUMNS + " AND key = ?" + _PRESENT, (kind, key))
        return _document(rows[0]) if rows else None

    def read_all(self, kind: str) -> list[Document]:
        """Do what :meth:`Control.read_all` says."""
        rows = self.execute(_COLUMNS + _PRESENT + " AND value IS NOT NULL ORDER BY key", (kind,))
        return [_document(row) for row in rows]

    def history(self, kind: str, key: str) -> list[Document]:
        """Do what :meth:`Control.history` says."""
        return [
            _document(row) for row in self.execute(_COLUMNS + " AND key = ? ORDER BY version", (kind, key))
        ]

    def write(
        self, kind: str, key: str, value: Mapping[str, Any] | None, *, based_on: int, by: str
    ) -> Document:
        """Do what :meth:`Control.write` says."""
        row = (kind, key, based_on + 1, encode_value(value, f"{kind} {key}"), by, self.now())
        if not self.execute(_WRITE, (*row, kind, key, based_on)):
            present = self.read(kind, key)
            raise StaleVersion(
                f"it is at version {present.version if present else 0}, and the change is based on {based_on}",
                where=f"{kind} {key}",
                mend="read it again and decide anew",
            )
        return _document(row)

    def thin(self, kind: str, key: str, *, keep: int, by: str | None = None) -> int:
        """Remove the middle of a document's history: its first and its last `keep` versions stay.

        For documents that hold a state which is written again and again, such as the reading of an experiment.

        Args:
            kind: sort of document.
            key: name within its kind.
            keep: number of versions that stay.
            by: author whose versions are removed; those of others stay. None removes those of all.

        Returns:
            Number of versions removed.
        """
        values = (kind, key, kind, key, keep, by, by)
        return len(self.execute(_THIN, values))

    def purge(self, kind: str, key: str | None = None) -> int:
        """Remove a document with its history, or all of a kind: for what a person may ask to have erased.

        Returns:
            Number of versions removed.
        """
        which, values = ("", (kind,)) if key is None else (" AND key = ?", (kind, key))
        return len(self.execute(f"DELETE FROM documents WHERE kind = ?{which} RETURNING version", values))

    def acquire(self, name: str, holder: str, *, seconds: float) -> Lease | None:
        """Do what :meth:`Control.acquire` says."""
        now = self.now()
        rows = self.execute(_ACQUIRE, (name, holder, now + seconds, now))
        return Lease(name, holder, rows[0][0], now + seconds) if rows else None

    def release(self, lease: Lease) -> None:
        """Do what :meth:`Control.release` says."""
        self.execute(_RELEASE, (lease.name, lease.holder, lease.token))


class SQLiteControl(SQLControl):
    """Control state in a file, shared by the processes of one machine. Threads may share the object, too."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open or make the file.

        Args:
            path: path of the file; its folder is made.
            clock: function that returns the second since 1970.

        Raises:
            RunError: the disk refuses, or it is no SQLite file.
        """
        self.path = Path(path)
        self.now = clock  # type: ignore[method-assign]
        self._one_at_a_time = threading.Lock()
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self.path, isolation_level=None, timeout=10, check_same_thread=False
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA secure_delete = ON")
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT:
                self._database.close()
                raise RunError(
                    f"it has format {version}, and this Noria reads up to {FORMAT}",
                    where=str(self.path),
                    mend="use the version that wrote it, or a later one",
                )
            # Files of before there was a number have the tables of version 1.
            self._database.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")

    def execute(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Do what :meth:`SQLControl.execute` says."""
        with self._errors(), self._one_at_a_time:
            return self._database.execute(query, tuple(values)).fetchall()

    def purge(self, kind: str, key: str | None = None) -> int:
        """Do what :meth:`SQLControl.purge` says; the log forgets, too."""
        count = super().purge(kind, key)
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)", ())
        return count

    def close(self) -> None:
        """Let the file go."""
        self._database.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise RunError(f"the control state cannot be used: {error}", where=str(self.path)) from error


def _document(row: Sequence[Any]) -> Document:
    kind, key, version, value, by, at = row
    return Document(kind, key, version, None if value is None else json.loads(value), by, at)
