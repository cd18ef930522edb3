"""Traces: found by id, feedback counted once, a user erased from every byte, an index that can be lost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from noria.core.errors import DataError
from noria.core.storage.journal_file import Frame, JournalReader, blob_digest
from noria.core.traces.ids import Clock, is_id, new_id, user_key
from noria.core.traces.index.figures import UnitFigure, unit_figures
from noria.core.traces.index.index import TraceIndex
from noria.core.traces.index.listing import newest_traces
from noria.core.traces.records import (
    AssignmentRecord,
    Candidate,
    Feedback,
    JudgementRecord,
    Source,
    Span,
    Trace,
    Usage,
    VerdictRecord,
    decode,
    encode,
)
from noria.core.traces.store import TraceStore, UnknownTrace

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TraceStore]:
    store = TraceStore(tmp_path / "traces")
    yield store
    store.close()


def made(
    clock: Clock, *, user: str | None = None, text: str = "hello", blobs: tuple[str, ...] = (), **more
) -> Trace:  # type: ignore[no-untyped-def]
    span = Span(
        new_id(clock()), "model", "router", clock(), clock(), input=text, blobs=blobs,
        candidates=(Candidate("small", 0.4, 0.8), Candidate("large", 0.6, 0.2)), chosen="small",
    )  # fmt: skip
    began = clock()
    return Trace(new_id(began), began, clock(), "ok", user=user, spans=(span,), **more)


# -- ids --------------------------------------------------------------------------------------------------------------


def test_ids_sort_by_time_and_are_of_version_seven() -> None:
    clock = Clock()
    times = [clock() + n * 250 for n in range(2000)]
    ids = [new_id(now) for now in times]
    assert ids == sorted(ids)
    assert len(set(ids)) == 2000
    assert all(is_id(name) for name in ids)
    assert new_id(1_645_557_742_000_000_000).startswith("017f22e2-79b0-7000-")  # the example of RFC 9562


def test_the_clock_never_goes_back() -> None:
    readings = iter([100, 50, 50, 300])
    clock = Clock(lambda: next(readings))
    assert [clock() for _ in range(4)] == [100, 101, 102, 300]


def test_a_user_key_needs_the_secret() -> None:
    one = user_key(b"s" * 16, "ann@example.org")
    assert one == user_key(b"s" * 16, "ann@example.org")
    assert one != user_key(b"t" * 16, "ann@example.org")
    assert len(one) == 32
    with pytest.raises(ValueError, match="16 bytes"):
        user_key(b"short", "ann")


# -- records ----------------------------------------------------------------------------------------------------------


def test_a_record_is_json_and_comes_back() -> None:
    clock = Clock()
    trace = made(
        clock, bundle="b" * 64, assignments=(AssignmentRecord("e", "a", 0.5),), usage=Usage(3, 4, 0.01)
    )
    assert decode(encode(trace)) == trace
    judgement = JudgementRecord(
        new_id(clock()),
        trace.id,
        clock(),
        "rules",
        "1",
        "c",
        "rule",
        (VerdictRecord("i", "invalid", "no reply"),),
    )
    assert decode(encode(judgement)) == judgement


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b"{}", b'{"type":"other"}', b'{"type":"trace","id":1}', b"[" * 100_000, b"\xff",
     b'{"type":"feedback","id":"a","trace":"b","kind":"guess","name":"x","at":1}'],
)  # fmt: skip
def test_what_is_no_record_is_refused_in_a_line(body: bytes) -> None:
    with pytest.raises(DataError, match="frame 7: no record of a trace"):
        decode(body, "frame 7")


def test_impossible_spans_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="ends before"):
        Span("i", "chat", "m", 2, 1)
    with pytest.raises(ValueError, match="no candidate"):
        Span("i", "model", "m", 1, 2, candidates=(Candidate("a"),), chosen="b")


# -- the store --------------------------------------------------------------------------------------------------------


async def test_a_trace_is_found_with_what_was_said_about_it(store: TraceStore) -> None:
    trace = made(store.clock)
    await store.write(trace)
    one = Feedback(new_id(store.clock()), trace.id, "rating", "helpful", store.clock(), value=1.0)
    other = Feedback(new_id(store.clock()), trace.id, "comment", "words", store.clock(), text="too long")
    await store.give_feedback(one)
    await store.give_feedback(other)
    await store.withdraw(trace.id, one.id, by="ann")
    await store.withdraw(trace.id, one.id, by="ann")
    await store.judge(
        JudgementRecord(new_id(store.clock()), trace.id, store.clock(), "rules", "1", "c", "rule", (), 0.5)
    )
    view = store.read(trace.id)
    assert view.trace == trace
    assert view.feedback == (other,)
    assert view.withdrawn == 1
    assert [judgement.score for judgement in view.judgements] == [0.5]


async def test_an_answer_is_uncorrected_where_nobody_says_that_it_should_have_been_another(
    store: TraceStore, tmp_path: Path
) -> None:
    """One unit with six answers: corrected; left alone; confirmed; corrected and withdrawn; by a system; in words."""
    dealt = (AssignmentRecord("e", "challenger", 0.5),)
    traces = [made(store.clock, user="u", assignments=dealt, labels={"skill": "search"}) for _ in range(6)]
    for trace in traces:
        await store.write(trace)

    async def correct(n: int, text: str, name: str = "skill", source: Source = "user") -> str:
        said = new_id(store.clock())
        await store.give_feedback(
            Feedback(said, traces[n].id, "correction", name, store.clock(), text=text, source=source, by="u")
        )
        return said

    await correct(0, "style")
    await correct(2, " search ")
    await correct(2, "search", name="skill", source="rule")
    await store.withdraw(traces[3].id, await correct(3, "style"), by="u")
    await correct(4, "style", source="model")
    await correct(5, "a red one, please", name='"]$')
    index = TraceIndex(tmp_path / "index.sqlite")
    index.follow(tmp_path / "traces")
    figures = {one.name: one for one in unit_figures(index, "e", 0, ["helpful"])}
    index.close()
    assert figures["uncorrected"] == UnitFigure("u", "challenger", "uncorrected", 4, 6)
    assert figures["success"].number == 6


async def test_the_same_feedback_a_hundred_times_at_once_counts_once(
    store: TraceStore, tmp_path: Path
) -> None:
    trace = made(store.clock)
    await store.write(trace)

    def again() -> Feedback:
        return Feedback(
            new_id(store.clock()), trace.id, "rating", "helpful", store.clock(), 1.0, client_key="k"
        )

    kept = await asyncio.gather(*(store.give_feedback(again()) for _ in range(100)))
    assert len({one.id for one in kept}) == len({one.at for one in kept}) == 1
    assert len(store.read(trace.id).feedback) == 1
    last = store._reader.last
    store.close()
    other = TraceStore(tmp_path / "traces")  # after a restart, too
    assert await other.give_feedback(again()) == kept[0]
    assert other._reader.last == last
    by_another = Feedback("x", trace.id, "rating", "helpful", 1, 1.0, client_key="k", by="bob")
    await other.give_feedback(by_another)
    assert len(other.read(trace.id).feedback) == 2
    other.close()
    store.__post_init__()  # for the fixture to close


@pytest.mark.parametrize(
    "name", ["", "no-id", "0199d3b5-1c00-7abc-8def-0123456789ab", "0" * 36, "../x", "\ud800"]
)
async def test_feedback_for_an_unknown_trace_is_refused(store: TraceStore, name: str) -> None:
    with pytest.raises(UnknownTrace, match="there is no trace"):
        await store.give_feedback(Feedback("i", name, "rating", "helpful", 1, 1.0))
    assert store._reader.last == 0


async def test_feedback_on_what_the_trace_has_not_is_refused(store: TraceStore) -> None:
    trace = made(store.clock)
    await store.write(trace)
    with pytest.raises(DataError, match="no span"):
        await store.give_feedback(Feedback("i", trace.id, "rating", "helpful", 1, 1.0, span="other"))
    with pytest.raises(DataError, match="no feedback"):
        await store.withdraw(trace.id, "nothing")


async def test_an_erased_user_is_in_no_byte_and_others_stay(store: TraceStore) -> None:
    ann, bob = user_key(b"s" * 16, "ann"), user_key(b"s" * 16, "bob")
    own, shared = b"a face of ann's" * 900, b"a picture of both" * 900
    blobs = {blob_digest(own): own, blob_digest(shared): shared}
    mine = made(store.clock, user=ann, text="ann's long secret text " * 40, blobs=tuple(blobs))
    theirs = made(store.clock, user=bob, text="bob's text", blobs=(blob_digest(shared),))
    await store.write(mine, blobs=blobs)
    await store.write(theirs, blobs={blob_digest(shared): shared})
    await store.give_feedback(
        Feedback("f", mine.id, "comment", "words", 1, text="her comment, at length " * 9)
    )
    erasure = await store.erase(ann)
    assert (erasure.traces, erasure.records) == (1, 2)
    with pytest.raises(UnknownTrace):
        store.read(mine.id)
    with pytest.raises(UnknownTrace):
        await store.give_feedback(Feedback("g", mine.id, "rating", "helpful", 1, 1.0))
    assert store.read(theirs.id).trace == theirs
    assert store.blob(blob_digest(own)) is None
    assert store.blob(blob_digest(shared)) == shared
    for path in store.folder.iterdir():
        data = path.read_bytes()
        for gone in (b"secret text", b"her comment", b"a face of", mine.id.encode()):
            assert gone not in data, (path.name, gone)


async def test_what_a_user_said_of_others_goes_and_what_others_said_of_them_stays(store: TraceStore) -> None:
    ann, bob = user_key(b"s" * 16, "ann"), user_key(b"s" * 16, "bob")
    theirs = made(store.clock, user=bob)
    await store.write(theirs)
    await store.give_feedback(Feedback("a", theirs.id, "comment", "words", 1, text="of ann", by=ann))
    await store.give_feedback(Feedback("b", theirs.id, "comment", "words", 2, text="of bob", by=bob))
    assert (await store.erase(ann)).records == 1
    assert [one.id for one in store.read(theirs.id).feedback] == ["b"]
    store.index.follow(store.folder)
    assert [row.feedback for row in newest_traces(store.index)] == [1]
    assert all(b"of ann" not in path.read_bytes() for path in store.folder.iterdir() if path.is_file())


async def test_what_comes_while_a_user_is_erased_is_erased_or_refused(store: TraceStore) -> None:
    ann, bob = user_key(b"s" * 16, "ann"), user_key(b"s" * 16, "bob")
    shared = b"a picture of both" * 900
    name = blob_digest(shared)
    early = made(store.clock, user=ann, text="early words", blobs=(name,))
    await store.write(early, blobs={name: shared})
    await store.give_feedback(Feedback("known", early.id, "rating", "helpful", 1, 1.0))
    late, theirs = made(store.clock, user=ann, text="late words"), made(store.clock, user=bob, blobs=(name,))
    follow = store.index.follow

    def followed_too_early(folder: Path) -> int:
        count = follow(folder)
        store.index.follow = follow  # type: ignore[method-assign]
        loop.call_soon_threadsafe(meanwhile)
        came.result(10)
        return count

    def meanwhile() -> None:
        store.post(late)
        store.post(theirs, blobs={name: shared})
        came.set_result(None)

    loop, came = asyncio.get_running_loop(), concurrent.futures.Future[None]()
    store.index.follow = followed_too_early  # type: ignore[method-assign]
    erasing = asyncio.create_task(store.erase(ann))
    await asyncio.wrap_future(came)
    with pytest.raises(UnknownTrace, match="being erased"):
        await store.give_feedback(Feedback("f", early.id, "comment", "words", 1, text="words too late"))
    with pytest.raises(UnknownTrace, match="being erased"):
        await store.withdraw(early.id, "known")
    assert (await erasing).traces == 2
    store.index.follow(store.folder)
    assert [row.id for row in newest_traces(store.index)] == [theirs.id]
    assert store.blob(name) == shared
    for path in store.folder.iterdir():
        data = path.read_bytes()
        assert not [gone for gone in (b"early words", b"late words", b"too late") if gone in data], path.name


async def test_a_request_that_began_before_its_users_erasure_is_not_kept_after_it(store: TraceStore) -> None:
    under_way, left, theirs = (
        made(store.clock, user=user, text="late words") for user in ("ann", "ann", "bob")
    )
    await store.erase("ann")
    with pytest.raises(UnknownTrace, match="was erased"):
        await store.write(under_way)
    with pytest.raises(UnknownTrace, match="was erased"):
        store.post(left)
    await store.write(theirs)
    again = made(store.clock, user="ann")  # who asks anew is there anew
    await store.write(again)
    store.index.follow(store.folder)
    assert [row.id for row in newest_traces(store.index)] == [again.id, theirs.id]


@pytest.mark.parametrize("removal", ["erase", "remove"])
async def test_what_is_said_of_a_trace_that_goes_at_that_moment_goes_with_it(
    store: TraceStore, removal: str
) -> None:
    trace = made(store.clock, user="ann")
    await store.write(trace)
    seen = store._about(trace.id)
    await getattr(store, removal)("ann" if removal == "erase" else [trace.id])
    store._about = lambda name: seen  # type: ignore[method-assign]  # it was there when this was looked up
    with pytest.raises(UnknownTrace, match="any more"):
        await store.judge(JudgementRecord("j", trace.id, 1, "log", "1", "c", "judge", (), 0.5))
    with pytest.raises(UnknownTrace, match="any more"):
        await store.give_feedback(Feedback("f", trace.id, "comment", "words", 1, text="too late"))
    with JournalReader(store.folder) as reader:
        assert not [frame for frame in reader.frames() if frame.subject == trace.id]


ERASING = """
import asyncio, sys
from pathlib import Path
from noria.core.traces.store import TraceStore

