"""Samples, kept so that being killed costs no more than the requests in flight.

A reply is first a line of `samples.jsonl`, which only ever grows, and then a row of `samples.sqlite` (WAL), which
answers questions about it. The lines are the truth: a database that is missing, behind or damaged is made again from
them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias

from noria.core.chat import Answer, Failure, Outcome, Refusal
from noria.core.errors import DataError, RunError, needing
from noria.core.files import disk_errors, read_bytes, write_all, write_atomic
from noria.core.records import json_record

with needing("grounding"):
    import msgspec

Status: TypeAlias = Literal["ok", "parse_failed", "refused", "error"]
TOGETHER = 64
"""Rows of one commit at most."""


@dataclass(frozen=True)
class Sample:
    """The outcome of one step.

    Attributes:
        id: video and part.
        video, part: video and part of the step.
        status: exactly one of the four.
        numbers: numbers of the questions that it asks.
        reply: the model's text as it came, if any; it is read when it is scored.
        answers: {item: verdict or grade}, of a judge.
        rung: rung of the parsing ladder; 0 where nothing was read.
        problems: faults, in words.
        error: kind of failure, where the status is error.
        request: SHA-256 of what was asked.
        frames: SHA-256 of the frames that were sent.
        finish: why the answer ended.
        prompt_tokens, completion_tokens, cost: None where unknown.
        seconds, attempts: time and number of attempts of the request.
    """

    id: str
    video: str
    part: str
    status: Status
    numbers: list[int] = field(default_factory=list)
    reply: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    rung: int = 0
    problems: list[str] = field(default_factory=list)
    error: str = ""
    request: str = ""
    frames: str = ""
    finish: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    seconds: float = 0.0
    attempts: int = 0


def answered(sample: Sample, outcome: Outcome) -> Sample:
    """The sample with what came of its request: `ok`, `refused` or `error`. What the reply says is yet to be read."""
    known = replace(sample, seconds=outcome.seconds, attempts=outcome.attempts)
    if isinstance(outcome, Failure):
        problems = [*sample.problems, outcome.message]
        return replace(known, status="error", error=outcome.kind, reply=outcome.partial, problems=problems)
    return replace(
        known,
        status="refused" if isinstance(outcome, Refusal) else "ok",
        reply=outcome.text,
        finish=outcome.finish or "" if isinstance(outcome, Answer) else "",
        prompt_tokens=outcome.usage.prompt_tokens,
        completion_tokens=outcome.usage.completion_tokens,
        cost=outcome.cost,
    )


class SampleStore:
    """The samples of a run folder, open for writing by one process. Use it as a context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_path, self.database_path = folder / "samples.jsonl", folder / "samples.sqlite"
        self.mended: list[str] = []
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._mend_log()
            self._log = os.open(self.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            self._bytes = os.fstat(self._log).st_size
        self._waiting, self._committed = 0, time.monotonic()
        self._database = self._open_database()
        self._catch_up()

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the files go."""
        with contextlib.suppress(RunError):  # what is not committed is made again from the lines
            self._commit()
        self._database.close()
        os.close(self._log)

    def put(self, sample: Sample) -> None:
        """Keep a sample; a later one of the same id takes its place.

        The line is written at once, for it is what may not be lost. Rows are committed together, `TOGETHER` of them
        or once a second.

        Raises:
            RunError: the disk refuses; nothing of the line is left behind.
        """
        body = _body(sample)
        line = body.encode() + b"\n"
        with disk_errors(self.log_path):
            try:
                write_all(self._log, line)
            except OSError:
                os.ftruncate(self._log, self._bytes)
                raise
        self._bytes += len(line)
        with self._database_errors():
            self._insert(sample, body, self._bytes)
        self._waiting += 1
        if self._waiting >= TOGETHER or time.monotonic() - self._committed >= 1:
            self._commit()

    def _commit(self) -> None:
        with self._database_errors():
            self._database.commit()
        self._waiting, self._committed = 0, time.monotonic()

    @contextlib.contextmanager
    def _database_errors(self, kind: type[sqlite3.Error] = sqlite3.Error) -> Iterator[None]:
        try:
            yield
        except kind as error:
            raise RunError(
                f"cannot write: {error}",
                where=str(self.database_path),
                mend="free some space and run the same command again",
            ) from None

    def statuses(self) -> dict[str, Status]:
        """{id: status} of all."""
        rows = self._database.execute("SELECT id, status FROM samples")
        return dict(rows.fetchall())

    def get(self, identifier: str) -> Sample | None:
        """The sample of that id, if there is one."""
        row = self._database.execute("SELECT body FROM samples WHERE id = ?", (identifier,)).fetchone()
        return None if row is None else msgspec.convert(json.loads(row[0]), Sample)

    def all(self) -> Iterator[Sample]:
        """In the order of their ids."""
        for (body,) in self._database.execute("SELECT body FROM samples ORDER BY id"):
            yield msgspec.convert(json.loads(body), Sample)

    def spent(self) -> float:
        """What all requests of all processes cost, as far as it is known; replaced samples count, too."""
        return sum(sample.cost or 0.0 for sample in _lines(self.log_path))

    # -- behind it ----------------------------------------------------------------------------------------------------

    def _mend_log(self) -> None:
        """Cut a line that a crash tore."""
        if not self.log_path.exists():
            return
        raw = read_bytes(self.log_path)
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) != len(raw):
            self.mended.append("a torn last line of samples.jsonl was cut")
            write_atomic(self.log_path, whole)

    def _open_database(self) -> sqlite3.Connection:
        try:
            with self._database_errors(sqlite3.OperationalError):  # a full disk is no damage
                return self._connected()
        except sqlite3.DatabaseError:
            number = 1
            while (aside := self.folder / f"samples.damaged-{number}.sqlite").exists():
                number += 1
            self.database_path.rename(aside)
            for suffix in ("-wal", "-shm"):
                Path(f"{self.database_path}{suffix}").unlink(missing_ok=True)
            self.mended.append(
                f"samples.sqlite was damaged: kept as {aside.name}, made again from samples.jsonl"
            )
            return self._connected()

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.database_path, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("damaged")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS samples"
                "(id TEXT PRIMARY KEY, video TEXT, part TEXT, status TEXT, rung INTEGER, body TEXT)"
            )
            connection.execute("CREATE TABLE IF NOT EXISTS seen(one INTEGER PRIMARY KEY, bytes INTEGER)")
            connection.execute("SELECT count(*) FROM samples").fetchone()
            connection.commit()
        except BaseException:
            connection.close()
            raise
        return connection

    def _insert(self, sample: Sample, body: str, upto: int) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?, ?, ?)",
            (sample.id, sample.video, sample.part, sample.status, sample.rung, body),
        )
        self._database.execute("INSERT OR REPLACE INTO seen VALUES (1, ?)", (upto,))

    def _catch_up(self) -> None:
        """Take in the lines that the database has not seen."""
        row = self._database.execute("SELECT bytes FROM seen").fetchone()
        if row is not None and row[0] == self._bytes:
            return
        with self._database_errors():
            self._database.execute("DELETE FROM samples")
            for sample in _lines(self.log_path):
                self._insert(sample, _body(sample), self._bytes)
        self._commit()


def _body(sample: Sample) -> str:
    text = json.dumps(vars(sample), ensure_ascii=False, separators=(",", ":"))
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which a model can write and UTF-8 has no bytes for
        return json.dumps(vars(sample), separators=(",", ":"))
    return text


def _lines(path: Path) -> Iterator[Sample]:
    """Every line's sample.

    Raises:
        DataError: a line is none.
    """
    if not path.exists():
        return
    raw = read_bytes(path)
    for number, line in enumerate(raw.split(b"\n")[:-1], start=1):
        try:
            sample = msgspec.convert(json_record(line, f"{path}:{number}"), Sample)
        except msgspec.ValidationError as error:
            raise DataError(
                f"not a sample: {error}", where=f"{path}:{number}", mend="remove the line"
            ) from None
        yield sample


def read_samples(folder: Path) -> list[Sample]:
    """The samples of a run that another process may be writing: the last word on each, in the order of their ids.

    Raises:
        RunError: there are none.
        DataError: a line is damaged.
    """
    if not (folder / "samples.jsonl").is_file():
        raise RunError(
            "no samples here", where=str(folder), mend="give a folder that `noria grounding run` wrote"
        )
    last = {sample.id: sample for sample in _lines(folder / "samples.jsonl")}
    return [last[name] for name in sorted(last)]
