"""The index of a journal of traces: what a console lists and a search needs. It can be deleted and is made again."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from noria.core.errors import DataError
from noria.core.storage.journal_file import JournalReader
from noria.core.traces.ids import id_at
from noria.core.traces.records import Erasure, Feedback, JudgementRecord, Record, Trace, Withdrawal, decode

FORMAT = 3
"""Version of the tables; an index of another version is made anew."""
_BATCH = 2000
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
    source TEXT NOT NULL, author TEXT NOT NULL, withdrawn INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX feedback_trace ON feedback (trace);
CREATE INDEX feedback_author ON feedback (author);
CREATE TABLE judgements (
    id TEXT PRIMARY KEY, trace TEXT NOT NULL, at INTEGER NOT NULL, judge TEXT NOT NULL, path TEXT NOT NULL, score REAL,
    invalid INTEGER NOT NULL, verdicts INTEGER NOT NULL, cost REAL) WITHOUT ROWID;
CREATE INDEX judgements_trace ON judgements (trace);
CREATE TABLE blobs (digest TEXT NOT NULL, trace TEXT NOT NULL, PRIMARY KEY (digest, trace)) WITHOUT ROWID;
CREATE INDEX blobs_trace ON blobs (trace);
CREATE TABLE place (last INTEGER NOT NULL, unread INTEGER NOT NULL);
INSERT INTO place VALUES (0, 0);
"""
_OLD_TABLES = ("traces", "feedback", "judgements", "blobs", "place")


@dataclass(frozen=True)
class TraceRow:
    """A trace in a list: its line, without its spans."""

    id: str
    began: int
    seconds: float
    status: str
    bundle: str
    caller: str
    user: str | None
    conversation: str | None
    tokens: int
    cost: float | None
    labels: dict[str, str]
    assignments: dict[str, str]
    redactions: int
    feedback: int
    score: float | None


class Lately(NamedTuple):
    """What the newest traces say together.

    Attributes:
        traces: number of traces.
        capped: whether there are more in the time than were read.
        since: nanoseconds since 1970 of the oldest of them; 0 without one.
        statuses: number of traces by how they ended.
        median: median seconds of an answer; None without one.
        p95: seconds that one answer of twenty exceeds; None without one.
        tokens: number of tokens.
        cost: cost of those whose cost is known; None where none is.
        costed: number of traces whose cost is known.
        redactions: number of places that were redacted.
        scores: mean score of each trace that was judged.
        invalid: share of the verdicts that are invalid; None without one.
    """

    traces: int
    capped: bool
    since: int
    statuses: dict[str, int]
    median: float | None
    p95: float | None
    tokens: int
    cost: float | None
    costed: int
    redactions: int
    scores: list[float]
    invalid: float | None


_LATELY = """
SELECT t.status, t.seconds, t.tokens, t.cost, t.redactions,
    (SELECT avg(score) FROM judgements WHERE trace = t.id), (SELECT sum(verdicts) FROM judgements WHERE trace = t.id),
    (SELECT sum(invalid) FROM judgements WHERE trace = t.id), t.began
FROM traces AS t WHERE t.id >= ? AND json_extract(t.labels, '$.shadow') IS NULL ORDER BY t.id DESC LIMIT ?
"""


class UnitFigure(NamedTuple):
    """What one unit of an experiment saw of one figure.

    Attributes:
        unit: user, conversation or request.
        arm: arm of the unit.
        name: `success` (answered or refused), `speed` (seconds, negative), `thrift` (cost, negative), `score`, or the
            name of a rating; higher is better. Those of the shadow are differences to the answer that was given.
        total: sum of its values.
        number: number of its values; 0 where none is known.
    """

    unit: str
    arm: str
    name: str
    total: float
    number: int