async def main():
    store = TraceStore(Path(sys.argv[1]))
    print("erasing", flush=True)
    await store.erase("ann")
    print("erased", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_an_erasure_killed_at_any_moment_happened_or_did_not(tmp_path: Path) -> None:
    done = 0
    for kill in range(12):
        folder = tmp_path / str(kill)
        store = TraceStore(folder)
        for n in range(60):
            await store.write(
                made(store.clock, user="ann" if n % 2 else "bob", text=f"secret {n % 2} " * 200)
            )
        store.index.follow(folder)
        store.close()
        with subprocess.Popen(
            [sys.executable, "-c", ERASING, folder], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "erasing\n"
            time.sleep(0.0015 * kill)
            told = child.stdout.readline() if kill == 11 else ""  # the last one is let through
            child.kill()
            told += child.stdout.read()
        store = TraceStore(folder)
        store.index.follow(folder)
        left = {row.user for row in newest_traces(store.index, limit=100)}
        with JournalReader(folder) as reader:
            bodies = [frame.body for frame in reader.frames()]
        kept = sum(b"secret 1" in body for body in bodies)
        assert (kept, left) in ((0, {"bob"}), (30, {"ann", "bob"}))
        assert sum(b"secret 0" in body for body in bodies) == 30
        assert kept == 0 or told == ""
        done += kept == 0
        await store.erase("ann")
        store.close()
        assert all(b"secret 1" not in path.read_bytes() for path in folder.iterdir() if path.is_file())
    assert done > 0


# -- the index --------------------------------------------------------------------------------------------------------


async def test_the_index_lists_newest_first_and_can_be_lost(store: TraceStore) -> None:
    traces = [
        made(store.clock, user="ann" if n % 2 else "bob", labels={"skill": "search" if n % 3 else "edit"})
        for n in range(30)
    ]
    for trace in traces:
        await store.write(trace)
    await store.give_feedback(Feedback("f", traces[5].id, "rating", "helpful", 1, 1.0))
    await store.give_feedback(Feedback("g", traces[5].id, "rating", "helpful", 1, 1.0))
    await store.withdraw(traces[5].id, "g")
    assert store.index.follow(store.folder) == 33
    rows = newest_traces(store.index, limit=10)
    assert [row.id for row in rows] == [trace.id for trace in reversed(traces)][:10]
    assert [row.id for row in newest_traces(store.index, limit=10, before=rows[-1].id)] == [
        t.id for t in traces[19:9:-1]
    ]
    assert {row.user for row in newest_traces(store.index, user="ann")} == {"ann"}
    assert len(newest_traces(store.index, label=("skill", "edit"))) == 10
    assert next(row for row in newest_traces(store.index) if row.id == traces[5].id).feedback == 1
    before = newest_traces(store.index)
    store.index.close()
    for path in store.folder.glob("index.sqlite*"):
        path.write_bytes(b"not an index" * 500)
    store.index = TraceIndex(store.folder / "index.sqlite")
    assert store.index.follow(store.folder) == 33
    assert newest_traces(store.index) == before
    assert store.index.follow(store.folder) == 0


async def test_a_frame_that_is_no_record_is_counted(store: TraceStore) -> None:
    await store.journal.append(b"no record")
    await store.write(made(store.clock))
    store.index.follow(store.folder)
    assert (store.index.count(), store.index.unread) == (1, 1)


async def test_a_conversation_that_goes_while_the_index_is_read_for_does_not_come_back(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The companion has its list of frames when the gateway removes some of them."""
    await store.write(made(store.clock, user="bob"))
    store.index.follow(store.folder)
    taken_back = made(store.clock, user="ann")
    await store.write(taken_back)
    companion = TraceIndex(store.index.path)
    loop, real = asyncio.get_running_loop(), JournalReader.frames
    removing: list[asyncio.Future[int]] = []

    def frames(self: JournalReader, *values: Any, **named: Any) -> Iterator[Frame]:
        found = list(real(self, *values, **named))
        if threading.current_thread().name == "companion" and not removing:
            loop.call_soon_threadsafe(
                lambda: removing.append(loop.create_task(store.remove([taken_back.id])))
            )
            until = time.monotonic() + 1.0  # the removal runs as far as it can, which may be to its end
            while time.monotonic() < until and not (removing and removing[0].done()):
                time.sleep(0.01)
        return iter(found)

    monkeypatch.setattr(JournalReader, "frames", frames)
    with concurrent.futures.ThreadPoolExecutor(1, initializer=_name_thread) as pool:
        await loop.run_in_executor(pool, companion.follow, store.folder)
    await removing[0]
    companion.close()
    assert store.index.traces_of("ann") == []
    assert store.index.last == 2, "it is read, and never again"


def _name_thread() -> None:
    threading.current_thread().name = "companion"


async def test_the_index_passes_frames_that_were_removed(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noria.core.traces.index.index._BATCH", 4)
    gone, stays = [made(store.clock) for _ in range(9)], made(store.clock)
    for trace in gone:
        await store.write(trace)
    await store.remove([trace.id for trace in gone])
    await store.write(stays)
    again = TraceIndex(store.folder / "again.sqlite")
    assert again.follow(store.folder) == 1
    assert again.count() == 1
    again.close()
