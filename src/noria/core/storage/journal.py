"""A journal that holds what it acknowledged: frames in SQLite, written in groups, each group synced once.

SQLite in WAL mode with `synchronous=FULL` brings the log, its checksums and its recovery. One thread writes: whatever
waits when the disk is free becomes one transaction, so that many callers share a sync. Any process may read meanwhile.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from noria.core.errors import RunError
from noria.core.files import lock
from noria.core.storage.journal_file import NAME, log_bytes, open_journal
from noria.core.storage.write_queue import JournalFull, Waiting, WriteQueue, tell

_LOG = 64 << 20  # bytes of the write-ahead log from which it is folded into the file
FOREVER = (1 << 63) - 1
"""The time of blobs that are kept on purpose until they are removed by name."""
_RETRY = 1.0  # seconds after which a log that a reader held is folded again


Review = tuple[int, Callable[[Sequence[bytes]], tuple[Sequence[str], frozenset[str]]]]
"""A number of a frame, and what the bodies of the frames after it change about a removal."""


_Run = Callable[[sqlite3.Connection], Any]


class _Change(NamedTuple):
    """A change of the database; one that removes something folds the log into the file after it."""

    run: _Run
    fold: bool = False


class Journal:
    """A journal open for writing, by one process. Use it as a context, or call `close`.

    Attributes:
        failed: number of changes that the disk refused.
    """

    def __init__(self, folder: Path) -> None:
        """Open or make the journal of a folder.

        Raises:
            RunError: another process writes it, the disk refuses, or a later version of Noria made it.
        """
        self.folder = Path(folder)
        self.path = self.folder / NAME
        self.failed = 0
        self._queue: WriteQueue[_Change] = WriteQueue(str(self.folder))
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(lock(self.folder))
        try:
            self._database = open_journal(self.path)
        except BaseException:
            self._stack.close()
            raise
        self._folding = False
        self._grown = _LOG  # bytes written since the log's size was looked at; it may be large from before
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """Bytes that wait for the disk."""
        return self._queue.bytes

    @property
    def broken(self) -> RunError | None:
        """Why the journal takes nothing more until it is opened again; None while it works."""
        return self._queue.broken

    async def append(
        self,
        body: bytes,
        *,
        subject: str | None = None,
        blobs: Mapping[str, bytes] | None = None,
        expires: int | None = None,
        about: bool = False,
    ) -> int:
        """Write a frame and the blobs that it names, all or nothing; when this returns they are on the disk.

        Args:
            body: content of the frame.
            subject: key by which the frame is found, such as the id of a trace.
            blobs: contents by their digest (:func:`blob_digest`); one that is there already is not written again.
            expires: second since 1970 at which the blobs may be removed, or `FOREVER`; the later time counts. None says
                nothing: new ones stay, and those that are there keep their time.
            about: whether it is written only where a frame of its subject stands, at its place among the changes.

        Returns:
            Number of the frame; 0 where none was written.

        Raises:
            JournalFull: the disk or the queue takes no more.
            RunError: the disk fails.
        """
        return int(await self._queue.append(*_frame(body, subject, blobs or {}, expires, about)))

    def post(
        self,
        body: bytes,
        *,
        subject: str | None = None,
        blobs: Mapping[str, bytes] | None = None,
        expires: int | None = None,
    ) -> None:
        """Write a frame soon, as `append` does. A later one that is acknowledged means that this one is written, too.

        Raises:
            JournalFull: the queue takes no more.
            RunError: the disk fails.
        """
        self._queue.post(*_frame(body, subject, blobs or {}, expires))

    async def remove(
        self,
        sequences: Sequence[int] = (),
        *,
        subjects: Sequence[str] = (),
        blobs: Sequence[str] = (),
        review: Review | None = None,
        body: Callable[[int], bytes] | None = None,
        subject: str | None = None,
    ) -> int:
        """Remove bodies and blobs for good: their bytes are overwritten, in the file and in its log.

        All of it is one transaction, in its place among the frames that others write: of a subject, every frame that
        was accepted before is removed.

        Args:
            sequences: numbers of the frames.
            subjects: keys whose frames are removed, all of them.
            blobs: digests of the blobs.
            review: number of a frame, and a function of the bodies of the frames after it, those that are written just
                now included; it returns further subjects to remove, and the digests among `blobs` that stay.
            body: content of a frame that says so, by the number of frames removed; None writes none.
            subject: key of that frame.

        Returns:
            Number of frames that were removed.
        """

        def run(database: sqlite3.Connection) -> int:
            chosen, kept = list(subjects), frozenset[str]()
            if review is not None:
                later = database.execute("SELECT body FROM frames WHERE sequence > ?", (review[0],))
                more, kept = review[1]([one for (one,) in later if one is not None])
                chosen += more
            count = 0
            for column, keys in (("sequence", sequences), ("subject", chosen)):
                for key in keys:
                    count += database.execute(_REMOVE.format(column), (key,)).rowcount
            gone = [(digest,) for digest in blobs if digest not in kept]
            database.executemany("DELETE FROM blobs WHERE digest = ?", gone)
            if body is not None:
                said = body(count)
                database.execute(_WRITE_FRAME, (subject, said, zlib.crc32(said)))
            return count

        return int(await self._queue.append(_Change(run, fold=True)))

    async def expire_blobs(self, now: float | None = None) -> int:
        """Remove the blobs whose time is over.

        Args:
            now: seconds since 1970; the present by default.

        Returns:
            Number of blobs removed.
        """
        limit = int(time.time() if now is None else now)

        def run(database: sqlite3.Connection) -> int:
            return database.execute("DELETE FROM blobs WHERE expires <= ?", (limit,)).rowcount

        return int(await self._queue.append(_Change(run, fold=True)))

    def close(self) -> None:
        """Write and sync what waits, and let the folder go."""
        self._queue.close()
        self._thread.join()
        self._database.close()
        self._stack.close()

    def _work(self) -> None:
        while True:
            batch, closing = self._queue.take(_RETRY if self._folding else None)
            if batch:
                self._write(batch)
            self._grown += sum(change.size for change in batch)
            if self._folding or (self._grown > _LOG // 8 and log_bytes(self.path) > _LOG):
                self._grown = 0
                self._fold()
            if closing:
                return

    def _write(self, batch: Sequence[Waiting[_Change]]) -> None:
        """Write a group whole or not at all, and tell whoever waits."""
        error, results = self.broken, []
        if error is None:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                results = [one.work.run(self._database) for one in batch]
                self._database.execute("COMMIT")
            except Exception as cause:  # whatever it is, the callers hear of it and the thread stays
                error = self._failure(cause)
        if error is not None:
            self.failed += len(batch)
        elif any(one.work.fold for one in batch):
            self._fold()
        tell(batch, results, error)

    def _fold(self) -> None:
        """Fold the log into the file and empty it; while a reader holds an older state it stays, to be tried again."""
        with contextlib.suppress(sqlite3.Error):  # all of it is on the disk either way
            busy = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            self._folding = bool(busy)

    def _failure(self, cause: Exception) -> RunError:
        with contextlib.suppress(sqlite3.Error):
            self._database.execute("ROLLBACK")
        code = getattr(cause, "sqlite_errorcode", None)
        if code is None:  # a value that SQLite does not take: the disk has nothing to do with it
            return RunError(f"cannot write: {cause}", where=str(self.folder))
        if code & 0xFF == sqlite3.SQLITE_FULL:
            return JournalFull(
                "cannot write: the disk is full", where=str(self.folder), mend="free some space"
            )
        # After a sync that failed nobody knows what is on the disk: take nothing more until a start has looked.
        self._queue.broken = RunError(
            f"cannot write: {cause}", where=str(self.folder), mend="start the service again"
        )
        return self._queue.broken


def _frame(
    body: bytes, subject: str | None, blobs: Mapping[str, bytes], expires: int | None, about: bool = False
) -> tuple[_Change, int]:
    """The change that writes a frame with its blobs, and its size in bytes."""

    def run(database: sqlite3.Connection) -> int:
        if about and database.execute(_ABOUT, (subject,)).fetchone() is None:
            return 0
        for digest, content in blobs.items():
            database.execute(_WRITE_BLOB, (digest, content, expires))
        return database.execute(_WRITE_FRAME, (subject, body, zlib.crc32(body))).lastrowid or 0

    return _Change(run), len(body) + sum(map(len, blobs.values()))


_ABOUT = "SELECT 1 FROM frames WHERE subject = ? LIMIT 1"
_WRITE_FRAME = "INSERT INTO frames (subject, body, digest) VALUES (?, ?, ?)"
_REMOVE = "UPDATE frames SET subject = NULL, body = NULL, digest = NULL WHERE {} = ? AND body IS NOT NULL"
_WRITE_BLOB = (
    "INSERT INTO blobs (digest, body, expires) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET expires = "
    "CASE WHEN expires IS NULL THEN NULL ELSE max(expires, coalesce(excluded.expires, expires)) END"
)
