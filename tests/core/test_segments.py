"""Segments: sealed whole or not at all, the same bytes again, without what was erased; SQL that only reads."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from noria.core.errors import DataError, RunError
from noria.core.traces.columns import TABLES, columns, schema
from noria.core.traces.datasets import examples
from noria.core.traces.ids import new_id
from noria.core.traces.queries import chosen_views, query
from noria.core.traces.records import (
    AssignmentRecord,
    Candidate,
    Feedback,
    JudgementRecord,
    Span,
    SpanError,
    Trace,
    Usage,
    VerdictRecord,
)
from noria.core.traces.segments import Manifest, read_manifest, seal, segment_files
from noria.core.traces.store import TraceStore

pytest.importorskip("pyarrow")
pytest.importorskip("duckdb")
pytestmark = pytest.mark.anyio
WIDTH = 16


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TraceStore]:
    store = TraceStore(tmp_path / "service")
    yield store
    store.close()


def trace(store: TraceStore, n: int) -> Trace:
    now = store.clock()
    failed = SpanError("timeout", "no answer within 30 s") if n % 5 == 0 else None
    decision = Span(
        "d", "model", "router", now, now + 1_500_000, candidates=(Candidate("small", 0.4, 0.75), Candidate("large")),
        chosen="small",
    )  # fmt: skip
    chat = Span(
        "c", "chat", "small", now, now + 250_000_000, input=[{"role": "user", "content": f"question {n}"}],
        output="an answer", attributes={"tokens_in": n}, error=failed, parent="d",
    )  # fmt: skip
    return Trace(
        new_id(now), now, now + 300_000_001, "failed" if failed else "ok", bundle="ab"[n % 2] * 64, caller="shop",
        user=f"user {n % 4}", assignments=(AssignmentRecord("tone", "short", 0.5),), spans=(decision, chat),
        usage=Usage(n, 7, 0.25), redactions={"mail": n % 3}, labels={"skill": "recipes"},
    )  # fmt: skip


async def fill(store: TraceStore, count: int) -> list[Trace]:
    traces = [trace(store, n) for n in range(count)]
    for one in traces:
        await store.write(one)
    return traces


def files(folder: Path) -> dict[str, str]:
    root = folder / "segments"
    names = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def rating(store: TraceStore, of: Trace, value: float) -> Feedback:
    return Feedback(new_id(store.clock()), of.id, "rating", "helpful", store.clock(), value=value, by="x")


# -- sealing ----------------------------------------------------------------------------------------------------------


async def test_columns_hold_what_the_records_say(store: TraceStore) -> None:
    traces = await fill(store, WIDTH)
    judgement = JudgementRecord(
        new_id(store.clock()), traces[3].id, store.clock(), "rules", "1", "c", "rule",
        (VerdictRecord("polite", "yes"), VerdictRecord("true", "invalid", "no reply")), None, 0.5,
    )  # fmt: skip
    await store.judge(judgement)
    for n in range(WIDTH - 1):
        await store.give_feedback(rating(store, traces[n], n / 10))
    assert seal(store.folder, age=-60, frames=WIDTH).sealed == 2
    (row,) = query(
        store.folder,
        "SELECT t.sequence, epoch_ns(t.began), epoch_ns(t.ended), t.seconds, t.tokens_in, t.cost, t.labels['skill'],"
        " t.redactions['mail'], t.assignments[1].propensity, s.candidates[1].propensity, s.candidates[2].score,"
        " s.propensity, s.chosen FROM traces AS t JOIN spans AS s ON s.trace = t.id"
        " WHERE t.id = ? AND s.kind = 'model'",
        [traces[4].id],
    ).rows
    wanted = traces[4]
    assert row[:3] == (5, wanted.began, wanted.ended)
    assert row[3:] == (0.300000001, 4, 0.25, "recipes", 1, 0.5, 0.75, None, 0.75, "small")
    (said,) = query(store.folder, "SELECT invalid, score, verdicts[2].value, seconds FROM judgements").rows
    assert said == (1, None, "invalid", 0.5)
    (span,) = query(
        store.folder,
        "SELECT input, attributes, error_kind, parent FROM spans WHERE error_kind IS NOT NULL LIMIT 1",
    ).rows
    assert json.loads(span[0]) == [{"role": "user", "content": "question 0"}]
    assert (json.loads(span[1]), *span[2:]) == ({"tokens_in": 0}, "timeout", "d")
    for table in TABLES:
        assert schema(table).names == [name for name, _, _ in columns(table)]


async def test_only_whole_windows_that_are_old_enough_are_sealed(store: TraceStore) -> None:
    traces = await fill(store, 3 * WIDTH - 1)
    assert seal(store.folder, frames=WIDTH).sealed == 0
    now = traces[WIDTH - 1].ended / 1e9
    assert seal(store.folder, age=60, now=now + 59, frames=WIDTH).sealed == 0
    assert seal(store.folder, age=60, now=now + 61, frames=WIDTH).sealed >= 1
    assert seal(store.folder, age=-60, frames=WIDTH).sealed <= 1
    manifest = read_manifest(store.folder)
    assert [(one.first, one.last, one.rows["traces"]) for one in manifest.segments] == [
        (1, WIDTH, WIDTH),
        (WIDTH + 1, 2 * WIDTH, WIDTH),
    ]
    assert query(store.folder, "SELECT count(*), count(DISTINCT id) FROM traces").rows == [
        (3 * WIDTH - 1, 3 * WIDTH - 1)
    ]
    with pytest.raises(DataError, match="its segments have 16 frames, and 17"):
        seal(store.folder, frames=17)


async def test_sealing_again_gives_the_same_bytes(store: TraceStore) -> None:
    await fill(store, 3 * WIDTH)
    seal(store.folder, age=-60, frames=WIDTH)
    before = files(store.folder)
    assert len(before) == 1 + 3 * (len(TABLES) + 1)
    assert seal(store.folder, age=-60, frames=WIDTH).sealed == 0
    assert files(store.folder) == before
    shutil.rmtree(store.folder / "segments")
    seal(store.folder, age=-60, frames=WIDTH)
    assert files(store.folder) == before


async def test_an_erased_user_is_in_no_segment_and_the_other_segments_are_not_touched(
    store: TraceStore,
) -> None:
    traces = await fill(store, WIDTH)  # the first segment holds everyone
    await store.give_feedback(rating(store, traces[2], 1.0))  # by user 2, in the second
    others = [trace(store, 4 * n) for n in range(2 * WIDTH - 1)]  # user 0 alone
    for one in others:
        await store.write(one)
    seal(store.folder, age=-60, frames=WIDTH)
    before = read_manifest(store.folder).segments
    await store.erase("user 2")
    outcome = seal(store.folder, age=-60, frames=WIDTH)
    after = read_manifest(store.folder).segments
    assert (outcome.sealed, outcome.rewritten) == (0, 2)
    assert before[2] == after[2]
    assert [one.removed for one in after] == [4, 1, 0]
    assert sorted(path.name for path in (store.folder / "segments").iterdir() if path.is_dir()) == [
        one.name for one in after
    ]
    assert query(store.folder, "SELECT count(*) FROM traces WHERE user = 'user 2'").rows == [(0,)]
    assert query(store.folder, "SELECT count(*) FROM feedback").rows == [(0,)]
    for path in (store.folder / "segments").rglob("*.parquet"):
        assert traces[2].id.encode() not in path.read_bytes()


async def test_what_is_no_record_and_what_is_damaged_is_counted(store: TraceStore) -> None:
    await fill(store, 4)
    await store.journal.append(b"no record")
    huge = trace(store, 1)
    await store.journal.append(
        b'{"type":"trace","id":"x","began":1,"ended":99999999999999999999,"status":"ok"}'
    )
    await store.write(huge)
    await fill(store, 9)
    store.journal._database.execute("UPDATE frames SET body = ? WHERE sequence = 3", (b"flipped",))
    seal(store.folder, age=-60, frames=WIDTH)
    (segment,) = read_manifest(store.folder).segments
    assert (segment.unread, segment.damaged, segment.rows["traces"]) == (2, 1, WIDTH - 3)


async def test_segments_of_another_journal_are_made_anew(store: TraceStore, tmp_path: Path) -> None:
    await fill(store, 2 * WIDTH)
    seal(store.folder, age=-60, frames=WIDTH)
    other = TraceStore(tmp_path / "other")
    shutil.copytree(store.folder / "segments", other.folder / "segments")
    await fill(other, WIDTH)
    seal(other.folder, age=-60, frames=WIDTH)
    assert query(other.folder, "SELECT count(*) FROM traces").rows == [(WIDTH,)]
    other.close()
    (other.folder / "segments" / "manifest.json").write_text('{"format": 1, "segments": 7}')
    with pytest.raises(DataError, match="no manifest"):
        query(other.folder, "SELECT 1")


SEALER = """
import sys
from pathlib import Path
from noria.core.traces.segments import seal
print("ready", flush=True)
seal(Path(sys.argv[1]), age=-60, frames=16)
"""


@pytest.mark.slow
async def test_kill_minus_nine_leaves_segments_whole_or_not_at_all(store: TraceStore) -> None:
    random.seed(5)
    await fill(store, 60 * WIDTH)
    sealed = []
    for _ in range(20):
        child = subprocess.Popen([sys.executable, "-c", SEALER, store.folder], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(random.uniform(0, 0.4))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        manifest = read_manifest(store.folder)
        sealed.append(len(manifest.segments))
        for one in manifest.segments:
            folder = store.folder / "segments" / one.name
            lines = (folder / "digests.sha256").read_text()
            assert hashlib.sha256(lines.encode()).hexdigest() == one.digest
            for line in lines.splitlines():
                digest, name = line.split()
                assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        counted = query(store.folder, "SELECT count(*), count(DISTINCT id) FROM traces").rows
        assert counted == [(60 * WIDTH, 60 * WIDTH)]
    assert sealed == sorted(sealed)
    seal(store.folder, age=-60, frames=WIDTH)
    killed = files(store.folder)
    shutil.rmtree(store.folder / "segments")
    seal(store.folder, age=-60, frames=WIDTH)
    assert files(store.folder) == killed


async def test_one_process_seals(store: TraceStore) -> None:
    from noria.core.files import lock

    with lock(store.folder / "segments"), pytest.raises(RunError, match="in use"):
        seal(store.folder)
    assert read_manifest(store.folder) == Manifest()


# -- queries ----------------------------------------------------------------------------------------------------------


async def test_withdrawn_feedback_counts_nowhere_sealed_or_not(store: TraceStore) -> None:
    traces = await fill(store, WIDTH - 2)
    one = await store.give_feedback(rating(store, traces[0], 1.0))
    other = await store.give_feedback(rating(store, traces[1], 0.0))
    seal(store.folder, age=-60, frames=WIDTH)
    assert query(store.folder, "SELECT avg(value) FROM feedback").rows == [(0.5,)]
    await store.withdraw(traces[0].id, one.id)  # in the journal's newest frames, of a sealed feedback
    assert query(store.folder, "SELECT id FROM feedback").rows == [(other.id,)]
    await fill(store, WIDTH - 1)
    seal(store.folder, age=-60, frames=WIDTH)
    assert read_manifest(store.folder).last == 2 * WIDTH
    assert query(store.folder, "SELECT id FROM feedback").rows == [(other.id,)]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("DROP TABLE traces", "not one SELECT"),
        ("SELECT 1; SELECT 2", "not one SELECT"),
        ("", "not one SELECT"),
        ("COPY traces TO '/tmp/out.csv'", "not one SELECT"),
        ("SET memory_limit = '100GB'", "not one SELECT"),
        ("INSTALL httpfs", "not one SELECT"),
        ("ATTACH '/tmp/other.db'", "not one SELECT"),
        ("SELECT * FROM read_text('/etc/passwd')", "disabled"),
        ("SELECT * FROM '/etc/passwd'", "disabled|not exist"),
        ("SELECT * FROM read_parquet('https://example.org/x.parquet')", "disabled|Extension|httpfs"),
        ("SELECT * FROM glob('/etc/*')", "disabled"),
        ("SELECT nothing FROM traces", "nothing"),
        ("SELEC", "syntax"),
    ],
    ids=list(map(str, range(13))),
)
async def test_a_query_reads_traces_and_nothing_else(store: TraceStore, sql: str, words: str) -> None:
    await fill(store, WIDTH)
    seal(store.folder, age=-60, frames=WIDTH)
    before = files(store.folder)
    with pytest.raises(DataError, match=words) as caught:
        query(store.folder, sql)
    assert "\n" not in str(caught.value)
    assert files(store.folder) == before


async def test_a_query_ends_at_its_bounds(store: TraceStore) -> None:
    await fill(store, 5)
    result = query(store.folder, "SELECT id FROM traces ORDER BY id", rows=3)
    assert (len(result.rows), result.truncated, result.columns) == (3, True, ("id",))
    assert not query(store.folder, "SELECT id FROM traces", rows=5).truncated
    began = time.monotonic()
    with pytest.raises(DataError, match=r"more than 0\.3 s"):
        query(store.folder, "SELECT count(*) FROM range(1000000000) a, range(1000000) b", seconds=0.3)
    assert time.monotonic() - began < 5
    with pytest.raises(DataError, match="Out of Memory"):
        query(store.folder, "SELECT list(range) FROM range(1000000000)")


async def test_queries_run_beside_sealing_and_erasure(store: TraceStore) -> None:
    await fill(store, 4 * WIDTH)

    def ask() -> int:
        return query(store.folder, "SELECT count(*) FROM traces WHERE user = 'user 0'").rows[0][0]

    async def erase() -> None:
        for n in (1, 2, 3):
            await store.erase(f"user {n}")
            await asyncio.to_thread(seal, store.folder, age=-60, frames=WIDTH)

    erasing = asyncio.ensure_future(erase())
    while not erasing.done():
        assert await asyncio.to_thread(ask) == WIDTH
    await erasing


# -- data sets --------------------------------------------------------------------------------------------------------


async def test_a_condition_over_columns_chooses_the_traces_of_a_data_set(store: TraceStore) -> None:
    traces = await fill(store, 3 * WIDTH)
    await store.give_feedback(rating(store, traces[7], 1.0))
    await store.give_feedback(rating(store, traces[40], 0.0))
    seal(store.folder, age=-60, frames=WIDTH)
    rated = list(chosen_views(store.folder, "id IN (SELECT trace FROM feedback WHERE kind = 'rating')"))
    assert [one.trace for one in rated] == [traces[7], traces[40]]
    assert rated == [store.read(traces[7].id), store.read(traces[40].id)]
    assert [one.score for one in examples(rated, salt="s")] == [1.0]  # the other one failed
    assert len(list(chosen_views(store.folder))) == 3 * WIDTH
    with pytest.raises(DataError, match="more than 2 traces"):
        list(chosen_views(store.folder, limit=2))
    assert len(segment_files(store.folder, "traces", read_manifest(store.folder))) == 3
