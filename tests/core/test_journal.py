"""What the journal acknowledged is there, whatever happens next; what is removed is gone from every byte."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from noria.core.errors import RunError
from noria.core.storage.journal import FOREVER, Journal
from noria.core.storage.journal_file import NAME, JournalReader, Scan, blob_digest, copy_journal
from noria.core.storage.write_queue import JournalFull

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def bodies(folder: Path) -> list[bytes]:
    with JournalReader(folder) as reader:
        return [frame.body for frame in reader.frames()]


async def test_frames_come_back_in_order_and_by_subject(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        numbers = await asyncio.gather(*(journal.append(b"%d" % n, subject="ab"[n % 2]) for n in range(50)))
        assert numbers == list(range(1, 51))
        with JournalReader(tmp_path) as reader:  # while the writer is at work
            assert [frame.body for frame in reader.frames()] == [b"%d" % n for n in range(50)]
            assert [frame.body for frame in reader.about("b")] == [b"%d" % n for n in range(1, 50, 2)]
            assert [frame.sequence for frame in reader.frames(48)] == [49, 50]
            assert [frame.sequence for frame in reader.frames(limit=2)] == [1, 2]
            await journal.append(b"50")
            assert reader.last == 51
    with Journal(tmp_path) as journal:
        assert await journal.append(b"51") == 52


async def test_a_posted_frame_is_there_once_a_later_one_is_acknowledged(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for n in range(20):
            journal.post(b"%d" % n)
        await journal.append(b"20")
        assert bodies(tmp_path) == [b"%d" % n for n in range(21)]
        journal.post(b"soon")
        until = time.monotonic() + 60
        while bodies(tmp_path)[-1] != b"soon":
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        journal.post(b"at the end")
    assert bodies(tmp_path)[-1] == b"at the end"


async def test_blobs_stand_with_their_frame_once(tmp_path: Path) -> None:
    picture = os.urandom(100_000)
    name = blob_digest(picture)
    with Journal(tmp_path) as journal, JournalReader(tmp_path) as reader:
        for n in range(30):
            await journal.append(b"%d" % n, blobs={name: picture}, expires=100 + n)
        assert reader.blob(name) == picture
        assert reader.blob(blob_digest(b"another")) is None
        assert await journal.expire_blobs(128.0) == 0  # the last frame that names it counts
        assert await journal.expire_blobs(129.0) == 1
        assert reader.blob(name) is None
        await journal.append(b"kept", blobs={name: picture})
        await journal.append(b"kept", blobs={name: picture}, expires=1)
        assert await journal.expire_blobs() == 0
    assert (tmp_path / NAME).stat().st_size < 1_000_000


async def test_a_blob_is_kept_longer_on_purpose_only(tmp_path: Path) -> None:
    picture = os.urandom(1000)
    blobs = {blob_digest(picture): picture}
    with Journal(tmp_path) as journal:
        await journal.append(b"until 100", blobs=blobs, expires=100)
        journal.post(b"says nothing", blobs=blobs)
        await journal.append(b"says nothing", blobs=blobs)
        assert await journal.expire_blobs(100.0) == 1
        await journal.append(b"until 100", blobs=blobs, expires=100)
        await journal.append(b"for ever", blobs=blobs, expires=FOREVER)
        assert await journal.expire_blobs() == 0


async def test_what_is_removed_is_in_no_byte_and_its_number_stays(tmp_path: Path) -> None:
    secret, picture = b"call me at 0171 2345678" * 50, b"a face" * 5000
    with Journal(tmp_path) as journal:
        await journal.append(b"before")
        number = await journal.append(secret, subject="someone", blobs={blob_digest(picture): picture})
        await journal.append(b"after")
        await journal.remove([number], blobs=[blob_digest(picture)])
        scan = Scan()
        with JournalReader(tmp_path) as reader:
            assert [frame.body for frame in reader.frames(scan=scan)] == [b"before", b"after"]
            assert reader.about("someone") == []
        assert (scan.removed, scan.damaged) == (1, [])
        for path in tmp_path.iterdir():
            data = path.read_bytes()
            assert secret[:23] not in data, path.name
            assert picture[:60] not in data, path.name
            assert b"someone" not in data, path.name


async def test_a_reader_that_holds_an_old_state_delays_the_overwriting_and_no_longer(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        number = await journal.append(b"a secret of some length" * 9)
        with JournalReader(tmp_path) as reader:
            frames = reader.frames()
            next(frames)
            await journal.remove([number])
            frames.close()
        until = time.monotonic() + 60
        while any(b"a secret" in path.read_bytes() for path in tmp_path.iterdir()):
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


async def test_a_flipped_bit_is_found_and_the_others_are_read(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for n in range(5):
            await journal.append(b"frame number %d" % n)
    path = tmp_path / NAME
    data = bytearray(path.read_bytes())
    data[data.index(b"frame number 2")] ^= 1
    path.write_bytes(data)
    scan = Scan()
    with JournalReader(tmp_path) as reader:
        assert [frame.sequence for frame in reader.frames(scan=scan)] == [1, 2, 4, 5]
    assert scan.damaged == [3]


async def test_a_removal_and_the_frame_that_records_it_are_one_change(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, JournalReader(tmp_path) as reader:
        numbers = [await journal.append(b"%d" % n) for n in range(40)]
        for subject in (
            object(),
            "\ud800",
        ):  # no frame can have such a subject: the whole change is taken back
            with pytest.raises(RunError, match="cannot write"):
                await journal.remove(numbers[:3], body=lambda count: b"gone", subject=subject)  # type: ignore[arg-type]
        assert reader.removed(16) == {}
        assert journal.broken is None
        await journal.remove([*numbers[:3], numbers[20]], body=lambda count: b"gone", subject="erasure")
        assert [frame.body for frame in reader.about("erasure")] == [b"gone"]
        assert reader.removed(16) == {0: 3, 1: 1}
        assert [frame.sequence for frame in reader.frames(15, through=18)] == [16, 17, 18]


async def test_one_writer_many_readers(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(RunError, match="in use by another process"):
        Journal(tmp_path)
    with pytest.raises(RunError, match="there is no journal"):
        JournalReader(tmp_path / "elsewhere")


def test_other_files_and_later_formats_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path):
        pass
    database = sqlite3.connect(tmp_path / NAME)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(RunError, match="format 99"):
        Journal(tmp_path)
    with pytest.raises(RunError, match="format 99"):
        JournalReader(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    for content, words in ((b"no database, but text" * 200, "cannot be used"), (b"", None)):
        (other / NAME).write_bytes(content)
        if words is None:
            with Journal(other):
                pass
        else:
            with pytest.raises(RunError, match=words):
                Journal(other)


async def test_a_full_disk_refuses_and_takes_again(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        await journal.append(b"first")
        pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
        journal._database.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(JournalFull, match="the disk is full"):
            await journal.append(os.urandom(500_000))
        assert journal.failed == 1
        assert journal.broken is None
        journal._database.execute("PRAGMA max_page_count = 1000000")
        assert await journal.append(b"second") == 2
    assert bodies(tmp_path) == [b"first", b"second"]


FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
from noria.core.errors import RunError
from noria.core.storage.journal import Journal

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Journal(Path(sys.argv[1])) as journal:
        await journal.append(b"first")
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        for n in range(100):
            try:
                await journal.append(bytes(20_000))
            except RunError as error:
                print(n, type(error).__name__, error)
                break
        try:
            await journal.append(b"after")
            print("taken")
        except RunError as error:
            print("refused", error)
asyncio.run(main())
"""


