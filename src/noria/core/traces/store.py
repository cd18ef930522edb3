"""The store of traces: what is acknowledged is on the disk, feedback counts once, and a user can be erased.

The journal is the truth. A trace is found in it by its id with all that was said about it; lists and searches are the
index's business (:mod:`noria.core.traces.index`), which is made from the journal and can be made again.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from noria.core.errors import DataError
from noria.core.storage.journal import Journal
from noria.core.storage.journal_file import JournalReader
from noria.core.traces.ids import Clock, content_id, is_id, new_id
from noria.core.traces.index.index import TraceIndex
from noria.core.traces.records import (
    Erasure,
    Feedback,
    JudgementRecord,
    Record,
    Trace,
    Withdrawal,
    decode,
    encode,
)


class UnknownTrace(DataError):
    """There is no such trace, or its user was erased."""


@dataclass(frozen=True)
class TraceView:
    """A trace with what was said about it.

    Attributes:
        trace: the trace.
        feedback: feedback that was not withdrawn, in order.
        judgements: judgements, in order.
        withdrawn: number of feedbacks that were withdrawn.
    """

    trace: Trace
    feedback: tuple[Feedback, ...] = ()
    judgements: tuple[JudgementRecord, ...] = ()
    withdrawn: int = 0


_LATELY = 10_000
"""Traces of which is known in memory who may speak of them, and what was said."""


@dataclass
class _Known:
    """What is known of a trace that was spoken of lately: whose it is, its spans, and its repeatable feedback."""

    caller: str
    user: str | None
    spans: frozenset[str]
    feedback: dict[str, Feedback]


@dataclass
class TraceStore:
    """Traces, feedback and judgements of one service; used from one event loop.

    Args:
        folder: folder of the journal and of its index.
        clock: clock of the service.

    Attributes:
        also: what else holds something of users, each a context that is held while one is erased: it stops what is
            under way for the user's key, and removes its own part once the traces are gone.

    Raises:
        RunError: another process writes the folder, or the disk refuses.
    """

    folder: Path
    clock: Clock = field(default_factory=Clock)
    also: list[Callable[[str], AbstractAsyncContextManager[None]]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder)
        try:
            self._reader = JournalReader(self.folder)
            self.index = TraceIndex(self.folder / "index.sqlite")
        except BaseException:
            self.journal.close()
            raise
        self._writing: dict[str, asyncio.Future[Feedback]] = {}
        self._lately: OrderedDict[str, _Known] = OrderedDict()
        self._erasing: set[str] = set()
        self._erased: dict[str, int] = {}  # when, by user: requests under way then are not kept later

    def close(self) -> None:
        """Write what waits, and let the folder go."""
        self.journal.close()
        self._reader.close()
        self.index.close()

    # -- writing ------------------------------------------------------------------------------------------------------

    async def write(
        self, trace: Trace, *, blobs: Mapping[str, bytes] | None = None, expires: int | None = None
    ) -> None:
        """Keep a trace and the blobs that it names; when this returns they are on the disk.

        Args:
            trace: the trace, redacted.
            blobs: contents by their digest.
            expires: second since 1970 at which the blobs may be removed, as of :meth:`Journal.append`.

        Raises:
            UnknownTrace: its user was erased after its request began.
            JournalFull: the disk takes no more. RunError: it fails.
        """
        self._check_not_erased(trace)
        await self.journal.append(encode(trace), subject=trace.id, blobs=blobs, expires=expires)

    def post(
        self, trace: Trace, *, blobs: Mapping[str, bytes] | None = None, expires: int | None = None
    ) -> None:
        """Keep a trace soon, as `write` does, for a request that nobody waits for any more.

        Raises:
            UnknownTrace: its user was erased after its request began.
            JournalFull: the queue takes no more. RunError: the disk fails.
        """
        self._check_not_erased(trace)
        self.journal.post(encode(trace), subject=trace.id, blobs=blobs, expires=expires)

    def _check_not_erased(self, trace: Trace) -> None:
        if trace.user is not None and trace.began <= self._erased.get(trace.user, -1):
            raise UnknownTrace(f"the user of the trace {trace.id} was erased", where="trace")

    async def give_feedback(self, feedback: Feedback) -> Feedback:
        """Keep a feedback; the same one again, also at once or after a restart, changes nothing.

        Args:
            feedback: feedback whose text is redacted. With a `client_key` its id follows from the trace, from whom it
                is and from that key.

        Returns:
            The feedback as it is kept: the first one of its key.

        Raises:
            UnknownTrace: there is no such trace.
            DataError: the span that it names is not one of the trace's.
        """
        if feedback.client_key is not None:
            repeatable = (feedback.trace, feedback.source, feedback.by, feedback.client_key)
            feedback = _replace(feedback, id=content_id(*repeatable))
        writing = self._writing.get(feedback.id)
        if writing is not None:
            return await asyncio.shield(writing)
        future = asyncio.ensure_future(self._give_feedback(feedback))
        self._writing[feedback.id] = future
        try:
            return await asyncio.shield(future)
        finally:
            self._writing.pop(feedback.id, None)

    async def _give_feedback(self, feedback: Feedback) -> Feedback:
        known = self._known(feedback.trace)
        earlier = known.feedback.get(feedback.id)
        if earlier is not None:
            return earlier
        if feedback.span is not None and feedback.span not in known.spans:
            raise DataError(f"the trace has no span {feedback.span}", where="feedback")
        await self._say(feedback)
        if feedback.client_key is not None:
            known.feedback[feedback.id] = feedback
        return feedback

    async def _say(self, record: Feedback | Withdrawal | JudgementRecord) -> None:
        """Keep what is said of a trace, if that is still there when it is written."""
        if not await self.journal.append(encode(record), subject=record.trace, about=True):
            raise UnknownTrace(f"there is no trace {record.trace} any more", where="trace")

    def caller_of(self, trace: str) -> str:
        """Name of the caller whose trace it is.

        Raises:
            UnknownTrace: there is no such trace.
        """
        return self._known(trace).caller

    def user_of(self, trace: str) -> str | None:
        """Key of the user whose trace it is; None where the request named none.

        Raises:
            UnknownTrace: there is no such trace.
        """
        return self._known(trace).user

    def _known(self, trace: str) -> _Known:
        """What decides whether a feedback is taken, kept for the traces that were spoken of last."""
        known = self._lately.get(trace)
        if known is None:
            records = self._about(trace)
            first = _trace_of(records, trace)
            known = _Known(
                first.caller,
                first.user,
                frozenset(span.id for span in first.spans),
                {r.id: r for r in records if isinstance(r, Feedback) and r.client_key is not None},
            )
            self._lately[trace] = known
            if len(self._lately) > _LATELY:
                self._lately.popitem(last=False)
        else:
            self._lately.move_to_end(trace)
        self._check_stays(trace, known.user)
        return known

    def _check_stays(self, trace: str, user: str | None) -> None:
        if user in self._erasing:
            raise UnknownTrace(f"the user of the trace {trace} is being erased", where="trace")

    async def withdraw(self, trace: str, feedback: str, *, by: str = "") -> None:
        """Take a feedback back; once more changes nothing.

        Raises:
            UnknownTrace: there is no such trace. DataError: it has no such feedback.
        """
        records = self._about(trace)
        self._check_stays(trace, _trace_of(records, trace).user)
        if not any(isinstance(r, Feedback) and r.id == feedback for r in records):
            raise DataError(f"the trace has no feedback {feedback}", where="feedback")
        if any(isinstance(r, Withdrawal) and r.feedback == feedback for r in records):
            return
        now = self.clock()
        await self._say(Withdrawal(new_id(now), trace, feedback, now, by))

    async def judge(self, judgement: JudgementRecord) -> None:
        """Keep a judgement, with its invalid verdicts; the same one again changes nothing.

        Raises:
            UnknownTrace: there is no such trace.
        """
        records = self._about(judgement.trace)
        self._check_stays(judgement.trace, _trace_of(records, judgement.trace).user)
        if not any(isinstance(r, JudgementRecord) and r.id == judgement.id for r in records):
            await self._say(judgement)

    async def erase(self, user: str) -> Erasure:
        """Remove every trace of a user with its feedback, judgements and pictures, and what the user said of others'.

        All of it is gone from the journal in one transaction, also what was accepted while the erasure ran: an erasure
        that was recorded and not carried out would never be found again. Feedback and judgements for these traces are
        refused meanwhile, and later so are traces whose requests were under way. The index forgets, too; sealed
        segments are made anew by the next sealing. Copies (backups, data sets that were taken out) are out of reach.
        """
        self._erasing.add(user)
        try:
            async with AsyncExitStack() as stack:
                for one in self.also:
                    await stack.enter_async_context(one(user))
                return await self._erase(user)
        finally:
            self._erasing.discard(user)

    async def _erase(self, user: str) -> Erasure:
        seen, traces, said, blobs = await asyncio.to_thread(self._of_user, user)
        now = self.clock()
        erasure = Erasure(new_id(now), user, now, len(traces), 0)

        def review(bodies: Sequence[bytes]) -> tuple[list[str], frozenset[str]]:
            nonlocal erasure
            later = [record for body in bodies if (record := _trace(body)) is not None]
            own = [record.id for record in later if record.user == user]
            erasure = msgspec.structs.replace(erasure, traces=len(traces) + len(own))
            return own, frozenset(
                b for one in later if one.user != user for span in one.spans for b in span.blobs
            )

        def record(count: int) -> bytes:
            nonlocal erasure
            erasure = msgspec.structs.replace(erasure, records=count)
            return encode(erasure)

        # What was accepted up to here lies before the removal; a request that began up to here is not kept behind it.
        self._erased[user] = self.clock()
        await self.journal.remove(
            said, subjects=traces, blobs=blobs, review=(seen, review), body=record, subject=f"user:{user}"
        )
        for trace in [name for name, known in self._lately.items() if known.user == user]:
            del self._lately[trace]
        await asyncio.to_thread(self.index.follow, self.folder)
        await asyncio.to_thread(self.index.fold)
        return erasure

    async def remove(self, traces: Collection[str]) -> int:
        """Remove traces with all that was said of them and the pictures that no other trace names.

        For a user who takes back a conversation. What challengers answered to it in the shadow goes, too. Like an
        erasure it is one transaction, and copies are beyond its reach.

        Returns:
            Number of records that were removed.
        """
        asked = frozenset(traces)

        def named() -> tuple[int, frozenset[str], list[str]]:
            self.index.follow(self.folder)
            gone = asked.union(*(self.index.shadows_of(trace) for trace in asked))
            blobs = {blob for trace in gone for blob in self.index.blobs_of(trace)}
            return self.index.last, gone, [b for b in blobs if gone.issuperset(self.index.traces_with(b))]

        seen, gone, blobs = await asyncio.to_thread(named)

        def review(bodies: Sequence[bytes]) -> tuple[list[str], frozenset[str]]:
            later = [
                record for body in bodies if (record := _trace(body)) is not None and record.id not in gone
            ]
            shadows = [one.id for one in later if one.labels.get("of") in asked]
            stay = [one for one in later if one.labels.get("of") not in asked]
            return shadows, frozenset(b for one in stay for span in one.spans for b in span.blobs)

        count = await self.journal.remove(subjects=sorted(gone), blobs=blobs, review=(seen, review))
        for trace in gone:
            self._lately.pop(trace, None)
        await asyncio.to_thread(self.index.forget_traces, sorted(gone))
        return count

    def _of_user(self, user: str) -> tuple[int, list[str], list[int], list[str]]:
        """What the index knows of a user: up to which frame, its traces, frames on others' traces, blobs of its own."""
        self.index.follow(self.folder)
        seen, traces = self.index.last, self.index.traces_of(user)
        mine = set(traces)
        said = [
            frame.sequence
            for trace, feedback in self.index.said_by(user)
            if trace not in mine
            for frame in self._reader.about(trace)
            if isinstance(one := decode(frame.body), Feedback) and one.id == feedback
        ]
        named = {blob for trace in traces for blob in self.index.blobs_of(trace)}
        return seen, traces, said, [blob for blob in named if not self.index.named_by_others(blob, user)]

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, trace: str) -> TraceView:
        """A trace with what was said about it.

        Raises:
            UnknownTrace: there is no such trace.
        """
        return view(self._about(trace), trace)

    def blob(self, digest: str) -> bytes | None:
        """Content of a blob; None where it is not there any more."""
        return self._reader.blob(digest)

    def _about(self, trace: str) -> list[Record]:
        if not is_id(trace):
            raise UnknownTrace(f"there is no trace {trace[:60]!r}", where="trace")
        return [decode(frame.body, f"frame {frame.sequence}") for frame in self._reader.about(trace)]


