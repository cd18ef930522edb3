"""Sealed segments: what a journal holds, as immutable Parquet files that DuckDB and others read.

```
<folder>/segments/manifest.json                             which segments there are; written last, in one step
                  000000000001-000000016384-<digest>/       frames 1 to 16384: traces.parquet, spans.parquet, …
```

The journal stays the truth and keeps its frames: the whole folder can be removed and is made again, byte for byte by
the same version of pyarrow. A segment that the manifest does not name does not exist, so that a process killed at any
moment leaves a segment whole or not at all. A segment from which frames were removed (the erasure of a user) is made
anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from noria.core.errors import DataError, RunError, needing
from noria.core.files import appearing, lock, read_bytes, write_atomic
from noria.core.storage.journal_file import Frame, JournalReader, Scan
from noria.core.traces.columns import TABLES, Rows, arrow_table, check_numbers, rows_of, schema
from noria.core.traces.records import Record, Trace, decode

if TYPE_CHECKING:
    import pyarrow.parquet as pq

FORMAT = 1
"""Version of the columns and of the manifest; segments of another version are made anew."""
FRAMES = 16384
"""Number of frames in a segment."""
_GROUP = 2048  # frames of a row group
_GROUP_BYTES = 16 << 20  # bytes of bodies from which a row group ends earlier


class Segment(Struct, frozen=True):
    """A sealed part of a journal.

    Attributes:
        first: number of its first frame.
        last: number of its last frame.
        digest: SHA-256 over the digests of its files.
        removed: frames whose body was removed on purpose.
        damaged: frames that were damaged or missing.
        unread: frames that were no record of a trace.
        rows: number of rows by table.
    """

    first: int
    last: int
    digest: str
    removed: int
    damaged: int
    unread: int
    rows: dict[str, int]

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.first:012d}-{self.last:012d}-{self.digest[:16]}"


class Manifest(Struct, frozen=True):
    """The segments of a journal, in order and without a gap."""

    format: int = FORMAT
    frames: int = FRAMES
    segments: tuple[Segment, ...] = ()

    @property
    def last(self) -> int:
        """Number of the last sealed frame; 0 where there is none."""
        return self.segments[-1].last if self.segments else 0


class Sealing(Struct, frozen=True):
    """What a sealing did: segments that are new, and those made anew because frames of theirs were removed."""

    sealed: int
    rewritten: int


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a service's folder; an empty one where nothing was sealed, or in another version.

    Raises:
        DataError: it is damaged.
    """
    path = _manifest(folder)
    if not path.exists():
        return Manifest()
    try:
        manifest = msgspec.json.decode(read_bytes(path), type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(
            f"no manifest of segments: {error}",
            where=str(path),
            mend="remove the folder of segments: it is made again from the journal",
        ) from error
    return manifest if manifest.format == FORMAT else Manifest(frames=manifest.frames)


def segment_files(folder: Path, table: str, manifest: Manifest) -> list[Path]:
    """The files of a table, in order, without those that hold no row."""
    return [
        Path(folder) / "segments" / segment.name / f"{table}.parquet"
        for segment in manifest.segments
        if segment.rows[table]
    ]


def seal(folder: Path, *, age: float = 60.0, now: float | None = None, frames: int = FRAMES) -> Sealing:
    """Seal what is old enough, and make anew the segments from which frames were removed.

    Args:
        folder: folder of the journal.
        age: seconds for which the last record of a segment must lie in the past.
        now: seconds since 1970; the present by default.
        frames: number of frames in a segment; the same for all segments of a folder.

    Raises:
        RunError: another process seals, there is no journal, or the disk refuses.
        DataError: segments of another size are there, or the manifest is damaged.
        MissingExtra: pyarrow is not installed.
    """
    limit = int(((time.time() if now is None else now) - age) * 1e9)
    with JournalReader(folder) as reader, lock(Path(folder) / "segments"):
        manifest = _usable(folder, frames, reader.last)
        _sweep(folder, manifest)
        removed = reader.removed(frames)
        stale = {
            number for number, one in enumerate(manifest.segments) if removed.get(number, 0) != one.removed
        }
        if stale:  # all of them in one step: nobody reads a user's feedback without the trace
            manifest = _replaced(
                folder,
                manifest,
                [
                    _write(folder, reader, one.first, frames) if number in stale else one
                    for number, one in enumerate(manifest.segments)
                ],
            )
        sealed = 0
        while manifest.last + frames <= reader.last and _time_of_last(reader, manifest, limit):
            one = _write(folder, reader, manifest.last + 1, frames)
            manifest = _replaced(folder, manifest, [*manifest.segments, one])
            sealed += 1
    return Sealing(sealed, len(stale))


def records_of(frames: Iterator[Frame], unread: list[int]) -> Iterator[tuple[int, Record]]:
    """Records with the numbers of their frames; numbers of frames that are none are added to `unread`."""
    for frame in frames:
        try:
            record = decode(frame.body)
            check_numbers(record)
        except DataError:
            unread.append(frame.sequence)
        else:
            yield frame.sequence, record


def _manifest(folder: Path) -> Path:
    return Path(folder) / "segments" / "manifest.json"


def _usable(folder: Path, frames: int, last: int) -> Manifest:
    """The manifest, emptied where the journal is another one."""
    manifest = read_manifest(folder)
    if not manifest.segments:
        return Manifest(frames=frames)
    if manifest.frames != frames:
        raise DataError(
            f"its segments have {manifest.frames:,} frames, and {frames:,} were asked for",
            where=str(_manifest(folder)),
            mend="ask for the same, or remove the folder of segments: it is made again from the journal",
        )
    return Manifest(frames=frames) if manifest.last > last else manifest


def _replaced(folder: Path, manifest: Manifest, segments: Sequence[Segment]) -> Manifest:
    manifest = msgspec.structs.replace(manifest, segments=tuple(segments))
    write_atomic(_manifest(folder), msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    _sweep(folder, manifest)
    return manifest


def _sweep(folder: Path, manifest: Manifest) -> None:
    """Remove what the manifest does not name: of a killed sealing, or made anew since."""
    named = {segment.name for segment in manifest.segments} | {"manifest.json", ".lock"}
    for path in (Path(folder) / "segments").iterdir():
        if path.name not in named:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _time_of_last(reader: JournalReader, manifest: Manifest, limit: int) -> bool:
    """Whether the last record of the next segment is old enough; what is no record any more is."""
    for frame in reader.frames(manifest.last + manifest.frames - 1, limit=1):
        with contextlib.suppress(DataError):
            record = decode(frame.body)
            return (record.ended if isinstance(record, Trace) else record.at) <= limit
    return True


def _write(folder: Path, reader: JournalReader, first: int, frames: int) -> Segment:
    """Write the files of a segment below the name of its digest."""
    target = Path(folder) / "segments"
    scan, unread = Scan(last=first - 1), list[int]()
    counts = dict.fromkeys(TABLES, 0)
    with appearing(target / f"new-{first:012d}") as partial:
        with contextlib.ExitStack() as stack:
            writers = {table: stack.enter_context(_writer(partial, table)) for table in TABLES}
            for group in _groups(reader.frames(first - 1, through=first + frames - 1, scan=scan)):
                rows = rows_of(records_of(iter(group), unread))
                _write_group(writers, rows, counts)
        digests = {table: hashlib.sha256((partial / f"{table}.parquet").read_bytes()) for table in TABLES}
        lines = "".join(f"{digest.hexdigest()}  {table}.parquet\n" for table, digest in digests.items())
        (partial / "digests.sha256").write_text(lines)
    digest = hashlib.sha256(lines.encode()).hexdigest()
    segment = Segment(first, first + frames - 1, digest, scan.removed, len(scan.damaged), len(unread), counts)
    made = target / segment.name
    try:
        if made.exists():  # the same bytes, of a sealing that was killed or of an earlier manifest
            shutil.rmtree(made)
        (target / f"new-{first:012d}").rename(made)
    except OSError as error:
        raise RunError(f"cannot write: {error.strerror or error}", where=str(made)) from error
    return segment


def _groups(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    """Frames by row group: bounded in number and in bytes, so that memory is."""
    group, size = list[Frame](), 0
    for frame in frames:
        group.append(frame)
        size += len(frame.body)
        if len(group) >= _GROUP or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _writer(folder: Path, table: str) -> pq.ParquetWriter:
    with needing("traces"):
        import pyarrow.parquet as pq
    return pq.ParquetWriter(folder / f"{table}.parquet", schema(table), compression="zstd", version="2.6")


def _write_group(writers: dict[str, Any], rows: Rows, counts: dict[str, int]) -> None:
    for table, content in rows.items():
        if content:
            writers[table].write_table(arrow_table(table, content))
            counts[table] += len(content)
