r"""A log that holds what it acknowledged: segments of checked frames, written in groups, each group synced once.

```
<folder>/00000001.log    b"noria log 1\n", 4 random bytes, then frames one after the other
         00000002.log    begun when the one before was full, and at every start
frame    b"NBJ\x01", length u32, CRC-32 u32, sequence u64, payload; little endian
```

The CRC covers the random bytes, the sequence and the payload, so that no payload can pass for a frame.

`append` returns when its frame is on the disk, `post` at once. A process killed in the middle of a write leaves a torn
frame at the end, which the next start cuts off; it was never acknowledged. A frame damaged elsewhere is skipped
by its mark, and what the numbers then lack is counted. A segment whose opening is damaged, or of another version, is
set aside whole as `00000001.log.aside`, and nothing of it is removed. A full disk fails the frames that did not fit,
takes back what was half-written, and leaves the log ready for the next try.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from noria.core.errors import RunError
from noria.core.files import disk_errors, fsync_folder, lock, write_all
from noria.core.storage.write_queue import MAX_FRAME, JournalFull, WriteQueue, tell

log = logging.getLogger("noria.serving")

TITLE = b"noria log 1\n"
OPENING = len(TITLE) + 4
MARK = b"NBJ\x01"
HEAD = struct.Struct("<4sIIQ")
SEGMENT = 64 << 20
_SYNC = 1.0  # seconds after which frames that nobody waits for are synced


class Position(NamedTuple):
    """A place between two frames: the segment's number and the byte in it."""

    segment: int
    offset: int


class Frame(NamedTuple):
    """A frame that was read: its number, its payload, and the place after it."""

    sequence: int
    payload: bytes
    end: Position


@dataclass
class Scan:
    """Counts of a reading.

    Attributes:
        frames: number of good frames.
        torn: bytes at the end of a segment that are no whole frame.
        damaged: bytes elsewhere that are no frame.
        lost: frames that the sequence numbers lack.
        aside: names of segments that were set aside, since their opening is damaged or of another version.
        last: the last sequence number; 0 before the first.
    """

    frames: int = 0
    torn: int = 0
    damaged: int = 0
    lost: int = 0
    last: int = 0
    aside: list[str] = field(default_factory=list)


# -- reading ----------------------------------------------------------------------------------------------------------


def segments(folder: Path) -> list[tuple[int, Path]]:
    """The segments by number."""
    result = [(re.fullmatch(r"(\d{8})\.log", path.name), path) for path in Path(folder).glob("*.log")]
    return sorted((int(match[1]), path) for match, path in result if match)


def read_journal(folder: Path, start: Position | None = None, *, scan: Scan | None = None) -> Iterator[Frame]:
    """Every good frame from a place on, in order, up to what is whole now; a writer may be at work.

    Args:
        folder: folder of the journal.
        start: place at which an earlier reading ended; the beginning by default.
        scan: counts to add to.

    Raises:
        RunError: the folder cannot be read.
    """
    scan = Scan() if scan is None else scan
    known = segments(folder)
    for number, path in known:
        if start is not None and number < start.segment:
            continue
        offset = start.offset if start is not None and number == start.segment else 0
        with disk_errors(path):
            try:
                with path.open("rb") as file:
                    opening = file.read(OPENING)
                    offset = max(offset, OPENING)
                    file.seek(offset)
                    data = file.read()
            except FileNotFoundError:  # it was pruned
                continue
        for sequence, payload, end in _frames(opening, data, scan):
            yield Frame(sequence, payload, Position(number, offset + end))


def _frames(opening: bytes, data: bytes, scan: Scan) -> Iterator[tuple[int, bytes, int]]:
    """(sequence, payload, end) of each good frame after a segment's opening; what is between them is counted."""
    if len(opening) < OPENING:
        scan.torn += len(opening) + len(data)
        return
    if not opening.startswith(TITLE):
        scan.damaged += len(opening) + len(data)
        return
    salt = zlib.crc32(opening)
    place = 0
    while (result := _next_frame(data, place, salt)) is not None:
        begin, sequence, end = result
        scan.damaged += begin - place
        if scan.last and sequence > scan.last + 1:
            scan.lost += sequence - scan.last - 1
        scan.last = sequence
        scan.frames += 1
        yield sequence, data[begin + HEAD.size : end], end
        place = end
    scan.torn += len(data) - place


def _next_frame(data: bytes, place: int, salt: int) -> tuple[int, int, int] | None:
    """Beginning, sequence and end of the first whole frame at or after a place."""
    begin = place
    while begin >= 0:
        result = _frame_at(data, begin, salt)
        if result is not None:
            return begin, *result
        begin = data.find(MARK, begin + 1)
    return None


def _frame_at(data: bytes, place: int, salt: int) -> tuple[int, int] | None:
    """Sequence and end of the frame that begins there; None if there is no whole one."""
    if len(data) - place < HEAD.size:
        return None
    mark, length, check, sequence = HEAD.unpack_from(data, place)
    end = place + HEAD.size + length
    if mark != MARK or length > MAX_FRAME or end > len(data):
        return None
    covered = memoryview(data)[place + HEAD.size - 8 : end]
    return (sequence, end) if zlib.crc32(covered, salt) == check else None


# -- writing ----------------------------------------------------------------------------------------------------------