def read_views(
    folder: Path,
    *,
    after: int = -1,
    limit: int | None = None,
    wanted: Callable[[Trace], bool] = lambda trace: True,
) -> Iterator[TraceView]:
    """Every trace of a journal with what was said about it, oldest first, beside the process that writes it.

    No more than `limit` traces are in memory at once, however long the journal is.

    Args:
        folder: folder of the journal.
        after: nanosecond since 1970; only traces that began later.
        limit: largest number of traces; the newest ones are kept.
        wanted: says of a trace whether it is one of those that are read and counted.

    Raises:
        RunError: there is no journal.
    """
    about: dict[str, list[Record]] = {}
    newest: list[tuple[int, str]] = []  # a heap, the oldest on top
    with JournalReader(folder) as reader:
        for frame in reader.frames():
            record = decode(frame.body, f"frame {frame.sequence}")
            if isinstance(record, Trace):
                if record.began <= after or not wanted(record):
                    continue
                if record.id not in about:
                    heapq.heappush(newest, (record.began, record.id))
                about.setdefault(record.id, []).append(record)
                if limit is not None and len(newest) > limit:
                    del about[heapq.heappop(newest)[1]]
            elif not isinstance(record, Erasure) and record.trace in about:
                about[record.trace].append(record)
    for _, name in sorted(newest):
        yield view(about[name], name)


def view(records: Sequence[Record], trace: str) -> TraceView:
    """The trace among its records, with the feedback that stands.

    Raises:
        UnknownTrace: the records hold no trace.
    """
    withdrawn = {record.feedback for record in records if isinstance(record, Withdrawal)}
    feedback = {record.id: record for record in reversed(records) if isinstance(record, Feedback)}
    standing = [record for record in reversed(feedback.values()) if record.id not in withdrawn]
    return TraceView(
        _trace_of(records, trace),
        tuple(standing),
        tuple(record for record in records if isinstance(record, JudgementRecord)),
        len(feedback) - len(standing),
    )


def _trace(body: bytes) -> Trace | None:
    """The trace that a frame holds; None where it holds something else, or is no record."""
    try:
        record = decode(body)
    except DataError:
        return None
    return record if isinstance(record, Trace) else None


def _trace_of(records: Sequence[Record], name: str) -> Trace:
    for record in records:
        if isinstance(record, Trace):
            return record
    raise UnknownTrace(f"there is no trace {name}", where="trace")


def _replace(record: Feedback, **changes: Any) -> Feedback:
    return msgspec.structs.replace(record, **changes)
