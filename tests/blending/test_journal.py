"""What the log acknowledged is there after a kill, a torn write, a damaged byte, a full disk."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from noria.blending.service.journal import journal
from noria.blending.service.journal.journal import OPENING, Journal, Position, Scan, read_journal, segments
from noria.core.errors import RunError
from noria.core.storage import write_queue
from noria.core.storage.write_queue import JournalFull


def write(folder: Path, payloads: list[bytes], **options: int) -> Scan:
    async def all_of_them() -> None:
        for start in range(0, len(payloads), 4):
            await asyncio.gather(*(log.append(one) for one in payloads[start : start + 4]))

    with Journal(folder, **options) as log:
        asyncio.run(all_of_them())
        return log.found


def read(folder: Path, start: Position | None = None) -> tuple[list[bytes], Scan]:
    scan = Scan()
    return [frame.payload for frame in read_journal(folder, start, scan=scan)], scan


def test_what_was_written_is_read_in_order_over_segments_and_starts(tmp_path: Path) -> None:
    payloads = [bytes([n]) * (n * 37 % 500) for n in range(200)]
    for part in (payloads[:120], payloads[120:]):
        write(tmp_path, part, segment_bytes=4000)
    got, scan = read(tmp_path)
    assert got == payloads
    assert len(segments(tmp_path)) > 2
    assert (scan.torn, scan.damaged, scan.lost, scan.last) == (0, 0, 0, 200)


def test_a_reader_goes_on_where_it_stopped(tmp_path: Path) -> None:
    payloads = [b"%d" % n for n in range(50)]
    write(tmp_path, payloads, segment_bytes=300)
    frames = list(read_journal(tmp_path))
    for number, frame in enumerate(frames, start=1):
        assert read(tmp_path, frame.end)[0] == payloads[number:]


def test_one_process_writes(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(RunError, match="in use"):
        Journal(tmp_path)


def test_posts_are_there_after_the_next_acknowledgement(tmp_path: Path) -> None:
    async def both() -> list[bytes]:
        log.post(b"decision")
        await log.append(b"impression")
        return read(tmp_path)[0]

    with Journal(tmp_path) as log:
        assert asyncio.run(both()) == [b"decision", b"impression"]
        log.post(b"last")
    assert read(tmp_path)[0] == [b"decision", b"impression", b"last"]


@pytest.mark.parametrize("cut", [1, 5, HEAD_SIZE := journal.HEAD.size, HEAD_SIZE + 2])
def test_a_torn_end_is_cut_off_at_the_next_start(tmp_path: Path, cut: int) -> None:
    write(tmp_path, [b"one", b"two", b"three"])
    ((_, path),) = segments(tmp_path)
    size = path.stat().st_size
    os.truncate(path, size - len(b"three") - HEAD_SIZE + cut)
    got, scan = read(tmp_path)
    assert (got, scan.torn) == ([b"one", b"two"], cut)
    found = write(tmp_path, [b"four"])
    assert (found.torn, found.last) == (cut, 2)
    got, scan = read(tmp_path)
    assert (got, scan.torn, scan.lost) == ([b"one", b"two", b"four"], 0, 0)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_byte_costs_its_own_frame_only(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("log")
    payloads = [b"frame %d" % n + b"x" * n for n in range(6)]
    write(folder, payloads)
    ((_, path),) = segments(folder)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(OPENING, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    ends = [frame.end.offset for frame in read_journal(folder)]
    got, scan = read(folder)
    assert len(got) == 5
    assert set(got) < set(payloads)
    assert scan.damaged + scan.torn > 0
    assert scan.lost == (0 if got == payloads[:5] or got == payloads[1:] else 1)
    assert len(ends) == 5


def test_a_payload_cannot_pass_for_a_frame(tmp_path: Path) -> None:
    """Where a frame is damaged, reading looks for the next mark; a client may have sent one within its text."""
    write(tmp_path, [b"first"])
    ((_, path),) = segments(tmp_path)
    forged = path.read_bytes()[OPENING:]
    again = tmp_path / "again"
    write(again, [b"text " + forged + b" text", b"second"])
    ((_, path),) = segments(again)
    content = bytearray(path.read_bytes())
    content[OPENING + 4] ^= 1
    path.write_bytes(content)
    got, scan = read(again)
    assert got == [b"second"]
    assert scan.damaged > 0


def test_an_opening_that_is_torn_or_foreign_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, [b"one"])
    (tmp_path / "00000002.log").write_bytes(journal.TITLE[:5])
    (tmp_path / "00000003.log").write_bytes(b"not a journal at all, but quite long")
    got, scan = read(tmp_path)
    assert (got, scan.torn, scan.damaged) == ([b"one"], 5, 36)
    found = write(tmp_path, [b"two"])
    assert (found.torn, found.aside) == (5, ["00000003.log"])
    assert read(tmp_path)[0] == [b"one", b"two"]


def test_pruning_keeps_what_is_still_to_be_read(tmp_path: Path) -> None:
    payloads = [b"%03d" % n + b"x" * 100 for n in range(30)]
    write(tmp_path, payloads, segment_bytes=500)
    frames = list(read_journal(tmp_path))
    middle = frames[14].end
    with Journal(tmp_path) as log:
        assert log.prune(middle, keep_bytes=10**9) == 0
        assert log.prune(middle, keep_bytes=0) > 0
    got, scan = read(tmp_path)
    assert got[-15:] == payloads[15:]
    assert len(got) < 20
    assert scan.lost == 0
    assert read(tmp_path, middle)[0] == payloads[15:]


def test_frames_and_queues_have_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_queue, "MAX_FRAME", 10)
    with Journal(tmp_path) as log:
        with pytest.raises(JournalFull, match="a frame of 11 bytes"):
            log.post(b"x" * 11)
        monkeypatch.setattr(write_queue, "MAX_WAITING", 15)
        log.post(b"x" * 10)
        with pytest.raises(JournalFull, match="too slow"):
            log.post(b"x" * 10)
    with pytest.raises(RunError, match="closed"):
        log.post(b"x")


def test_nothing_is_acknowledged_before_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fdatasync

    def watched(handle: int) -> None:
        sync(handle)
        synced.append(os.fstat(handle).st_size)

    monkeypatch.setattr(journal.os, "fdatasync", watched)

    async def some() -> None:
        for n in range(5):
            await log.append(b"%d" % n)
            assert synced[-1] == log.end.offset

    with Journal(tmp_path) as log:
        asyncio.run(some())


def test_after_a_sync_that_failed_it_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def one(payload: bytes) -> None:
        await log.append(payload)

    def broken(handle: int) -> None:
        raise OSError(errno.EIO, "the disk is going")

    with Journal(tmp_path) as log:
        asyncio.run(one(b"before"))
        with monkeypatch.context() as broke:
            broke.setattr(journal.os, "fdatasync", broken)
            with pytest.raises(RunError, match="the disk is going"):
                asyncio.run(one(b"lost"))
        asyncio.run(one(b"after"))
        assert log.failed == 1
    assert read(tmp_path)[0] == [b"before", b"after"]
    assert len(segments(tmp_path)) == 2


# -- real faults ------------------------------------------------------------------------------------------------------

WRITER = """
import asyncio, os, sys
from pathlib import Path
from noria.blending.service.journal.journal import Journal