class Journal:
    """A journal open for writing, by one process. Use it as a context, or call `close`.

    Attributes:
        found: what the last segments were like at the start: how much was cut off.
        failed: frames that the disk refused.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT) -> None:
        """Raises: RunError: another process writes it, or the disk refuses."""
        self.folder = Path(folder)
        self.segment_bytes = segment_bytes
        self.failed = 0
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(lock(self.folder))
        try:
            with disk_errors(self.folder):
                self.found = _recover(self.folder)
        except BaseException:
            self._stack.close()
            raise
        # Numbers of segments set aside are not used again: whoever reads knows its place by them.
        taken = [path.name[:8] for path in (*self.folder.glob("*.log"), *self.folder.glob("*.log.aside"))]
        self._number = max((int(name) for name in taken if name.isdecimal()), default=0)
        self._sequence = self.found.last
        self._handle = -1
        self._size = self._salt = 0
        self._unsynced = False
        self._queue: WriteQueue[bytes] = WriteQueue(str(self.folder))
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def end(self) -> Position:
        """Where the next frame begins."""
        return Position(self._number, self._size)

    @property
    def waiting(self) -> int:
        """Bytes that wait for the disk."""
        return self._queue.bytes

    async def append(self, payload: bytes) -> None:
        """Write a frame; when this returns it is on the disk.

        Raises:
            JournalFull: the disk or the queue takes no more.
            RunError: the disk fails.
        """
        await self._queue.append(payload, len(payload))

    def post(self, payload: bytes) -> None:
        """Write a frame soon. A later frame that is acknowledged means that this one is on the disk, too.

        Raises:
            JournalFull: the queue takes no more.
        """
        self._queue.post(payload, len(payload))

    def close(self) -> None:
        """Write and sync what waits, and let the folder go."""
        self._queue.close()
        self._thread.join()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self._stack.close()

    def prune(self, before: Position, *, keep_bytes: int) -> int:
        """Remove the oldest segments that lie wholly before a place, while more than `keep_bytes` are there.

        Returns:
            Bytes removed.
        """
        known = segments(self.folder)
        sizes = {path: path.stat().st_size for _, path in known}
        total, removed = sum(sizes.values()), 0
        for number, path in known:
            if total - removed <= keep_bytes or number >= min(before.segment, self._number):
                break
            path.unlink()
            removed += sizes[path]
        return removed

    def _work(self) -> None:
        while True:
            batch, closing = self._queue.take(_SYNC if self._unsynced else None)
            idle = not batch  # for as long as frames that nobody waited for may stay unsynced
            error: RunError | None = None
            if batch or self._unsynced:
                sync = closing or idle or any(one.future is not None for one in batch)
                error = self._write([one.work for one in batch], sync=sync)
            if error is not None:
                self.failed += len(batch)
            tell(batch, [None] * len(batch), error)
            if closing:
                return

    def _write(self, payloads: list[bytes], *, sync: bool) -> RunError | None:
        """Write a group whole or not at all."""
        try:
            if self._handle < 0 or self._size >= self.segment_bytes:
                self._next_segment()
            parts = []
            for number, payload in enumerate(payloads, start=self._sequence + 1):
                check = zlib.crc32(number.to_bytes(8, "little") + payload, self._salt)
                parts += [HEAD.pack(MARK, len(payload), check, number), payload]
            data = b"".join(parts)
            try:
                write_all(self._handle, data)
                if sync:
                    os.fdatasync(self._handle)
            except OSError:
                os.ftruncate(self._handle, self._size)
                os.lseek(self._handle, self._size, os.SEEK_SET)
                raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return JournalFull(f"the disk is full: {error.strerror}", where=str(self.folder))
            # After a sync that failed nobody knows what is on the disk: continue in another segment.
            self._drop_segment()
            return RunError(f"cannot write: {error.strerror or error}", where=str(self.folder))
        self._size += len(data)
        self._sequence += len(payloads)
        self._unsynced = not sync
        return None

    def _next_segment(self) -> None:
        if self._handle >= 0:
            os.fdatasync(self._handle)
            self._drop_segment()
        path = self.folder / f"{self._number + 1:08d}.log"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            opening = TITLE + os.urandom(OPENING - len(TITLE))
            write_all(handle, opening)
            os.fsync(handle)
            fsync_folder(self.folder)
        except BaseException:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise
        self._handle, self._size, self._number = handle, OPENING, self._number + 1
        self._salt = zlib.crc32(opening)

    def _drop_segment(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._handle)
        self._handle = -1


def _set_aside(data: bytes) -> bool:
    """Whether a segment in which no frame can be read is more than the torn beginning of one."""
    if len(data) < OPENING:
        return not TITLE.startswith(data[: len(TITLE)])
    if not data.startswith(TITLE):
        return True
    if len(data) < OPENING + HEAD.size:
        return False
    mark, length, *_ = HEAD.unpack_from(data, OPENING)
    # Where all bytes of the first frame are there it was not torn: what its checksum begins with is damaged.
    return bool(mark != MARK or OPENING + HEAD.size + length <= len(data))


def _recover(folder: Path) -> Scan:
    """Cut torn frames off the newest segments, back to the first that holds a whole one; set aside what is damaged."""
    scan = Scan()
    for _, path in reversed(segments(folder)):
        data = path.read_bytes()
        own = Scan()
        whole = [end for _, _, end in _frames(data[:OPENING], data[OPENING:], own)]
        if not whole and _set_aside(data):
            path.rename(path.with_name(path.name + ".aside"))
            fsync_folder(folder)
            log.warning("%s: its opening is damaged, or of another version: set aside as it is", path)
            scan.aside.append(path.name)
            continue
        end = min(OPENING, len(data)) + (whole[-1] if whole else 0)
        scan.torn += own.torn
        scan.damaged += own.damaged
        if end < len(data):
            with path.open("r+b") as file:
                file.truncate(end)
                os.fsync(file.fileno())
        if own.frames:
            scan.frames, scan.last, scan.lost = own.frames, own.last, own.lost
            break
    return scan