# Whom experiments deal: a user, else a conversation, else each request by itself.
_UNIT = "coalesce(t.user, t.conversation, t.id)"
_SCORE = "(SELECT avg(score) FROM judgements WHERE trace = t.id)"
_UNITS = f"""
SELECT unit, arm, count(*), sum(success), -sum(seconds), -sum(cost), count(cost), sum(score), count(score)
FROM (SELECT {_UNIT} AS unit, json_extract(t.assignments, ?1) AS arm, t.status IN ('ok', 'refused') AS success,
        t.seconds, t.cost, {_SCORE} AS score
    FROM traces AS t WHERE t.began >= ?2 AND json_extract(t.labels, '$.shadow') IS NULL AND t.status != 'cancelled')
WHERE arm IS NOT NULL GROUP BY 1, 2
"""
_RATINGS = f"""
SELECT {_UNIT}, json_extract(t.assignments, ?) AS arm, f.name, sum(f.value), count(*)
FROM feedback AS f JOIN traces AS t ON t.id = f.trace
WHERE t.began >= ? AND arm IS NOT NULL AND f.value IS NOT NULL AND NOT f.withdrawn AND f.source = 'user'
    AND f.name IN ({{}}) AND json_extract(t.labels, '$.shadow') IS NULL AND t.status != 'cancelled'
    AND NOT EXISTS (SELECT 1 FROM feedback AS later WHERE later.trace = f.trace AND later.author = f.author
        AND later.name = f.name AND later.source = 'user' AND NOT later.withdrawn
        AND (later.at, later.id) > (f.at, f.id))
GROUP BY 1, 2, 3
"""
_SHADOWS = f"""
SELECT h.id, (h.status IN ('ok', 'refused')) - (t.status IN ('ok', 'refused')), t.seconds - h.seconds,
    t.cost - h.cost, (SELECT avg(score) FROM judgements WHERE trace = h.id) - {_SCORE}
FROM traces AS h JOIN traces AS t ON t.id = json_extract(h.labels, '$.of')
WHERE json_extract(h.labels, '$.shadow') = ? AND h.began >= ?
"""
FIGURES = ("success", "speed", "thrift", "score")
"""Figures of every trace; any other name is that of a rating."""


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
            if reader.last < self.last:  # another journal, or an older copy of it
                self._clear()
            while True:
                frames = list(reader.frames(self.last, limit=_BATCH))
                if not frames:
                    return read
                with self._one_at_a_time:
                    self._database.execute("BEGIN IMMEDIATE")
                    unread, erased = 0, False
                    for frame in frames:
                        try:
                            record = decode(frame.body)
                        except DataError:
                            unread += 1
                        else:
                            self._add(record)
                            erased |= isinstance(record, Erasure)
                    self._database.execute(
                        "UPDATE place SET last = ?, unread = unread + ?", (frames[-1].sequence, unread)
                    )
                    self._database.execute("COMMIT")
                    if erased:  # the log holds the rows as they were
                        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                read += len(frames)

    @property
    def last(self) -> int:
        """Number of the last frame that was taken in."""
        return self._number("SELECT last FROM place")

    @property
    def unread(self) -> int:
        """Number of frames that were no records."""
        return self._number("SELECT unread FROM place")

    def _clear(self) -> None:
        with self._one_at_a_time:
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
                "INSERT OR IGNORE INTO feedback VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
                (
                    record.id,
                    record.trace,
                    record.kind,
                    record.name,
                    record.at,
                    record.value,
                    record.source,
                    record.by,
                ),
            )
        elif isinstance(record, JudgementRecord):
            invalid = sum(verdict.value == "invalid" for verdict in record.verdicts)
            execute(
                "INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (record.id, record.trace, record.at, record.judge, record.path, record.score, invalid,
                 len(record.verdicts), record.cost),
            )  # fmt: skip
        elif isinstance(record, Withdrawal):
            execute("UPDATE feedback SET withdrawn = 1 WHERE id = ?", (record.feedback,))
        elif isinstance(record, Erasure):
            self._forget(record.user)

    # -- what it answers ----------------------------------------------------------------------------------------------

    def newest(
        self,
        *,
        before: str | None = None,
        limit: int = 50,
        status: str | None = None,
        bundle: str | None = None,
        user: str | None = None,
        label: tuple[str, str] | None = None,
    ) -> list[TraceRow]:
        """The newest traces first, those that agree with all that is given.

        Args:
            before: id of the trace after which the list continues.
            limit: largest number of traces.
            status: status of the traces.
            bundle: content hash of the bundle that answered.
            user: key of the user.
            label: name and value of a label.
        """
        # Every index ends in the id, so a page is read in order. Users have few traces: "+" keeps to that index.
        plain = "+" if user is not None else ""
        conditions, values = ["1"], []
        for column, value in ((f"{plain}status", status), (f"{plain}bundle", bundle), ("user", user)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        if label is not None:
            conditions.append("json_extract(labels, ?) = ?")
            values += [f'$."{label[0]}"', label[1]]
        if before is not None:
            conditions.append("id < ?")
            values.append(before)
        query = (
            "SELECT t.*, (SELECT count(*) FROM feedback WHERE trace = t.id AND NOT withdrawn),"
            " (SELECT avg(score) FROM judgements WHERE trace = t.id)"
            f" FROM (SELECT * FROM traces WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?) AS t"
        )
        return [_row(row) for row in self._all(query, (*values, limit))]

    def spent_today(self, caller: str) -> float:
        """Cost of a caller's traces of this day (UTC), where it is known."""
        midnight = id_at(
            int(time.time() // 86400 * 86400 * 1e9)
        )  # ids sort by time: the key finds where to begin
        query = "SELECT coalesce(sum(cost), 0) FROM traces WHERE id >= ? AND caller = ?"
        return float(self._all(query, (midnight, caller))[0][0])

    def judged_today(self) -> float:
        """Cost of the judgements of this day (UTC), where it is known."""
        midnight = int(time.time() // 86400 * 86400 * 1e9)
        query = "SELECT coalesce(sum(cost), 0) FROM judgements WHERE at >= ?"
        return float(self._all(query, (midnight,))[0][0])

    def scores(self, since: int, *, before: int | None = None, most: int) -> list[float]:
        """Mean scores of the judged traces of a time, in its order; those of the shadow are left out.

        Args:
            since: nanoseconds since 1970 from which traces count.
            before: nanoseconds since 1970 before which they count; any by default.
            most: most traces that are read; the newest are kept.
        """
        where, values = _between(since, before)
        rows = self._all(
            "SELECT t.id, avg(j.score) FROM traces AS t JOIN judgements AS j ON j.trace = t.id"
            f" WHERE {where} AND j.score IS NOT NULL GROUP BY t.id ORDER BY t.id DESC LIMIT ?",
            (*values, most),
        )
        return [score for _, score in reversed(rows)]

    def label_counts(self, since: int, *, before: int | None = None, most: int) -> dict[str, dict[str, int]]:
        """Number of traces of a time by each label and its value; those of the shadow are left out.

        Args:
            since: nanoseconds since 1970 from which traces count.
            before: nanoseconds since 1970 before which they count; any by default.
            most: most traces that are read; the newest are kept.
        """
        where, values = _between(since, before)
        counts: dict[str, dict[str, int]] = {}
        for name, value, count in self._all(
            f"SELECT l.key, l.value, count(*) FROM (SELECT t.labels FROM traces AS t WHERE {where}"
            " ORDER BY t.id DESC LIMIT ?) AS t, json_each(t.labels) AS l GROUP BY 1, 2",
            (*values, most),
        ):
            counts.setdefault(name, {})[value] = count
        return counts

    def after(self, trace: str, *, limit: int) -> list[str]:
        """Ids of the traces after one, oldest first."""
        return [
            row[0]
            for row in self._all("SELECT id FROM traces WHERE id > ? ORDER BY id LIMIT ?", (trace, limit))
        ]

    def count(self) -> int:
        """Number of traces."""
        return self._number("SELECT count(*) FROM traces")

    def lately(self, since: int, *, most: int = 10_000) -> Lately:
        """What the newest traces say together, those of the shadow left out.

        Args:
            since: nanoseconds since 1970 of the oldest trace.
            most: most traces that are read.
        """
        rows = self._all(_LATELY, (id_at(since), most))
        statuses = Counter(status for status, *_ in rows)
        seconds = sorted(row[1] for row in rows if row[0] in ("ok", "refused"))
        costs = [row[3] for row in rows if row[3] is not None]
        scores = [row[5] for row in rows if row[5] is not None]
        verdicts, invalid = sum(row[6] or 0 for row in rows), sum(row[7] or 0 for row in rows)
        return Lately(
            traces=len(rows),
            capped=len(rows) == most,
            since=min((row[8] for row in rows), default=0),
            statuses=dict(statuses),
            median=_quantile(seconds, 0.5),
            p95=_quantile(seconds, 0.95),
            tokens=sum(row[2] for row in rows),
            cost=sum(costs) if costs else None,
            costed=len(costs),
            redactions=sum(row[4] for row in rows),
            scores=scores,
            invalid=invalid / verdicts if verdicts else None,
        )

    def feedback_counts(self, *, most: int = 20_000) -> list[tuple[str, str, int, float | None]]:
        """Number and mean of the feedback that stands, by kind and name, on the newest traces that have any.

        Args:
            most: most feedbacks that are read.
        """
        newest = "SELECT kind, name, value, withdrawn FROM feedback ORDER BY trace DESC LIMIT ?"
        return self._all(
            f"SELECT kind, name, count(*), avg(value) FROM ({newest}) WHERE NOT withdrawn GROUP BY 1, 2"
            " ORDER BY 3 DESC LIMIT 50",
            (most,),
        )

    def unit_figures(self, experiment: str, since: int, measures: Sequence[str]) -> list[UnitFigure]:
        """What each unit of an experiment saw since a moment; its answers in the shadow count for nothing.

        A unit is a user, else a conversation, else a single request. Of ratings by one person of one trace the last one
        counts.

        Args:
            experiment: name of the experiment.
            since: nanoseconds since 1970.
            measures: names of the ratings to read.
        """
        figures = []
        where = (f'$."{experiment}"', since)
        for unit, arm, requests, success, speed, thrift, costed, score, scored in self._all(_UNITS, where):
            columns = ((success, requests), (speed, requests), (thrift, costed), (score, scored))
            figures += [
                UnitFigure(unit, arm, name, total or 0.0, count)
                for name, (total, count) in zip(FIGURES, columns, strict=True)
            ]
        ratings = _RATINGS.format(", ".join("?" * len(measures)))
        figures += [UnitFigure(*row) for row in self._all(ratings, (*where, *measures))]
        return figures

    def shadow_figures(self, experiment: str, since: int) -> list[UnitFigure]:
        """Answers in the shadow less those that were given to the same requests, since a moment; higher is better."""
        return [
            UnitFigure(hidden, "shadow", name, gain or 0.0, int(gain is not None))
            for hidden, *gains in self._all(_SHADOWS, (experiment, since))
            for name, gain in zip(FIGURES, gains, strict=True)
        ]

    def traces_of(self, user: str) -> list[str]:
        """Ids of a user's traces, oldest first."""
        return [row[0] for row in self._all("SELECT id FROM traces WHERE user = ? ORDER BY id", (user,))]

    def said_by(self, user: str) -> list[tuple[str, str]]:
        """Trace and id of every feedback that a user gave, also on traces of others."""
        return self._all("SELECT trace, id FROM feedback WHERE author = ?", (user,))

    def blobs_of(self, trace: str) -> list[str]:
        """Digests of the blobs that a trace names."""
        return [row[0] for row in self._all("SELECT digest FROM blobs WHERE trace = ?", (trace,))]

    def named_by_others(self, blob: str, user: str) -> bool:
        """Whether a trace of another user, or of none, names a blob, too."""
        query = (
            "SELECT 1 FROM blobs JOIN traces ON traces.id = blobs.trace"
            " WHERE digest = ? AND user IS NOT ? LIMIT 1"
        )
        return bool(self._all(query, (blob, user)))

    def forget(self, user: str) -> None:
        """Remove all rows of a user, and their bytes."""
        with self._one_at_a_time:
            self._database.execute("BEGIN IMMEDIATE")
            self._forget(user)
            self._database.execute("COMMIT")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _forget(self, user: str) -> None:
        for table in ("feedback", "judgements", "blobs"):
            self._database.execute(
                f"DELETE FROM {table} WHERE trace IN (SELECT id FROM traces WHERE user = ?)", (user,)
            )
        self._database.execute("DELETE FROM feedback WHERE author = ?", (user,))
        self._database.execute("DELETE FROM traces WHERE user = ?", (user,))

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._one_at_a_time:
            return self._database.execute(query, tuple(values)).fetchall()

    def _number(self, query: str) -> int:
        return int(self._all(query)[0][0])


def _between(since: int, before: int | None) -> tuple[str, list[str]]:
    """Condition on traces of a time, by their ids, which sort by time; those of the shadow are left out."""
    where, values = "t.id >= ? AND json_extract(t.labels, '$.shadow') IS NULL", [id_at(since)]
    return (where, values) if before is None else (f"{where} AND t.id < ?", [*values, id_at(before)])


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[int(share * (len(ordered) - 1))] if ordered else None


def _row(row: Sequence[Any]) -> TraceRow:
    values = (*row[:10], json.loads(row[10]), json.loads(row[11]), *row[12:])
    return TraceRow(*values)
