"""Folders of videos that belong together by name, and what belongs to each video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from noria.core.errors import DataError

if TYPE_CHECKING:
    from noria.tryon.video.clips import Clip

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")


def videos(folder: Path) -> list[str]:
    """Names of the videos of a folder, sorted.

    Raises:
        DataError: there is no such folder, or no video in it.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder))
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in VIDEOS)
    if not names:
        raise DataError("no video in it", where=str(folder))
    return names


def paired(generated: Path, reference: Path) -> list[str]:
    """Names of the generated videos, each of which has a reference of the same name.

    Raises:
        DataError: a folder has no video, or a generated video has no reference.
    """
    names, there = videos(generated), videos(reference)
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(
            f"{len(missing)} videos without a reference, {missing[0]} first",
            where=str(reference),
            mend="name references like the generated videos, or give --unpaired",
        )
    return names


def companion(folder: Path, name: str, endings: Sequence[str]) -> Path:
    """File of a folder that belongs to a video: its stem with one of some endings.

    Raises:
        DataError: there is none, or more than one.
    """
    stem = Path(name).stem
    there = [path for path in (folder / f"{stem}{ending}" for ending in endings) if path.is_file()]
    if len(there) != 1:
        what = f"no {stem} with an ending of {', '.join(endings)}" if not there else f"several {stem}"
        raise DataError(what, where=str(folder), mend="name one file like each video")
    return there[0]


def check_alike(made: Clip, real: Clip) -> None:
    """Refuse a generated clip whose frames cannot be compared with its reference's.

    Raises:
        DataError: the two differ in size or number of frames, or a side is smaller than SSIM's window.
    """
    from noria.tryon.evaluation.pictures import WINDOW

    if made.frames.shape != real.frames.shape:
        sizes = [f"{c.frames.shape[0]} frames of {c.size[1]}×{c.size[0]}" for c in (made, real)]
        raise DataError(
            f"{sizes[0]}, and its reference has {sizes[1]}",
            where=str(made.path),
            mend="pairs have the same frames: noria tryon generate keeps them",
        )
    if min(made.size) < WINDOW:
        raise DataError(
            f"frames of {made.size[1]}×{made.size[0]}",
            where=str(made.path),
            mend=f"SSIM needs {WINDOW} pixels each way",
        )
