"""The file of a journal: its tables, how it is opened, and reading it beside its writer.

```
<folder>/journal.sqlite    frames(sequence, subject, body, digest), blobs(digest, body, expires)
```

A frame's body is checked against its digest when it is read. A removed frame keeps its number with no body, so that a
number that is missing always means damage.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from noria.core.errors import RunError
from noria.core.files import lock

NAME = "journal.sqlite"
FORMAT = 2
"""Version of the tables, in SQLite's `user_version`. Version 1 had no index of removed frames."""
_APPLICATION = 0x4E4F5249  # "NORI", in SQLite's `application_id`: `file journal.sqlite` says whose it is
_PAGE = 16384  # measured: small frames are as fast as with 4096, pictures of 200 kB twice as fast
_TABLES = """
CREATE TABLE frames (sequence INTEGER PRIMARY KEY, subject TEXT, body BLOB, digest INTEGER);
CREATE INDEX frames_subject ON frames (subject) WHERE subject IS NOT NULL;
CREATE INDEX frames_removed ON frames (sequence) WHERE body IS NULL;
CREATE TABLE blobs (digest TEXT PRIMARY KEY, body BLOB NOT NULL, expires INTEGER) WITHOUT ROWID;
CREATE INDEX blobs_expires ON blobs (expires) WHERE expires IS NOT NULL;
"""

_MIGRATIONS = {1: "CREATE INDEX frames_removed ON frames (sequence) WHERE body IS NULL;"}
"""What makes the next version of each earlier one."""


class Frame(NamedTuple):
    """A frame that was read: its number, what it is about, and its bytes."""

    sequence: int
    subject: str | None
    body: bytes


@dataclass
class Scan:
    """Counts of a reading.

    Attributes:
        frames: number of good frames.
        removed: frames whose body was removed on purpose.
        damaged: numbers of frames whose body is not what was written.
        last: the last number; 0 before the first.
    """

    frames: int = 0
    removed: int = 0
    damaged: list[int] = field(default_factory=list)
    last: int = 0


