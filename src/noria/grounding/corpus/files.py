"""The benchmark's files: one JSON record a video, as released, read from the user's own copy.

The released annotations are CC BY-NC-SA and about people who can be recognised; none of them is part of this package.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from noria.core.errors import DataError, needing
from noria.core.files import write_atomic
from noria.grounding.corpus.records import Corpus, Key, Keys, Record

with needing("grounding"):
    import msgspec

__all__ = ["load_corpus", "load_keys", "save_corpus"]

LARGEST_FILE = 8 * 2**20
"""Bytes of one record."""


_KEYS, _RECORDS = msgspec.json.Decoder(Key), msgspec.json.Decoder(Record)
K = TypeVar("K", bound=Key)


def load_corpus(folder: Path) -> Corpus:
    """Read every `*.json` of a folder, or of its `data/test` or `annotations`.

    Raises:
        DataError: with file and field: it is not JSON, lacks a field, has one of another type, or a video is there
            twice.
    """
    return Corpus(*_load(folder, _RECORDS))


def load_keys(folder: Path) -> Keys:
    """Read the same files for scoring only, several times as fast.

    Raises:
        DataError: `load_corpus` would refuse a file.
    """
    return Keys(*_load(folder, _KEYS))


def _load(folder: Path, decoder: msgspec.json.Decoder[K]) -> tuple[tuple[K, ...], Path]:
    home = next((p for p in (folder / "data" / "test", folder / "annotations") if p.is_dir()), folder)
    try:
        names = sorted(entry.name for entry in os.scandir(home) if entry.name.endswith(".json"))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(folder)) from None
    if not names:
        raise DataError(
            "no annotations here", where=str(folder), mend="give the folder that holds one JSON file a video"
        )
    records: dict[str, tuple[K, str]] = {}
    for name in names:
        record = _read(f"{home}/{name}", decoder)
        if record.video_id in records:
            raise DataError(
                f"the video {record.video_id!r} is in {records[record.video_id][1]}, too",
                where=str(home / name),
            )
        records[record.video_id] = record, name
    return tuple(records[name][0] for name in sorted(records)), home


def _read(where: str, decoder: msgspec.json.Decoder[K]) -> K:
    try:
        raw = _bytes(where)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=where) from None
    if len(raw) > LARGEST_FILE:
        raise DataError(f"more than {LARGEST_FILE:,} bytes", where=where)
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise DataError(f"not a record: {what}", where=where) from None


def _bytes(path: str) -> bytes:
    """A file's bytes, a little more than `LARGEST_FILE` at most; without the file object, which costs as much again."""
    handle = os.open(path, os.O_RDONLY)
    try:
        raw = os.read(handle, 1 << 16)
        while len(raw) <= LARGEST_FILE and (more := os.read(handle, 1 << 20)):
            raw += more
        return raw
    finally:
        os.close(handle)


def save_corpus(corpus: Corpus, folder: Path) -> None:
    """Write every record as `ID.json`, in the released format.

    Raises:
        DataError: an id leaves the folder.
        RunError: the disk refuses.
    """
    from noria.core.files import inside

    for record in corpus:
        text = msgspec.json.format(msgspec.json.encode(record), indent=1)
        write_atomic(inside(folder, f"{record.video_id}.json"), text + b"\n", sync=False)