def test_an_error_of_the_disk_is_never_acknowledged(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    written = int(lines[0].split()[0])
    assert lines[1].startswith(("refused", "taken"))
    assert len(bodies(tmp_path)) == 1 + written + (lines[1] == "taken")


async def test_too_much_is_refused_before_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noria.core.storage.write_queue.MAX_FRAME", 1000)
    monkeypatch.setattr("noria.core.storage.write_queue.MAX_WAITING", 1500)
    with Journal(tmp_path) as journal:
        with pytest.raises(JournalFull, match="1,001 bytes"):
            await journal.append(bytes(1001))
        with journal._queue._more:  # the disk does not answer
            journal.post(bytes(1000))
            with pytest.raises(JournalFull, match="too slow"):
                journal.post(bytes(501))
        await journal.append(b"x")
    with pytest.raises(RunError, match="closed"):
        journal.post(b"y")


async def test_a_copy_can_be_opened_while_the_writer_is_at_work(tmp_path: Path) -> None:
    with Journal(tmp_path / "one") as journal:
        await journal.append(b"a")
        await asyncio.to_thread(copy_journal, tmp_path / "one", tmp_path / "two")
        await journal.append(b"b")
        with pytest.raises(RunError, match="already"):
            copy_journal(tmp_path / "one", tmp_path / "two")
    assert bodies(tmp_path / "two") == [b"a"]
    with Journal(tmp_path / "two") as journal:
        assert await journal.append(b"c") == 2


WRITER = """
import asyncio, os, sys
from pathlib import Path
from noria.core.storage.journal import Journal
from noria.core.storage.journal_file import blob_digest

async def caller(journal, name):
    n = 0
    while True:
        picture = os.urandom(3000)
        body = f"{name} {n} {blob_digest(picture)}".encode()
        await journal.append(body, blobs={blob_digest(picture): picture})
        print(body.decode(), flush=True)
        n += 1

async def main():
    with Journal(Path(sys.argv[1])) as journal:
        await asyncio.gather(*(caller(journal, name) for name in range(16)))
asyncio.run(main())
"""


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_minus_nine_loses_nothing_that_was_acknowledged_to_sixteen_callers(
    tmp_path: Path, kills: int
) -> None:
    random.seed(7)
    acknowledged: list[str] = []
    for _ in range(kills):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        lines = [child.stdout.readline()]
        time.sleep(random.uniform(0.02, 0.25))
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait()
        acknowledged += [line.strip() for line in lines if line.endswith("\n")]
    scan = Scan()
    with JournalReader(tmp_path) as reader:
        kept = [frame.body.decode() for frame in reader.frames(scan=scan)]
        assert scan.damaged == []
        assert len(acknowledged) > 50 * kills
        assert not set(acknowledged) - set(kept)
        assert len(kept) == len(set(kept))  # and nothing is there twice
        assert all(reader.blob(body.split()[2]) is not None for body in random.sample(kept, 200))