async def one(log, worker):
    for n in range(10**9):
        payload = b"%d-%d-%d " % (os.getpid(), worker, n) + os.urandom(n * 7919 % 3000)
        await log.append(payload)
        os.write(1, b"%d-%d-%d\\n" % (os.getpid(), worker, n))

async def main():
    with Journal(Path(sys.argv[1]), segment_bytes=1 << 16) as log:
        await asyncio.gather(*(one(log, worker) for worker in range(20)))

asyncio.run(main())
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    acknowledged: list[bytes] = []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        lines: Iterator[bytes] = iter(process.stdout.readline, b"")
        some = [next(lines) for _ in range(300)]
        process.send_signal(signal.SIGKILL)
        some += [line for line in lines if line.endswith(b"\n")]
        process.wait()
        process.stdout.close()
        acknowledged += [line.strip() for line in some]
    with Journal(tmp_path):
        pass
    got, scan = read(tmp_path)
    kept = [payload.split(b" ")[0] for payload in got]
    assert set(acknowledged) <= set(kept)
    assert len(set(kept)) == len(kept)
    assert len(acknowledged) >= 900
    assert (scan.torn, scan.damaged, scan.lost) == (0, 0, 0)
    assert len(segments(tmp_path)) > 3


FULL = """
import asyncio, resource, sys
from pathlib import Path
from noria.blending.service.journal.journal import Journal, Scan, read_journal
from noria.core.storage.write_queue import JournalFull

async def main():
    told = []
    with Journal(Path(sys.argv[1])) as log:
        for n in range(100):
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000 if n < 60 else 10**6, resource.RLIM_INFINITY))
            try:
                await log.append(b"%d " % n + b"x" * 200)
            except JournalFull as error:
                told.append(f"no {n}")
                scan = Scan()
                assert list(read_journal(log.folder, scan=scan)) and not scan.torn
            else:
                told.append(f"ok {n}")
    print("\\n".join(told))

asyncio.run(main())
"""


def test_a_full_disk_is_told_and_nothing_half_written_stays(tmp_path: Path) -> None:
    """The limit on a file's size makes a real write fail in its middle, as a full disk does."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    told = done.stdout.split("\n")[:-1]
    fine = [line.split()[1].encode() for line in told if line.startswith("ok")]
    got, scan = read(tmp_path)
    assert [payload.split(b" ")[0] for payload in got] == fine
    assert 0 < sum(line.startswith("no") for line in told) < 60
    assert told[-1] == "ok 99", "it goes on when there is room again"
    assert (scan.torn, scan.damaged, scan.lost) == (0, 0, 0)


@pytest.mark.parametrize("bit", range(0, 8 * 16, 7))
def test_a_damaged_opening_costs_no_frame(tmp_path: Path, bit: int) -> None:
    """One bit of a segment's first 16 bytes: the segment is set aside as it is, and its number is not used again."""
    write(tmp_path, [b"one", b"two", b"three"])
    path = segments(tmp_path)[0][1]
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    found = write(tmp_path, [b"four"])
    assert found.aside == [path.name]
    assert path.with_name("00000001.log.aside").read_bytes() == data
    assert [number for number, _ in segments(tmp_path)] == [2]
    assert read(tmp_path)[0] == [b"four"]
    assert write(tmp_path, [b"five"]).aside == []


def test_a_log_of_a_later_version_is_set_aside(tmp_path: Path) -> None:
    write(tmp_path, [b"one"])
    path = segments(tmp_path)[0][1]
    later = path.read_bytes().replace(b"noria log 1", b"noria log 2")
    path.write_bytes(later)
    assert write(tmp_path, [b"two"]).aside == [path.name]
    assert path.with_name("00000001.log.aside").read_bytes() == later


def test_a_torn_first_frame_is_cut_off_and_not_set_aside(tmp_path: Path) -> None:
    write(tmp_path, [b"one" * 100])
    path = segments(tmp_path)[0][1]
    for length in (3, 16, 20, 40, 300):
        whole = path.read_bytes()
        path.write_bytes(whole[:length])
        found = write(tmp_path, [])
        assert found.aside == []
        path.write_bytes(whole)
