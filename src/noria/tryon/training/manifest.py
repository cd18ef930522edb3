"""Manifests of clips: ours, MagicTryOn's lists of ViViD, and DiffSynth's tables. Paths stay inside their folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.core.files import inside, read_text
from noria.core.records import json_records
from noria.tryon.actions.reading import MOST_ACTIONS, Action

LARGEST = 256 * 2**20
OURS = {
    "id",
    "video",
    "garment",
    "agnostic",
    "mask",
    "pose",
    "hand",
    "fps",
    "num_frames",
    "category",
    "caption",
    "actions",
}


@dataclass(frozen=True)
class ClipRecord:
    """A clip of a manifest.

    Attributes:
        id: name of the clip, unique in its manifest.
        video, garments, mask, pose, hands: files of the clip; pose and hands may be None.
        caption: caption of the whole clip.
        actions: timed actions.
        span: first frame and the one after the last, where only a part is used.
        where: file and line.
    """

    id: str
    video: Path
    garments: tuple[Path, ...]
    mask: Path
    pose: Path | None
    hands: Path | None
    caption: str
    actions: tuple[Action, ...]
    span: tuple[int, int] | None
    where: str


def read_manifest(path: Path) -> list[ClipRecord]:
    """Read a manifest in any of the three formats; which one is told by its columns.

    Raises:
        DataError: the file cannot be read, a record is malformed, or a path leaves the manifest's folder.
    """
    rows = _table(path) if path.suffix.lower() == ".csv" else list(json_records(path, max_bytes=LARGEST))
    if not rows:
        raise DataError("no clip in it", where=str(path))
    records = [_record(row, where, path.parent) for where, row in rows]
    seen: dict[str, str] = {}
    for record in records:
        if record.id in seen:
            raise DataError(
                f"a second clip {record.id!r}; the first is {seen[record.id]}", where=record.where
            )
        seen[record.id] = record.where
    return records


def _table(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(path, limit=LARGEST)), strict=True)
    try:
        return [(f"{path}:{number}", row) for number, row in enumerate(reader, 2)]
    except csv.Error as error:
        raise DataError(f"not a CSV table: {error}", where=f"{path}:{reader.line_num}") from error


def _record(row: Mapping[str, Any], where: str, root: Path) -> ClipRecord:
    if "vace_video" in row or "vace_reference_image" in row:
        return _of_diffsynth(row, where, root)
    if "subdir" in row:
        return _of_magictryon(row, where, root)
    if unknown := set(row) - OURS:
        raise DataError(
            f"unknown field {min(unknown)!r}", where=where, mend=f"fields are {', '.join(sorted(OURS))}"
        )
    garments = row.get("garment")
    garments = garments if isinstance(garments, list) else [garments]
    return ClipRecord(
        _text(row, "id", where),
        _path(row, "video", where, root),
        tuple(_inside(root, name, "garment", where) for name in garments),
        _path(row, "mask", where, root),
        _path(row, "pose", where, root) if row.get("pose") else None,
        _path(row, "hand", where, root) if row.get("hand") else None,
        str(row.get("caption") or ""),
        _actions(row.get("actions") or [], where),
        None,
        where,
    )


def _of_diffsynth(row: Mapping[str, Any], where: str, root: Path) -> ClipRecord:
    """Columns `video,vace_video,vace_video_mask,vace_reference_image,prompt`; the mask must be there."""
    video = _text(row, "video", where)
    return ClipRecord(
        video,
        _path(row, "video", where, root),
        (_path(row, "vace_reference_image", where, root),),
        _path(row, "vace_video_mask", where, root),
        None,
        None,
        str(row.get("prompt") or ""),
        (),
        None,
        where,
    )


def _of_magictryon(row: Mapping[str, Any], where: str, root: Path) -> ClipRecord:
    """Lines `{"video", "image", "subdir", "front_seqs"}` of ViViD's folders."""
    video, image, part = (_text(row, name, where) for name in ("video", "image", "subdir"))
    span = row.get("front_seqs")
    if span is not None and not (
        isinstance(span, list)
        and len(span) == 2
        and all(type(n) is int for n in span)
        and 0 <= span[0] < span[1]
    ):
        raise DataError("front_seqs is not a first and a last frame", where=where)
    pose = _inside(root, f"{part}/densepose/{video}", "video", where)
    return ClipRecord(
        f"{part}/{video}",
        _inside(root, f"{part}/videos/{video}", "video", where),
        (_inside(root, f"{part}/images/{image}", "image", where),),
        _inside(root, f"{part}/agnostic_mask/{video}", "video", where),
        pose if pose.is_file() else None,
        None,
        "",
        (),
        None if span is None else (span[0], span[1]),
        where,
    )


def _actions(rows: Any, where: str) -> tuple[Action, ...]:
    if not isinstance(rows, list) or len(rows) > MOST_ACTIONS:
        raise DataError(f"actions is not a list of at most {MOST_ACTIONS}", where=where)
    actions = []
    for number, row in enumerate(rows, 1):
        try:
            caption = str(row["caption"]) if row.get("caption") else str(row["category"])
            actions.append(Action(float(row["start"]), float(row["end"]), caption))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"action {number} is none ({error})", where=where) from None
    return tuple(sorted(actions, key=lambda action: (action.start, action.end)))


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise DataError(f"no {name}", where=where)
    return value


def _path(row: Mapping[str, Any], name: str, where: str, root: Path) -> Path:
    return _inside(root, row.get(name), name, where)


def _inside(root: Path, name: Any, field: str, where: str) -> Path:
    if not isinstance(name, str) or not name:
        raise DataError(f"no {field}", where=where)
    try:
        return inside(root, name)
    except DataError as error:
        raise DataError(f"{field}: {error.what}", where=where) from None