def blob_digest(content: bytes) -> str:
    """Name of a blob: the SHA-256 of its bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


class JournalReader:
    """A journal open for reading, beside its writer or without one; of one thread. Use it as a context."""

    def __init__(self, folder: Path) -> None:
        """Raises: RunError: there is no journal, or it cannot be read."""
        self.path = Path(folder) / NAME
        if not self.path.is_file():
            raise RunError("there is no journal", where=str(folder), mend="name the folder of a service")
        self._database = _connect(self.path)
        with _reading(self.path):
            _check_format(self._database, self.path)

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._database.close()

    @property
    def last(self) -> int:
        """Number of the last frame; 0 before the first."""
        with _reading(self.path):
            return int(self._database.execute("SELECT max(sequence) FROM frames").fetchone()[0] or 0)

    def frames(
        self,
        after: int = 0,
        *,
        through: int | None = None,
        limit: int | None = None,
        scan: Scan | None = None,
    ) -> Iterator[Frame]:
        """Every good frame after a number, in order, up to what is acknowledged now.

        Args:
            after: number of the frame before the first.
            through: number of the last frame; the last one of all by default.
            limit: largest number of frames.
            scan: counts to add to.
        """
        scan = Scan() if scan is None else scan
        query = (
            "SELECT sequence, subject, body, digest FROM frames WHERE sequence > ? AND sequence <= ?"
            " ORDER BY sequence LIMIT ?"
        )
        bounds = (after, (1 << 63) - 1 if through is None else through, -1 if limit is None else limit)
        with _reading(self.path):
            yield from _good(self._database.execute(query, bounds), scan)

    def about(self, subject: str) -> list[Frame]:
        """The frames about a subject, in order."""
        query = "SELECT sequence, subject, body, digest FROM frames WHERE subject = ? ORDER BY sequence"
        with _reading(self.path):
            return list(_good(self._database.execute(query, (subject,)), Scan()))

    def removed(self, width: int) -> dict[int, int]:
        """Number of removed frames in each run of `width` numbers, by the place of the run, where there are any."""
        query = "SELECT (sequence - 1) / ?, count(*) FROM frames WHERE body IS NULL GROUP BY 1"
        with _reading(self.path):
            return dict(self._database.execute(query, (width,)).fetchall())

    def blob(self, digest: str) -> bytes | None:
        """Content of a blob; None where it is not there (any more), or is not what was written."""
        with _reading(self.path):
            row = self._database.execute("SELECT body FROM blobs WHERE digest = ?", (digest,)).fetchone()
        return row[0] if row and blob_digest(row[0]) == digest else None


def _good(rows: sqlite3.Cursor, scan: Scan) -> Iterator[Frame]:
    """The frames whose bodies are what was written; the others are counted."""
    for sequence, subject, body, digest in rows:
        if scan.last and sequence > scan.last + 1:
            scan.damaged += range(scan.last + 1, sequence)
        scan.last = sequence
        if body is None:
            scan.removed += 1
        elif zlib.crc32(body) != digest:
            scan.damaged.append(sequence)
        else:
            scan.frames += 1
            yield Frame(sequence, subject, body)


def copy_journal(folder: Path, target: Path) -> None:
    """Copy all that is acknowledged into another folder, while a writer is at work: a backup that can be opened.

    Raises:
        RunError: there is no journal, the target holds one, or the disk refuses.
    """
    copy = Path(target) / NAME
    if copy.exists():
        raise RunError("there is a journal already", where=str(target), mend="choose another folder")
    with JournalReader(folder) as reader, lock(Path(target)), _reading(copy):
        database = sqlite3.connect(copy)
        try:
            reader._database.backup(database)
        finally:
            database.close()


# -- SQLite -----------------------------------------------------------------------------------------------------------


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)


def open_journal(path: Path) -> sqlite3.Connection:
    """Open the file for writing; make its tables where it is new."""
    with _reading(path):
        database = _connect(path)
        try:
            new = database.execute("PRAGMA user_version").fetchone()[0] == 0
            if new:
                database.execute(f"PRAGMA page_size = {_PAGE}")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA secure_delete = ON")
            database.execute("PRAGMA wal_autocheckpoint = 0")  # `_write` folds the log, when it is large
            if new:
                database.executescript(
                    f"BEGIN; {_TABLES} PRAGMA application_id = {_APPLICATION};"
                    f"PRAGMA user_version = {FORMAT}; COMMIT;"
                )
            _check_format(database, path)
            migrate(database, FORMAT, _MIGRATIONS)
        except BaseException:
            database.close()
            raise
    return database


def migrate(database: sqlite3.Connection, version: int, steps: Mapping[int, str]) -> None:
    """Bring the tables of an open file to a version, each step in one transaction with the number that says so.

    Args:
        database: connection without a transaction of its own (`isolation_level=None`).
        version: version to bring it to; `user_version` holds the present one.
        steps: statements by the version that they start from.
    """
    present = database.execute("PRAGMA user_version").fetchone()[0]
    for step in range(present, version):
        database.executescript(f"BEGIN IMMEDIATE; {steps[step]} PRAGMA user_version = {step + 1}; COMMIT;")


def _check_format(database: sqlite3.Connection, path: Path) -> None:
    application = database.execute("PRAGMA application_id").fetchone()[0]
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if application != _APPLICATION:
        raise RunError("it is no journal of Noria's", where=str(path), mend="choose another folder")
    if version > FORMAT:
        raise RunError(
            f"it has format {version}, and this Noria reads up to {FORMAT}",
            where=str(path),
            mend="use the version that wrote it, or a later one",
        )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise what SQLite refuses inside the block as a `RunError`, which is one line."""
    try:
        yield
    except sqlite3.Error as error:
        raise RunError(f"the journal cannot be used: {error}", where=str(path)) from error


def log_bytes(path: Path) -> int:
    """Size of the write-ahead log of a journal's file."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except OSError:
        return 0
