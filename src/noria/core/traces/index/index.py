"""The file of an index: it follows the journal, answers queries and forgets. Deleted, it is made again."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.core.storage.journal_file import JournalReader, Scan
from noria.core.traces.records import (
    GROUNDING,
    Erasure,
    Feedback,
    JudgementRecord,
    Record,
    Trace,
    Withdrawal,
    decode,
)

FORMAT = 6
"""Version of the tables; an index of another version is made anew."""
_BATCH = 2000
_SAID = 80
"""Characters of a correction that are kept, so that it can be compared with a label of its trace."""
_TABLES = """
CREATE TABLE traces (
    id TEXT PRIMARY KEY, began INTEGER NOT NULL, seconds REAL NOT NULL, status TEXT NOT NULL, bundle TEXT NOT NULL,
    caller TEXT NOT NULL, user TEXT, conversation TEXT, tokens INTEGER NOT NULL, cost REAL, labels TEXT NOT NULL,
    assignments TEXT NOT NULL, redactions INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX traces_user ON traces (user) WHERE user IS NOT NULL;
CREATE INDEX traces_status ON traces (status);
CREATE INDEX traces_bundle ON traces (bundle);
CREATE INDEX traces_bundle_status ON traces (bundle, status);
CREATE TABLE feedback (
    id TEXT PRIMARY KEY, trace TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, at INTEGER NOT NULL, value REAL,
    source TEXT NOT NULL, author TEXT NOT NULL, said TEXT, withdrawn INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX feedback_trace ON feedback (trace);
CREATE INDEX feedback_author ON feedback (author);
CREATE TABLE judgements (
    id TEXT PRIMARY KEY, trace TEXT NOT NULL, at INTEGER NOT NULL, judge TEXT NOT NULL, path TEXT NOT NULL, score REAL,
    invalid INTEGER NOT NULL, verdicts INTEGER NOT NULL, cost REAL, said TEXT) WITHOUT ROWID;
CREATE INDEX judgements_trace ON judgements (trace);
CREATE INDEX judgements_said ON judgements (trace) WHERE said IS NOT NULL;
CREATE TABLE blobs (digest TEXT NOT NULL, trace TEXT NOT NULL, PRIMARY KEY (digest, trace)) WITHOUT ROWID;
CREATE INDEX blobs_trace ON blobs (trace);
CREATE TABLE place (last INTEGER NOT NULL, unread INTEGER NOT NULL);
INSERT INTO place VALUES (0, 0);
"""
_OF_TRACES = ("feedback", "judgements", "blobs")
"""Tables of what belongs to a trace."""
_OLD_TABLES = ("traces", "feedback", "judgements", "blobs", "place")


class TraceIndex:
    """An index in a file, written by one process; threads may share the object."""

    def __init__(self, path: Path) -> None:
        """Open the file; one that cannot be used, or of another version, is made anew."""
        self.path = Path(path)
        self._one_at_a_time = threading.RLock()
        try:
            self._database = self._open()
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")  # what is lost is read from the journal again
            database.execute("PRAGMA secure_delete = ON")
            if database.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
                drops = "".join(f"DROP TABLE IF EXISTS {name};" for name in _OLD_TABLES)
                database.executescript(f"BEGIN; {drops} {_TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Let the file go."""
        with self._one_at_a_time:
            self._database.close()

    # -- following the journal ----------------------------------------------------------------------------------------

    def follow(self, folder: Path) -> int:
        """Take in what the journal of a folder has more, and return the number of frames.

        A frame that is no record is counted (:attr:`unread`) and left out.
        """
        read = 0
        with JournalReader(folder) as reader:
            while reader.last != self.last:
                read += self._take(reader)
        return read

    def _take(self, reader: JournalReader) -> int:
        """Take in the next frames, and return their number.

        They are read inside the transaction: what `forget_traces` removes after
        it went from the journal cannot come in again behind it.
        """
        scan = Scan()
        with self._changing() as database:
            if reader.last < self.last:  # another journal, or an older copy of it
                self._clear()
            frames = list(reader.frames(self.last, limit=_BATCH, scan=scan))
            unread, erased = 0, False
            for frame in frames:
                try:
                    record = decode(frame.body)
                except DataError:
                    unread += 1
                else:
                    self._add(record)
                    erased |= isinstance(record, Erasure)
            if scan.last:  # frames that were removed are passed, too
                database.execute("UPDATE place SET last = ?, unread = unread + ?", (scan.last, unread))
        if erased:  # the log holds the rows as they were
            self.fold()
        return len(frames)

    @property
    def last(self) -> int:
        """Number of the last frame that was taken in."""
        return self.number("SELECT last FROM place")

    @property
    def unread(self) -> int:
        """Number of frames that were no records."""
        return self.number("SELECT unread FROM place")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or none where something raises."""
        with self._one_at_a_time:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                self._database.execute("ROLLBACK")
                raise

    def fold(self) -> None:
        """Fold the log into the file: what was removed is in the bytes of neither."""
        with self._one_at_a_time:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _clear(self) -> None:
        for name in _OLD_TABLES[:-1]:
            self._database.execute(f"DELETE FROM {name}")
        self._database.execute("UPDATE place SET last = 0, unread = 0")

    def _add(self, record: Record) -> None:
        execute = self._database.execute
        if isinstance(record, Trace):
            row = (
                record.id,
                record.began,
                (record.ended - record.began) / 1e9,
                record.status,
                record.bundle,
                record.caller,
                record.user,
                record.conversation,
                record.usage.tokens_in + record.usage.tokens_out,
                record.usage.cost,
                json.dumps(record.labels),
                json.dumps({one.experiment: one.arm for one in record.assignments}),
                sum(record.redactions.values()),
            )
            execute(f"INSERT OR REPLACE INTO traces VALUES ({', '.join('?' * len(row))})", row)
            named = {(blob, record.id) for span in record.spans for blob in span.blobs}
            self._database.executemany("INSERT OR IGNORE INTO blobs VALUES (?, ?)", sorted(named))
        elif isinstance(record, Feedback):
            execute(
                "INSERT OR IGNORE INTO feedback VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
                (
                    record.id,
                    record.trace,
                    record.kind,
                    record.name,
                    record.at,
                    record.value,
                    record.source,
                    record.by,
                    (record.text or "").strip()[:_SAID] if record.kind == "correction" else None,
                ),
            )
        elif isinstance(record, JudgementRecord):
            invalid = sum(verdict.value == "invalid" for verdict in record.verdicts)
            verdicts = {verdict.item: verdict.value for verdict in record.verdicts}
            said = json.dumps(verdicts) if record.path == GROUNDING else None
            execute(
                "INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (record.id, record.trace, record.at, record.judge, record.path, record.score, invalid,
                 len(record.verdicts), record.cost, said),
            )  # fmt: skip
        elif isinstance(record, Withdrawal):
            execute("UPDATE feedback SET withdrawn = 1 WHERE id = ?", (record.feedback,))
        elif isinstance(record, Erasure):
            self._forget(record.user)

    # -- what it answers ----------------------------------------------------------------------------------------------

    def after(self, trace: str, *, limit: int) -> list[str]:
        """Ids of the traces after one, oldest first."""
        return [
            row[0]
            for row in self.rows("SELECT id FROM traces WHERE id > ? ORDER BY id LIMIT ?", (trace, limit))
        ]

    def count(self) -> int:
        """Number of traces in the index."""
        return self.number("SELECT count(*) FROM traces")

    def traces_of(self, user: str) -> list[str]:
        """Ids of a user's traces, oldest first."""
        return [row[0] for row in self.rows("SELECT id FROM traces WHERE user = ? ORDER BY id", (user,))]

    def shadows_of(self, trace: str) -> list[str]:
        """Ids of what challengers answered in the shadow to a trace's request."""
        rows = self.rows(
            "SELECT id FROM traces WHERE user IS (SELECT user FROM traces WHERE id = ?)"
            " AND json_extract(labels, '$.of') = ?",
            (trace, trace),
        )
        return [row[0] for row in rows]

    def said_by(self, user: str) -> list[tuple[str, str]]:
        """Trace and id of every feedback that a user gave, also on traces of others."""
        return self.rows("SELECT trace, id FROM feedback WHERE author = ?", (user,))

    def blobs_of(self, trace: str) -> list[str]:
        """Digests of the blobs that a trace names."""
        return [row[0] for row in self.rows("SELECT digest FROM blobs WHERE trace = ?", (trace,))]

    def named_by_others(self, blob: str, user: str) -> bool:
        """Whether a trace of another user, or of none, names a blob, too."""
        query = (
            "SELECT 1 FROM blobs JOIN traces ON traces.id = blobs.trace"
            " WHERE digest = ? AND user IS NOT ? LIMIT 1"
        )
        return bool(self.rows(query, (blob, user)))

    def traces_with(self, blob: str) -> list[str]:
        """Ids of the traces that name a blob."""
        return [row[0] for row in self.rows("SELECT trace FROM blobs WHERE digest = ?", (blob,))]

    def forget_traces(self, traces: Sequence[str]) -> None:
        """Remove all rows of these traces, and their bytes."""
        with self._changing() as database:
            for table in _OF_TRACES:
                database.executemany(f"DELETE FROM {table} WHERE trace = ?", [(t,) for t in traces])
            database.executemany("DELETE FROM traces WHERE id = ?", [(t,) for t in traces])
        self.fold()

    def _forget(self, user: str) -> None:
        for table in _OF_TRACES:
            self._database.execute(
                f"DELETE FROM {table} WHERE trace IN (SELECT id FROM traces WHERE user = ?)", (user,)
            )
        self._database.execute("DELETE FROM feedback WHERE author = ?", (user,))
        self._database.execute("DELETE FROM traces WHERE user = ?", (user,))

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows that a query gives."""
        with self._one_at_a_time:
            return self._database.execute(query, tuple(values)).fetchall()

    def number(self, query: str) -> int:
        """The one whole number that a query gives."""
        return int(self.rows(query)[0][0])
